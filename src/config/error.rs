//! Why a configuration is refused.

use std::fmt;

use crate::config::key::Key;
use crate::config::tree::Place;

/// Why a configuration is refused. The file is then not used, in no part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such file.
    #[error("{0}")]
    Missing(FileFault),
    /// The file is there and cannot be read.
    #[error("{0}")]
    Unreadable(FileFault),
    /// The file is larger than [`FILE_BYTES_MAX`](super::FILE_BYTES_MAX).
    #[error("{0}")]
    TooLarge(FileFault),
    /// The file is not UTF-8.
    #[error("{0}")]
    NotText(FileFault),
    /// The file holds nothing, or comments only.
    #[error("{0}")]
    Empty(FileFault),
    /// The file is the other role's.
    #[error("{0}")]
    OtherRole(FileFault),
    /// The file is not the YAML that is accepted.
    #[error("{0}")]
    Syntax(Problem),
    /// Keys or values are wrong.
    #[error("{0}")]
    Rejected(Problems),
}

impl ConfigError {
    /// What is wrong, one by one, where it has a place in the file; empty for the other variants.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Syntax(problem) => std::slice::from_ref(problem),
            Self::Rejected(problems) => &problems.problems,
            Self::Missing(_)
            | Self::Unreadable(_)
            | Self::TooLarge(_)
            | Self::NotText(_)
            | Self::Empty(_)
            | Self::OtherRole(_) => &[],
        }
    }
}

/// What is wrong with a file as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault {
    file: String,
    text: String,
}

impl FileFault {
    pub(super) fn new(file: &str, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), text: text.into() }
    }

    /// The file, as it was named.
    pub fn file(&self) -> &str {
        &self.file
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.text)
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    file: String,
    place: Place,
    key: Key,
    told: Told,
}

impl Problem {
    pub(super) fn new(file: &str, place: Place, key: Key, told: Told) -> Self {
        Self(Box::new(Parts { file: file.to_owned(), place, key, told }))
    }

    /// The file, as it was named.
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// The line, counted from 1.
    pub fn line(&self) -> usize {
        self.0.place.line
    }

    /// The column in characters, counted from 1.
    pub fn column(&self) -> usize {
        self.0.place.column
    }

    /// The key path, such as `listeners[0].address`; `top level` for the file as a whole.
    pub fn key(&self) -> String {
        self.0.key.to_string().trim_matches('`').to_owned()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { file, place, key, told: Told { found, expected, remedy } } = &*self.0;
        write!(f, "{file}:{place}: {key}: found {found}, expected {expected}; {remedy}")
    }
}

/// Everything that is wrong with the keys and values of a file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    problems: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.0.place);
        Self { problems }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// What a [`Problem`] says beside its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// What stands there.
    pub(super) found: String,
    /// What should.
    pub(super) expected: String,
    /// What to do.
    pub(super) remedy: String,
}

impl Told {
    pub(super) fn new(
        found: impl Into<String>,
        expected: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { found: found.into(), expected: expected.into(), remedy: remedy.into() }
    }
}

/// Text of the file as a message shows it: in backticks, escaped, at most 120 characters.
pub(super) fn quoted(text: &str) -> String {
    if text.is_empty() {
        return "an empty text".to_owned();
    }
    let shown: String = text.chars().take(TEXT_CHARS_SHOWN).collect();
    let dots = if shown.len() < text.len() { "…" } else { "" };
    // Quotation marks need no escape between backticks.
    let escaped = shown.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    format!("`{escaped}{dots}`")
}

/// Several names as a message shows them.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// The accepted name that `text` was probably meant to be.
pub(super) fn nearest<'a>(text: &str, accepted: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > NEAR_BYTES_MAX {
        return None;
    }
    let bound = (text.chars().count() / 3).max(1);
    accepted
        .into_iter()
        .map(|name| (distance(text, name), name))
        .filter(|(steps, _)| *steps <= bound)
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, name)| name)
}

/// Edits that lead from one text to the other, by character.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, left) in from.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        let mut next = vec![before];
        for (right, above) in to.iter().zip(row.iter().skip(1)) {
            before = (diagonal + usize::from(left != *right)).min(above + 1).min(before + 1);
            diagonal = *above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

const TEXT_CHARS_SHOWN: usize = 120;
const NEAR_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (from, to, steps) in
            [("", "", 0), ("", "ab", 2), ("ab", "", 2), ("kitten", "sitting", 3), ("a", "a", 0)]
        {
            assert_eq!(distance(from, to), steps, "{from} {to}");
        }
    }

    #[test]
    fn nearest_names() {
        let accepted = ["address", "admin", "log"];
        assert_eq!(nearest("adress", accepted), Some("address"));
        assert_eq!(nearest("Log", accepted), Some("log"));
        assert_eq!(nearest("upstreams", accepted), None);
        assert_eq!(nearest(&"a".repeat(65), accepted), None);
    }
}
