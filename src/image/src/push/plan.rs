//! What belongs to an image that is pushed.

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{self, Document};
use crate::reference::Reference;
use crate::store::layout::Layout;
use crate::store::record::ImageRecord;

/// Everything that the repository must have in the end.
pub(super) struct PushPlan {
    /// Layers and configurations, each once.
    pub(super) blobs: Vec<Blob>,
    /// Manifests, and last what the name is to stand for.
    pub(super) documents: Vec<Written>,
}

/// A layer or a configuration.
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A manifest or an index.
pub(super) struct Written {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
}

impl PushPlan {
    /// Reads the documents of an image. Where the store has the images of other platforms, they belong to it.
    pub(super) fn of(layout: &Layout, record: &ImageRecord) -> Result<PushPlan> {
        let mut plan = PushPlan { blobs: Vec::new(), documents: Vec::new() };
        plan.add_manifest(layout, &record.manifest)?;
        for other in &record.others {
            plan.add_manifest(layout, &other.manifest)?;
        }
        if !record.others.is_empty() {
            let bytes = whole(layout, &record.digest)?;
            let has = |text: &str| plan.documents.iter().any(|own| own.digest.to_string() == text);
            if let Some(missing) = manifest::listed(&bytes).into_iter().find(|text| !has(text)) {
                let what = format!("to push the index {}", record.digest);
                let reason = format!(
                    "it lists {missing}, which is no image (an attestation, say) and was not kept; \
                     pull the image without --all-platforms and push that"
                );
                return Err(ImageError::Refused { what, reason });
            }
            let media_type = manifest::media_type(&bytes, manifest::OCI_INDEX);
            plan.documents.push(Written { digest: record.digest, media_type, bytes });
        }
        Ok(plan)
    }

    /// What the image's name stands for in the end.
    pub(super) fn whole(&self) -> &Written {
        self.documents.last().expect("an image has a manifest")
    }

    fn add_manifest(&mut self, layout: &Layout, digest: &Digest) -> Result<()> {
        let bytes = whole(layout, digest)?;
        let Document::Manifest(manifest) = manifest::parse(&bytes, None, &digest.to_string())? else {
            return Err(damaged(layout, digest, "it is no manifest"));
        };
        for layer in &manifest.layers {
            self.add_blob(layer.digest, layer.size);
        }
        self.add_blob(manifest.config.digest, manifest.config.size);
        let media_type = manifest::media_type(&bytes, manifest::OCI_MANIFEST);
        self.documents.push(Written { digest: *digest, media_type, bytes });
        Ok(())
    }

    fn add_blob(&mut self, digest: Digest, size: u64) {
        if !self.blobs.iter().any(|blob| blob.digest == digest) {
            self.blobs.push(Blob { digest, size });
        }
    }
}

/// Another repository of the same registry that is known to have a blob.
pub(super) fn repository_with(known: &[ImageRecord], blob: &Digest, to: &Reference) -> Option<String> {
    let has = known.iter().filter(|record| !record.local && record.blobs().any(|own| own == *blob));
    let named = has.filter_map(|record| record.reference.as_deref()?.parse::<Reference>().ok());
    let mut near =
        named.filter(|name| name.registry() == to.registry() && name.repository() != to.repository());
    near.next().map(|name| name.repository().to_owned())
}

fn whole(layout: &Layout, digest: &Digest) -> Result<Vec<u8>> {
    let missing = || damaged(layout, digest, "it is missing, or its content is not what its name says");
    layout.document(digest).ok_or_else(missing)
}

pub(super) fn damaged(layout: &Layout, digest: &Digest, reason: &str) -> ImageError {
    ImageError::Damaged { path: layout.blob(digest), reason: reason.to_owned() }
}
