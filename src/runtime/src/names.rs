//! Names of containers: one symlink per name, `ROOT/names/NAME`, to the id. A name whose container is gone is
//! stale, and the next who wants it may take it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::error::{FileContext, RuntimeError};
use crate::id;
use crate::layout::{Layout, make_private, names_in};

/// How often a made-up name may be taken before a longer one is made up.
const TRIES: usize = 8;

/// Gives the container `id` its name: the one the user wants, or a made-up one.
pub(crate) fn take(layout: &Layout, wanted: Option<&str>, id: &str) -> Result<String, RuntimeError> {
    let names = layout.names();
    make_private(&names).file("create", &names)?;
    let _lock = lock(&names)?;
    if let Some(name) = wanted {
        return match holder(layout, name)? {
            None => link(&names, name, id),
            Some(holder) => Err(RuntimeError::NameTaken { name: name.to_owned(), holder }),
        };
    }
    for attempt in 0.. {
        let name = id::new_name(attempt >= TRIES)?;
        if holder(layout, &name)?.is_none() {
            return link(&names, &name, id);
        }
    }
    unreachable!("an endless range ends")
}

/// The id that a name stands for, if any; it may be stale.
pub(crate) fn lookup(layout: &Layout, name: &str) -> Result<Option<String>, RuntimeError> {
    let path = layout.names().join(name);
    match fs::read_link(&path) {
        Ok(target) => Ok(target.to_str().filter(|id| id::is_id(id)).map(str::to_owned)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(source).file("read", &path),
    }
}

/// Frees the name if it stands for this container.
pub(crate) fn release(layout: &Layout, name: &str, id: &str) -> Result<(), RuntimeError> {
    let names = layout.names();
    let _lock = lock(&names)?;
    if lookup(layout, name)?.as_deref() == Some(id) {
        let path = names.join(name);
        fs::remove_file(&path).file("remove", &path)?;
    }
    Ok(())
}

/// Frees whatever name stands for this container: for one whose record is gone.
pub(crate) fn release_all(layout: &Layout, id: &str) -> Result<(), RuntimeError> {
    let names = layout.names();
    for name in names_in(&names).file("read", &names)? {
        if lookup(layout, &name)?.as_deref() == Some(id) {
            release(layout, &name, id)?;
        }
    }
    Ok(())
}

/// The container that has the name, unless that is gone.
fn holder(layout: &Layout, name: &str) -> Result<Option<String>, RuntimeError> {
    Ok(lookup(layout, name)?.filter(|id| layout.bundle(id).path().is_dir()))
}

fn link(names: &Path, name: &str, id: &str) -> Result<String, RuntimeError> {
    let path = names.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).file("remove", &path),
        _ => {}
    }
    symlink(id, &path).file("create", &path)?;
    Ok(name.to_owned())
}

/// Names change hands under this lock alone, so that two who find the same stale name do not both take it.
fn lock(names: &Path) -> Result<File, RuntimeError> {
    let folder = File::open(names).file("open", names)?;
    folder.lock().file("lock", names)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(root: &Path, ids: &[&str]) -> Layout {
        let layout = Layout::new(root.join("lib"), root.join("run"));
        for id in ids {
            make_private(layout.bundle(id).path()).unwrap();
        }
        layout
    }

    #[test]
    fn a_name_is_one_containers_until_it_is_released_or_stale() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = ("1".repeat(64), "2".repeat(64));
        let layout = layout(folder.path(), &[&one, &other]);
        assert_eq!(take(&layout, Some("app"), &one).unwrap(), "app");
        let error = take(&layout, Some("app"), &other).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the name app is in use by container {one}: remove it or choose another name")
        );
        release(&layout, "app", &other).unwrap();
        assert_eq!(lookup(&layout, "app").unwrap().as_deref(), Some(one.as_str()), "not its to release");
        release(&layout, "app", &one).unwrap();
        release(&layout, "app", &one).unwrap();
        take(&layout, Some("app"), &other).unwrap();
        fs::remove_dir(layout.bundle(&other).path()).unwrap();
        assert_eq!(take(&layout, Some("app"), &one).unwrap(), "app", "the holder is gone");
        release_all(&layout, &one).unwrap();
        assert_eq!(lookup(&layout, "app").unwrap(), None);
    }

    #[test]
    fn made_up_names_do_not_collide() {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<String> = (0..300).map(|at| format!("{at:064x}")).collect();
        let layout = layout(folder.path(), &ids.iter().map(String::as_str).collect::<Vec<_>>());
        let names: std::collections::BTreeSet<String> =
            ids.iter().map(|id| take(&layout, None, id).unwrap()).collect();
        assert_eq!(names.len(), ids.len());
    }
}
