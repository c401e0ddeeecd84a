//! Tables in columns, in the layout of Go's `tabwriter` that runc uses for `list`.

use crate::program::Failure;

/// How `check`, `gc` and their like print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Format {
    /// The value of `--format`.
    pub fn parse(word: &str) -> Result<Self, Failure> {
        match word {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => Err(Failure::message("invalid format option")),
        }
    }
}

/// A text that a terminal shows as it is: names and paths may come from somebody who wants more.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

/// Narrowest column.
const WIDTH: usize = 12;
/// Blanks between columns.
const PADDING: usize = 3;

/// Rows as text. A column is as wide as its widest cell and the padding; the last is not padded.
pub fn render<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [WIDTH; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + PADDING);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            text.push_str(cell);
            if index + 1 < N {
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_and_wide_columns() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        assert_eq!(render(&[row(["ID", "PID", "OWNER"])]), "ID          PID         OWNER\n");
        assert_eq!(
            render(&[row(["ID", "BUNDLE", "OWNER"]), row(["é", "/tmp/cliw/b", "root"])]),
            "ID          BUNDLE        OWNER\né           /tmp/cliw/b   root\n"
        );
    }
}
