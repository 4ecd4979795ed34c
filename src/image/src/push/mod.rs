//! Pushing an image: its blobs, as far as the repository lacks them, then its manifests, byte for byte.

mod blob;
mod plan;

use futures_util::StreamExt as _;

use self::blob::Upload;
use self::plan::PushPlan;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::progress::PullProgress;
use crate::reference::Reference;
use crate::registries::Registries;
use crate::registry::{Failure, Registry};
use crate::store::ImageStore;
use crate::store::lock::Lock;
use crate::store::record::ImageRecord;
use crate::store::work::Work;

/// How an image is pushed.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// How many blobs are sent at once; `max-parallel` in registries.d limits those to one registry.
    pub parallel: usize,
}

impl Default for PushOptions {
    fn default() -> Self {
        PushOptions { parallel: 4 }
    }
}

/// An image that a registry has now.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Its name there.
    pub reference: Reference,
    /// What the name stands for: an index where the store has the images of other platforms too, else a manifest.
    pub digest: Digest,
    /// Bytes of that document.
    pub bytes: u64,
}

impl ImageStore {
    /// Pushes an image, given by name or id, under the name `to`, else under its own. It goes to the registry itself,
    /// never to a mirror.
    ///
    /// What the registry has already, in this repository or in another that the image is known to be in, is not sent.
    pub async fn push(
        &self,
        name: &str,
        to: Option<&Reference>,
        options: &PushOptions,
        progress: &dyn PullProgress,
    ) -> Result<Pushed> {
        self.layout.prepare()?;
        let missing = || ImageError::NoSuchImage { name: name.to_owned() };
        let (before, _) = self.find(name)?.ok_or_else(missing)?;
        // From here on nothing of it is taken away; what went just before is missed now.
        let work = Work::begin(&self.layout, before.blobs())?;
        let (record, by_name) = self.find(name)?.ok_or_else(missing)?;
        let to = destination(&record, by_name, to)?;
        let tag = to.tag().filter(|_| to.digest().is_none()).ok_or_else(|| ImageError::InvalidReference {
            reference: to.to_string(),
            reason: "a push goes to a tag; leave out the digest".into(),
        })?;
        let plan = PushPlan::of(&self.layout, &record)?;
        let registry = Registry::for_push(Registries::read(&self.config_root)?.origin(&to)?)?;

        let sent = self.send(&registry, &plan, &to, tag, options, progress).await;
        sent.map_err(|failure| match failure.attempt(registry.endpoint()) {
            Ok(attempt) => {
                ImageError::Registry { what: format!("failed to push {to}"), attempts: vec![attempt] }
            }
            Err(error) => error,
        })?;
        let whole = plan.whole();
        let pushed = Pushed { reference: to, digest: whole.digest, bytes: whole.bytes.len() as u64 };
        self.note(&pushed, &record, &work)?;
        work.finish()?;
        Ok(pushed)
    }

    async fn send(
        &self,
        registry: &Registry,
        plan: &PushPlan,
        to: &Reference,
        tag: &str,
        options: &PushOptions,
        progress: &dyn PullProgress,
    ) -> std::result::Result<(), Failure> {
        for (index, blob) in plan.blobs.iter().enumerate() {
            progress.layer(index, &blob.digest, blob.size);
        }
        let known = ImageRecord::readable(&self.layout)?;
        let uploads = plan.blobs.iter().enumerate().map(|(index, blob)| {
            let from = plan::repository_with(&known, &blob.digest, to);
            let upload = Upload { registry, layout: &self.layout, blob, from, index, progress };
            async move {
                let _room = registry.download().await;
                upload.run().await
            }
        });
        let mut uploads = futures_util::stream::iter(uploads).buffer_unordered(options.parallel.max(1));
        while let Some(uploaded) = uploads.next().await {
            uploaded?;
        }
        // What an index names is there before the index, and the name comes last.
        let (whole, parts) = plan.documents.split_last().expect("an image has a manifest");
        for part in parts {
            registry.put_manifest(&part.digest.to_string(), &part.media_type, &part.bytes).await?;
        }
        registry.put_manifest(tag, &whole.media_type, &whole.bytes).await
    }

    /// Remembers that a registry knows by its digest what only had a name here.
    fn note(&self, pushed: &Pushed, record: &ImageRecord, work: &Work) -> Result<()> {
        let _hold = Lock::hold(&self.layout.store_lock())?;
        let name = pushed.reference.to_string();
        match ImageRecord::find(&self.layout, &name)? {
            Some(now) if now.local && now.manifest == record.manifest => {
                let known = ImageRecord { local: false, digest: pushed.digest, ..now };
                known.commit(&self.layout, &work.path("record"))
            }
            _ => Ok(()),
        }
    }
}

/// The name an image gets at its registry.
fn destination(record: &ImageRecord, by_name: bool, to: Option<&Reference>) -> Result<Reference> {
    if let Some(to) = to {
        return Ok(to.clone());
    }
    let own = record.reference.as_deref().filter(|_| by_name);
    own.ok_or_else(|| ImageError::Refused {
        what: format!("to push {}", record.config),
        reason: "an id says not where to; give the name that it is to have".into(),
    })?
    .parse()
}
