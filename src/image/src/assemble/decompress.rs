//! From compressed bytes to an unpacked layer, on two threads: one digests, keeps and decompresses what
//! comes, the other digests and unpacks what comes out.

use std::io::{self, BufRead, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::chunks::{Gone, Incoming, Outgoing, hand_over};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{Layer, Packing};
use crate::unpack::{Limits, UnpackError, Unpacked, unpack};

/// What one layer must turn out to be.
#[derive(Debug, Clone)]
pub(super) struct Promise {
    pub(super) layer: Layer,
    pub(super) diff_id: Digest,
    pub(super) limits: Limits,
}

/// Why the decompressing half ended early.
enum Stop {
    /// The unpacking half has given up; it knows why.
    Gone,
    Unpack(UnpackError),
    /// The compressed form is damaged, in itself or on the way.
    Damaged(io::Error),
    /// The compressed bytes could not be kept.
    Keep(io::Error),
}

/// Takes a compressed layer as it comes and unpacks it into `folder`. Both digests and the length are verified before
/// it returns. `path` is where its bytes are kept, for errors.
pub(super) fn run(mut incoming: Incoming, promise: &Promise, path: &Path, folder: &Path) -> Result<Unpacked> {
    let layer = promise.layer.digest;
    let (outgoing, mut plain) = hand_over(promise.diff_id.algorithm());
    let (stopped, unpacked) = std::thread::scope(|scope| {
        let unpacker = std::thread::Builder::new().name("unpack".into()).spawn_scoped(scope, move || {
            let unpacked = unpack(&mut plain, folder, &promise.limits)?;
            Ok((unpacked, plain.finish()))
        });
        let unpacker = match unpacker {
            Ok(unpacker) => unpacker,
            Err(error) => return (Err(Stop::Keep(error)), None),
        };
        let stopped = decompress(&mut incoming, outgoing, promise);
        let unpacked: std::result::Result<_, UnpackError> =
            unpacker.join().expect("unpacking does not panic");
        (stopped, Some(unpacked))
    });

    let damaged = match stopped {
        Ok(()) | Err(Stop::Gone) => None,
        Err(Stop::Keep(error)) => return Err(ImageError::io("read or write", path)(error)),
        Err(Stop::Unpack(source)) => return Err(ImageError::Unpack { layer, source }),
        Err(Stop::Damaged(source)) => Some(UnpackError::Decompress { source }),
    };
    // What was damaged on the way is told by its digest from what was always damaged; what was refused for
    // another reason is not worth fetching the rest of.
    let outcome = match (damaged, unpacked) {
        (Some(damaged), _) => Err(damaged),
        (None, Some(Err(refused))) if !matches!(refused, UnpackError::Archive { .. }) => {
            return Err(ImageError::Unpack { layer, source: refused });
        }
        (None, unpacked) => unpacked.expect("without an unpacker it has returned above"),
    };
    verify(incoming, &promise.layer, path)?;
    let (unpacked, diff_id) = outcome.map_err(|source| ImageError::Unpack { layer, source })?;
    if diff_id != promise.diff_id {
        let what = format!("layer {layer} (uncompressed)");
        return Err(ImageError::DigestMismatch { what, expected: promise.diff_id, actual: diff_id });
    }
    Ok(unpacked)
}

/// Reads the rest of a layer and checks it against what was promised.
pub(super) fn verify(incoming: Incoming, layer: &Layer, path: &Path) -> Result<()> {
    let (actual, bytes) = incoming.finish().map_err(ImageError::io("read or write", path))?;
    let what = format!("layer {}", layer.digest);
    if bytes != layer.size {
        return Err(ImageError::SizeMismatch { what, expected: layer.size, actual: bytes });
    }
    if actual != layer.digest {
        return Err(ImageError::DigestMismatch { what, expected: layer.digest, actual });
    }
    Ok(())
}

fn decompress(
    incoming: &mut Incoming,
    outgoing: Outgoing,
    promise: &Promise,
) -> std::result::Result<(), Stop> {
    let first = incoming.fill_buf().map_err(Stop::Keep)?;
    let found = Packing::sniff(first);
    let promised = promise.layer.packing;
    // An empty layer has no first bytes; its digest will tell.
    if found != Ok(promised) && !first.is_empty() {
        let (promised, found) = (promised.name(), found.map_or_else(|name| name, Packing::name));
        return Err(Stop::Unpack(UnpackError::Packing { promised, found }));
    }
    match promised {
        Packing::Plain => {
            pump(incoming, &outgoing, promise, Incoming::came)?;
        }
        Packing::Gzip => {
            let mut decoder = MultiGzDecoder::new(incoming);
            pump(&mut decoder, &outgoing, promise, |decoder| decoder.get_ref().came())?;
        }
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(incoming).map_err(Stop::Damaged)?;
            pump(&mut decoder, &outgoing, promise, |decoder| decoder.get_ref().came())?;
        }
    }
    outgoing.end().map_err(|Gone| Stop::Gone)
}

/// Moves everything a decompressor gives to the unpacker, within the limits.
fn pump<R: Read>(
    decoder: &mut R,
    outgoing: &Outgoing,
    promise: &Promise,
    came: impl Fn(&R) -> u64,
) -> std::result::Result<(), Stop> {
    let mut total = 0;
    loop {
        let mut buffer = outgoing.buffer();
        let mut filled = 0;
        while filled < buffer.len() {
            match decoder.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kept file is written inside of reading; only the kernel gives errors with numbers.
                Err(error) if error.raw_os_error().is_some() => return Err(Stop::Keep(error)),
                Err(error) => return Err(Stop::Damaged(error)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        total += filled as u64;
        promise.limits.check_bytes(total, came(decoder)).map_err(Stop::Unpack)?;
        buffer.truncate(filled);
        outgoing.send(buffer).map_err(|Gone| Stop::Gone)?;
    }
}

impl Packing {
    fn name(self) -> &'static str {
        match self {
            Packing::Plain => "plain tar",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        }
    }
}
