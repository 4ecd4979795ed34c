//! One file per image reference: what it stands for and which content belongs to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout::{self, Layout};
use super::work::Work;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::platform::Platform;
use crate::reference::Reference;

/// File names may have 255 bytes; a longer one is shortened to this many and a digest.
const FILE_NAME_MAX: usize = 180;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ImageRecord {
    /// The canonical reference; none for an image whose last name went to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    /// What the reference resolved to: an index where there is one, else the manifest.
    pub(crate) digest: Digest,
    pub(crate) manifest: Digest,
    /// The configuration's digest, which is the image's id.
    pub(crate) config: Digest,
    pub(crate) platform: Platform,
    /// Bottom first.
    pub(crate) layers: Vec<LayerRecord>,
    /// What the index has for other machines, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<OtherRecord>,
    /// As the configuration says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    pub(crate) pulled: Timestamp,
    /// Whether the name was given here and not by a registry, which then knows nothing by this digest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LayerRecord {
    pub(crate) blob: Digest,
    pub(crate) chain: Digest,
    /// Compressed bytes.
    pub(crate) compressed: u64,
    /// Bytes of the unpacked files.
    pub(crate) size: u64,
}

/// An image for other machines, which is kept but not unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OtherRecord {
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) platform: Platform,
    /// Of its layers, bottom first.
    pub(crate) blobs: Vec<Digest>,
}

