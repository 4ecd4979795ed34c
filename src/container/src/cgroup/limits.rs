//! The limits of an OCI configuration, written into a cgroup.

use cgroups_rs::cpu::CpuController;
use cgroups_rs::devices::{DevicePermissions, DeviceType, DevicesController};
use cgroups_rs::memory::MemController;
use cgroups_rs::pid::PidController;
use cgroups_rs::{Cgroup, MaxValue};
use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
};

use super::CgroupError;

/// Writes `resources` into the cgroup. Device rules are left out where the hierarchy has no device controller:
/// there the caller mounts the container's root without devices.
pub(super) fn apply(
    cgroup: &Cgroup,
    path: &str,
    resources: &LinuxResources,
    devices: bool,
) -> Result<(), CgroupError> {
    let target = Target { cgroup, path };
    refuse_unsupported(resources)?;
    if let Some(memory) = resources.memory() {
        target.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        target.cpu(cpu)?;
    }
    if let Some(pids) = resources.pids() {
        target.pids(pids)?;
    }
    match resources.devices() {
        Some(rules) if devices => target.devices(rules),
        _ => Ok(()),
    }
}

/// The controllers that `resources` has limits for, by their names in the kernel.
pub(super) fn needed(resources: &LinuxResources) -> Vec<&'static str> {
    let limited = [
        ("memory", resources.memory().is_some()),
        ("cpu", resources.cpu().is_some()),
        ("pids", resources.pids().is_some()),
    ];
    limited.into_iter().filter(|(_, limited)| *limited).map(|(controller, _)| controller).collect()
}

fn refuse_unsupported(resources: &LinuxResources) -> Result<(), CgroupError> {
    let refused = [
        ("resources.blockIO", resources.block_io().is_some()),
        ("resources.hugepageLimits", resources.hugepage_limits().as_ref().is_some_and(|all| !all.is_empty())),
        ("resources.network", resources.network().is_some()),
        ("resources.rdma", resources.rdma().as_ref().is_some_and(|all| !all.is_empty())),
        ("resources.unified", resources.unified().as_ref().is_some_and(|all| !all.is_empty())),
    ];
    match refused.into_iter().find(|(_, asked)| *asked) {
        Some((what, _)) => Err(CgroupError::Unsupported { what }),
        None => Ok(()),
    }
}

struct Target<'a> {
    cgroup: &'a Cgroup,
    path: &'a str,
}

