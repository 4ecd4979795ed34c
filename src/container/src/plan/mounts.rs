//! The mounts of a configuration: kind, target, and options sorted into attributes and file system options.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;
use sys::mount::attr;

use super::PlanError;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Absolute, in the container.
    pub target: PathBuf,
    /// What is mounted there.
    pub kind: MountKind,
    /// Attributes of [`attr`].
    pub attributes: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`.
    pub propagation: u64,
    /// Whether the propagation goes for the mounts below too.
    pub propagation_recursive: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file or folder of the host.
    Bind {
        /// On the host.
        source: PathBuf,
        /// With the mounts below it.
        recursive: bool,
    },
    /// The cgroups, as the cgroup namespace shows them.
    Cgroup,
    /// A new file system.
    New {
        /// Its type.
        file_system: String,
        /// Its own options.
        options: Vec<String>,
    },
}

impl MountPlan {
    /// Sorts out one mount of the configuration.
    pub fn from_spec(mount: &Mount) -> Result<Self, PlanError> {
        let target = target(mount.destination())?;
        let invalid = |reason: &str| PlanError::Invalid {
            what: format!("mount at {}", target.display()),
            reason: reason.to_owned(),
        };
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return Err(PlanError::Unsupported { what: format!("idmapped mount at {}", target.display()) });
        }
        let mut sorted = Sorted::default();
        for option in mount.options().iter().flatten() {
            sorted.add(option).map_err(|what| PlanError::Unsupported {
                what: format!("mount option {what} at {}", target.display()),
            })?;
        }
        let kind = match mount.typ().as_deref() {
            _ if sorted.bind.is_some() => {
                if !sorted.data.is_empty() {
                    let data = sorted.data.join(",");
                    return Err(invalid(&format!("a bind mount takes no file system options ({data})")));
                }
                let source = mount.source().clone().ok_or_else(|| invalid("a bind mount needs a source"))?;
                MountKind::Bind { source, recursive: sorted.bind == Some(true) }
            }
            Some("cgroup" | "cgroup2") => MountKind::Cgroup,
            Some("bind" | "none" | "") | None => return Err(invalid("it has neither a type nor `bind`")),
            Some(kind) => MountKind::New { file_system: kind.to_owned(), options: sorted.data },
        };
        Ok(MountPlan {
            target,
            kind,
            attributes: sorted.attributes,
            propagation: if sorted.propagation == 0 { libc::MS_PRIVATE } else { sorted.propagation },
            propagation_recursive: sorted.propagation == 0 || sorted.propagation_recursive,
        })
    }
}

/// A destination, made absolute and plain.
fn target(destination: &Path) -> Result<PathBuf, PlanError> {
    let invalid = |reason: &str| PlanError::Invalid {
        what: format!("mount at {}", destination.display()),
        reason: reason.to_owned(),
    };
    let mut target = PathBuf::from("/");
    for component in destination.components() {
        match component {
            Component::Normal(name) => target.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(invalid("`..` is not allowed")),
        }
    }
    if target == Path::new("/") {
        return Err(invalid("the root itself cannot be mounted over"));
    }
    Ok(target)
}

#[derive(Default)]
struct Sorted {
    attributes: u64,
    propagation: u64,
    propagation_recursive: bool,
    /// `Some(recursive)` for `bind` and `rbind`.
    bind: Option<bool>,
    data: Vec<String>,
}

impl Sorted {
    fn add(&mut self, option: &str) -> Result<(), String> {
        let (set, clear) = match option {
            "ro" => (attr::RDONLY, 0),
            "rw" => (0, attr::RDONLY),
            "nosuid" => (attr::NOSUID, 0),
            "suid" => (0, attr::NOSUID),
            "nodev" => (attr::NODEV, 0),
            "dev" => (0, attr::NODEV),
            "noexec" => (attr::NOEXEC, 0),
            "exec" => (0, attr::NOEXEC),
            "noatime" => (attr::NOATIME, attr::STRICTATIME),
            "strictatime" => (attr::STRICTATIME, attr::NOATIME),
            "relatime" | "atime" => (0, attr::NOATIME | attr::STRICTATIME),
            "defaults" => (0, 0),
            "bind" => {
                self.bind = Some(self.bind == Some(true));
                (0, 0)
            }
            "rbind" => {
                self.bind = Some(true);
                (0, 0)
            }
            "private" | "slave" | "shared" | "unbindable" => {
                self.propagation = propagation(option);
                self.propagation_recursive = false;
                (0, 0)
            }
            "rprivate" | "rslave" | "rshared" | "runbindable" => {
                self.propagation = propagation(&option[1..]);
                self.propagation_recursive = true;
                (0, 0)
            }
            "idmap" | "ridmap" | "tmpcopyup" | "rro" | "rrw" | "rnosuid" | "rnodev" | "rnoexec" => {
                return Err(option.to_owned());
            }
            other => {
                self.data.push(other.to_owned());
                (0, 0)
            }
        };
        self.attributes = (self.attributes & !clear) | set;
        Ok(())
    }
}

fn propagation(name: &str) -> u64 {
    match name {
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => libc::MS_PRIVATE,
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::MountBuilder;

    use super::*;

    fn plan(kind: Option<&str>, target: &str, options: &[&str]) -> Result<MountPlan, PlanError> {
        let mut builder = MountBuilder::default().destination(target).source("/source");
        if let Some(kind) = kind {
            builder = builder.typ(kind);
        }
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        MountPlan::from_spec(&builder.options(options).build().expect("complete"))
    }

    #[test]
    fn options_are_sorted() {
        let tmpfs = plan(Some("tmpfs"), "/dev", &["nosuid", "strictatime", "mode=755"]).expect("fine");
        assert_eq!(tmpfs.attributes, attr::NOSUID | attr::STRICTATIME);
        assert_eq!(
            tmpfs.kind,
            MountKind::New { file_system: "tmpfs".to_owned(), options: vec!["mode=755".to_owned()] }
        );
        let bind = plan(None, "/data", &["rbind", "ro", "rw", "ro", "rslave"]).expect("fine");
        assert_eq!(bind.attributes, attr::RDONLY);
        assert_eq!((bind.propagation, bind.propagation_recursive), (libc::MS_SLAVE, true));
        assert_eq!(bind.kind, MountKind::Bind { source: "/source".into(), recursive: true });
    }

    #[test]
    fn bad_mounts_are_refused() {
        for (kind, target, options) in [
            (Some("tmpfs"), "/", &[][..]),
            (Some("tmpfs"), "/a/../..", &[]),
            (None, "/a", &["ro"]),
            (None, "/a", &["bind", "size=1"]),
            (None, "/a", &["bind", "idmap"]),
        ] {
            assert!(plan(kind, target, options).is_err(), "{target} {options:?}");
        }
    }
}
