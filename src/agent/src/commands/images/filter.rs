//! `--filter` of images: which of them are meant.

use std::mem::discriminant;

use anyhow::{Result, bail};
use glob::{MatchOptions, Pattern};
use image::{ImageStore, ImageSummary, Reference};
use jiff::Timestamp;

use crate::flags::parse_since;

/// As Go's `path.Match`: a star ends at a slash.
const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// A condition on images.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Filter {
    /// Without a name, or with one.
    Dangling(bool),
    Reference(Pattern),
    /// Built before this image.
    Before(String),
    /// Built after this image.
    Since(String),
    /// Built before this moment.
    Until(Timestamp),
    /// With this label, with this value; or, when false, without it.
    Label(String, Option<String>, bool),
}

/// Parses a filter of `images`.
pub(crate) fn parse_filter(text: &str) -> Result<Filter, String> {
    const KNOWN: &str = "use dangling=, reference=, before=, since=, until= or label=";
    let (key, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is no filter: {KNOWN}"))?;
    Ok(match key {
        "dangling" => match value {
            "true" | "1" => Filter::Dangling(true),
            "false" | "0" => Filter::Dangling(false),
            _ => return Err(format!("'{value}' is neither true nor false")),
        },
        "reference" => Filter::Reference(parse_pattern(value)?),
        "before" => Filter::Before(value.to_owned()),
        "since" => Filter::Since(value.to_owned()),
        "until" => Filter::Until(parse_since(value, Timestamp::now())?),
        "label" => label(value, true),
        // `label!=KEY[=VALUE]`.
        "label!" => label(value, false),
        other => return Err(format!("'{other}' is no key of a filter: {KNOWN}")),
    })
}

/// Parses a filter of `image prune`.
pub(crate) fn parse_prune_filter(text: &str) -> Result<Filter, String> {
    match parse_filter(text) {
        Ok(filter @ (Filter::Until(_) | Filter::Label(..))) => Ok(filter),
        Ok(_) => Err(format!("'{text}' is no filter here: use until=, label= or label!=")),
        Err(reason) => Err(reason),
    }
}

/// Parses a pattern of references.
pub(crate) fn parse_pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| format!("'{text}' is no pattern: {error}"))
}

fn label(text: &str, with: bool) -> Filter {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    Filter::Label(key.to_owned(), value, with)
}

/// Filters whose images were looked up.
#[derive(Debug)]
pub(crate) struct Filters<'s> {
    store: &'s ImageStore,
    filters: Vec<Filter>,
    before: Vec<Timestamp>,
    since: Vec<Timestamp>,
}

impl<'s> Filters<'s> {
    pub(crate) fn new(store: &'s ImageStore, filters: Vec<Filter>) -> Result<Self> {
        let mut found = Filters { store, filters, before: Vec::new(), since: Vec::new() };
        for filter in &found.filters {
            let (name, into) = match filter {
                Filter::Before(name) => (name, &mut found.before),
                Filter::Since(name) => (name, &mut found.since),
                _ => continue,
            };
            let Some(image) = store.resolve(name)? else { bail!("no such image: {name}") };
            into.extend(store.list()?.iter().find(|other| other.id == image.id).map(built));
        }
        Ok(found)
    }

    /// Whether an image fits: all that is asked, of references one.
    pub(crate) fn fit(&self, image: &ImageSummary) -> Result<bool> {
        let built = built(image);
        if !self.before.iter().all(|other| built < *other) || !self.since.iter().all(|other| built > *other) {
            return Ok(false);
        }
        for filter in &self.filters {
            let fits = match filter {
                Filter::Dangling(dangling) => image.reference.is_none() == *dangling,
                Filter::Until(then) => built < *then,
                Filter::Label(key, value, with) => {
                    let labels = self.store.labels(&image.id)?;
                    let has =
                        labels.get(key).is_some_and(|own| value.as_ref().is_none_or(|value| own == value));
                    has == *with
                }
                Filter::Reference(_) => {
                    let same = |other: &&Filter| discriminant(*other) == discriminant(filter);
                    self.filters.iter().filter(same).any(|filter| match filter {
                        Filter::Reference(pattern) => is_named(image, pattern),
                        _ => false,
                    })
                }
                // Compared above.
                Filter::Before(_) | Filter::Since(_) => true,
            };
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// When it was built; what does not say so was built before everything.
fn built(image: &ImageSummary) -> Timestamp {
    image.created.unwrap_or(Timestamp::MIN)
}

/// Whether a pattern fits the name, with or without its tag, as people write it or whole.
fn is_named(image: &ImageSummary, pattern: &Pattern) -> bool {
    let Some(name) = image.reference.as_deref().and_then(|name| name.parse::<Reference>().ok()) else {
        return false;
    };
    let whole = format!("{}/{}", name.registry(), name.repository());
    [name.familiar(), name.familiar_repository(), name.to_string(), whole]
        .iter()
        .any(|name| pattern.matches_with(name, MATCHING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        assert_eq!(parse_filter("dangling=true"), Ok(Filter::Dangling(true)));
        let value = Some("b=c".to_owned());
        assert_eq!(parse_filter("label=a=b=c"), Ok(Filter::Label("a".to_owned(), value.clone(), true)));
        assert_eq!(parse_filter("label!=a=b=c"), Ok(Filter::Label("a".to_owned(), value, false)));
        assert!(matches!(parse_filter("until=2024-01-01"), Ok(Filter::Until(_))));
        assert!(matches!(parse_prune_filter("until=24h"), Ok(Filter::Until(_))));
        for wrong in ["x", "color=red", "dangling=maybe", "until=soon", "reference=[a"] {
            assert!(parse_filter(wrong).is_err_and(|error| !error.contains('\n')), "{wrong}");
        }
        for wrong in ["dangling=true", "reference=a", "before=b", "x"] {
            assert!(parse_prune_filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns_fit_names_as_people_write_them() {
        let image = |name: &str| ImageSummary {
            reference: Some(name.parse::<Reference>().expect("a reference").to_string()),
            id: String::new(),
            digest: None,
            created: None,
            pulled: Timestamp::UNIX_EPOCH,
            size: 0,
            layers: 0,
            platform: image::Platform::host(),
        };
        for (name, pattern, expected) in [
            ("debian:12", "debian", true),
            ("debian:12", "debian:12", true),
            ("debian:12", "deb*:1?", true),
            ("debian:12", "*", true),
            ("debian:12", "docker.io/library/debian", true),
            ("debian:12", "debian:13", false),
            ("debian:12", "deb", false),
            ("h.x/a/b:1", "*", false),
            ("h.x/a/b:1", "h.x/*/b", true),
            ("h.x/a/b:1", "h.x/*", false),
        ] {
            let pattern = parse_pattern(pattern).expect("a pattern");
            assert_eq!(is_named(&image(name), &pattern), expected, "{name} {pattern}");
        }
    }
}
