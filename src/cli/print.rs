//! Printing: aligned tables for people, the interface's JSON for programs.
//!
//! Results go to the output, everything said about them to the diagnostics. Text that
//! came from elsewhere loses its control characters, so that no record can drive a terminal.

use std::fmt;
use std::io::{self, Write};

use serde_json::Value;

/// What a result looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Text,
    /// The interface's JSON.
    Json,
}

/// Where a command's words go.
pub struct Printer<'w> {
    format: Format,
    out: &'w mut dyn Write,
    err: &'w mut dyn Write,
}

impl<'w> Printer<'w> {
    /// Prints results to `out` and diagnostics to `err`.
    pub fn new(format: Format, out: &'w mut dyn Write, err: &'w mut dyn Write) -> Self {
        Self { format, out, err }
    }

    /// Whether a program reads the result.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints one line of result.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Prints a JSON value, indented.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn json(&mut self, value: &Value) -> io::Result<()> {
        self.line(format_args!("{value:#}"))
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    /// Says something about the result, on the diagnostics.
    pub fn note(&mut self, text: impl fmt::Display) {
        // Nobody is left to be told when the diagnostics cannot be written.
        writeln!(self.err, "{text}").unwrap_or_default();
    }
}

impl fmt::Debug for Printer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Printer").field("format", &self.format).finish_non_exhaustive()
    }
}

/// A column: its heading and where its value is found, as JSON pointers; the first found counts.
pub type Column = (&'static str, &'static [&'static str]);

/// Rows under headings, aligned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new<'h>(head: impl IntoIterator<Item = &'h str>) -> Self {
        Self { head: head.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }

    /// A table of JSON objects.
    pub fn of(columns: &[Column], items: &[Value]) -> Self {
        let mut table = Self::new(columns.iter().map(|(head, _)| *head));
        for item in items {
            table.row(columns.iter().map(|(_, pointers)| {
                cell(pointers.iter().find_map(|pointer| item.pointer(pointer).filter(|v| !v.is_null())))
            }));
        }
        table
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|text| plain(&text)).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            lines().filter_map(|line| line.get(column)).map(|text| text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        for (index, line) in lines().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            f.write_str(&aligned(line, &widths))?;
        }
        Ok(())
    }
}

/// One line of cells, padded to `widths`, without blanks at its end.
pub fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (text, width) in cells.iter().zip(widths.iter().copied()) {
        line.push_str(text);
        let padding = width.saturating_sub(text.chars().count()) + 2;
        line.extend(std::iter::repeat_n(' ', padding));
    }
    line.truncate(line.trim_end().len());
    line
}

/// A JSON value in a cell or a sentence; `-` when absent.
pub fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => plain(text),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|v| cell(Some(v))).collect::<Vec<_>>().join(","),
        Some(Value::Object(fields)) => {
            let field = |(key, v): (&String, &Value)| format!("{}={}", plain(key), cell(Some(v)));
            fields.iter().filter(|(_, v)| !v.is_null()).map(field).collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.to_string(),
    }
}

/// The text with control characters shown instead of sent.
pub fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let items = [
            json!({"name": "ledger", "spec": {"owner": {"team": "payments"}, "n": 1}}),
            json!({"name": "größe", "spec": {"owner": {"team": null, "person": "m.ortiz"}}}),
        ];
        let columns: [Column; 3] = [
            ("NAME", &["/name"]),
            ("OWNER", &["/spec/owner/team", "/spec/owner/person"]),
            ("N", &["/spec/n"]),
        ];
        let text = Table::of(&columns, &items).to_string();
        assert_eq!(text, "NAME    OWNER     N\nledger  payments  1\ngröße   m.ortiz   -");
        assert_eq!(Table::new(["A", "B"]).to_string(), "A  B");
    }

    #[test]
    fn values_become_cells() {
        for (value, expected) in [
            (json!(null), "-"),
            (json!(""), "-"),
            (json!([]), "-"),
            (json!(true), "true"),
            (json!(["a", "b"]), "a,b"),
            (json!({"identity": "ledger", "jti": null}), "identity=ledger"),
            (json!("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb"),
        ] {
            assert_eq!(cell(Some(&value)), expected, "{value}");
        }
    }
}
