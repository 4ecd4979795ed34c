//! A registry's storage with the images of this repo, made once for all tests and shared by hard links.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::image::layout_of;
use super::layer::digest;
use super::netns::Netns;
use super::registry::Registry;

/// The images in it: the folder of `target/images` and the repository.
const IMAGES: [(&str, &str); 3] = [("app", "kube-easy/app"), ("base", "base"), ("probe", "probe")];

/// Puts the images into the storage of a registry that is to be started in `dir`.
///
/// # Panics
/// When the images were not built, or a file cannot be written.
pub fn fill(dir: &Path) {
    let prepared = prepared();
    let target = dir.join("storage");
    share(&prepared.join("storage"), &target).unwrap_or_else(|error| panic!("{}: {error}", target.display()));
}

/// The storage to share from, made now if nobody has made it from these images yet.
fn prepared() -> PathBuf {
    let indexes: Vec<u8> = IMAGES
        .iter()
        .flat_map(|(name, _)| fs::read(layout_of(name).join("index.json")).expect("it was just found"))
        .collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tests");
    fs::create_dir_all(&folder).expect("the target folder can be written");
    let lock = File::create(folder.join("lock")).expect("the target folder can be written");
    lock.lock().expect("a file can be locked");
    let made = folder.join(format!("registry-{}", &digest(&indexes)[7..19]));
    if !made.is_dir() {
        for entry in fs::read_dir(&folder).expect("it is there").flatten() {
            if entry.file_name().to_string_lossy().starts_with("registry-") {
                // Of other images. Those who share from it have the files by names of their own.
                fs::remove_dir_all(entry.path()).expect("ours to remove");
            }
        }
        let work = folder.join("registry-new");
        let netns = Netns::new();
        let registry = Registry::start(&netns, &work);
        for (name, repository) in IMAGES {
            registry.push(&netns, &layout_of(name), repository);
        }
        drop(registry);
        fs::rename(&work, &made).expect("it is on the same file system");
    }
    made
}

/// Makes the same tree of the same files.
fn share(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            share(&from, &to)?;
        } else if from.file_name().is_some_and(|name| name == "data") && fs::hard_link(&from, &to).is_ok() {
            // Content; what says which tag is which is small, and written in place when a tag moves.
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}
