//! Capabilities: their names, what `--cap-add` and `--cap-drop` come to, and giving a process exactly that.
//!
//! Sources: capabilities(7); docker's rules for adding and dropping; CVE-2022-29162 (the inheritable set stays
//! empty, else a file's inheritable set hands capabilities to an unprivileged user).

use std::collections::HashSet;
use std::fmt;

use caps::{CapSet, CapsHashSet};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

/// What a container has unless told otherwise; docker's set.
pub const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// The capability with the largest number that has a name here.
const NEWEST: Capability = Capability::CheckpointRestore;

/// Stands for every capability in `--cap-add` and `--cap-drop`.
const ALL: &str = "ALL";

/// Why capabilities cannot be planned or applied.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// Not the name of a capability.
    #[error("unknown capability {name:?}; use ALL or one of {}", Listed(&all()))]
    Unknown {
        /// As it was given.
        name: String,
    },
    /// A capability was asked for that this machine cannot give.
    #[error(
        "capability {} is not available on this machine; leave it out of --cap-add, or run agent with it",
        name(*capability)
    )]
    Unavailable {
        /// Asked for by name.
        capability: Capability,
    },
    /// The kernel refused to read or change a set.
    #[error("failed to {operation}")]
    Kernel {
        /// What was attempted.
        operation: &'static str,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The capability called `name`, in any case, with or without `CAP_`.
///
/// # Errors
/// [`CapabilityError::Unknown`].
pub fn parse(name: &str) -> Result<Capability, CapabilityError> {
    let upper = name.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    bare.parse().map_err(|_| CapabilityError::Unknown { name: name.to_owned() })
}

/// The kernel's name of `capability`: "CAP_CHOWN".
#[must_use]
pub fn name(capability: Capability) -> String {
    format!("CAP_{capability}")
}

/// Every capability there is.
#[must_use]
pub fn all() -> Capabilities {
    from_kernel(&caps::all())
}

/// What this process can pass on to a container: what is in both its bounding and its permitted set.
///
/// # Errors
/// [`CapabilityError::Kernel`].
pub fn host() -> Result<Capabilities, CapabilityError> {
    let bounding = caps::read(None, CapSet::Bounding).map_err(failed("read the bounding capabilities"))?;
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed("read the permitted capabilities"))?;
    Ok(from_kernel(&(&bounding & &permitted)))
}

/// What a container gets, decided but not yet applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapabilityPlan {
    /// Bounding, permitted and effective set of the container's first process.
    pub granted: Capabilities,
    /// Defaults, or members of ALL, that this machine cannot give; in order of name. Worth a warning.
    pub missing: Vec<Capability>,
}

impl CapabilityPlan {
    /// Decides from `--cap-add`, `--cap-drop` and what the machine has. As docker: adding ALL gives all but those
    /// dropped by name; dropping ALL leaves only those added; else drops come first, then additions.
    ///
    /// # Errors
    /// An unknown name in either list; a capability added by name that `host` lacks.
    pub fn new(
        add: &[String],
        drop: &[String],
        host: &Capabilities,
    ) -> Result<CapabilityPlan, CapabilityError> {
        let (add_all, added) = split(add)?;
        let (drop_all, dropped) = split(drop)?;
        if let Some(capability) = added.iter().find(|capability| !host.contains(capability)) {
            return Err(CapabilityError::Unavailable { capability: *capability });
        }
        let wanted: Capabilities = if add_all {
            &all() - &dropped.into_iter().collect()
        } else if drop_all {
            added.into_iter().collect()
        } else {
            let kept = DEFAULT.into_iter().filter(|capability| !dropped.contains(capability));
            kept.chain(added.iter().copied()).collect()
        };
        let mut missing: Vec<Capability> = (&wanted - host).into_iter().collect();
        missing.sort_by_key(|capability| capability.to_string());
        Ok(CapabilityPlan { granted: &wanted & host, missing })
    }

    /// The plan as the runtime specification has it. Inheritable and ambient stay empty.
    #[must_use]
    pub fn to_oci(&self) -> LinuxCapabilities {
        LinuxCapabilitiesBuilder::default()
            .bounding(self.granted.clone())
            .effective(self.granted.clone())
            .permitted(self.granted.clone())
            .inheritable(Capabilities::new())
            .ambient(Capabilities::new())
            .build()
            .expect("every field has a default")
    }
}

/// First step of applying: takes everything outside the wanted bounding set out of the calling thread's, so that
/// no later execve can gain it. Needs CAP_SETPCAP, hence comes while the process still has its privileges.
///
/// # Errors
/// [`CapabilityError::Kernel`].
pub fn drop_bounding(wanted: &LinuxCapabilities) -> Result<(), CapabilityError> {
    let wanted = kernel_set(wanted.bounding().as_ref());
    let held = caps::read(None, CapSet::Bounding).map_err(failed("read the bounding capabilities"))?;
    for capability in held.difference(&wanted) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(failed("drop a bounding capability"))?;
    }
    let past_named = to_kernel(NEWEST).index() + 1;
    sys::capability::drop_bounding_from(past_named).map_err(|source| CapabilityError::Kernel {
        operation: "drop bounding capabilities without a name",
        source: source.into(),
    })
}

