//! Writing to a repository (distribution-spec, "Push"): blobs that are not there yet, then manifests.
//!
//! An upload is a session at an address that every answer may change. What of it has come the registry says, so that a
//! part whose connection broke is taken up where it broke off.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::{Auth, Scope};
use super::transport::Ask;
use super::{EndpointResult, Failure, Registry};
use crate::digest::Digest;
use crate::error::{Fault, Result};
use crate::registries::Endpoint;

/// Bytes of one part: each is held in memory, and sent again when it does not arrive.
pub(crate) const PART: u64 = 4 << 20;
/// The longest part that a registry may insist on.
const PART_MAX: u64 = 64 << 20;

/// Bytes of a blob that a registry digests, and moves into place, in a second at least.
const VERIFIED: u64 = 16 << 20;

/// An upload that has begun.
#[derive(Debug)]
pub(crate) struct Session {
    url: Url,
    /// Bytes that a part should have; the last may have less.
    pub(crate) part: u64,
}

/// What came of the wish to write a blob.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The registry had it in another repository.
    Mounted,
    Session(Session),
}

impl Registry {
    /// Prepares to read from and write to a repository; nothing is sent yet.
    pub(crate) fn for_push(endpoint: Endpoint) -> Result<Registry> {
        let scopes = vec![Scope { repository: endpoint.repository.clone(), actions: "pull,push" }];
        Ok(Registry { scopes, auth: Auth::default(), ..Registry::new(endpoint)? })
    }

    /// Whether the repository has a blob.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> EndpointResult<bool> {
        let ask = Ask { method: Method::HEAD, ..self.ask(&format!("blobs/{digest}")) };
        self.patiently(async || {
            let response = self.send(&ask).await?;
            match response.status() {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(self.unsuccessful(response).await),
            }
        })
        .await
    }

    /// Begins to write a blob; the registry takes it from the repository `from` where it can.
    pub(crate) async fn begin_upload(&self, digest: &Digest, from: Option<&str>) -> EndpointResult<Begun> {
        if let Some(from) = from {
            let mut ask = self.uploads();
            ask.url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
            let theirs = Scope { repository: from.to_owned(), actions: "pull" };
            let scopes = [&self.scopes[..], &[theirs]].concat();
            // Who may not read there may still write here, by a session of its own.
            if let Ok(response) = self.send_for(&ask, &scopes).await {
                match response.status() {
                    StatusCode::CREATED => return Ok(Begun::Mounted),
                    StatusCode::ACCEPTED => return self.session(&response, &ask.url).map(Begun::Session),
                    _ => {}
                }
            }
        }
        let ask = self.uploads();
        self.patiently(async || {
            let response = self.expect(&ask, StatusCode::ACCEPTED).await?;
            self.session(&response, &ask.url).map(Begun::Session)
        })
        .await
    }

    /// Sends a part of a blob, which begins at the byte `from`.
    pub(crate) async fn send_part(
        &self,
        session: &mut Session,
        from: u64,
        bytes: Bytes,
    ) -> EndpointResult<()> {
        let mut ask = Ask::new(Method::PATCH, session.url.clone());
        let range = format!("{from}-{}", (from + bytes.len() as u64).saturating_sub(1));
        ask.headers = octets();
        ask.headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).expect("digits are plain text"));
        ask.body = bytes;
        let response = self.send(&ask).await?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                self.moved(session, &response);
                Ok(())
            }
            // It has more or less than we believe; it is asked how much.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(Failure::passing(Fault::Failed, "it wants another part of the blob"))
            }
            _ => Err(self.unsuccessful(response).await),
        }
    }

    /// How many bytes of a blob have come; none when the session is gone, or is better begun again.
    pub(crate) async fn received(&self, session: &mut Session) -> EndpointResult<Option<u64>> {
        let response = self.send(&Ask::get(session.url.clone())).await?;
        match response.status() {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED => {
                self.moved(session, &response);
                // `0-0` is what some say of nothing and of one byte; nobody is to find out which.
                let last = response.headers().get(RANGE).and_then(range_end).filter(|last| *last > 0);
                Ok(last.map(|last| last + 1))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.unsuccessful(response).await),
        }
    }

    /// Ends an upload with its last bytes; the registry verifies the whole.
    pub(crate) async fn finish_upload(
        &self,
        session: &Session,
        digest: &Digest,
        size: u64,
        last: Bytes,
    ) -> EndpointResult<()> {
        let mut ask = Ask::new(Method::PUT, session.url.clone());
        ask.url.query_pairs_mut().append_pair("digest", &digest.to_string());
        ask.headers = octets();
        ask.body = last;
        ask.patience = Duration::from_secs(size / VERIFIED);
        self.expect(&ask, StatusCode::CREATED).await.map(drop)
    }

    /// Writes an index or manifest, byte for byte, under a tag or its digest.
    pub(crate) async fn put_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> EndpointResult<()> {
        let mut ask = Ask { method: Method::PUT, ..self.ask(&format!("manifests/{name}")) };
        let media_type = HeaderValue::try_from(media_type)
            .map_err(|_| Failure::lasting(Fault::Failed, "the manifest's media type is no header"))?;
        ask.headers.insert(CONTENT_TYPE, media_type);
        ask.body = Bytes::copy_from_slice(bytes);
        self.patiently(async || self.expect(&ask, StatusCode::CREATED).await.map(drop)).await
    }

    fn uploads(&self) -> Ask {
        Ask { method: Method::POST, ..self.ask("blobs/uploads/") }
    }

    async fn expect(&self, ask: &Ask, status: StatusCode) -> EndpointResult<Response> {
        let response = self.send(ask).await?;
        match response.status() == status {
            true => Ok(response),
            false => Err(self.unsuccessful(response).await),
        }
    }

    fn session(&self, response: &Response, asked: &Url) -> EndpointResult<Session> {
        let url = location(response, asked)
            .ok_or_else(|| Failure::lasting(Fault::Failed, "it began an upload and did not say where"))?;
        let least = response.headers().get("oci-chunk-min-length");
        let least = least.and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
        Ok(Session { url, part: PART.max(least).min(PART_MAX) })
    }

    /// Where the session goes on.
    fn moved(&self, session: &mut Session, response: &Response) {
        if let Some(url) = location(response, &session.url) {
            session.url = url;
        }
    }
}

fn octets() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))])
}

fn location(response: &Response, asked: &Url) -> Option<Url> {
    asked.join(response.headers().get(LOCATION)?.to_str().ok()?).ok()
}

/// The last byte of `0-1023`, which some write `bytes=0-1023`.
fn range_end(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.rsplit('-').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_is_read() {
        for (text, expected) in
            [("0-1023", Some(1023)), ("bytes=0-7", Some(7)), ("0-0", Some(0)), ("x", None)]
        {
            assert_eq!(range_end(&HeaderValue::from_static(text)), expected, "{text}");
        }
    }
}
