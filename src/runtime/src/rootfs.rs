//! How the root filesystem of a container comes to be from its image's layers.
//!
//! Where the kernel mounts an overlay on the file system of the root, nothing is copied. Where it cannot, each
//! container gets a copy of the layers, which it sees no difference in. The kernel is really asked, once a boot: what
//! it lists as known to it says nothing of the file system it is to work on.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use api::trace::Tracer;
use container::monitor::RootfsSpec;
use image::{Image, ImageStore};
use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, syncfs, unlinkat};
use sys::mount::FileSystem;

use crate::error::{FileContext, RuntimeError};
use crate::layout::{Bundle, Layout, make_private};
use crate::tree;

/// Chooses the driver in spite of what the kernel can do: `overlay` or `copy`.
const DRIVER_VARIABLE: &str = "AGENT_ROOTFS_DRIVER";

/// The ways there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootfsDriver {
    /// The layers lie under a writable one and are mounted together: nothing is copied.
    Overlay,
    /// The layers are copied to one folder.
    Copy,
}

impl RootfsDriver {
    const ALL: [Self; 2] = [RootfsDriver::Overlay, RootfsDriver::Copy];

    /// The driver for this machine; `bundle` has room for trying it.
    pub(crate) fn choose(layout: &Layout, bundle: &Bundle) -> Result<Self, RuntimeError> {
        match std::env::var_os(DRIVER_VARIABLE).filter(|value| !value.is_empty()) {
            Some(value) => Self::named(value.as_bytes()).ok_or_else(|| RuntimeError::Variable {
                variable: DRIVER_VARIABLE,
                value: value.to_string_lossy().into_owned(),
                want: "overlay or copy",
            }),
            None => Self::of_kernel(layout, bundle),
        }
    }

    /// What the kernel said when it was asked; asks it if nobody has since the boot.
    fn of_kernel(layout: &Layout, bundle: &Bundle) -> Result<Self, RuntimeError> {
        let path = layout.rootfs_driver();
        match fs::read(&path) {
            Ok(answer) => {
                if let Some(driver) = Self::answered(&answer, layout.root()) {
                    return Ok(driver);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(source).file("read", &path),
        }
        let driver = match ask_kernel(bundle)? {
            None => RootfsDriver::Overlay,
            Some(refusal) => {
                let root = layout.root().display();
                tracing::warn!(%root, error = %refusal, "overlay cannot be mounted here: containers get a copy of their image");
                RootfsDriver::Copy
            }
        };
        // Whoever reads it half written asks again.
        fs::write(&path, driver.answer(layout.root())).file("write", &path)?;
        Ok(driver)
    }

    fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|driver| driver.name().as_bytes() == name)
    }

    fn name(self) -> &'static str {
        match self {
            RootfsDriver::Overlay => "overlay",
            RootfsDriver::Copy => "copy",
        }
    }

    /// The answer as it is kept: it holds for one root, and the same run root may be used with another.
    fn answer(self, root: &Path) -> Vec<u8> {
        [self.name().as_bytes(), b" ", root.as_os_str().as_bytes(), b"\n"].concat()
    }

    fn answered(answer: &[u8], root: &Path) -> Option<Self> {
        Self::ALL.into_iter().find(|driver| driver.answer(root) == answer)
    }

    /// Makes what the driver needs in the bundle, whose init layer is there already. What is `volatile` need not
    /// outlive a power cut.
    pub(crate) fn prepare(
        self,
        bundle: &Bundle,
        store: &ImageStore,
        image: &Image,
        volatile: bool,
        tracer: &Tracer,
    ) -> Result<RootfsSpec, RuntimeError> {
        let rootfs = bundle.rootfs();
        make_private(&rootfs).file("create", &rootfs)?;
        let mut layers = store.layer_dirs(image);
        // The root folder that the container sees is the topmost layer's.
        let top = layers.first().cloned();
        match self {
            RootfsDriver::Overlay => {
                let (upper, work) = (bundle.upper(), bundle.work());
                for folder in [&upper, &work] {
                    make_private(folder).file("create", folder)?;
                }
                if let Some(top) = top {
                    copy_owner_and_mode(&top, &upper)?;
                }
                let mut lower = vec![bundle.init_layer().display().to_string()];
                lower.extend(image.lower_links());
                Ok(RootfsSpec::Overlay { lower, links: store.links_dir(), upper, work, volatile })
            }
            RootfsDriver::Copy => {
                let _step = tracer.step("runtime", "rootfs.copy");
                layers.insert(0, bundle.init_layer());
                image::copy_rootfs(&layers, &rootfs)?;
                if let Some(top) = top {
                    copy_owner_and_mode(&top, &rootfs)?;
                }
                if !volatile {
                    let folder = File::open(&rootfs).file("open", &rootfs)?;
                    // The record of the container, which comes after this, says that all of it is there.
                    syncfs(&folder).map_err(io::Error::from).file("sync", &rootfs)?;
                }
                Ok(RootfsSpec::Ready)
            }
        }
    }
}