/// Second step, before setuid: lets the permitted set outlive the change from root to another user.
///
/// # Errors
/// [`CapabilityError::Kernel`].
pub fn keep_across_setuid() -> Result<(), CapabilityError> {
    caps::securebits::set_keepcaps(true).map_err(failed("keep capabilities across setuid"))
}

/// Last step, after setuid: gives the calling thread exactly the wanted inheritable, effective, permitted and
/// ambient sets. setuid has emptied the effective set, so this also restores it.
///
/// # Errors
/// [`CapabilityError::Kernel`], also when a wanted capability is no longer permitted.
pub fn set(wanted: &LinuxCapabilities) -> Result<(), CapabilityError> {
    let permitted = kernel_set(wanted.permitted().as_ref());
    let ambient = kernel_set(wanted.ambient().as_ref());
    caps::securebits::set_keepcaps(false).map_err(failed("stop keeping capabilities across setuid"))?;
    caps::clear(None, CapSet::Ambient).map_err(failed("clear the ambient capabilities"))?;
    // Inheritable may only grow while permitted is large; effective must be within the permitted of its moment, so
    // it shrinks first.
    let inheritable = kernel_set(wanted.inheritable().as_ref());
    caps::set(None, CapSet::Inheritable, &inheritable).map_err(failed("set the inheritable capabilities"))?;
    let effective = kernel_set(wanted.effective().as_ref());
    caps::set(None, CapSet::Effective, &effective).map_err(failed("set the effective capabilities"))?;
    caps::set(None, CapSet::Permitted, &permitted).map_err(failed("set the permitted capabilities"))?;
    if !ambient.is_empty() {
        caps::set(None, CapSet::Ambient, &ambient).map_err(failed("set the ambient capabilities"))?;
    }
    Ok(())
}

fn split(names: &[String]) -> Result<(bool, Vec<Capability>), CapabilityError> {
    let (all, named): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| name.trim().eq_ignore_ascii_case(ALL));
    let named = named.into_iter().map(|name| parse(name)).collect::<Result<_, _>>()?;
    Ok((!all.is_empty(), named))
}

fn failed<E>(operation: &'static str) -> impl Fn(E) -> CapabilityError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| CapabilityError::Kernel { operation, source: Box::new(source) }
}

fn to_kernel(capability: Capability) -> caps::Capability {
    name(capability).parse().expect("both crates name the same capabilities")
}

fn kernel_set(capabilities: Option<&Capabilities>) -> CapsHashSet {
    capabilities.into_iter().flatten().map(|capability| to_kernel(*capability)).collect()
}

fn from_kernel(capabilities: &CapsHashSet) -> Capabilities {
    capabilities
        .iter()
        .map(|capability| parse(&capability.to_string()).expect("both crates name the same capabilities"))
        .collect()
}

