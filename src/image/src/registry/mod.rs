//! One endpoint of a registry (OCI distribution-spec), for one repository.
//!
//! | module | idea |
//! | --- | --- |
//! | `transport` | HTTP: trust, client certificates, redirects |
//! | `auth` | who we are: passwords and tokens, and who may see them |
//! | `upload` | blobs and manifests on their way there |
//! | `failure`, `backoff` | what failed, and whether and when to ask again |
//!
//! Everything read here is bounded; nothing is verified here but what a request itself says.

mod auth;
mod backoff;
mod failure;
mod transport;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LINK, RANGE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use self::auth::{Auth, Scope};
pub(crate) use self::backoff::Backoff;
pub(crate) use self::failure::{EndpointResult, Failure};
use self::transport::{Ask, Transport};
pub(crate) use self::upload::{Begun, Session};
use crate::digest::Digest;
use crate::error::{Fault, ImageError, Result};
use crate::manifest::{ACCEPTED, DOCUMENT_MAX};
use crate::reference;
use crate::registries::Endpoint;

/// How often a request for a document is repeated at most; a layer has more patience.
const DOCUMENT_RETRIES: u32 = 3;
/// Bytes of one page of a list of tags, and how many pages are read.
const TAGS_PAGE_BYTES: usize = 4 << 20;
const TAGS_PAGES: usize = 1000;
/// Tags that are listed.
const TAGS_MAX: usize = 100_000;
/// Bytes a second at which what comes, or is sent, has not stalled.
const SLOWEST: u64 = 64 << 10;

/// A document as it came: exact bytes, and what the server calls them.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: Option<String>,
}

/// An endpoint, and the repository there.
#[derive(Debug)]
pub(crate) struct Registry {
    transport: Transport,
    auth: Auth,
    scopes: Vec<Scope>,
    downloads: Arc<Semaphore>,
}

/// What a request for a blob from some byte on gives.
pub(crate) enum BlobAnswer {
    Body(BlobBody),
    /// The blob has no such byte.
    PastEnd,
}

/// The bytes of a blob as they come.
pub(crate) struct BlobBody {
    response: Response,
    /// Bytes that were asked to be left out and come nevertheless.
    skip: u64,
}

/// Some bytes of a blob.
pub(crate) struct BlobPiece {
    /// What was asked for of them.
    pub(crate) wanted: Bytes,
    /// How many came in all.
    pub(crate) came: u64,
}