fn copy_owner_and_mode(from: &Path, to: &Path) -> Result<(), RuntimeError> {
    let metadata = fs::metadata(from).file("inspect", from)?;
    chown(to, Some(metadata.uid()), Some(metadata.gid())).file("change the owner of", to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))
        .file("change the mode of", to)
}

/// Asks the kernel for an overlay on the bundle's file system that nobody else sees. Returns why it refuses.
///
/// In the bundle, so that what a kill -9 leaves goes with it.
fn ask_kernel(bundle: &Bundle) -> Result<Option<io::Error>, RuntimeError> {
    let folder = bundle.path().join("ask");
    for name in ["lower/folder", "upper", "work"] {
        let path = folder.join(name);
        make_private(&path).file("create", &path)?;
    }
    let opened = File::open(&folder).file("open", &folder)?;
    let answer = mount_and_use(&opened);
    drop(opened);
    tree::remove(&folder).file("remove", &folder)?;
    match answer {
        Ok(()) => Ok(None),
        // It could not answer now, and may in a moment.
        Err(error) if is_shortage(&error) => Err(error).file("mount an overlay at", &folder),
        Err(refusal) => Ok(Some(refusal)),
    }
}

/// Mounts an overlay and lets it do what not every file system can: delete what is below, and hide it for good.
fn mount_and_use(folder: &File) -> io::Result<()> {
    // fsconfig(2) takes 255 bytes of a value, so the folders are named by descriptor.
    let at = |name: &str| format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    let overlay = FileSystem::open("overlay")?;
    for (option, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        overlay.set(&format!("{option}={}", at(name)))?;
    }
    let mount = overlay.mount(0)?;
    unlinkat(&mount, "folder", UnlinkatFlags::RemoveDir)?;
    mkdirat(&mount, "folder", Mode::S_IRWXU)?;
    Ok(())
}

fn is_shortage(error: &io::Error) -> bool {
    let kind = matches!(
        error.kind(),
        io::ErrorKind::OutOfMemory
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::Interrupted
    );
    kind || matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_its_root_and_only_when_it_is_whole() {
        use RootfsDriver::{Copy, Overlay};
        for (answer, expected) in [
            ("overlay /var/lib/a b\n", Some(Overlay)),
            ("copy /var/lib/a b\n", Some(Copy)),
            ("copy /var/lib/a b", None),
            ("copy /var/lib/a\n", None),
            ("zfs /var/lib/a b\n", None),
            ("overlay\n", None),
            ("\n", None),
            ("", None),
        ] {
            let root = Path::new("/var/lib/a b");
            assert_eq!(RootfsDriver::answered(answer.as_bytes(), root), expected, "{answer:?}");
            if let Some(driver) = expected {
                assert_eq!(driver.answer(root), answer.as_bytes());
            }
        }
    }

    #[test]
    fn shortage_is_no_refusal() {
        let os = |errno: Errno| io::Error::from_raw_os_error(errno as i32);
        for (errno, expected) in [
            (Errno::ENOSPC, true),
            (Errno::EDQUOT, true),
            (Errno::ENOMEM, true),
            (Errno::EMFILE, true),
            (Errno::EINVAL, false),
            (Errno::ENODEV, false),
            (Errno::EROFS, false),
            (Errno::EPERM, false),
        ] {
            assert_eq!(is_shortage(&os(errno)), expected, "{errno}");
        }
    }
}
