//! From a reference to the documents of one image, asked of each endpoint in turn.

use api::trace::Tracer;

use super::PullOptions;
use crate::assemble::{Assembly, ImageVariant, Sources};
use crate::digest::Digest;
use crate::error::{Attempt, ImageError, Result};
use crate::manifest::{self, Descriptor, Document, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registries::Registries;
use crate::registry::{EndpointResult, Failure, Registry};
use crate::store::layout::Layout;

/// Images of an index that are kept together.
const PLATFORMS_MAX: usize = 64;

/// Asks each endpoint of the reference's registry, in order, until one has the image. Its layers are asked of that one
/// and then of those after it.
pub(crate) async fn resolve(
    layout: &Layout,
    registries: &Registries,
    reference: &Reference,
    options: &PullOptions,
    tracer: &Tracer,
) -> Result<(Assembly, Sources)> {
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut endpoints = endpoints(registries, reference)?.into_iter();
    while let Some(registry) = endpoints.next() {
        let question = Question { layout, registry: &registry, reference, options, tracer };
        match question.ask().await {
            Ok(assembly) => {
                let registries = std::iter::once(registry).chain(endpoints).collect();
                return Ok((assembly, Sources { registries, what: reference.to_string() }));
            }
            Err(failure) if attempts.is_empty() && endpoints.len() == 0 => {
                attempts.push(failure.attempt(registry.endpoint())?);
            }
            Err(failure) => attempts.push(failure.passed_over(registry.endpoint())?),
        }
    }
    Err(ImageError::Registry { what: format!("failed to pull {reference}"), attempts })
}

/// Asks each endpoint in order for the tags of the reference's repository.
pub(crate) async fn tags(registries: &Registries, reference: &Reference) -> Result<Vec<String>> {
    let mut attempts: Vec<Attempt> = Vec::new();
    for registry in endpoints(registries, reference)? {
        match registry.tags().await {
            Ok(tags) => return Ok(tags),
            Err(failure) => attempts.push(failure.attempt(registry.endpoint())?),
        }
    }
    let repository = reference.familiar_repository();
    Err(ImageError::Registry { what: format!("failed to list the tags of {repository}"), attempts })
}

fn endpoints(registries: &Registries, reference: &Reference) -> Result<Vec<Registry>> {
    registries.endpoints(reference)?.into_iter().map(Registry::new).collect()
}

/// What one endpoint is asked.
struct Question<'a> {
    layout: &'a Layout,
    registry: &'a Registry,
    reference: &'a Reference,
    options: &'a PullOptions,
    tracer: &'a Tracer,
}

