//! The OCI runtime configuration of a container, from what the user and the image say. Pure: what it needs to know
//! of the machine is handed in.
//!
//! Sources: runtime-spec 1.2; docker's defaults (moby, `oci/defaults.go`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use container::capability::{CapabilityError, CapabilityPlan};
use container::seccomp;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxBuilder, LinuxCpuBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType as Namespace, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, Mount,
    MountBuilder, Process, RootBuilder, Spec, SpecBuilder,
};

use crate::check;
use crate::error::RuntimeError;
use crate::options::{ContainerOptions, Limits, MountOption, NetworkMode};

/// The version of the specification that this writes.
const VERSION: &str = "1.2.0";

/// The period that processor limits are shares of, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;

/// Paths that tell of the host or could be used against it; docker's.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths by which the kernel is set.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Character devices every container may use, with `None` for any minor number; numbers from
/// Documentation/admin-guide/devices.txt.
const DEVICES: [(i64, Option<i64>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

/// What the configuration depends on beside options and image.
pub(crate) struct Surroundings<'a> {
    /// The container's id.
    pub(crate) id: &'a str,
    /// The place of the root filesystem, absolute.
    pub(crate) rootfs: PathBuf,
    /// The host name inside.
    pub(crate) hostname: &'a str,
    /// The cgroup that containers' cgroups are made in.
    pub(crate) cgroup_parent: &'a str,
    /// Whether memory and swap together can be limited.
    pub(crate) limits_swap: bool,
    /// Whether a cgroup decides which devices can be opened.
    pub(crate) restricts_devices: bool,
    /// Paths of this machine that tell of its processors' heat.
    pub(crate) throttles: Vec<String>,
    /// Where the data of a named volume lies.
    pub(crate) volume_data: &'a dyn Fn(&str) -> PathBuf,
}

/// The cgroup of a container, below the root of the hierarchy.
pub(crate) fn cgroup_path(parent: &str, id: &str) -> String {
    format!("/{}/{id}", parent.trim_matches('/')).replace("//", "/")
}

/// What the container may do, of what `host` can pass on. Where no cgroup decides which devices can be opened, it can
/// make none.
pub(crate) fn capabilities(
    options: &ContainerOptions,
    mut host: Capabilities,
    restricts_devices: bool,
) -> Result<CapabilityPlan, CapabilityError> {
    if restricts_devices {
        return CapabilityPlan::new(&options.cap_add, &options.cap_drop, &host);
    }
    host.remove(&Capability::Mknod);
    let mut plan = CapabilityPlan::new(&options.cap_add, &options.cap_drop, &host)?;
    // Left out by us, so nothing to warn of.
    plan.missing.retain(|capability| *capability != Capability::Mknod);
    Ok(plan)
}

/// The configuration of a container with this first process.
pub(crate) fn spec(
    options: &ContainerOptions,
    process: Process,
    capabilities: &CapabilityPlan,
    around: &Surroundings<'_>,
) -> Result<Spec, RuntimeError> {
    let root = RootBuilder::default().path(around.rootfs.clone()).readonly(options.read_only);
    Ok(SpecBuilder::default()
        .version(VERSION)
        .root(root.build().expect("every field has a default"))
        .process(process)
        .hostname(around.hostname)
        .mounts(mounts(options, around)?)
        .linux(linux(options, capabilities, around))
        .build()
        .expect("every field has a default"))
}

fn linux(options: &ContainerOptions, capabilities: &CapabilityPlan, around: &Surroundings<'_>) -> Linux {
    let own_network = options.network != NetworkMode::Host;
    let mut builder = LinuxBuilder::default()
        .namespaces(namespaces(own_network))
        .masked_paths([&MASKED.map(str::to_owned)[..], &around.throttles].concat())
        .readonly_paths(READ_ONLY.map(str::to_owned).to_vec())
        .resources(resources(&options.limits, around.limits_swap))
        .cgroups_path(cgroup_path(around.cgroup_parent, around.id))
        .seccomp(seccomp::default_profile(&capabilities.granted));
    if own_network {
        // As docker: what needs a capability on a host harms nobody in a network of one's own.
        builder = builder.sysctl(HashMap::from(
            [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        ));
    }
    builder.build().expect("every field has a default")
}

fn namespaces(own_network: bool) -> Vec<LinuxNamespace> {
    let always = [Namespace::Pid, Namespace::Mount, Namespace::Uts, Namespace::Ipc, Namespace::Cgroup];
    always
        .into_iter()
        .chain(own_network.then_some(Namespace::Network))
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().expect("every field has a default"))
        .collect()
}

fn resources(limits: &Limits, limits_swap: bool) -> LinuxResources {
    // check::limits has seen to it that none of these overflows.
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut builder = LinuxResourcesBuilder::default().devices(devices());
    if let Some(milli) = limits.cpu_milli {
        let quota = signed(milli.saturating_mul(CPU_PERIOD_US / 1000));
        let cpu = LinuxCpuBuilder::default().period(CPU_PERIOD_US).quota(quota);
        builder = builder.cpu(cpu.build().expect("every field has a default"));
    }
    if let Some(bytes) = limits.memory {
        let mut memory = LinuxMemoryBuilder::default().limit(signed(bytes));
        if limits_swap {
            // As docker: as much swap again as there is memory.
            memory = memory.swap(signed(bytes.saturating_mul(2)));
        }
        builder = builder.memory(memory.build().expect("every field has a default"));
    }
    if let Some(pids) = limits.pids {
        let pids = LinuxPidsBuilder::default().limit(signed(pids));
        builder = builder.pids(pids.build().expect("every field has a default"));
    }
    builder.build().expect("every field has a default")
}

/// Nothing but the harmless devices can be opened; any can be made, which opens nothing.
fn devices() -> Vec<LinuxDeviceCgroup> {
    let rule = |allow: bool, access: &str| LinuxDeviceCgroupBuilder::default().allow(allow).access(access);
    let made = |kind| rule(true, "m").typ(kind);
    let mut rules = vec![rule(false, "rwm"), made(LinuxDeviceType::C), made(LinuxDeviceType::B)];
    rules.extend(DEVICES.map(|(major, minor)| {
        let device = rule(true, "rwm").typ(LinuxDeviceType::C).major(major);
        match minor {
            Some(minor) => device.minor(minor),
            None => device,
        }
    }));
    rules.into_iter().map(|rule| rule.build().expect("every field has a default")).collect()
}

/// The kernel's file systems first, then the user's mounts, those nearer the root before those in them.
fn mounts(options: &ContainerOptions, around: &Surroundings<'_>) -> Result<Vec<Mount>, RuntimeError> {
    let mut users = Vec::new();
    for mount in &options.mounts {
        users.push(user_mount(mount, around)?);
    }
    users.sort_by_key(|mount| mount.destination().components().count());
    // What the user mounts himself, or mounts over as a whole, is not mounted before.
    let covered = |target: &Path| users.iter().any(|mount| target.starts_with(mount.destination()));
    let mut all: Vec<Mount> =
        kernel_mounts().into_iter().filter(|mount| !covered(mount.destination())).collect();
    all.extend(users);
    Ok(all)
}

fn kernel_mounts() -> Vec<Mount> {
    [
        ("/proc", "proc", &["nosuid", "noexec", "nodev"][..]),
        ("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
    .into_iter()
    .map(|(target, kind, options)| {
        let source = match kind {
            "tmpfs" if target == "/dev/shm" => "shm",
            other => other,
        };
        mount(
            Path::new(target),
            Some(kind),
            Path::new(source),
            options.iter().map(|o| (*o).to_owned()).collect(),
        )
    })
    .collect()
}

fn user_mount(option: &MountOption, around: &Surroundings<'_>) -> Result<Mount, RuntimeError> {
    let target = check::target(option.target())?;
    let bind = |source: &Path, read_only: bool| {
        let access = if read_only { "ro" } else { "rw" };
        let mut options = ["rbind", "rprivate", access].map(str::to_owned).to_vec();
        if !around.restricts_devices {
            options.push("nodev".to_owned());
        }
        mount(&target, Some("bind"), source, options)
    };
    Ok(match option {
        MountOption::Bind { source, read_only, .. } => bind(source, *read_only),
        MountOption::Volume { name, read_only, .. } => bind(&(around.volume_data)(name), *read_only),
        MountOption::Tmpfs { options, .. } => {
            let defaults = ["nosuid", "nodev", "noexec"].map(str::to_owned);
            mount(&target, Some("tmpfs"), Path::new("tmpfs"), [&defaults[..], options].concat())
        }
    })
}

fn mount(target: &Path, kind: Option<&str>, source: &Path, options: Vec<String>) -> Mount {
    let mut builder = MountBuilder::default().destination(target).source(source).options(options);
    if let Some(kind) = kind {
        builder = builder.typ(kind);
    }
    builder.build().expect("options and type agree")
}

#[cfg(test)]
mod tests {
    use container::capability;
    use oci_spec::image::ImageConfiguration;
    use oci_spec::runtime::LinuxNamespaceType;

    use super::*;
    use crate::process;

    fn build(options: &ContainerOptions) -> Spec {
        build_where(options, true)
    }

    fn build_where(options: &ContainerOptions, restricts_devices: bool) -> Spec {
        let plan = capabilities(options, capability::all(), restricts_devices).expect("all are there");
        let process = process::first(
            options,
            &ImageConfiguration::default(),
            vec!["true".to_owned()],
            "box",
            plan.to_oci(),
        );
        let around = Surroundings {
            id: "0123",
            rootfs: "/lib/containers/0123/rootfs".into(),
            hostname: "box",
            cgroup_parent: "/agent/",
            limits_swap: true,
            restricts_devices,
            throttles: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
            volume_data: &|name| Path::new("/volumes").join(name),
        };
        spec(options, process, &plan, &around).expect("the mounts were checked")
    }

    fn namespaces_of(spec: &Spec) -> Vec<LinuxNamespaceType> {
        let linux = spec.linux().as_ref().unwrap();
        linux.namespaces().iter().flatten().map(|namespace| namespace.typ()).collect()
    }

    fn targets(spec: &Spec) -> Vec<&str> {
        spec.mounts().iter().flatten().map(|mount| mount.destination().to_str().unwrap()).collect()
    }

    #[test]
    fn the_shim_can_carry_it_out() {
        let options = ContainerOptions {
            limits: Limits { cpu_milli: Some(500), memory: Some(64 << 20), pids: Some(100) },
            mounts: vec![MountOption::Tmpfs { target: "/run".into(), options: vec!["size=1m".to_owned()] }],
            read_only: true,
            ..Default::default()
        };
        let spec = build(&options);
        let text = serde_json::to_string(&spec).unwrap();
        let read: Spec = serde_json::from_str(&text).unwrap();
        let plan = container::plan::Plan::from_spec(&read, Path::new("/lib/containers/0123")).unwrap();
        assert_eq!(plan.cgroup, "/agent/0123");
        assert!(plan.root_read_only && plan.process.no_new_privileges && plan.seccomp.is_some());
        assert_eq!(plan.hostname.as_deref(), Some("box"));
    }

    #[test]
    fn limits_are_what_the_kernel_counts_in() {
        let limits = Limits { cpu_milli: Some(500), memory: Some(64 << 20), pids: Some(100) };
        let resources = resources(&limits, true);
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(50_000), Some(100_000)));
        let memory = resources.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(128 << 20)));
        assert_eq!(resources.pids().unwrap().limit(), 100);
        let without_swap = self::resources(&limits, false);
        assert_eq!(without_swap.memory().unwrap().swap(), None);
        let none = self::resources(&Limits::default(), true);
        assert!(none.cpu().is_none() && none.memory().is_none() && none.pids().is_none());
    }

    #[test]
    fn every_device_is_denied_before_some_are_allowed() {
        let rules = devices();
        assert!(!rules[0].allow() && rules[0].typ().is_none() && rules[0].access().as_deref() == Some("rwm"));
        assert!(rules[1..].iter().all(|rule| rule.allow()));
        let usable = |rule: &&LinuxDeviceCgroup| rule.access().as_deref() != Some("m");
        assert!(rules[1..].iter().filter(usable).all(|rule| rule.major().is_some()));
    }

    #[test]
    fn the_hosts_network_comes_without_a_namespace_and_its_settings() {
        for (network, own) in
            [(NetworkMode::Bridge, true), (NetworkMode::None, true), (NetworkMode::Host, false)]
        {
            let spec = build(&ContainerOptions { network, ..Default::default() });
            let linux = spec.linux().as_ref().unwrap();
            assert_eq!(namespaces_of(&spec).contains(&LinuxNamespaceType::Network), own, "{network:?}");
            assert_eq!(linux.sysctl().is_some(), own, "{network:?}");
            assert!(namespaces_of(&spec).contains(&LinuxNamespaceType::Uts));
        }
    }

    #[test]
    fn mounts_of_the_user_come_last_outermost_first_and_replace_ours() {
        let bind = |target: &str, read_only| MountOption::Bind {
            source: "/srv".into(),
            target: target.into(),
            read_only,
        };
        let spec = build(&ContainerOptions {
            mounts: vec![
                bind("/data/deep//in/", true),
                MountOption::Volume { name: "vol".to_owned(), target: "/data".into(), read_only: false },
                MountOption::Tmpfs { target: "/dev/shm".into(), options: vec!["size=1g".to_owned()] },
            ],
            ..Default::default()
        });
        assert_eq!(
            targets(&spec),
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/dev/mqueue",
                "/sys",
                "/sys/fs/cgroup",
                "/data",
                "/dev/shm",
                "/data/deep/in"
            ]
        );
        let mounts = spec.mounts().as_ref().unwrap();
        let options = |at: usize| mounts[at].options().clone().unwrap();
        assert_eq!(mounts[6].source().as_deref(), Some(Path::new("/volumes/vol")));
        assert_eq!(options(6), ["rbind", "rprivate", "rw"]);
        assert_eq!(options(7), ["nosuid", "nodev", "noexec", "size=1g"]);
        assert_eq!(options(8), ["rbind", "rprivate", "ro"]);
    }

    #[test]
    fn no_device_can_be_made_or_found_where_none_is_restricted() {
        let options = ContainerOptions {
            cap_add: vec!["ALL".to_owned()],
            mounts: vec![
                MountOption::Bind { source: "/srv".into(), target: "/srv".into(), read_only: true },
                MountOption::Volume { name: "vol".to_owned(), target: "/vol".into(), read_only: false },
                MountOption::Tmpfs { target: "/tmp".into(), options: vec![] },
            ],
            ..Default::default()
        };
        for (options, restricts) in [
            (&options, true),
            (&options, false),
            (&ContainerOptions { cap_add: vec![], ..options.clone() }, true),
            (&ContainerOptions { cap_add: vec![], ..options.clone() }, false),
        ] {
            let spec = build_where(options, restricts);
            let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
            for set in [sets.bounding(), sets.permitted(), sets.effective()] {
                let set = set.as_ref().unwrap();
                assert_eq!(set.contains(&Capability::Mknod), restricts);
                assert!(set.contains(&Capability::Chown));
            }
            let mounts = spec.mounts().as_ref().unwrap();
            for mount in mounts.iter().rev().take(3) {
                let nodev = mount.options().iter().flatten().any(|option| option == "nodev");
                assert_eq!(nodev, !restricts || mount.typ().as_deref() == Some("tmpfs"), "{mount:?}");
            }
            assert!(capabilities(options, capability::all(), restricts).unwrap().missing.is_empty());
        }
    }

    #[test]
    fn what_tells_of_the_host_is_covered() {
        let spec = build(&ContainerOptions::default());
        let masked = spec.linux().as_ref().unwrap().masked_paths().clone().unwrap();
        for path in ["/proc/kcore", "/proc/interrupts", "/sys/devices/system/cpu/cpu0/thermal_throttle"] {
            assert!(masked.iter().any(|masked| masked == path), "{path}");
        }
    }

    #[test]
    fn the_cgroup_lies_below_its_parent() {
        for (parent, expected) in
            [("/agent", "/agent/x"), ("agent", "/agent/x"), ("/a/b/", "/a/b/x"), ("/", "/x"), ("", "/x")]
        {
            assert_eq!(cgroup_path(parent, "x"), expected, "{parent:?}");
        }
    }
}
