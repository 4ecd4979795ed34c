//! The contents of files, small ones on a thread of their own: the archive's next entries are read, and their
//! names made, meanwhile. Names are made in the archive's order by one thread alone, so that what replaces or
//! links to a file never has to wait for its content.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::error::{Result, UnpackError};
use super::metadata::{self, Metadata};
use super::pax::Time;

/// Files up to so many bytes are handed over; larger ones are written where they lie.
pub(super) const SMALL: u64 = 32 << 10;
/// They are handed over so many at a time, because waking the other thread costs as much as writing one;
const BATCH: usize = 16;
/// and so many batches may wait: at most 4 MiB, and a hundred descriptors, in all.
const WAITING: usize = 4;

/// A new file that is still empty, and all there is to write to it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) file: File,
    pub(super) data: Vec<u8>,
    pub(super) metadata: Metadata,
    pub(super) time: Time,
    /// For errors.
    pub(super) path: Vec<u8>,
}

/// Writes small files beside the caller.
#[derive(Debug, Default)]
pub(super) struct Files {
    batch: Vec<Content>,
    writer: Option<Writer>,
}

/// The thread, which returns how many attributes were left out.
#[derive(Debug)]
struct Writer {
    batches: SyncSender<Vec<Content>>,
    thread: JoinHandle<Result<u64>>,
}

impl Files {
    /// Takes over a file. An error may be that of one before it.
    pub(super) fn write(&mut self, content: Content) -> Result<()> {
        self.batch.push(content);
        if self.batch.len() < BATCH {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let (batches, coming) = sync_channel::<Vec<Content>>(WAITING);
                let thread = std::thread::Builder::new().name("files".into());
                let thread = thread.spawn(move || coming.into_iter().map(write_all).sum());
                let thread = thread.map_err(UnpackError::io("start a thread to write", &batch[0].path))?;
                none.insert(Writer { batches, thread })
            }
        };
        match writer.batches.send(batch) {
            Ok(()) => Ok(()),
            // It ends early only with an error.
            Err(_) => std::mem::take(self).end().map(drop),
        }
    }

    /// Writes what is left, waits for all files, and returns how many attributes were left out.
    pub(super) fn end(self) -> Result<u64> {
        let mut left_out = 0;
        if let Some(Writer { batches, thread }) = self.writer {
            drop(batches);
            left_out = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(left_out + write_all(self.batch)?)
    }
}

fn write_all(batch: Vec<Content>) -> Result<u64> {
    let mut left_out = 0;
    for Content { mut file, data, metadata, time, path } in batch {
        file.write_all(&data).map_err(UnpackError::io("write", &path))?;
        left_out += finish(&file, &metadata, time, &path)?;
    }
    Ok(left_out)
}

/// Gives a written file all but its content. Returns how many attributes were left out.
pub(super) fn finish(file: &File, metadata: &Metadata, time: Time, path: &[u8]) -> Result<u64> {
    let left_out = metadata::apply(file.as_fd(), metadata, path)?;
    rustix::fs::futimens(file, &metadata::times(time)).map_err(UnpackError::io("set the time of", path))?;
    Ok(left_out)
}