impl Question<'_> {
    async fn ask(&self) -> EndpointResult<Assembly> {
        let what = self.reference.to_string();
        let mut step = self.tracer.step("image", "manifest.resolve");
        step.fact("endpoint", self.registry.endpoint());
        let (digest, bytes, document) = self.named(&what).await.inspect_err(|failure| {
            if let Failure::Endpoint { reason, .. } = failure {
                step.fact("failed", reason);
            }
        })?;
        let mut documents = vec![(digest, bytes)];
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        let (chosen, manifest, rest) = match document {
            Document::Manifest(manifest) => (digest, manifest, Vec::new()),
            Document::Index(entries) => {
                step.fact("index", digest);
                if self.options.all_platforms && entries.len() > PLATFORMS_MAX {
                    let reason =
                        format!("it has {} images, of which {PLATFORMS_MAX} at most are kept", entries.len());
                    return Err(ImageError::Refused { what, reason }.into());
                }
                let chosen = manifest::choose(&entries, &wanted, self.reference)?;
                let manifest = self.manifest(&chosen, &what, &mut documents).await?;
                let rest = entries.into_iter().map(|entry| entry.descriptor);
                let rest = rest.filter(|entry| entry.digest != chosen.digest);
                let rest = if self.options.all_platforms { rest.collect() } else { Vec::new() };
                (chosen.digest, manifest, rest)
            }
        };
        step.fact("digest", chosen).fact("layers", manifest.layers.len());
        drop(step);

        let mut step = self.tracer.step("image", "config.fetch");
        step.fact("digest", manifest.config.digest).fact("bytes", manifest.config.size);
        let variant = self.variant(chosen, manifest, &what, &mut documents).await?;
        let platform = &variant.config.platform;
        if self.options.platform.is_some() && platform.fit(&wanted).is_none() {
            let available = vec![platform.clone()];
            return Err(ImageError::NoPlatform { reference: what, wanted, available }.into());
        }
        step.fact("platform", platform);
        drop(step);

        let mut others: Vec<ImageVariant> = Vec::new();
        for entry in rest {
            if others.iter().all(|other| other.digest != entry.digest) {
                let manifest = self.manifest(&entry, &what, &mut documents).await?;
                others.push(self.variant(entry.digest, manifest, &what, &mut documents).await?);
            }
        }
        Ok(Assembly { name: Some(what), local: false, digest, variant, others, documents })
    }

    /// What the reference stands for. This is always asked of the endpoint, which may have changed its mind about
    /// what it is, or about who may have it.
    async fn named(&self, what: &str) -> EndpointResult<(Digest, Vec<u8>, Document)> {
        let name = match self.reference.digest() {
            Some(digest) => digest.to_string(),
            None => self.reference.tag().expect("a reference has a tag or a digest").to_owned(),
        };
        let fetched = self.registry.manifest(&name).await?;
        let digest = match self.reference.digest() {
            Some(expected) => {
                check(&fetched.bytes, expected, None, "the manifest of", what)?;
                *expected
            }
            None => Digest::of(&fetched.bytes),
        };
        let document = manifest::parse(&fetched.bytes, fetched.media_type.as_deref(), what)?;
        Ok((digest, fetched.bytes, document))
    }

    /// A manifest that an index promises, from the store where it is there.
    async fn manifest(
        &self,
        entry: &Descriptor,
        what: &str,
        documents: &mut Vec<(Digest, Vec<u8>)>,
    ) -> EndpointResult<Manifest> {
        let (bytes, media_type) = match self.layout.document(&entry.digest) {
            Some(bytes) => (bytes, None),
            None => {
                let fetched = self.registry.manifest(&entry.digest.to_string()).await?;
                (fetched.bytes, fetched.media_type)
            }
        };
        check(&bytes, &entry.digest, Some(entry.size), "the manifest of", what)?;
        let Document::Manifest(manifest) = manifest::parse(&bytes, media_type.as_deref(), what)? else {
            let reason = format!("its index promises a manifest as {}, but that is an index", entry.digest);
            return Err(ImageError::Refused { what: what.to_owned(), reason }.into());
        };
        documents.push((entry.digest, bytes));
        Ok(manifest)
    }

    /// A manifest with its configuration.
    async fn variant(
        &self,
        digest: Digest,
        manifest: Manifest,
        what: &str,
        documents: &mut Vec<(Digest, Vec<u8>)>,
    ) -> EndpointResult<ImageVariant> {
        let expected = &manifest.config;
        let bytes = match self.layout.document(&expected.digest) {
            Some(bytes) => bytes,
            None => self.registry.small_blob(&expected.digest, expected.size).await?,
        };
        check(&bytes, &expected.digest, Some(expected.size), "the configuration of", what)?;
        let config = manifest::config(&bytes, &manifest, what)?;
        documents.push((expected.digest, bytes));
        Ok(ImageVariant { digest, manifest, config })
    }
}

/// Checks a document against what is known of it.
fn check(bytes: &[u8], expected: &Digest, size: Option<u64>, kind: &str, what: &str) -> Result<()> {
    let what = format!("{kind} {what}");
    let found = bytes.len() as u64;
    if let Some(size) = size.filter(|size| *size != found) {
        return Err(ImageError::SizeMismatch { what, expected: size, actual: found });
    }
    expected.check(bytes).map_err(|actual| ImageError::DigestMismatch { what, expected: *expected, actual })
}
