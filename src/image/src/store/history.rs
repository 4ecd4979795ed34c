//! How an image came to be, as its configuration tells it, with what each step weighs here.

use jiff::Timestamp;

use super::{Image, ImageStore, layer};
use crate::error::{ImageError, Result};

/// One step, as image-spec config.md, "history", has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When, where it says so in a form that can be read.
    pub created: Option<Timestamp>,
    /// The command.
    pub created_by: String,
    /// What its author had to say.
    pub comment: String,
    /// Bytes of the files of the layer it made; 0 for one that made none.
    pub size: u64,
}

impl ImageStore {
    /// The steps of an image, the last first. Layers that no step tells of are steps without words, on top.
    pub fn history(&self, image: &Image) -> Result<Vec<HistoryEntry>> {
        let mut sizes = Vec::with_capacity(image.chain.len());
        for chain in &image.chain {
            let facts = layer::read(&self.layout, chain)?.ok_or_else(|| ImageError::Damaged {
                path: self.layout.layer(chain),
                reason: "it is missing".to_owned(),
            })?;
            sizes.push(facts.size);
        }
        let mut sizes = sizes.into_iter();
        let mut entries = Vec::new();
        for told in image.config.history().iter().flatten() {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let made_none = told.empty_layer().unwrap_or(false);
            entries.push(HistoryEntry {
                created: told.created().as_deref().and_then(|text| text.parse().ok()),
                created_by: text(told.created_by()),
                comment: text(told.comment()),
                size: if made_none { 0 } else { sizes.next().unwrap_or(0) },
            });
        }
        entries.extend(sizes.map(|size| HistoryEntry { size, ..HistoryEntry::default() }));
        entries.reverse();
        Ok(entries)
    }
}
