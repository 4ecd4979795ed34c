//! Garbage collection of images when the disk fills up, as the kubelet does it: above a high threshold unused images
//! go, those first that were used least recently, until the disk is below a low one.
//!
//! Kubernetes, "Garbage collection of unused containers and images", and `pkg/kubelet/images/image_gc_manager.go` for
//! the arithmetic. What goes is computed as data first ([`GcPolicy::plan`]), so that it can be shown and tested.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::usage::{Content, StoreUsage};
use super::{ImageStore, InUse};
use crate::error::{ImageError, Result};

/// When images are collected, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// Percent of the disk from which on images are removed.
    pub high: u8,
    /// Percent of the disk to come down to.
    pub low: u8,
    /// Images that came later than this before now stay.
    pub min_age: SignedDuration,
}

impl Default for GcPolicy {
    /// The kubelet's: 85, 80, two minutes.
    fn default() -> Self {
        GcPolicy { high: 85, low: 80, min_age: SignedDuration::from_mins(2) }
    }
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes it holds.
    pub capacity: u64,
    /// Bytes that may still be written to it.
    pub available: u64,
}

impl DiskUsage {
    /// How much of it is used, in percent; what is reserved for root counts as used.
    pub fn percent(&self) -> u64 {
        let free = u128::from(self.available) * 100 / u128::from(self.capacity.max(1));
        100 - u64::try_from(free).unwrap_or(100).min(100)
    }

    /// Bytes that must become free for it to be used to `percent` at most.
    pub fn excess(&self, percent: u8) -> u64 {
        let free = u128::from(self.capacity) * u128::from(100 - percent.min(100)) / 100;
        u64::try_from(free).unwrap_or(u64::MAX).saturating_sub(self.available)
    }
}

/// What the plan must know of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcImage {
    /// Its id.
    pub id: String,
    /// What it is called, for people; its id when it has no name.
    pub name: String,
    /// What it needs of the store, with the bytes of each.
    pub content: BTreeMap<Content, u64>,
    /// When it was last used.
    pub last_used: Timestamp,
    /// When it came.
    pub added: Timestamp,
    /// A container that uses it.
    pub container: Option<String>,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// Why an image goes or stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes.
    Remove,
    /// The disk is below the threshold without it.
    NotNeeded,
    /// This container uses it.
    InUse(String),
    /// It is pinned.
    Pinned,
    /// It came too lately.
    TooYoung,
}

/// What is to become of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcStep {
    /// Its id.
    pub id: String,
    /// What it is called, for people.
    pub name: String,
    /// Bytes that its removal sets free, after those before it in the plan.
    pub bytes: u64,
    /// When it was last used.
    pub last_used: Timestamp,
    /// Why it goes or stays.
    pub verdict: Verdict,
}

/// What a collection would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcPlan {
    /// Bytes that are to become free; 0 below the high threshold.
    pub wanted: u64,
    /// Every image: those that may go in the order in which they would, then those that may not.
    pub steps: Vec<GcStep>,
}

impl GcPlan {
    /// Bytes that become free.
    pub fn freed(&self) -> u64 {
        self.steps.iter().filter(|step| step.verdict == Verdict::Remove).map(|step| step.bytes).sum()
    }
}

/// What a collection did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// What it set out to do.
    pub plan: GcPlan,
    /// The images that went, in order, each with the bytes of its layers and blobs that went with it.
    pub removed: Vec<GcStep>,
    /// How full the disk was.
    pub before: DiskUsage,
    /// How full it is.
    pub after: DiskUsage,
}

