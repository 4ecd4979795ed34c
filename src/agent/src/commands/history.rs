//! `agent history`: how an image came to be, step by step, the last first.

use anyhow::{Result, bail};
use clap::Args;
use image::{HistoryEntry, Image};
use jiff::Timestamp;
use runtime::Runtime;
use serde_json::{Value, json};

use crate::commands::short;
use crate::exit::Exit;
use crate::print::{self, Column, Format};

/// Characters of a step that a table shows.
const CREATED_BY_CHARS: usize = 45;
/// What stands for the id of a step that no image here is of.
const MISSING: &str = "<missing>";

const COLUMNS: [Column; 5] = [
    ("IMAGE", "ID"),
    ("CREATED", "CreatedSince"),
    ("CREATED BY", "CreatedBy"),
    ("SIZE", "Size"),
    ("COMMENT", "Comment"),
];

/// Show the steps an image was made by
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Ids and steps whole
    #[arg(long)]
    no_trunc: bool,
    /// Sizes and times in words; with false, in bytes and as they are
    #[arg(
        short = 'H',
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        hide_default_value = true,
        action = clap::ArgAction::Set
    )]
    human: bool,
    /// table, json (an object a line), or a template such as '{{.CreatedBy}}'
    #[arg(long, default_value = "table", hide_default_value = true, value_parser = print::parse_format)]
    format: Format,
    /// A reference or id
    #[arg(value_name = "IMAGE")]
    image: String,
}

impl History {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let Some(image) = runtime.images().resolve(&self.image)? else {
            bail!("no such image: {}", self.image);
        };
        let now = Timestamp::now();
        let entries = runtime.images().history(&image)?;
        let rows: Vec<Value> =
            entries.iter().enumerate().map(|(at, entry)| self.row(&image, at, entry, now)).collect();
        if self.quiet {
            let ids: String =
                rows.iter().filter_map(|row| Some(row["ID"].as_str()?.to_owned() + "\n")).collect();
            print::out(&ids)?;
        } else {
            print::list(&self.format, &COLUMNS, rows)?;
        }
        Ok(Exit::Success)
    }

    fn row(&self, image: &Image, at: usize, entry: &HistoryEntry, now: Timestamp) -> Value {
        // Only what the last step gave is an image that can be named here.
        let id = match (at, self.no_trunc) {
            (0, true) => image.id.clone(),
            (0, false) => short(&image.id),
            _ => MISSING.to_owned(),
        };
        let created = entry.created.map_or_else(|| "N/A".to_owned(), |created| created.to_string());
        json!({
            "ID": id,
            "CreatedAt": created,
            "CreatedSince": match entry.created {
                Some(then) if self.human => print::ago(then, now),
                _ => created.clone(),
            },
            "CreatedBy": created_by(&entry.created_by, self.no_trunc),
            "Size": if self.human { print::size(entry.size) } else { entry.size.to_string() },
            "Comment": entry.comment,
        })
    }
}

/// A step on one line, its end left out of a table when it is long.
fn created_by(step: &str, whole: bool) -> String {
    let step = step.replace('\t', " ");
    if whole || step.chars().count() <= CREATED_BY_CHARS {
        return step;
    }
    step.chars().take(CREATED_BY_CHARS - 1).chain(['…']).collect()
}
