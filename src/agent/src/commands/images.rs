//! `agent images`: the images of this machine.

pub(crate) mod filter;

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use glob::Pattern;
use image::ImageSummary;
use jiff::Timestamp;
use runtime::Runtime;
use serde_json::{Value, json};

use self::filter::{Filter, Filters, parse_filter, parse_pattern};
use crate::commands::short;
use crate::exit::Exit;
use crate::print::{self, Column, Format};

/// What a column shows that has nothing to show.
pub(crate) const NONE: &str = "<none>";

const COLUMNS: [Column; 6] = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("DIGEST", "Digest"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
];

/// List images
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// All of them, which is what is listed anyway: no image here is hidden
    #[arg(short, long)]
    all: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Ids whole
    #[arg(long)]
    no_trunc: bool,
    /// What the names stand for at the registry, too
    #[arg(long)]
    digests: bool,
    /// Only those that this fits: dangling=BOOL, reference=PATTERN, before=IMAGE, since=IMAGE, until=TIME,
    /// label=KEY[=VALUE]
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = parse_filter)]
    filters: Vec<Filter>,
    /// table, json (an object a line), or a template such as '{{.Repository}}:{{.Tag}}'
    #[arg(long, default_value = "table", hide_default_value = true, value_parser = print::parse_format)]
    format: Format,
    /// Only those whose name fits this pattern
    #[arg(value_name = "REPOSITORY[:TAG]", value_parser = parse_pattern)]
    name: Option<Pattern>,
}

impl Images {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let now = Timestamp::now();
        let filters = self.filters.into_iter().chain(self.name.map(Filter::Reference));
        let filters = Filters::new(runtime.images(), filters.collect())?;
        let mut images = Vec::new();
        for image in runtime.images().list()? {
            if filters.fit(&image)? {
                images.push(image);
            }
        }
        if self.quiet {
            // An image of several names is one image.
            let mut seen = BTreeSet::new();
            images.retain(|image| seen.insert(image.id.clone()));
            let ids: String = images.iter().map(|image| id(&image.id, self.no_trunc) + "\n").collect();
            print::out(&ids)?;
            return Ok(Exit::Success);
        }
        let columns: Vec<Column> =
            COLUMNS.into_iter().filter(|(_, field)| self.digests || *field != "Digest").collect();
        let rows = images.iter().map(|image| row(image, id(&image.id, self.no_trunc), now));
        print::list(&self.format, &columns, rows)?;
        Ok(Exit::Success)
    }
}

fn id(id: &str, whole: bool) -> String {
    if whole { id.to_owned() } else { short(id) }
}

fn row(image: &ImageSummary, id: String, now: Timestamp) -> Value {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    json!({
        "CreatedAt": image.created.map(|created| created.to_string()),
        "CreatedSince": image.created.map_or("N/A".to_owned(), |created| print::ago(created, now)),
        "Digest": or_none(image.digest.map(|digest| digest.to_string())),
        "ID": id,
        "Repository": or_none(image.repository()),
        "Size": print::size(image.size),
        "Tag": or_none(image.tag()),
    })
}