impl Registry {
    /// Prepares to read from a repository; nothing is sent yet.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Registry> {
        let scopes = vec![Scope { repository: endpoint.repository.clone(), actions: "pull" }];
        let downloads = Arc::new(Semaphore::new(endpoint.max_parallel.unwrap_or(Semaphore::MAX_PERMITS)));
        Ok(Registry { transport: Transport::new(endpoint)?, auth: Auth::default(), scopes, downloads })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.transport.endpoint()
    }

    /// Waits until one more layer may be on its way from or to this endpoint; dropping the permit makes room.
    pub(crate) async fn download(&self) -> SemaphorePermit<'_> {
        self.downloads.acquire().await.expect("the semaphore is never closed")
    }

    /// An index or manifest by its tag or digest.
    pub(crate) async fn manifest(&self, name: &str) -> EndpointResult<Fetched> {
        let mut ask = self.ask(&format!("manifests/{name}"));
        let accepted = HeaderValue::try_from(ACCEPTED.join(", ")).expect("media types are plain text");
        ask.headers.insert(ACCEPT, accepted);
        self.patiently(async || {
            let response = self.success(&ask).await?;
            let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let media_type =
                media_type.map(|value| value.split(';').next().unwrap_or(value).trim().to_owned());
            let bytes =
                body(response, DOCUMENT_MAX as usize, self.endpoint().stall).await?.ok_or_else(|| {
                    let what = format!("the manifest of {}", self.endpoint().repository);
                    let reason = format!("it is longer than {DOCUMENT_MAX} bytes");
                    Failure::Image(ImageError::Refused { what, reason })
                })?;
            Ok(Fetched { bytes, media_type })
        })
        .await
    }

    /// A small blob, such as a configuration: at most one byte more than `size`.
    pub(crate) async fn small_blob(&self, digest: &Digest, size: u64) -> EndpointResult<Vec<u8>> {
        self.patiently(async || {
            let BlobAnswer::Body(mut body) = self.blob(digest, 0).await? else { return Ok(Vec::new()) };
            in_time(size, self.endpoint().stall, async {
                let mut bytes = Vec::new();
                while let Some(piece) = body.next().await? {
                    bytes.extend_from_slice(&piece.wanted);
                    if bytes.len() as u64 > size {
                        bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX).saturating_add(1));
                        break;
                    }
                }
                Ok(bytes)
            })
            .await
        })
        .await
    }

    /// The bytes of a blob from one on, as they come. They are not verified.
    pub(crate) async fn blob(&self, digest: &Digest, from: u64) -> EndpointResult<BlobAnswer> {
        let mut ask = self.ask(&format!("blobs/{digest}"));
        if from > 0 {
            let range = HeaderValue::try_from(format!("bytes={from}-")).expect("digits are plain text");
            ask.headers.insert(RANGE, range);
        }
        let response = self.send(&ask).await?;
        match response.status() {
            StatusCode::OK => Ok(BlobAnswer::Body(BlobBody { response, skip: from })),
            StatusCode::PARTIAL_CONTENT => {
                let begin = response.headers().get(CONTENT_RANGE).and_then(range_begin);
                let skip = begin.and_then(|begin| from.checked_sub(begin)).ok_or_else(|| {
                    Failure::passing(Fault::Failed, "it answered with a part that was not asked for")
                })?;
                Ok(BlobAnswer::Body(BlobBody { response, skip }))
            }
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => Ok(BlobAnswer::PastEnd),
            _ => Err(self.unsuccessful(response).await),
        }
    }

    /// Every tag of the repository, as the registry sorts them.
    pub(crate) async fn tags(&self) -> EndpointResult<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut ask = self.ask("tags/list");
        for _ in 0..TAGS_PAGES {
            let (page, next) = self
                .patiently(async || {
                    let response = self.success(&ask).await?;
                    let next = response.headers().get(LINK).and_then(next_page);
                    let bytes = body(response, TAGS_PAGE_BYTES, self.endpoint().stall).await?;
                    let bytes = bytes
                        .ok_or_else(|| Failure::lasting(Fault::Failed, "its list of tags is too long"))?;
                    let page: Page = serde_json::from_slice(&bytes).map_err(|error| {
                        Failure::lasting(Fault::Failed, format!("its list of tags is malformed: {error}"))
                    })?;
                    Ok((page, next))
                })
                .await?;
            if tags.len() > TAGS_MAX {
                return Err(Failure::lasting(Fault::Failed, format!("it has more than {TAGS_MAX} tags")));
            }
            for tag in page.tags.unwrap_or_default() {
                reference::check_tag(&tag).map_err(|reason| Failure::lasting(Fault::Failed, reason))?;
                tags.push(tag);
            }
            let Some(next) = next.and_then(|next| ask.url.join(&next).ok()) else { return Ok(tags) };
            if !self.transport.is_own(&next) || next == ask.url {
                let reason = "its list of tags goes on in an unlikely place";
                return Err(Failure::lasting(Fault::Failed, reason));
            }
            ask.url = next;
        }
        Err(Failure::lasting(Fault::Failed, format!("its list of tags has more than {TAGS_PAGES} pages")))
    }

    /// Shows the configured credentials to the endpoint; gives the identity token to keep instead of them, where its
    /// token server has one for us.
    pub(crate) async fn login(&self) -> EndpointResult<Option<String>> {
        self.patiently(async || self.auth.login(&self.transport).await).await
    }

    fn ask(&self, path: &str) -> Ask {
        Ask::get(self.transport.url(&format!("{}/{path}", self.endpoint().repository)))
    }

    /// Repeats a request while its failure may pass.
    async fn patiently<T>(&self, request: impl AsyncFn() -> EndpointResult<T>) -> EndpointResult<T> {
        let mut backoff = Backoff::new(DOCUMENT_RETRIES.min(self.endpoint().retries));
        loop {
            match request().await {
                Ok(done) => return Ok(done),
                Err(failure) => match backoff.after(&failure) {
                    None => return Err(failure),
                    Some(wait) => tokio::time::sleep(wait).await,
                },
            }
        }
    }

    /// The answer to a request, after credentials were shown where they were asked for.
    async fn send(&self, ask: &Ask) -> EndpointResult<Response> {
        self.send_for(ask, &self.scopes).await
    }

    async fn send_for(&self, ask: &Ask, scopes: &[Scope]) -> EndpointResult<Response> {
        let header = self.auth.header(scopes).await;
        let response = self.transport.send(ask, header.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        if !self.transport.is_own(response.url()) {
            let host = response.url().host_str().unwrap_or_default();
            let reason = format!("it leads to {host}, which wants credentials of its own");
            return Err(Failure::lasting(Fault::Unauthorized, reason));
        }
        let header = self.auth.answer(&self.transport, scopes, response.headers(), header.as_ref()).await?;
        self.transport.send(ask, Some(&header)).await
    }

    async fn success(&self, ask: &Ask) -> EndpointResult<Response> {
        let response = self.send(ask).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            _ => Err(self.unsuccessful(response).await),
        }
    }

    async fn unsuccessful(&self, response: Response) -> Failure {
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.auth.refused(&self.transport),
            _ => Failure::answered(response).await,
        }
    }
}

