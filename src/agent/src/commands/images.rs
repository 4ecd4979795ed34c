//! `agent images`: the images of this machine.

use anyhow::Result;
use clap::Args;
use image::ImageSummary;
use jiff::Timestamp;
use runtime::Runtime;
use serde_json::json;

use crate::cli::Format;
use crate::exit::Exit;
use crate::print::{self, Table};

/// What a column shows that has nothing to show.
const NONE: &str = "<none>";

/// List images
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Ids whole
    #[arg(long)]
    no_trunc: bool,
    /// What the names stand for at the registry, too
    #[arg(long)]
    digests: bool,
    /// A table, or one JSON object a line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Only those of this repository, or with this whole name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Images {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let now = Timestamp::now();
        let rows = runtime.images().list()?.into_iter().map(|image| Row::of(&image, self.no_trunc));
        let rows = rows.filter(|row| self.name.as_deref().is_none_or(|name| row.is_named(name)));
        if self.quiet {
            // An image of several names is one image.
            let mut seen = std::collections::BTreeSet::new();
            let ids: String =
                rows.filter(|row| seen.insert(row.id.clone())).map(|row| row.id + "\n").collect();
            print::out(&ids)?;
            return Ok(Exit::Success);
        }
        let mut table = match self.digests {
            true => Table::new(&["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]),
            false => Table::new(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]),
        };
        for row in rows {
            let since = row.created.map_or("N/A".to_owned(), |created| print::ago(created, now));
            match (self.format, self.digests) {
                (Format::Json, _) => print::line(&row.json(&since))?,
                (Format::Table, true) => {
                    table.row([row.repository, row.tag, row.digest, row.id, since, row.size])
                }
                (Format::Table, false) => table.row([row.repository, row.tag, row.id, since, row.size]),
            }
        }
        if self.format == Format::Table {
            print::out(&table.render())?;
        }
        Ok(Exit::Success)
    }
}

/// What is shown of an image.
struct Row {
    repository: String,
    tag: String,
    digest: String,
    id: String,
    created: Option<Timestamp>,
    size: String,
}

impl Row {
    fn of(image: &ImageSummary, whole: bool) -> Self {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
        let id = match whole {
            true => image.id.clone(),
            false => image.id.trim_start_matches("sha256:").chars().take(12).collect(),
        };
        Row {
            repository: or_none(image.repository()),
            tag: or_none(image.tag()),
            digest: image.digest.to_string(),
            id,
            created: image.created,
            size: print::size(image.size),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        self.repository == name || format!("{}:{}", self.repository, self.tag) == name
    }

    fn json(&self, since: &str) -> String {
        json!({
            "CreatedAt": self.created.map(|created| created.to_string()),
            "CreatedSince": since,
            "Digest": self.digest,
            "ID": self.id,
            "Repository": self.repository,
            "Size": self.size,
            "Tag": self.tag,
        })
        .to_string()
    }
}
