//! Whether everything of an image is still what it was, and putting back what can be put back from here.
//!
//! Blobs are digested and compared with their names. Layers are unpacked anew from their blobs and compared with what
//! is there entry by entry ([`super::compare`]), one at a time, bottom first; above a damaged layer, on the new one. So
//! a layer whose blob is damaged cannot be judged before the blob is fetched again. A layer that is damaged is replaced
//! by the one unpacked anew, without asking anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::Timespec;

use super::compare::compare;
use super::layout::{self, link_name};
use super::lock::Lock;
use super::record::{self, ImageRecord};
use super::work::Work;
use super::{ImageStore, InUse, layer};
use crate::assemble::remake::{self, LayerPlan};
use crate::digest::{Digest, Digester};
use crate::error::{ImageError, Result};

/// What can be damaged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damaged {
    /// The file that says what a name stands for.
    Record(PathBuf),
    /// A manifest, a configuration or a layer as it came.
    Blob(Digest),
    /// A layer's unpacked files, by chain id.
    Layer(Digest),
}

/// One thing that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// An image that it belongs to, by a name or its id.
    pub image: String,
    /// What it is.
    pub what: Damaged,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { image, what, reason } = self;
        match what {
            Damaged::Record(_) => write!(f, "record of {image}: {reason}"),
            Damaged::Blob(digest) => write!(f, "blob {digest} of {image}: {reason}"),
            Damaged::Layer(chain) => write!(f, "layer {chain} of {image}: {reason}"),
        }
    }
}

/// What was found.
#[derive(Debug)]
pub struct Verified {
    /// Everything that is damaged.
    pub damage: Vec<Damage>,
    /// How many images were looked at,
    pub images: usize,
    /// how many blobs of them,
    pub blobs: usize,
    /// and how many layers.
    pub layers: usize,
    /// The records of these images.
    pub(crate) records: Vec<ImageRecord>,
    /// Layers unpacked anew, in the place of damaged ones.
    spares: BTreeMap<Digest, PathBuf>,
    /// Holds the spares, and keeps from removal what was looked at.
    work: Work,
}

impl Verified {
    fn damaged(&mut self, record: &ImageRecord, what: Damaged, reason: impl Into<String>) {
        let image = record.reference.clone().unwrap_or_else(|| record.config.to_string());
        self.damage.push(Damage { image, what, reason: reason.into() });
    }

    /// The damaged blobs.
    pub(crate) fn broken_blobs(&self) -> BTreeSet<Digest> {
        let blob = |damage: &Damage| match damage.what {
            Damaged::Blob(digest) => Some(digest),
            Damaged::Record(_) | Damaged::Layer(_) => None,
        };
        self.damage.iter().filter_map(blob).collect()
    }
}

impl ImageStore {
    /// Verifies the images of these names or ids; all when none is given. Nothing is changed.
    ///
    /// Fails when an image is not there, or when there is no room to unpack its largest layer once more.
    pub fn verify(&self, names: &[String]) -> Result<Verified> {
        self.layout.prepare()?;
        let mut damage = Vec::new();
        let mut records = self.picked(names, &mut damage)?;
        let needs = records.iter().flat_map(|record| record.blobs().chain(record.chains()));
        let work = Work::begin(&self.layout, needs.collect::<Vec<_>>())?;
        // What had gone before we counted on it is no damage.
        let mut there = BTreeSet::new();
        for (_, record) in self.survey()? {
            there.extend(record.ok().map(|record| (record.reference, record.config)));
        }
        records.retain(|record| there.contains(&(record.reference.clone(), record.config)));
        let ids: BTreeSet<Digest> = records.iter().map(|record| record.config).collect();
        let (images, spares) = (ids.len(), BTreeMap::new());
        let mut verified = Verified { damage, images, blobs: 0, layers: 0, records, spares, work };
        self.verify_blobs(&mut verified)?;
        self.verify_layers(&mut verified)?;
        Ok(verified)
    }