impl Target<'_> {
    fn memory(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        let unsupported = [
            ("resources.memory.kernel", memory.kernel().is_some()),
            ("resources.memory.kernelTCP", memory.kernel_tcp().is_some()),
            ("resources.memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
        ];
        if let Some((what, _)) = unsupported.into_iter().find(|(_, asked)| *asked) {
            return Err(CgroupError::Unsupported { what });
        }
        let (limit, reservation, swap) = (memory.limit(), memory.reservation(), memory.swap());
        let (None, None, None, None) = (limit, reservation, swap, memory.swappiness()) else {
            let controller: &MemController = self.controller("memory limit", "memory")?;
            // The limit goes first: memory and swap together may not be less than memory alone.
            if let Some(limit) = limit {
                self.set(format!("memory limit {limit}"), controller.set_limit(limit))?;
            }
            if let Some(swap) = swap {
                // v1 counts memory and swap together, as OCI does; v2 counts swap alone.
                let value = match limit {
                    Some(limit) if self.cgroup.v2() && swap >= 0 => (swap - limit).max(0),
                    _ => swap,
                };
                self.set(format!("memory and swap limit {swap}"), controller.set_memswap_limit(value))?;
            }
            if let Some(reservation) = reservation {
                self.set(
                    format!("memory reservation {reservation}"),
                    controller.set_soft_limit(reservation),
                )?;
            }
            if let Some(swappiness) = memory.swappiness() {
                self.set(format!("swappiness {swappiness}"), controller.set_swappiness(swappiness))?;
            }
            return Ok(());
        };
        Ok(())
    }

    fn cpu(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        let unsupported = [
            ("resources.cpu.cpus", cpu.cpus().is_some()),
            ("resources.cpu.mems", cpu.mems().is_some()),
            ("resources.cpu.burst", cpu.burst().is_some()),
            ("resources.cpu.idle", cpu.idle().is_some()),
            ("resources.cpu.realtimeRuntime", cpu.realtime_runtime().is_some()),
            ("resources.cpu.realtimePeriod", cpu.realtime_period().is_some()),
        ];
        if let Some((what, _)) = unsupported.into_iter().find(|(_, asked)| *asked) {
            return Err(CgroupError::Unsupported { what });
        }
        if cpu.shares().is_none() && cpu.quota().is_none() && cpu.period().is_none() {
            return Ok(());
        }
        let controller: &CpuController = self.controller("cpu limit", "cpu")?;
        if let Some(shares) = cpu.shares() {
            let value = if self.cgroup.v2() { weight(shares) } else { shares };
            self.set(format!("cpu shares {shares}"), controller.set_shares(value))?;
        }
        // On v1 the two are files of their own; the period goes first, since the quota is checked against it.
        if let Some(period) = cpu.period() {
            self.set(
                format!("cpu period {period} us"),
                controller.set_cfs_quota_and_period(None, Some(period)),
            )?;
        }
        if let Some(quota) = cpu.quota() {
            self.set(
                format!("cpu quota {quota} us"),
                controller.set_cfs_quota_and_period(Some(quota), None),
            )?;
        }
        Ok(())
    }

    fn pids(&self, pids: &LinuxPids) -> Result<(), CgroupError> {
        let limit = pids.limit();
        let controller: &PidController = self.controller("pids limit", "pids")?;
        let value = if limit > 0 { MaxValue::Value(limit) } else { MaxValue::Max };
        self.set(format!("pids limit {limit}"), controller.set_pid_max(value))
    }

    fn devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
        let controller: &DevicesController = self.controller("device rules", "devices")?;
        for rule in rules {
            let access = rule.access().as_deref().unwrap_or("rwm");
            let permissions: Vec<DevicePermissions> = DevicePermissions::from_str(access)
                .map_err(|error| self.refused(format!("device access {access:?}"), &error))?;
            let (major, minor) = (rule.major().unwrap_or(-1), rule.minor().unwrap_or(-1));
            let kind = match rule.typ() {
                Some(LinuxDeviceType::B) => DeviceType::Block,
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceType::Char,
                _ => DeviceType::All,
            };
            let what = format!("device rule {kind:?} {major}:{minor} {access}");
            self.set(
                what,
                if rule.allow() {
                    controller.allow_device(kind, major, minor, &permissions)
                } else {
                    controller.deny_device(kind, major, minor, &permissions)
                },
            )?;
        }
        Ok(())
    }

    fn controller<'c, T>(&'c self, what: &str, controller: &'static str) -> Result<&'c T, CgroupError>
    where
        &'c T: From<&'c cgroups_rs::Subsystem>,
        T: cgroups_rs::Controller + cgroups_rs::ControllIdentifier,
    {
        let missing = || CgroupError::NoController { what: what.to_owned(), controller };
        self.cgroup.controller_of().ok_or_else(missing)
    }

    fn set(&self, what: String, result: cgroups_rs::error::Result<()>) -> Result<(), CgroupError> {
        result.map_err(|error| self.refused(what, &error))
    }

    fn refused(&self, what: String, error: &cgroups_rs::error::Error) -> CgroupError {
        // The error's own text is the debug form of its cause; the cause's text is for people.
        let reason = match std::error::Error::source(error) {
            Some(cause) => cause.to_string(),
            None => error.to_string(),
        };
        CgroupError::Set { what, path: self.path.to_owned(), reason }
    }
}

/// cpu.shares (2–262144) as cpu.weight (1–10000), as crun and runc translate it (runtime-spec, config-linux.md).
fn weight(shares: u64) -> u64 {
    if shares == 0 { 0 } else { 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142 }
}

#[cfg(test)]
mod tests {
    use super::weight;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(0, 0), (2, 1), (1024, 39), (262_144, 10_000), (1 << 40, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }
}
