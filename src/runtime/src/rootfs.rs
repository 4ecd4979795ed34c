//! How the root filesystem of a container comes to be from its image's layers.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use container::monitor::RootfsSpec;
use image::{Image, ImageStore};

use crate::error::{FileContext, RuntimeError};
use crate::layout::{Bundle, make_private};

/// Chooses the driver in spite of what the kernel can do: `overlay` or `copy`.
const DRIVER_VARIABLE: &str = "AGENT_ROOTFS_DRIVER";

/// The ways there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootfsDriver {
    /// The layers lie under a writable one and are mounted together: nothing is copied.
    Overlay,
}

impl RootfsDriver {
    /// The driver for this machine.
    pub(crate) fn choose() -> Result<Self, RuntimeError> {
        match std::env::var(DRIVER_VARIABLE) {
            Ok(value) if value == "overlay" => Ok(RootfsDriver::Overlay),
            Ok(value) if !value.is_empty() => {
                Err(RuntimeError::Variable { variable: DRIVER_VARIABLE, value, want: "overlay" })
            }
            _ if kernel_has_overlay()? => Ok(RootfsDriver::Overlay),
            _ => Err(RuntimeError::NoOverlay),
        }
    }

    /// Makes what the driver needs in the bundle, whose init layer is there already. What is `volatile` need not
    /// outlive a power cut.
    pub(crate) fn prepare(
        self,
        bundle: &Bundle,
        store: &ImageStore,
        image: &Image,
        volatile: bool,
    ) -> Result<RootfsSpec, RuntimeError> {
        match self {
            RootfsDriver::Overlay => {
                let (upper, work, rootfs) = (bundle.upper(), bundle.work(), bundle.rootfs());
                for folder in [&upper, &work, &rootfs] {
                    make_private(folder).file("create", folder)?;
                }
                // The root folder that the container sees is the topmost layer's.
                if let Some(top) = store.layer_dirs(image).first() {
                    copy_owner_and_mode(top, &upper)?;
                }
                let mut lower = vec![bundle.init_layer().display().to_string()];
                lower.extend(image.lower_links());
                Ok(RootfsSpec::Overlay { lower, links: store.links_dir(), upper, work, volatile })
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

/// Whether overlay is built in or loaded, or is a module that the kernel loads at the first mount.
fn kernel_has_overlay() -> Result<bool, RuntimeError> {
    let path = Path::new("/proc/filesystems");
    let listed = fs::read_to_string(path).file("read", path)?;
    if listed.split_whitespace().any(|word| word == "overlay") {
        return Ok(true);
    }
    let path = Path::new("/proc/sys/kernel/osrelease");
    let release = fs::read_to_string(path).file("read", path)?;
    let modules = Path::new("/lib/modules").join(release.trim()).join("modules.dep");
    match fs::read_to_string(&modules) {
        Ok(text) => Ok(text.contains("/overlay.ko")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(source).file("read", &modules),
    }
}
