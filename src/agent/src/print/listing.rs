//! Rows as the user wants them: a table, one JSON object a line, or a template filled in for each.

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::table::Table;
use super::template::Template;

/// How rows are printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    /// A template for each row; with `headings` a table of what is between its tabs.
    Template {
        template: Template,
        headings: bool,
    },
}

/// A column of a table: its heading, and the field of a row that it shows.
pub(crate) type Column = (&'static str, &'static str);

/// Parses the value of `--format`.
pub(crate) fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "table" => Ok(Format::Table),
        "json" => Ok(Format::Json),
        _ => {
            let (text, headings) = match text.strip_prefix("table ") {
                Some(rest) => (rest, true),
                None => (text, false),
            };
            Ok(Format::Template { template: Template::parse(text)?, headings })
        }
    }
}

/// Prints rows, each a JSON object whose fields are the columns' and more.
pub(crate) fn list(format: &Format, columns: &[Column], rows: impl IntoIterator<Item = Value>) -> Result<()> {
    super::out(&rendered(format, columns, rows)?)?;
    Ok(())
}

fn rendered(format: &Format, columns: &[Column], rows: impl IntoIterator<Item = Value>) -> Result<String> {
    let mut rows = rows.into_iter();
    let filled = |template: &Template, row: &Value| {
        template.render(row).map_err(|reason| anyhow!("--format: {reason}"))
    };
    match format {
        Format::Json => Ok(rows.map(|row| format!("{row}\n")).collect()),
        Format::Template { template, headings: false } => {
            rows.try_fold(String::new(), |text, row| Ok(text + &filled(template, &row)? + "\n"))
        }
        Format::Template { template, headings: true } => {
            let mut table = Table::new(cells(&template.headings(|field| heading(columns, field))));
            for row in rows {
                table.row(cells(&filled(template, &row)?));
            }
            Ok(table.render())
        }
        Format::Table => {
            let mut table = Table::new(columns.iter().map(|(heading, _)| (*heading).to_owned()).collect());
            for row in rows {
                let cell =
                    |field: &str| row[field].as_str().map_or_else(|| row[field].to_string(), str::to_owned);
                table.row(columns.iter().map(|(_, field)| cell(field)).collect());
            }
            Ok(table.render())
        }
    }
}

fn cells(line: &str) -> Vec<String> {
    line.split('\t').map(str::to_owned).collect()
}

/// The heading of a field: its column's, else its name in capitals, `CreatedAt` as `CREATED AT`.
fn heading(columns: &[Column], field: &str) -> String {
    if let Some((heading, _)) = columns.iter().find(|(_, own)| *own == field) {
        return (*heading).to_owned();
    }
    let mut words = String::new();
    let mut small = false;
    for letter in field.chars() {
        if letter.is_uppercase() && small {
            words.push(' ');
        }
        small = letter.is_lowercase();
        words.extend(letter.to_uppercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_printed_as_asked_for() {
        let columns = [("IMAGE ID", "ID"), ("SIZE", "Size")];
        let check = |format: &str, expected: &str| {
            let rows = [
                json!({ "ID": "a", "Size": "1B", "CreatedAt": "x" }),
                json!({ "ID": "bb", "Size": 2, "CreatedAt": "" }),
            ];
            let format = parse_format(format).expect(format);
            assert_eq!(rendered(&format, &columns, rows).expect("rendered"), expected);
        };
        check("table", "IMAGE ID   SIZE\na          1B\nbb         2\n");
        check("{{.ID}}={{.Size}}", "a=1B\nbb=2\n");
        check("table {{.Size}}\\t{{.CreatedAt}}", "SIZE   CREATED AT\n1B     x\n2\n");
        check("table {{.ID}}", "IMAGE ID\na\nbb\n");
        let rows = [json!({ "ID": "a" })];
        assert_eq!(rendered(&Format::Json, &columns, rows).expect("rendered"), "{\"ID\":\"a\"}\n");
        assert!(parse_format("xml").is_err());
    }
}