impl ImageRecord {
    /// Every blob that belongs to it.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        let others = self
            .others
            .iter()
            .flat_map(|other| [other.manifest, other.config].into_iter().chain(other.blobs.iter().copied()));
        [self.digest, self.manifest, self.config]
            .into_iter()
            .chain(self.layers.iter().map(|layer| layer.blob))
            .chain(others)
    }

    pub(crate) fn chains(&self) -> impl Iterator<Item = Digest> + '_ {
        self.layers.iter().map(|layer| layer.chain)
    }

    /// Bytes of the unpacked files of all layers, each counted once.
    pub(crate) fn size(&self) -> u64 {
        let mut seen = BTreeSet::new();
        self.layers.iter().filter(|layer| seen.insert(layer.chain)).map(|layer| layer.size).sum()
    }

    fn path(&self, layout: &Layout) -> PathBuf {
        match &self.reference {
            Some(reference) => path_of(layout, reference),
            None => path_of(layout, &self.config.to_string()),
        }
    }

    /// Makes the record visible, durably; `scratch` is a path for the moment before.
    pub(crate) fn commit(&self, layout: &Layout, scratch: &std::path::Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).expect("a record has only string keys");
        layout::write_synced(scratch, &bytes)?;
        layout::rename(scratch, &self.path(layout))?;
        layout::sync_folder(&layout.images())
    }

    /// Makes the record visible in the place of what its name stood for before, which stays without a name: a
    /// container may still use it, and it may be wanted again. The store's lock must be held.
    pub(crate) fn take_name(&self, layout: &Layout, work: &Work) -> Result<()> {
        let before = match &self.reference {
            Some(name) => ImageRecord::find_or_mend(layout, name)?,
            None => None,
        };
        // What a registry has under this name it still has.
        let known = before.as_ref().is_some_and(|before| !before.local && before.digest == self.digest);
        let record = ImageRecord { local: self.local && !known, ..self.clone() };
        if let Some(before) = before.filter(|before| before.config != self.config) {
            let all = ImageRecord::readable(layout)?;
            if all.iter().filter(|other| other.config == before.config).count() == 1 {
                let unnamed = ImageRecord { reference: None, ..before };
                unnamed.commit(layout, &work.path("unnamed"))?;
            }
        }
        let is_same = |other: &ImageRecord| other.config == self.config;
        let Some(_) = &self.reference else {
            let has_name = |other: &ImageRecord| is_same(other) && other.reference.is_some();
            return match ImageRecord::readable(layout)?.iter().any(has_name) {
                true => Ok(()),
                false => record.commit(layout, &work.path("record")),
            };
        };
        record.commit(layout, &work.path("record"))?;
        // The image has a name again.
        let unnamed = |other: &&ImageRecord| is_same(other) && other.reference.is_none();
        match ImageRecord::readable(layout)?.iter().find(unnamed) {
            Some(unnamed) => unnamed.remove(layout),
            None => Ok(()),
        }
    }

    /// The record of a name; a damaged one counts as none, because it is about to be written again.
    pub(crate) fn find_or_mend(layout: &Layout, name: &str) -> Result<Option<ImageRecord>> {
        ImageRecord::find(layout, name).or_else(|error| match error {
            ImageError::Damaged { .. } => Ok(None),
            error => Err(error),
        })
    }

    pub(crate) fn remove(&self, layout: &Layout) -> Result<()> {
        layout::remove_file(&self.path(layout))?;
        layout::sync_folder(&layout.images())
    }

    /// What registries know the image by, as far as this name tells: `registry/repository@digest`.
    pub(crate) fn repo_digest(&self) -> Option<String> {
        let reference: Reference = self.reference.as_deref().filter(|_| !self.local)?.parse().ok()?;
        Some(format!("{}/{}@{}", reference.registry(), reference.repository(), self.digest))
    }

    /// The record of a canonical reference.
    pub(crate) fn find(layout: &Layout, reference: &str) -> Result<Option<ImageRecord>> {
        let found = read(path_of(layout, reference))?;
        Ok(found.filter(|record| record.reference.as_deref() == Some(reference)))
    }

    /// Every image: its records, of which one at most has no name and then is the only one.
    pub(crate) fn images(layout: &Layout) -> Result<BTreeMap<Digest, Vec<ImageRecord>>> {
        let mut images: BTreeMap<Digest, Vec<ImageRecord>> = BTreeMap::new();
        for record in ImageRecord::all(layout)? {
            images.entry(record.config).or_default().push(record);
        }
        Ok(images)
    }

    /// The record that an image is shown by: one with a name, where it has one. A moment in which a name is taken may
    /// leave one without beside it, if it is the last of the process that takes it.
    pub(crate) fn foremost(records: &[ImageRecord]) -> Option<&ImageRecord> {
        records.iter().find(|record| record.reference.is_some()).or(records.first())
    }

    /// Every record that can be read: for those who look for some, whom the damage of others does not concern.
    pub(crate) fn readable(layout: &Layout) -> Result<Vec<ImageRecord>> {
        let mut records = Vec::new();
        for name in layout::names_in(&layout.images())? {
            match read(layout.images().join(name)) {
                Ok(record) => records.extend(record),
                Err(ImageError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    /// Every record.
    pub(crate) fn all(layout: &Layout) -> Result<Vec<ImageRecord>> {
        let folder = layout.images();
        let mut records = Vec::new();
        for name in layout::names_in(&folder)? {
            // One that went since the listing is none any more.
            records.extend(read(folder.join(name))?);
        }
        Ok(records)
    }
}

/// The reference or id that a file name is for, where the name says it whole.
pub(crate) fn name_of(file: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(file.len());
    let mut rest = file.as_bytes();
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'+', _) => return None,
            (b'%', [high, low, after @ ..]) => {
                bytes.extend(hex::decode([*high, *low]).ok()?);
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

fn path_of(layout: &Layout, name: &str) -> PathBuf {
    layout.images().join(file_name(name))
}

/// A file name for a reference or id, one for each.
pub(crate) fn file_name(name: &str) -> String {
    let mut file = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => file.push(byte as char),
            b'.' if !file.is_empty() => file.push('.'),
            other => file.push_str(&format!("%{other:02x}")),
        }
    }
    if file.len() > FILE_NAME_MAX {
        file.truncate(FILE_NAME_MAX);
        file.push('+');
        file.push_str(&Digest::of(name.as_bytes()).hex());
    }
    file
}

/// Reads a record; none when there is no such file.
pub(crate) fn read(path: PathBuf) -> Result<Option<ImageRecord>> {
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::io("read", path)(error)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(record) => Ok(Some(record)),
        Err(error) => Err(ImageError::Damaged { path, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_distinct_file_names() {
        let layout = Layout::new(std::path::Path::new("/r"));
        let long = format!("h/{}:x", "a/".repeat(120));
        for (name, file) in [
            ("docker.io/library/a:1", "docker.io%2flibrary%2fa%3a1".to_owned()),
            ("../x", "%2e.%2fx".to_owned()),
            (&long, String::new()),
        ] {
            let path = path_of(&layout, name);
            let found = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(found.len() <= 255 && path.parent().expect("a folder").ends_with("images"));
            assert!(file.is_empty() || found == file, "{found}");
            assert_eq!(name_of(found).as_deref(), Some(name).filter(|name| name.len() < 200));
        }
        assert_ne!(path_of(&layout, &long), path_of(&layout, &long.replace(":x", ":y")));
    }
}
