//! What failed at one endpoint, in words for people, and whether asking again may help.

use std::io;
use std::time::{Duration, SystemTime};

use oci_distribution::errors::{OciEnvelope, OciErrorCode};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};

use crate::error::{Attempt, Fault, ImageError, Result};
use crate::registries::Endpoint;

/// The longest wait that a server may ask of us.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Bytes of an error's body that are read.
const REASON_BYTES: usize = 64 << 10;

/// How long its next bytes are waited for.
const REASON_WAIT: Duration = Duration::from_secs(2);

/// What failed at one endpoint: kind and reason.
pub(crate) type EndpointResult<T> = std::result::Result<T, Failure>;

/// A failure at one endpoint.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The next endpoint may do better.
    Endpoint { fault: Fault, reason: String, again: Again },
    /// What came is wrong, wherever it comes from.
    Image(ImageError),
}

/// Whether the same request may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    No,
    /// Only if the endpoint answered a moment ago.
    Hardly,
    Yes,
    /// Not before this long, says the server.
    After(Duration),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Failure::Image(error)
    }
}

impl Failure {
    /// One that no repetition will change.
    pub(crate) fn lasting(fault: Fault, reason: impl Into<String>) -> Self {
        Failure::Endpoint { fault, reason: reason.into(), again: Again::No }
    }

    /// One that may pass.
    pub(crate) fn passing(fault: Fault, reason: impl Into<String>) -> Self {
        Failure::Endpoint { fault, reason: reason.into(), again: Again::Yes }
    }

    /// The failure as one attempt of several; what concerns the image itself ends them all.
    pub(crate) fn attempt(self, endpoint: &Endpoint) -> Result<Attempt> {
        match self {
            Failure::Endpoint { fault, reason, .. } => {
                Ok(Attempt { endpoint: endpoint.to_string(), fault, reason })
            }
            Failure::Image(error) => Err(error),
        }
    }

    /// The same where others are left to be asked: what one endpoint gave that is not what was promised, another may
    /// give right.
    pub(crate) fn passed_over(self, endpoint: &Endpoint) -> Result<Attempt> {
        match self {
            Failure::Image(error) if error.is_refused() => Ok(Attempt {
                endpoint: endpoint.to_string(),
                fault: Fault::Failed,
                reason: error.to_string(),
            }),
            other => other.attempt(endpoint),
        }
    }

    /// What a request failed with before it had an answer.
    pub(crate) fn unanswered(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Failure::passing(Fault::Unreachable, "no answer in time");
        }
        let reason = cause(error);
        // Names and ports rarely appear within the seconds that are waited for; the next endpoint is asked at once.
        let again = if error.is_connect() { Again::Hardly } else { Again::Yes };
        Failure::Endpoint { fault: Fault::Unreachable, reason, again }
    }

    /// What an answer's body broke off with.
    pub(crate) fn broken(error: &reqwest::Error) -> Self {
        Failure::passing(Fault::Unreachable, format!("the connection broke: {}", cause(error)))
    }

    /// What an answer says that is neither success nor a demand for credentials.
    pub(crate) async fn answered(response: Response) -> Self {
        let status = response.status();
        let wait = retry_after(response.headers(), SystemTime::now());
        let envelope = envelope(response).await;
        let missing = envelope.as_ref().is_some_and(|envelope| {
            envelope.errors.iter().any(|error| {
                use OciErrorCode::{BlobUnknown, ManifestUnknown, NameUnknown, NotFound};
                matches!(error.code, BlobUnknown | ManifestUnknown | NameUnknown | NotFound)
            })
        });
        if status == StatusCode::NOT_FOUND || missing {
            return Failure::lasting(Fault::NotFound, "not found");
        }
        let said = envelope.map(|envelope| {
            let messages: Vec<&str> = envelope.errors.iter().map(|error| &*error.message).collect();
            one_line(&messages.join(", "))
        });
        let reason = match said.filter(|said| !said.is_empty()) {
            Some(said) => format!("it answered {status}: {said}"),
            None => format!("it answered {status}"),
        };
        let again = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                wait.map_or(Again::Yes, Again::After)
            }
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT => Again::Yes,
            _ => Again::No,
        };
        Failure::Endpoint { fault: Fault::Failed, reason, again }
    }
}

/// The errors that a registry's answer carries (distribution-spec, "Error codes"), if it does.
async fn envelope(mut response: Response) -> Option<OciEnvelope> {
    let mut bytes = Vec::new();
    // An answer that breaks off, or does not come, has at least its status.
    while let Ok(Ok(Some(piece))) = tokio::time::timeout(REASON_WAIT, response.chunk()).await {
        bytes.extend_from_slice(&piece);
        if bytes.len() > REASON_BYTES {
            return None;
        }
    }
    serde_json::from_slice(&bytes).ok()
}

/// `Retry-After` as seconds from `now` (RFC 9110, 10.2.3), bounded.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(text).ok()?;
            SystemTime::from(until.timestamp()).duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The innermost reason of an error, in the words that say most.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut reason = error.to_string();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            match error.kind() {
                io::ErrorKind::ConnectionRefused => return "connection refused (is it running?)".into(),
                io::ErrorKind::ConnectionReset => return "connection reset".into(),
                io::ErrorKind::NetworkUnreachable => return "network unreachable".into(),
                io::ErrorKind::HostUnreachable => return "host unreachable".into(),
                io::ErrorKind::TimedOut => return "no answer in time".into(),
                _ => {}
            }
        }
        reason = error.to_string();
        next = error.source();
    }
    if reason.contains("InvalidContentType") || reason.contains("corrupt message") {
        reason.push_str(" (a plain HTTP registry needs plain-http = true in registries.d)");
    }
    one_line(&reason)
}

/// All reasons of an error, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    one_line(&text)
}

/// Text of a server, fit for one line of ours.
pub(crate) fn one_line(text: &str) -> String {
    const SHOWN: usize = 300;
    let clean: String =
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(SHOWN).collect();
    clean.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_say_when_to_come_again() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expected) in [
            ("3", Some(3)),
            ("99999", Some(120)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().expect("a header"))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
    }
}