impl GcPolicy {
    /// Decides of every image whether it goes. Content that several images share becomes free with the last of them.
    pub fn plan(&self, images: &[GcImage], usage: DiskUsage, now: Timestamp) -> GcPlan {
        let wanted = if usage.percent() >= u64::from(self.high) { usage.excess(self.low) } else { 0 };
        let reason = |image: &GcImage| match &image.container {
            Some(container) => Some(Verdict::InUse(container.clone())),
            None if image.pinned => Some(Verdict::Pinned),
            None if now.duration_since(image.added) < self.min_age => Some(Verdict::TooYoung),
            None => None,
        };
        let mut order: Vec<(&GcImage, Option<Verdict>)> =
            images.iter().map(|image| (image, reason(image))).collect();
        order.sort_by_key(|(image, stays)| (stays.is_some(), image.last_used, image.added, &image.id));

        let mut users: BTreeMap<&Content, usize> = BTreeMap::new();
        for piece in images.iter().flat_map(|image| image.content.keys()) {
            *users.entry(piece).or_default() += 1;
        }
        let mut freed = 0;
        let mut steps = Vec::new();
        for (image, stays) in order {
            let only_its = |piece: &&Content| users.get(*piece) == Some(&1);
            let bytes =
                image.content.iter().filter(|(piece, _)| only_its(piece)).map(|(_, bytes)| bytes).sum();
            let verdict = match stays {
                Some(reason) => reason,
                None if freed < wanted => Verdict::Remove,
                None => Verdict::NotNeeded,
            };
            if verdict == Verdict::Remove {
                freed += bytes;
                for piece in image.content.keys() {
                    users.entry(piece).and_modify(|count| *count -= 1);
                }
            }
            let (id, name) = (image.id.clone(), image.name.clone());
            steps.push(GcStep { id, name, bytes, last_used: image.last_used, verdict });
        }
        GcPlan { wanted, steps }
    }
}

