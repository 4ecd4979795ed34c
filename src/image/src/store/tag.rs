//! Giving an image of the store another name.

use super::ImageStore;
use super::lock::Lock;
use super::record::ImageRecord;
use super::work::Work;
use crate::error::{ImageError, Result};
use crate::reference::Reference;

impl ImageStore {
    /// Gives the image that `source` stands for the name `target` too. What had the name before keeps its other
    /// names, or stays without one.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        if target.digest().is_some() {
            let reason = "a digest is what content has, no name to be given; leave out what follows the @";
            return Err(ImageError::InvalidReference {
                reference: target.to_string(),
                reason: reason.to_owned(),
            });
        }
        let missing = || ImageError::NoSuchImage { name: source.to_owned() };
        self.find(source)?.ok_or_else(missing)?;
        let work = Work::begin(&self.layout, [])?;
        let hold = Lock::hold(&self.layout.store_lock())?;
        let (record, _) = self.find(source)?.ok_or_else(missing)?;
        let name = Some(target.to_string());
        ImageRecord { reference: name, local: true, ..record }.take_name(&self.layout, &work)?;
        drop(hold);
        work.finish()
    }
}