impl BlobBody {
    /// The next bytes; none at the end.
    pub(crate) async fn next(&mut self) -> EndpointResult<Option<BlobPiece>> {
        let piece = self.response.chunk().await.map_err(|error| Failure::broken(&error))?;
        let Some(mut wanted) = piece else { return Ok(None) };
        let came = wanted.len() as u64;
        let skipped = wanted.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        drop(wanted.split_to(skipped));
        Ok(Some(BlobPiece { wanted, came }))
    }
}

/// Reads a body; none when it is longer than `max` bytes. It may take `stall`, and what its length needs besides.
async fn body(mut response: Response, max: usize, stall: Duration) -> EndpointResult<Option<Vec<u8>>> {
    in_time(max as u64, stall, async {
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| Failure::broken(&error))? {
            if bytes.len() + piece.len() > max {
                return Ok(None);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Some(bytes))
    })
    .await
}

/// Waits for at most so many bytes no longer than a slow line takes for them, and `stall`.
async fn in_time<T>(
    bytes: u64,
    stall: Duration,
    reading: impl Future<Output = EndpointResult<T>>,
) -> EndpointResult<T> {
    let late = |_| Failure::passing(Fault::Unreachable, "its answer did not come in time");
    tokio::time::timeout(stall + Duration::from_secs(bytes / SLOWEST), reading).await.map_err(late)?
}

/// The first byte of `bytes 10-19/20` (RFC 9110, 14.4).
fn range_begin(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// The address of `</v2/a/tags/list?n=1&last=x>; rel="next"` (RFC 8288).
fn next_page(value: &HeaderValue) -> Option<String> {
    let (address, rest) = value.to_str().ok()?.trim().strip_prefix('<')?.split_once('>')?;
    rest.replace(' ', "").contains("rel=\"next\"").then(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_parts_and_pages_are_read() {
        for (text, expected) in [
            ("bytes 10-19/20", Some(10)),
            ("bytes 0-1/*", Some(0)),
            ("bytes */20", None),
            ("items 1-2", None),
        ] {
            assert_eq!(range_begin(&HeaderValue::from_static(text)), expected, "{text}");
        }
        for (text, expected) in [
            ("</v2/a/tags/list?last=b&n=1>; rel=\"next\"", Some("/v2/a/tags/list?last=b&n=1")),
            ("</x>; rel=\"prev\"", None),
            ("/x", None),
        ] {
            assert_eq!(next_page(&HeaderValue::from_static(text)).as_deref(), expected, "{text}");
        }
    }
}