    /// Every record's file with what is in it.
    fn survey(&self) -> Result<Vec<(PathBuf, Result<ImageRecord>)>> {
        let folder = self.layout.images();
        let mut all = Vec::new();
        for file in layout::names_in(&folder)? {
            let path = folder.join(file);
            match record::read(path.clone()) {
                Ok(record) => all.extend(record.map(|record| (path, Ok(record)))),
                Err(error @ ImageError::Damaged { .. }) => all.push((path, Err(error))),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn picked(&self, names: &[String], damage: &mut Vec<Damage>) -> Result<Vec<ImageRecord>> {
        let mut found: Vec<Result<ImageRecord>> = Vec::new();
        if names.is_empty() {
            found.extend(self.survey()?.into_iter().map(|(_, record)| record));
        }
        for name in names {
            found.push(match self.find(name) {
                Ok(Some((record, _))) => Ok(record),
                Ok(None) => return Err(ImageError::NoSuchImage { name: name.clone() }),
                Err(error) => Err(error),
            });
        }
        let mut records = Vec::new();
        for record in found {
            match record {
                Ok(record) => records.push(record),
                Err(ImageError::Damaged { path, reason }) => {
                    let file = path.file_name().unwrap_or_default().to_string_lossy();
                    let image = record::name_of(&file).unwrap_or_else(|| file.into_owned());
                    damage.push(Damage { image, what: Damaged::Record(path), reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    fn verify_blobs(&self, verified: &mut Verified) -> Result<()> {
        let mut seen = BTreeSet::new();
        for record in verified.records.clone() {
            for digest in record.blobs() {
                if !seen.insert(digest) {
                    continue;
                }
                verified.blobs += 1;
                if let Some(reason) = self.fault_of_blob(&digest)? {
                    verified.damaged(&record, Damaged::Blob(digest), reason);
                }
            }
        }
        Ok(())
    }

    /// What is wrong with a blob, if anything.
    fn fault_of_blob(&self, digest: &Digest) -> Result<Option<String>> {
        let path = self.layout.blob(digest);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some("it is missing".to_owned()));
            }
            other => other.map_err(ImageError::io("open", &path))?,
        };
        let mut digester = Digester::new(digest.algorithm());
        let mut piece = vec![0; 256 << 10];
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(bytes) => digester.update(&piece[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What a disk cannot give back is damaged too.
                Err(error) => return Ok(Some(format!("it cannot be read: {error}"))),
            }
        }
        let (bytes, actual) = (digester.bytes(), digester.finish());
        Ok((actual != *digest).then(|| format!("its content, {bytes} bytes, has digest {actual}")))
    }

    fn verify_layers(&self, verified: &mut Verified) -> Result<()> {
        let broken = verified.broken_blobs();
        let mut seen = BTreeSet::new();
        for record in verified.records.clone() {
            if [record.manifest, record.config].iter().any(|document| broken.contains(document)) {
                // Said already; without them nobody knows what the layers should be.
                continue;
            }
            let name = record.reference.clone().unwrap_or_else(|| record.config.to_string());
            let plans = remake::layers(&self.layout, &record.manifest, &name)?;
            if !plans.iter().map(|plan| plan.chain).eq(record.chains()) {
                let reason = "its layers are not those of its configuration";
                let path = self.layout.images().join(record::file_name(&name));
                verified.damaged(&record, Damaged::Record(path), reason);
                continue;
            }
            let mut below: Vec<PathBuf> = Vec::new();
            for plan in plans {
                let spare = verified.spares.get(&plan.chain).cloned();
                if seen.insert(plan.chain) {
                    verified.layers += 1;
                    let blob_is_whole = !broken.contains(&plan.layer.digest);
                    below.push(self.verify_layer(verified, &record, &plan, blob_is_whole, &below)?);
                } else {
                    below.push(spare.unwrap_or_else(|| self.layout.layer(&plan.chain)).join("fs"));
                }
            }
        }
        Ok(())
    }

    /// Verifies one layer, and returns the files that those above it are to be unpacked on.
    fn verify_layer(
        &self,
        verified: &mut Verified,
        record: &ImageRecord,
        plan: &LayerPlan,
        blob_is_whole: bool,
        below: &[PathBuf],
    ) -> Result<PathBuf> {
        let chain = plan.chain;
        let there = self.layout.layer_fs(&chain);
        let found = layer::find(&self.layout, &chain);
        let unjudged = match (blob_is_whole, below.iter().all(|layer| layer.exists())) {
            (true, true) => None,
            (false, _) => Some("its blob"),
            (true, false) => Some("a layer below"),
        };
        if let Some(lacking) = unjudged {
            let is_there = matches!(found, Ok(Some(_)));
            let state = if is_there { "it cannot be judged" } else { "it is missing" };
            verified.damaged(record, Damaged::Layer(chain), format!("{state}, for {lacking} is damaged"));
            return Ok(there);
        }
        let folder = verified.work.path(&format!("again-{}", chain.hex()));
        layout::make_folder(&folder)?;
        let made = fs::metadata(&folder).map_err(ImageError::io("look at", &folder))?;
        let since = Timespec { tv_sec: made.mtime(), tv_nsec: made.mtime_nsec() as _ };
        let again = folder.join("fs");
        let facts = match remake::remake(&self.layout, plan, &folder, below) {
            Err(error) if error.is_refused() => {
                verified.damaged(record, Damaged::Layer(chain), told(&error));
                return Ok(there);
            }
            other => other?,
        };
        let reason = match found {
            Ok(None) => Some("it is missing".to_owned()),
            Ok(Some(recorded)) if recorded != facts => Some("what is recorded of it is not true".to_owned()),
            Ok(Some(_)) => compare(&there, &again, since)?,
            Err(ImageError::Damaged { path, reason }) => Some(format!("{}: {reason}", path.display())),
            Err(error) => return Err(error),
        };
        let Some(reason) = reason else {
            layout::remove_folder(&folder)?;
            return Ok(there);
        };
        verified.damaged(record, Damaged::Layer(chain), reason);
        verified.spares.insert(chain, folder);
        Ok(again)
    }

    /// Puts layers unpacked anew into the place of damaged ones, except those that `mounted` says a container has
    /// mounted. Returns the damage that is left, with the reason why for a layer that is.
    pub(crate) fn replace_layers(&self, verified: Verified, mounted: &InUse<'_>) -> Result<Vec<Damage>> {
        let Verified { mut damage, spares, work, .. } = verified;
        if let Some(folder) = spares.values().next() {
            let opened = File::open(folder).map_err(ImageError::io("open", folder))?;
            rustix::fs::syncfs(&opened).map_err(|error| ImageError::io("sync", folder)(error.into()))?;
        }
        let hold = Lock::hold(&self.layout.store_lock())?;
        let records: Vec<ImageRecord> =
            self.survey()?.into_iter().filter_map(|(_, record)| record.ok()).collect();
        for (chain, spare) in spares {
            let on_it = records.iter().filter(|record| record.chains().any(|other| other == chain));
            let mut ids = on_it.map(|record| record.config.to_string());
            let is_it = |damage: &Damage| damage.what == Damaged::Layer(chain);
            if let Some(container) = ids.find_map(|id| mounted(&id)) {
                for damage in damage.iter_mut().filter(|damage| is_it(damage)) {
                    damage
                        .reason
                        .push_str(&format!("; container {container} has it mounted: stop that first"));
                }
                continue;
            }
            let old = self.layout.layer(&chain);
            if fs::symlink_metadata(&old).is_ok() {
                layout::rename(&old, &work.path(&format!("broken-{}", chain.hex())))?;
            }
            layout::remove_file(&self.layout.links().join(link_name(&chain)))?;
            layer::commit(&self.layout, &chain, &spare)?;
            damage.retain(|damage| !is_it(damage));
        }
        layout::sync_folder(&self.layout.links())?;
        layout::sync_folder(&self.layout.layers())?;
        drop(hold);
        work.finish()?;
        Ok(damage)
    }
}

/// An error with its causes, on one line.
pub(crate) fn told(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
