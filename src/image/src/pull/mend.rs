//! Repairing images: what is damaged is fetched again from the registry it came from, or unpacked again from what came.

use std::collections::BTreeSet;

use api::trace::Tracer;

use super::{PullOptions, resolve};
use crate::assemble::{Assembler, AssemblyOptions};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::progress::PullProgress;
use crate::reference::Reference;
use crate::registries::Registries;
use crate::store::layout;
use crate::store::lock::Lock;
use crate::store::record::ImageRecord;
use crate::store::verify::told;
use crate::store::{Damage, Damaged, ImageStore, InUse, Verified};

impl ImageStore {
    /// Repairs what [`verify`](ImageStore::verify) found damaged, and returns what still is, with the reason why.
    ///
    /// Blobs are fetched by the digest they had, so that a name which stands for something else by now brings nothing
    /// new. A layer that a container has mounted, as `mounted` says, is left.
    pub async fn repair(
        &self,
        verified: Verified,
        mounted: &InUse<'_>,
        options: &PullOptions,
        progress: &dyn PullProgress,
        tracer: &Tracer,
    ) -> Result<Vec<Damage>> {
        let registries = Registries::read(&self.config_root)?;
        let broken = verified.broken_blobs();
        let mut failures: Vec<(Damaged, String)> = Vec::new();
        // Records that nothing can be done about.
        let mut lost: Vec<Damage> = Vec::new();
        for damage in &verified.damage {
            if !matches!(damage.what, Damaged::Record(_)) {
                continue;
            }
            match pulled_by(damage) {
                Some(reference) => {
                    if let Err(error) = self.pull(&reference, options, progress, tracer).await {
                        failures.push((damage.what.clone(), told(&error)));
                    }
                }
                None => lost.push(damage.clone()),
            }
        }
        for record in &verified.records {
            let missing: BTreeSet<Digest> = record.blobs().filter(|digest| broken.contains(digest)).collect();
            if missing.is_empty() {
                continue;
            }
            if let Err(error) = self.mend(record, &missing, &registries, options, progress, tracer).await {
                let reason = told(&error);
                failures.extend(missing.into_iter().map(|digest| (Damaged::Blob(digest), reason.clone())));
            }
        }
        // Where all blobs and records were whole, the layers are judged already.
        let judged = verified.damage.iter().all(|damage| matches!(damage.what, Damaged::Layer(_)));
        let verified = match judged {
            true => verified,
            false => {
                let names = names_of(&verified);
                drop(verified);
                let store = self.clone();
                let verifying = tokio::task::spawn_blocking(move || store.verify(&names));
                verifying.await.expect("verifying does not panic")?
            }
        };
        let mut left = self.replace_layers(verified, mounted)?;
        lost.retain(|damage| !left.contains(damage));
        left.extend(lost);
        for damage in &mut left {
            if let Some((_, reason)) = failures.iter().find(|(what, _)| *what == damage.what) {
                damage.reason.push_str(&format!("; {reason}"));
            }
        }
        Ok(left)
    }

    /// Fetches blobs of an image again, under the name it has.
    async fn mend(
        &self,
        record: &ImageRecord,
        broken: &BTreeSet<Digest>,
        registries: &Registries,
        options: &PullOptions,
        progress: &dyn PullProgress,
        tracer: &Tracer,
    ) -> Result<()> {
        let damaged = |reason: &str| ImageError::Damaged {
            path: self.layout.images(),
            reason: format!("{}: {reason}", record.config),
        };
        let Some(name) = &record.reference else {
            return Err(damaged("it has no name, and so no registry to be fetched from"));
        };
        let named: Reference = name.parse()?;
        let pinned = format!("{}/{}@{}", named.registry(), named.repository(), record.digest);
        let options = PullOptions {
            platform: Some(record.platform.clone()),
            all_platforms: !record.others.is_empty(),
            ..options.clone()
        };
        progress.resolving(&pinned);
        let (mut assembly, sources) =
            resolve::resolve(&self.layout, registries, &pinned.parse()?, &options, tracer).await?;
        assembly.name = Some(name.clone());
        assembly.local = record.local;
        // Only now that somebody has them.
        let hold = Lock::hold(&self.layout.store_lock())?;
        let documents: BTreeSet<Digest> = assembly.documents.iter().map(|(digest, _)| *digest).collect();
        for digest in broken.difference(&documents) {
            layout::remove_file(&self.layout.blob(digest))?;
        }
        drop(hold);
        let mut assembler = Assembler::begin(self)?;
        assembler.only_instead_of(record);
        let how = AssemblyOptions { parallel: options.parallel, limits: options.limits.clone() };
        let assembled = assembler.assemble(&assembly, &sources, &how, progress, tracer).await;
        let ended = assembler.end(false).await;
        assembled.and(ended)
    }
}

/// The name to pull a damaged record's image by; none when it has none.
fn pulled_by(damage: &Damage) -> Option<Reference> {
    let is_id = damage.image.parse::<Digest>().is_ok();
    damage.image.parse().ok().filter(|_| !is_id)
}

/// What was verified, by name or id.
fn names_of(verified: &Verified) -> Vec<String> {
    let name = |record: &ImageRecord| record.reference.clone().unwrap_or_else(|| record.config.to_string());
    let records = verified.damage.iter().filter(|damage| matches!(damage.what, Damaged::Record(_)));
    let records = records.filter_map(|damage| Some(pulled_by(damage)?.to_string()));
    let mut names: Vec<String> = verified.records.iter().map(name).chain(records).collect();
    names.sort();
    names.dedup();
    names
}
