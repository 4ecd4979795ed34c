//! One blob on its way to a repository: looked for, mounted, or sent in parts, and taken up again where it broke off.

use std::io;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, SeekFrom};

use super::plan::{Blob, damaged};
use crate::error::{Fault, ImageError};
use crate::progress::{LayerState, PullProgress};
use crate::registry::{Backoff, Begun, EndpointResult, Failure, Registry, Session};
use crate::store::layout::Layout;

/// A blob, and where it goes.
pub(super) struct Upload<'u> {
    pub(super) registry: &'u Registry,
    pub(super) layout: &'u Layout,
    pub(super) blob: &'u Blob,
    /// Another repository of the registry that may have it.
    pub(super) from: Option<String>,
    pub(super) index: usize,
    pub(super) progress: &'u dyn PullProgress,
}

impl Upload<'_> {
    /// Returns when the repository has it.
    pub(super) async fn run(&self) -> EndpointResult<()> {
        let Blob { digest, .. } = self.blob;
        if self.registry.has_blob(digest).await? {
            self.progress.state(self.index, LayerState::Present);
            return Ok(());
        }
        let mut session = match self.registry.begin_upload(digest, self.from.as_deref()).await? {
            Begun::Mounted => {
                self.progress.state(self.index, LayerState::Present);
                return Ok(());
            }
            Begun::Session(session) => session,
        };
        self.progress.state(self.index, LayerState::Uploading);
        let mut file = self.open().await?;
        let (mut sent, mut retries) = (0, self.backoff());
        loop {
            match self.step(&mut session, &mut file, &mut sent).await {
                Ok(true) => break,
                // What got through earns the rest its full patience.
                Ok(false) => retries = self.backoff(),
                Err(failure) => {
                    let Some(wait) = retries.after(&failure) else { return Err(failure) };
                    if let Failure::Endpoint { reason, .. } = &failure {
                        self.progress.retrying(self.index, reason, wait);
                    }
                    tokio::time::sleep(wait).await;
                    if let Some(done) = self.find_again(&mut session, &mut retries).await? {
                        sent = done;
                    } else {
                        break;
                    }
                    self.progress.state(self.index, LayerState::Uploading);
                }
            }
            self.progress.bytes(self.index, sent);
        }
        self.progress.bytes(self.index, self.blob.size);
        self.progress.state(self.index, LayerState::Done);
        Ok(())
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.registry.endpoint().retries)
    }

    /// Sends the next part; says whether it was the last.
    async fn step(&self, session: &mut Session, file: &mut File, sent: &mut u64) -> EndpointResult<bool> {
        let left = self
            .blob
            .size
            .checked_sub(*sent)
            .ok_or_else(|| Failure::passing(Fault::Failed, "it has more of a blob than there is"))?;
        let bytes = self.read(file, *sent, left.min(session.part)).await?;
        if left <= session.part {
            self.registry.finish_upload(session, &self.blob.digest, self.blob.size, bytes).await?;
            return Ok(true);
        }
        let count = bytes.len() as u64;
        self.registry.send_part(session, *sent, bytes).await?;
        *sent += count;
        Ok(false)
    }

    /// After a failure: how much the registry has, in the old session or a new one; none when it has all.
    async fn find_again(&self, session: &mut Session, retries: &mut Backoff) -> EndpointResult<Option<u64>> {
        loop {
            let found = match self.registry.received(session).await {
                Ok(Some(done)) if done <= self.blob.size => return Ok(Some(done)),
                // It is begun again; unless its end was heard, and only the answer was lost.
                Ok(_) => self.begin_again().await,
                Err(failure) => Err(failure),
            };
            match found {
                Ok(None) => return Ok(None),
                Ok(Some(new)) => {
                    *session = new;
                    return Ok(Some(0));
                }
                Err(failure) => match retries.after(&failure) {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(failure),
                },
            }
        }
    }

    async fn begin_again(&self) -> EndpointResult<Option<Session>> {
        if self.registry.has_blob(&self.blob.digest).await? {
            return Ok(None);
        }
        match self.registry.begin_upload(&self.blob.digest, None).await? {
            Begun::Mounted => Ok(None),
            Begun::Session(session) => Ok(Some(session)),
        }
    }

    async fn open(&self) -> EndpointResult<File> {
        let path = self.layout.blob(&self.blob.digest);
        let file = File::open(&path).await.map_err(|error| self.unreadable(error))?;
        let found = file.metadata().await.map_err(|error| self.unreadable(error))?.len();
        match found == self.blob.size {
            true => Ok(file),
            false => {
                Err(damaged(self.layout, &self.blob.digest, "its size is not what its manifest says").into())
            }
        }
    }

    async fn read(&self, file: &mut File, from: u64, count: u64) -> EndpointResult<Bytes> {
        let mut bytes = vec![0; usize::try_from(count).expect("a part fits into memory")];
        let read = async {
            file.seek(SeekFrom::Start(from)).await?;
            file.read_exact(&mut bytes).await
        };
        read.await.map_err(|error| self.unreadable(error))?;
        Ok(bytes.into())
    }

    fn unreadable(&self, error: io::Error) -> ImageError {
        match error.kind() {
            io::ErrorKind::NotFound => damaged(self.layout, &self.blob.digest, "it is missing"),
            _ => ImageError::io("read", self.layout.blob(&self.blob.digest))(error),
        }
    }
}
