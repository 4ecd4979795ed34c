//! Columns of text, as wide as their widest cell.

use std::fmt::Write;

/// Blank characters between two columns, as docker leaves.
const GAP: usize = 3;

/// A table under construction: its headings, then rows of as many cells.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings and no rows.
    pub(crate) fn new(headings: Vec<String>) -> Self {
        Table { rows: vec![headings] }
    }

    /// Adds a row of as many cells as there are headings. What could move the cursor or colour the terminal
    /// (a container's command, an image's name are not ours) is shown as `?`.
    pub(crate) fn row(&mut self, mut cells: Vec<String>) {
        cells.resize(self.rows[0].len(), String::new());
        let plain = |cell: String| match cell.contains(char::is_control) {
            true => cell.replace(char::is_control, "?"),
            false => cell,
        };
        self.rows.push(cells.into_iter().map(plain).collect());
    }

    /// The whole table, each line ended and without trailing blanks.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().expect("headings at least")
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let begin = text.len();
            for (cell, width) in row.iter().zip(&widths) {
                write!(text, "{cell:<width$}", width = width + GAP).expect("a string takes all");
            }
            text.truncate(begin + text[begin..].trim_end().len());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let cells = |texts: [&str; 3]| texts.map(str::to_owned).to_vec();
        let mut table = Table::new(cells(["NAME", "PORTS", "ID"]));
        table.row(cells(["a-long-name", "", "1"]));
        table.row(cells(["é", "80/tcp", "\x1b[31m2"]));
        let expected = "\
NAME          PORTS    ID
a-long-name            1
é             80/tcp   ?[31m2
";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn an_empty_table_is_its_headings() {
        assert_eq!(Table::new(vec!["A".to_owned(), "B".to_owned()]).render(), "A   B\n");
    }
}
