//! A disk that remembers every write and flush, so that the power may be cut at any moment afterwards.
//!
//! It is a file of a small FUSE file system, meant for a loop device: what a file system on that writes comes here as
//! writes, and its flushes (which the kernel also makes of forced writes) as fsyncs of the file.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request,
    WriteFlags,
};

use super::random::Random;

/// The one file.
const NAME: &str = "disk";
const INODE: INodeNo = INodeNo(2);
/// Nothing changes but by the kernel's own hand.
const VALID: Duration = Duration::from_secs(86400);
/// What a disk writes whole or not at all.
const SECTOR: usize = 4096;

/// A disk that remembers.
#[derive(Debug)]
pub struct RecordingDisk {
    session: BackgroundSession,
    recording: Arc<Mutex<Recording>>,
    folder: PathBuf,
}

/// What was done to a disk.
#[derive(Debug, Default, Clone)]
pub struct Recording {
    first: Vec<u8>,
    last: Vec<u8>,
    events: Vec<Event>,
}

#[derive(Debug, Clone)]
enum Event {
    Write { offset: usize, data: Vec<u8> },
    Flush,
}

impl RecordingDisk {
    /// One that holds `content`, mounted at a folder.
    ///
    /// # Panics
    /// Without /dev/fuse.
    pub fn start(folder: &Path, content: Vec<u8>) -> Self {
        let recording = Recording { last: content.clone(), first: content, events: Vec::new() };
        let recording = Arc::new(Mutex::new(recording));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("recording".to_owned())];
        let session = fuser::spawn_mount(Disk(Arc::clone(&recording)), folder, &config)
            .expect("root may mount a FUSE file system");
        RecordingDisk { session, recording, folder: folder.to_owned() }
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// How much has been recorded: a moment.
    pub fn now(&self) -> usize {
        locked(&self.recording).events.len()
    }

    /// Ends it.
    ///
    /// # Panics
    /// When the file is still in use.
    pub fn finish(self) -> Recording {
        self.session.umount_and_join().expect("nobody uses it any more");
        std::mem::take(&mut locked(&self.recording))
    }
}

impl Recording {
    /// The moments right after a flush, between these two.
    pub fn flushes(&self, from: usize, to: usize) -> Vec<usize> {
        let flush = |index: &usize| matches!(self.events[*index], Event::Flush);
        (from..to).filter(flush).map(|index| index + 1).collect()
    }

    /// What the disk may hold when the power is cut at a moment: all that was flushed before, and of what was written
    /// since whatever chance leaves of it.
    pub fn cut(&self, moment: usize, random: &mut Random) -> Vec<u8> {
        let before = &self.events[..moment];
        let flushed =
            before.iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |index| index + 1);
        let mut disk = self.first.clone();
        let mut write = |event: &Event, kept: &mut dyn FnMut() -> bool| {
            let Event::Write { offset, data } = event else { return };
            for (index, sector) in data.chunks(SECTOR).enumerate() {
                if kept() {
                    let at = offset + index * SECTOR;
                    disk[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        };
        before[..flushed].iter().for_each(|event| write(event, &mut || true));
        // Of eight: nothing, all, or some.
        let share = random.below(9);
        before[flushed..].iter().for_each(|event| write(event, &mut || random.below(8) < share));
        disk
    }
}

/// Writes what a disk holds into a new file, with holes where there is nothing.
///
/// # Errors
/// What writing failed with.
pub fn write_sparse(path: &Path, disk: &[u8]) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(disk.len() as u64)?;
    for (index, sector) in disk.chunks(SECTOR).enumerate() {
        if sector.iter().any(|byte| *byte != 0) {
            file.write_all_at(sector, (index * SECTOR) as u64)?;
        }
    }
    Ok(())
}

fn locked(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    recording.lock().expect("nobody panics with it")
}

struct Disk(Arc<Mutex<Recording>>);

impl Disk {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let root = inode == INodeNo::ROOT;
        FileAttr {
            ino: inode,
            size: if root { 0 } else { locked(&self.0).first.len() as u64 },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if root { FileType::Directory } else { FileType::RegularFile },
            perm: if root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// The part of a written or read range that lies in the disk.
fn range(offset: u64, length: usize, disk: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(length)?;
    (end <= disk.len()).then_some(start..end)
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&VALID, &self.attributes(INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&VALID, &self.attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let recording = locked(&self.0);
        match range(offset, size as usize, &recording.last) {
            Some(range) => reply.data(&recording.last[range]),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut recording = locked(&self.0);
        let Some(range) = range(offset, data.len(), &recording.last) else {
            return reply.error(Errno::ENOSPC);
        };
        recording.events.push(Event::Write { offset: range.start, data: data.to_owned() });
        recording.last[range].copy_from_slice(data);
        reply.written(u32::try_from(data.len()).expect("the kernel writes less at once"));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        locked(&self.0).events.push(Event::Flush);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // At every close; not what flushes a disk.
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_stays_and_the_rest_may_go() {
        let write = |offset: usize, byte: u8| Event::Write { offset, data: vec![byte; SECTOR] };
        let recording = Recording {
            first: vec![0; 3 * SECTOR],
            last: Vec::new(),
            events: vec![
                write(0, 1),
                Event::Flush,
                write(0, 2),
                write(SECTOR, 3),
                Event::Flush,
                write(2 * SECTOR, 4),
            ],
        };
        let first = |disk: &[u8]| [disk[0], disk[SECTOR], disk[2 * SECTOR]];
        let mut random = Random::of(7);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            assert_eq!(first(&recording.cut(2, &mut random)), [1, 0, 0]);
            assert_eq!(first(&recording.cut(5, &mut random)), [2, 3, 0]);
            seen.insert(first(&recording.cut(4, &mut random)));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [[1, 0, 0], [1, 3, 0], [2, 0, 0], [2, 3, 0]]);
        assert_eq!(recording.flushes(0, 6), [2, 5]);
    }
}
