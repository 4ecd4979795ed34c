//! `agent trace`: what was done for a container or an image, step by step, and how long each step took.

use anyhow::{Result, bail};
use api::trace::Record;
use clap::Args;
use image::Reference;
use runtime::Runtime;

use crate::cli::Format;
use crate::exit::Exit;
use crate::print::{self, Table};

/// Show the steps taken for a container or an image
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// A table, or one JSON object a line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// A container's name or id, or an image's reference
    subject: String,
}

impl Trace {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let records = self.records(runtime)?;
        let mut table = Table::new(["TIME", "DURATION", "PART", "STEP", "FACTS"].map(str::to_owned).to_vec());
        for record in records {
            match self.format {
                Format::Json => print::line(&serde_json::to_string(&record)?)?,
                Format::Table => table.row(row(record).to_vec()),
            }
        }
        if self.format == Format::Table {
            print::out(&table.render())?;
        }
        Ok(Exit::Success)
    }

    /// The records of whatever the subject names: a container of today, one that has gone, or an image.
    fn records(&self, runtime: &Runtime) -> Result<Vec<Record>> {
        let container = match runtime.find(&self.subject) {
            Ok(view) => Some(view.id),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let reference = self.subject.parse::<Reference>().ok().map(|reference| reference.to_string());
        for subject in container.into_iter().chain([self.subject.clone()]).chain(reference) {
            let mut records = runtime.trace(&subject)?;
            if !records.is_empty() {
                // A step is recorded at its end, and told by its beginning.
                records.sort_by_key(|record| record.time);
                return Ok(records);
            }
        }
        bail!("no trace of {}: give a container's name or id, or an image's reference", self.subject)
    }
}

fn row(record: Record) -> [String; 5] {
    let facts: Vec<String> = record.facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let time = record.time.strftime("%F %T%.6fZ").to_string();
    [time, duration(record.duration_ns), record.part, record.step, facts.join(" ")]
}

/// Nanoseconds with four digits in the fitting unit.
fn duration(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000_000 => format!("{:.1}µs", nanoseconds as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.2}s", nanoseconds as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_row() {
        let record = Record {
            time: "2026-01-02T03:04:05.000006Z".parse().expect("a time"),
            duration_ns: 1_234_567,
            subject: "x".to_owned(),
            part: "image".to_owned(),
            step: "layer.unpack".to_owned(),
            facts: [("bytes".to_owned(), "12".to_owned()), ("layer".to_owned(), "0".to_owned())].into(),
        };
        let expected = ["2026-01-02 03:04:05.000006Z", "1.2ms", "image", "layer.unpack", "bytes=12 layer=0"];
        assert_eq!(row(record), expected);
        assert_eq!((duration(500).as_str(), duration(2_500_000_000).as_str()), ("0.5µs", "2.50s"));
    }
}
