//! What can be done with one path from here: the look of masked and read-only paths.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::Serialize;

/// How much of a file is shown: enough for /etc/hosts, little enough for a line of JSON.
const SHOWN: u64 = 4096;

/// `read` and `write` are `ok` or the name of the error: `ENOENT`, `EROFS`.
#[derive(Serialize)]
pub(crate) struct Access {
    kind: &'static str,
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    read: String,
    write: String,
    /// The start of a file's text.
    content: Option<String>,
    /// The names in a directory, sorted.
    entries: Option<Vec<String>>,
    /// Where a symbolic link points; the rest is told of what it leads to.
    target: Option<String>,
}

/// Opens `path` for reading and for writing, changing nothing.
pub(crate) fn probe(path: &Path) -> Access {
    let meta = fs::metadata(path).ok();
    let target = fs::read_link(path).ok().map(|target| target.to_string_lossy().into_owned());
    let kind = meta.as_ref().map_or("absent", |meta| {
        let kind = meta.file_type();
        match () {
            () if kind.is_dir() => "directory",
            () if kind.is_char_device() => "char",
            () if kind.is_block_device() => "block",
            () if kind.is_fifo() => "fifo",
            () if kind.is_socket() => "socket",
            () => "file",
        }
    });
    let (mut content, mut entries) = (None, None);
    let (read, write) = if kind == "directory" {
        (list(path).map(|names| entries = Some(names)), create_in(path))
    } else {
        (start_of(path).map(|text| content = Some(text)), open_for_writing(path))
    };
    Access {
        kind,
        mode: meta.as_ref().map(|meta| format!("{:04o}", meta.permissions().mode() & 0o7777)),
        uid: meta.as_ref().map(MetadataExt::uid),
        gid: meta.as_ref().map(MetadataExt::gid),
        size: meta.as_ref().map(MetadataExt::size),
        read: outcome(&read),
        write: outcome(&write),
        content,
        entries,
        target,
    }
}

/// `ok`, or the error's name as errno(3) has it.
pub(crate) fn outcome<T>(result: &io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("{:?}", Errno::from_raw(number)),
            None => error.kind().to_string(),
        },
    }
}

fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn start_of(path: &Path) -> io::Result<String> {
    // Never waiting for a fifo's other end or a terminal's line.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let mut bytes = Vec::new();
    file.take(SHOWN).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn open_for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

/// A file that has no name and so leaves nothing; by name where the file system has no such files.
fn create_in(directory: &Path) -> io::Result<File> {
    let nameless = OpenOptions::new().write(true).custom_flags(OFlag::O_TMPFILE.bits()).open(directory);
    match nameless {
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            let name = directory.join(format!(".probe-{}", std::process::id()));
            let file = OpenOptions::new().write(true).create_new(true).open(&name)?;
            fs::remove_file(&name)?;
            Ok(file)
        }
        other => other,
    }
}
