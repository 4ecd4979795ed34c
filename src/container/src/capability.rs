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
    let unknown = Capability::CheckpointRestore;
    let unknown = to_kernel(unknown).index() + 1;
    sys::capability::drop_bounding_from(unknown).map_err(|source| CapabilityError::Kernel {
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