/// Names in order, for a message.
struct Listed<'a>(&'a HashSet<Capability>);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        names.sort();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_read_in_any_spelling() {
        for spelling in ["CAP_NET_ADMIN", "NET_ADMIN", "net_admin", "cap_Net_Admin", " NET_ADMIN "] {
            assert_eq!(parse(spelling).unwrap(), Capability::NetAdmin, "{spelling}");
        }
        assert_eq!(name(Capability::NetAdmin), "CAP_NET_ADMIN");
        for wrong in ["", "CAP_", "NETADMIN", "CAP_CAP_NET_ADMIN", "ALL"] {
            let error = parse(wrong).expect_err(wrong).to_string();
            assert!(error.starts_with(&format!("unknown capability {wrong:?}")), "{error}");
            assert!(error.contains("use ALL or one of AUDIT_CONTROL, "), "{error}");
        }
        assert_eq!(all().len(), 41);
        for capability in all() {
            assert_eq!(parse(&name(capability)).unwrap(), capability);
            assert_eq!(to_kernel(capability).to_string(), name(capability));
        }
    }

    #[test]
    fn additions_and_drops_come_to_what_docker_makes_of_them() {
        let every = all();
        let defaults: Capabilities = DEFAULT.into_iter().collect();
        let check = |add: &[&str], drop: &[&str], expected: &Capabilities| {
            let plan = CapabilityPlan::new(&strings(add), &strings(drop), &every).unwrap();
            assert_eq!(
                plan,
                CapabilityPlan { granted: expected.clone(), missing: vec![] },
                "+{add:?} -{drop:?}"
            );
        };
        let with = |set: &Capabilities, more: &[Capability]| set.iter().chain(more).copied().collect();
        let without = |set: &Capabilities, less: &[Capability]| {
            set.iter().filter(|capability| !less.contains(capability)).copied().collect()
        };
        check(&[], &[], &defaults);
        check(&["net_admin"], &[], &with(&defaults, &[Capability::NetAdmin]));
        check(&["CHOWN"], &[], &defaults);
        check(&[], &["CAP_CHOWN", "kill"], &without(&defaults, &[Capability::Chown, Capability::Kill]));
        check(&[], &["SYS_ADMIN"], &defaults);
        check(&["CHOWN"], &["CHOWN"], &defaults);
        check(&["ALL"], &[], &every);
        check(&["all"], &["SYS_ADMIN"], &without(&every, &[Capability::SysAdmin]));
        check(&["ALL", "SYS_ADMIN"], &["SYS_ADMIN"], &without(&every, &[Capability::SysAdmin]));
        check(&[], &["ALL"], &Capabilities::new());
        check(&["CHOWN"], &["All"], &Capabilities::from([Capability::Chown]));
        check(&["ALL"], &["ALL"], &every);
    }

    #[test]
    fn what_the_machine_lacks_is_reported_or_refused() {
        let host: Capabilities = &all() - &Capabilities::from([Capability::SysResource, Capability::Mknod]);
        let plan = |add: &[&str], drop: &[&str]| CapabilityPlan::new(&strings(add), &strings(drop), &host);
        let defaults = plan(&[], &[]).unwrap();
        assert_eq!(defaults.missing, [Capability::Mknod]);
        assert_eq!(defaults.granted.len(), DEFAULT.len() - 1);
        let every = plan(&["ALL"], &[]).unwrap();
        assert_eq!(every.missing, [Capability::Mknod, Capability::SysResource]);
        assert_eq!(every.granted, host);
        assert_eq!(plan(&["ALL"], &["MKNOD"]).unwrap().missing, [Capability::SysResource]);
        let refused = plan(&["SYS_RESOURCE"], &[]).unwrap_err().to_string();
        assert!(
            refused.starts_with("capability CAP_SYS_RESOURCE is not available on this machine"),
            "{refused}"
        );
        assert!(plan(&["nonsense"], &[]).is_err());
        assert!(plan(&[], &["nonsense"]).is_err());
    }

    #[test]
    fn the_oci_form_leaves_inheritable_and_ambient_empty() {
        let oci = CapabilityPlan::new(&[], &[], &all()).unwrap().to_oci();
        let defaults: Capabilities = DEFAULT.into_iter().collect();
        for set in [oci.bounding(), oci.permitted(), oci.effective()] {
            assert_eq!(set.as_ref(), Some(&defaults));
        }
        for set in [oci.inheritable(), oci.ambient()] {
            assert_eq!(set.as_ref(), Some(&Capabilities::new()));
        }
    }

    /// Needs root. Capabilities belong to a thread, so a thread of its own is all a case takes.
    fn applied(wanted: &LinuxCapabilities) -> [Capabilities; 5] {
        let apply = || {
            drop_bounding(wanted).unwrap();
            keep_across_setuid().unwrap();
            set(wanted).unwrap();
            [CapSet::Bounding, CapSet::Permitted, CapSet::Effective, CapSet::Inheritable, CapSet::Ambient]
                .map(|set| from_kernel(&caps::read(None, set).unwrap()))
        };
        thread::scope(|scope| scope.spawn(apply).join().unwrap())
    }

    #[test]
    fn a_thread_ends_with_exactly_the_wanted_sets() {
        let some = Capabilities::from([
            Capability::Chown,
            Capability::NetBindService,
            Capability::CheckpointRestore,
        ]);
        let none = Capabilities::new();
        let plan = CapabilityPlan { granted: some.clone(), missing: vec![] };
        assert_eq!(
            applied(&plan.to_oci()),
            [some.clone(), some.clone(), some.clone(), none.clone(), none.clone()]
        );
        let nothing = CapabilityPlan { granted: none.clone(), missing: vec![] };
        assert_eq!(applied(&nothing.to_oci()), [(); 5].map(|()| none.clone()));
        let one = Capabilities::from([Capability::Chown]);
        let ambient = LinuxCapabilitiesBuilder::default()
            .bounding(some.clone())
            .permitted(some.clone())
            .effective(one.clone())
            .inheritable(one.clone())
            .ambient(one.clone())
            .build()
            .unwrap();
        assert_eq!(applied(&ambient), [some.clone(), some, one.clone(), one.clone(), one]);
    }

    #[test]
    fn a_capability_no_longer_held_is_an_error() {
        let one = |capability| {
            let plan = CapabilityPlan { granted: Capabilities::from([capability]), missing: vec![] };
            plan.to_oci()
        };
        let twice = || {
            set(&one(Capability::Chown)).unwrap();
            set(&one(Capability::Kill)).unwrap_err().to_string()
        };
        let error = thread::scope(|scope| scope.spawn(twice).join().unwrap());
        assert_eq!(error, "failed to set the effective capabilities");
    }

    #[test]
    fn the_hosts_set_is_what_can_be_granted() {
        let host = host().unwrap();
        let plan = CapabilityPlan { granted: host.clone(), missing: vec![] };
        assert_eq!(applied(&plan.to_oci())[1], host);
    }
}