impl ImageStore {
    /// How full the file system of the store is.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        self.layout.prepare()?;
        let path = self.layout.images();
        let found = rustix::fs::statvfs(&path)
            .map_err(|error| ImageError::io("look at the file system of", path)(error.into()))?;
        Ok(DiskUsage {
            capacity: found.f_blocks.saturating_mul(found.f_frsize),
            available: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    /// Every image as a plan needs it.
    pub fn gc_images(&self, in_use: &InUse<'_>) -> Result<Vec<GcImage>> {
        let StoreUsage { images, content, .. } = self.usage()?;
        let images = images.into_iter().map(|image| GcImage {
            name: image.names.first().unwrap_or(&image.summary.id).clone(),
            content: image.content.iter().filter_map(|piece| Some((*piece, *content.get(piece)?))).collect(),
            last_used: image.last_used,
            added: image.added,
            container: in_use(&image.summary.id),
            pinned: image.pinned,
            id: image.summary.id,
        });
        Ok(images.collect())
    }

    /// Collects images. `usage` tells how full the disk is; it is asked again after every removal, because what a
    /// removal really sets free is known only then: the collection ends when the disk is below the low threshold,
    /// or when no image is left that may go.
    pub fn collect(
        &self,
        policy: &GcPolicy,
        in_use: &InUse<'_>,
        usage: &dyn Fn() -> Result<DiskUsage>,
        now: Timestamp,
    ) -> Result<Collected> {
        let images = self.gc_images(in_use)?;
        // What is used now will have been used until now when it no longer is.
        for image in images.iter().filter(|image| image.container.is_some()) {
            self.mark_used(&image.id)?;
        }
        let before = usage()?;
        let plan = policy.plan(&images, before, now);
        let mut removed = Vec::new();
        let mut after = before;
        let may_go = |step: &&GcStep| matches!(step.verdict, Verdict::Remove | Verdict::NotNeeded);
        for step in plan.steps.iter().filter(may_go) {
            if plan.wanted == 0 || after.excess(policy.low) == 0 {
                break;
            }
            // Anything may have happened to it since the plan: it goes only if that still holds.
            let gone = self.prune(&mut |image| Ok(image.id == step.id), in_use)?;
            if gone.deleted.contains(&step.id) {
                removed.push(GcStep { bytes: gone.bytes, ..step.clone() });
            }
            after = usage()?;
        }
        Ok(Collected { plan, removed, before, after })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::digest::Digest;

    /// The ids of the images that a plan removes.
    fn going(plan: &GcPlan) -> BTreeSet<&str> {
        plan.steps
            .iter()
            .filter(|step| step.verdict == Verdict::Remove)
            .map(|step| step.id.as_str())
            .collect()
    }

    const NOW: i64 = 1_000_000;

    fn at(ago: i64) -> Timestamp {
        Timestamp::from_second(NOW - ago).expect("in range")
    }

    /// An image last used `used` seconds ago that came a day ago, of layers named by a letter, 10 bytes each.
    fn image(id: &str, used: i64, layers: &str) -> GcImage {
        let piece = |letter: char| (Content::Layer(Digest::of(letter.to_string().as_bytes())), 10);
        GcImage {
            id: id.to_owned(),
            name: id.to_owned(),
            content: layers.chars().map(piece).collect(),
            last_used: at(used),
            added: at(86_400),
            container: None,
            pinned: false,
        }
    }

    fn plan(images: &[GcImage], used: u64) -> GcPlan {
        let policy = GcPolicy { high: 85, low: 80, min_age: SignedDuration::from_mins(2) };
        policy.plan(images, DiskUsage { capacity: 100, available: 100 - used }, at(0))
    }

    #[test]
    fn the_least_recently_used_go_first_until_it_is_enough() {
        let images = [image("new", 10, "a"), image("old", 900, "b"), image("middle", 500, "c")];
        for (used, wanted, expected) in [
            (0, 0, &[][..]),
            (84, 0, &[]),
            (85, 5, &["old"]),
            (90, 10, &["old"]),
            (91, 11, &["middle", "old"]),
            (100, 20, &["middle", "old"]),
        ] {
            let plan = plan(&images, used);
            assert_eq!((plan.wanted, going(&plan)), (wanted, expected.iter().copied().collect()), "{used}");
        }
        assert_eq!(plan(&images, 100).freed(), 20);
        let order: Vec<String> = plan(&images, 85).steps.into_iter().map(|step| step.id).collect();
        assert_eq!(order, ["old", "middle", "new"]);
    }

    #[test]
    fn what_may_not_go_stays_and_says_why() {
        let used = GcImage { container: Some("web".to_owned()), pinned: true, ..image("used", 900, "a") };
        let pinned = GcImage { pinned: true, ..image("pinned", 900, "b") };
        let young = GcImage { added: at(119), ..image("young", 119, "c") };
        let old_enough = GcImage { added: at(120), ..image("old enough", 120, "d") };
        let plan = plan(&[used, pinned, young, old_enough], 100);
        let verdict =
            |id: &str| plan.steps.iter().find(|step| step.id == id).map(|step| step.verdict.clone());
        assert_eq!(verdict("used"), Some(Verdict::InUse("web".to_owned())));
        assert_eq!(verdict("pinned"), Some(Verdict::Pinned));
        assert_eq!(verdict("young"), Some(Verdict::TooYoung));
        assert_eq!(verdict("old enough"), Some(Verdict::Remove));
        assert_eq!((plan.wanted, plan.freed()), (20, 10));
    }

    #[test]
    fn shared_content_is_free_with_its_last_image() {
        let images = [image("one", 900, "ab"), image("two", 800, "ac"), image("three", 700, "d")];
        let plan = plan(&images, 100);
        let bytes: Vec<(&str, u64)> = plan.steps.iter().map(|step| (step.id.as_str(), step.bytes)).collect();
        assert_eq!(bytes, [("one", 10), ("two", 20), ("three", 10)]);
        assert_eq!(going(&plan), ["one", "two"].into());
        // What somebody else keeps does not become free at all.
        let kept = GcImage { pinned: true, ..image("kept", 1, "a") };
        let plan = self::plan(&[image("one", 900, "a"), image("two", 800, "b"), kept], 85);
        assert_eq!((going(&plan), plan.freed()), (["one", "two"].into(), 10));
    }

    #[test]
    fn percents_are_the_kubelets() {
        let percent = |capacity, available| DiskUsage { capacity, available }.percent();
        assert_eq!(percent(100, 100), 0);
        assert_eq!(percent(1000, 155), 85);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX, u64::MAX), 0);
        assert_eq!(DiskUsage { capacity: u64::MAX, available: 0 }.excess(0), u64::MAX);
    }
}
