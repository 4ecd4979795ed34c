//! `agent diff`: what a container changed of its image.

use std::io::Write;

use anyhow::Result;
use clap::{Args, ValueEnum};
use runtime::Runtime;
use runtime::image::pack::{Change, ChangeKind};
use serde_json::json;

use crate::exit::Exit;
use crate::print;

/// List what a container changed of its image's files: A added, C changed, D deleted
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// A line each, or one JSON object of three lists
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Formats of the list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Lines,
    Json,
}

impl Diff {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let changes = runtime.diff(&self.container)?;
        match self.format {
            Format::Json => print::line(&json(&changes))?,
            Format::Lines => {
                let mut text = Vec::new();
                for change in &changes {
                    // Byte for byte: a name need not be text.
                    write!(text, "{} ", change.kind)?;
                    text.extend_from_slice(change.path.as_os_str().as_encoded_bytes());
                    text.push(b'\n');
                }
                print::bytes(&text)?;
            }
        }
        Ok(Exit::Success)
    }
}

/// podman's form.
fn json(changes: &[Change]) -> String {
    let of = |kind: ChangeKind| -> Vec<String> {
        let changes = changes.iter().filter(|change| change.kind == kind);
        changes.map(|change| change.path.display().to_string()).collect()
    };
    json!({
        "changed": of(ChangeKind::Modified),
        "added": of(ChangeKind::Added),
        "deleted": of(ChangeKind::Deleted),
    })
    .to_string()
}
