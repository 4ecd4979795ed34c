//! From a reference to the documents of one image, asked of each endpoint in turn.

use api::trace::Tracer;

use super::PullOptions;
use crate::digest::Digest;
use crate::error::{Attempt, ImageError, Result};
use crate::manifest::{self, ConfigFacts, Document, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registries::Registries;
use crate::registry::{EndpointResult, Failure, Fetched, Registry};
use crate::store::layout::Layout;

/// An image whose documents are here and checked, and the endpoint that has its layers.
pub(crate) struct Resolved {
    pub(crate) registry: Registry,
    pub(crate) reference: Reference,
    /// What the reference stands for: the index's digest where there is one.
    pub(crate) digest: Digest,
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest: Manifest,
    pub(crate) config: ConfigFacts,
    /// Index, manifest and configuration, byte for byte.
    pub(crate) documents: Vec<(Digest, Vec<u8>)>,
}

/// Asks each endpoint of the reference's registry, in order, until one has the image.
pub(crate) async fn resolve(
    layout: &Layout,
    registries: &Registries,
    reference: &Reference,
    options: &PullOptions,
    tracer: &Tracer,
) -> Result<Resolved> {
    let mut attempts: Vec<Attempt> = Vec::new();
    for endpoint in registries.endpoints(reference)? {
        let registry = Registry::new(endpoint.clone(), reference)?;
        match ask(layout, registry, reference, options, tracer).await {
            Ok(resolved) => return Ok(resolved),
            Err(failure) => attempts.push(failure.attempt(&endpoint)?),
        }
    }
    Err(ImageError::Registry { what: format!("failed to pull {reference}"), attempts })
}

async fn ask(
    layout: &Layout,
    registry: Registry,
    reference: &Reference,
    options: &PullOptions,
    tracer: &Tracer,
) -> EndpointResult<Resolved> {
    let mut step = tracer.step("image", "manifest.resolve");
    step.fact("endpoint", registry.endpoint());
    let what = reference.to_string();
    let asked = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().expect("a reference has a tag or a digest").to_owned(),
    };
    let first =
        fetch(&registry, &asked, reference.digest().copied(), None, &what).await.inspect_err(|failure| {
            if let Failure::Endpoint(_, reason) = failure {
                step.fact("failed", reason);
            }
        })?;
    let digest = first.0;
    let mut documents = vec![(digest, first.1.bytes.clone())];
    let wanted = options.platform.clone().unwrap_or_else(Platform::host);
    let (manifest_digest, manifest) =
        match manifest::parse(&first.1.bytes, first.1.media_type.as_deref(), &what)? {
            Document::Manifest(manifest) => (digest, manifest),
            Document::Index(entries) => {
                let chosen = manifest::choose(&entries, &wanted, reference)?;
                step.fact("index", digest);
                let (found, fetched) = fetch(
                    &registry,
                    &chosen.digest.to_string(),
                    Some(chosen.digest),
                    Some(chosen.size),
                    &what,
                )
                .await?;
                let Document::Manifest(manifest) =
                    manifest::parse(&fetched.bytes, fetched.media_type.as_deref(), &what)?
                else {
                    let reason = format!("its index promises a manifest as {found}, but that is an index");
                    return Err(ImageError::Refused { what, reason }.into());
                };
                documents.push((found, fetched.bytes));
                (found, manifest)
            }
        };
    step.fact("digest", manifest_digest).fact("layers", manifest.layers.len());
    drop(step);

    let mut step = tracer.step("image", "config.fetch");
    let expected = &manifest.config;
    step.fact("digest", expected.digest).fact("bytes", expected.size);
    let bytes = match layout.document(&expected.digest) {
        Some(bytes) => bytes,
        None => registry.small_blob(&expected.digest, expected.size).await?,
    };
    check(&bytes, &expected.digest, Some(expected.size), "the configuration of", &what)?;
    let config = manifest::config(&bytes, &manifest, &what)?;
    if options.platform.is_some() && config.platform.fit(&wanted).is_none() {
        let available = vec![config.platform];
        return Err(ImageError::NoPlatform { reference: what, wanted, available }.into());
    }
    step.fact("platform", &config.platform);
    documents.push((expected.digest, bytes));
    drop(step);
    let reference = reference.clone();
    Ok(Resolved { registry, reference, digest, manifest_digest, manifest, config, documents })
}

/// Fetches an index or manifest and checks it against what is known of it.
async fn fetch(
    registry: &Registry,
    name: &str,
    expected: Option<Digest>,
    size: Option<u64>,
    what: &str,
) -> EndpointResult<(Digest, Fetched)> {
    let fetched = registry.manifest(name).await?;
    let digest = match expected {
        Some(expected) => {
            check(&fetched.bytes, &expected, size, "the manifest of", what)?;
            expected
        }
        None => Digest::of(&fetched.bytes),
    };
    Ok((digest, fetched))
}

fn check(bytes: &[u8], expected: &Digest, size: Option<u64>, kind: &str, what: &str) -> Result<()> {
    let what = format!("{kind} {what}");
    let found = bytes.len() as u64;
    if let Some(size) = size.filter(|size| *size != found) {
        return Err(ImageError::SizeMismatch { what, expected: size, actual: found });
    }
    expected.check(bytes).map_err(|actual| ImageError::DigestMismatch { what, expected: *expected, actual })
}
