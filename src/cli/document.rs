//! Records as files hold them: YAML with several documents, or JSON with one or a list.
//!
//! A document has the keys `kind`, `name`, `spec` and, unless one is given beside it, `tenant`.
//! What a spec may hold is the hub's to judge, with one exception: an issuer's
//! `keys: {file: X}` is read here, relative to the document, and sent as `keys: {inline: …}`.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::print::plain;
use crate::cli::value::{read_jwks, read_text, relative_to};
use crate::core::id::Name;
use crate::core::identity::RecordKind;

/// Most documents in one call.
pub const DOCUMENTS_MAX: usize = 100_000;

/// One record, as a file holds it.
#[derive(Clone, PartialEq, Debug)]
pub struct Document {
    /// Which kind.
    pub kind: RecordKind,
    /// Whose.
    pub tenant: Name,
    /// Its name.
    pub name: Name,
    /// Its fields.
    pub spec: Value,
    /// Where it stands.
    pub place: Place,
}

impl Document {
    /// As the hub's interface takes it.
    pub fn to_json(&self) -> Value {
        json!({
            "kind": self.kind.as_str(),
            "tenant": self.tenant.as_str(),
            "name": self.name.as_str(),
            "spec": self.spec,
        })
    }
}

/// Where a document stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    file: PathBuf,
    /// From 1.
    number: usize,
    /// From 1; `None` when unknown.
    line: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", self.file.display(), self.number)?;
        self.line.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// Why a file's documents cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {why}")]
pub struct DocumentError {
    place: Place,
    why: String,
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        Self::input(error.to_string())
    }
}

/// Reads the documents of files and folders, in the order given; a folder's files by name.
///
/// # Errors
/// A [`Failure`] that names the file, the document and the line, where known.
pub fn load(paths: &[PathBuf], tenant: &Name) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        for file in files(path)? {
            let text = read_text(&file)?;
            documents.extend(parse(&text, &file, tenant)?);
        }
    }
    if documents.len() > DOCUMENTS_MAX {
        return Err(Failure::input(format!(
            "{} documents: expected at most {DOCUMENTS_MAX}",
            documents.len()
        )));
    }
    refuse_twins(&documents)?;
    documents.iter_mut().try_for_each(inline_keys)?;
    Ok(documents)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let fault = |why: String| Failure::input(format!("cannot read folder `{}`: {why}", path.display()));
    let entries = std::fs::read_dir(path).map_err(|error| fault(error.to_string()))?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fault(error.to_string()))?;
    files.retain(|file| is_record_file(file));
    files.sort();
    if files.is_empty() {
        return Err(fault("expected files that end in .yaml, .yml or .json".to_owned()));
    }
    Ok(files)
}

fn is_record_file(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json")) && file.is_file()
}

/// Reads the documents of one text, as if it stood in `file`; JSON when that ends in `.json`.
///
/// # Errors
/// [`DocumentError`] for the first document that is none.
pub fn parse(text: &str, file: &Path, tenant: &Name) -> Result<Vec<Document>, DocumentError> {
    let written = match file.extension() {
        Some(extension) if extension == "json" => parse_json(text, file)?,
        _ => parse_yaml(text, file)?,
    };
    written.into_iter().map(|(written, place)| written.judge(place, tenant)).collect()
}

/// A document before its values are looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: String,
    tenant: Option<String>,
    name: String,
    spec: Value,
}

impl Written {
    fn judge(self, place: Place, tenant: &Name) -> Result<Document, DocumentError> {
        let fault = |why: String| DocumentError { place: place.clone(), why };
        let kind = RecordKind::parse(&self.kind).ok_or_else(|| {
            let kinds = RecordKind::ALL.map(RecordKind::as_str).join(", ");
            fault(format!("unknown kind `{}`: expected one of {kinds}", self.kind.escape_debug()))
        })?;
        let name =
            |key: &str, text: &str| Name::parse(text).map_err(|error| fault(format!("`{key}`: {error}")));
        let tenant = self.tenant.as_deref().map_or(Ok(tenant.clone()), |text| name("tenant", text))?;
        let name = name("name", &self.name)?;
        if !self.spec.is_object() {
            return Err(fault("`spec`: expected a mapping".to_owned()));
        }
        Ok(Document { kind, tenant, name, spec: self.spec, place })
    }
}

fn parse_yaml(text: &str, file: &Path) -> Result<Vec<(Written, Place)>, DocumentError> {
    let mut bytes = text.as_bytes();
    let documents =
        serde_saphyr::read_with_options::<_, serde_saphyr::Spanned<Written>>(&mut bytes, yaml_options());
    let place = |index: usize, line: u64| Place {
        file: file.to_owned(),
        number: index + 1,
        line: (line > 0).then_some(line),
    };
    let read = documents.enumerate().map(|(index, document)| match document {
        Ok(document) => Ok((document.value, place(index, document.defined.line()))),
        Err(error) => {
            let error = error.without_snippet();
            let line = error.location().map_or(0, |location| location.line());
            let said = error.to_string();
            // The place is said once, in front.
            let why = said.rsplit_once(" at line ").map_or(said.as_str(), |(why, _)| why);
            let why = plain(why);
            Err(DocumentError { place: place(index, line), why })
        }
    });
    read.collect()
}

/// The reader's own bounds, wide enough for a file of [`DOCUMENTS_MAX`] records.
fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: DOCUMENTS_MAX,
            max_events: 16_000_000,
            max_nodes: 8_000_000,
        },
    }
}

fn parse_json(text: &str, file: &Path) -> Result<Vec<(Written, Place)>, DocumentError> {
    let place = |number, line| Place { file: file.to_owned(), number, line };
    let fault = |number, error: &serde_json::Error| {
        let line = u64::try_from(error.line()).ok().filter(|line| *line > 0);
        let said = error.to_string();
        let why = said.rsplit_once(" at line ").map_or(said.as_str(), |(why, _)| why);
        DocumentError { place: place(number, line), why: plain(why) }
    };
    if !text.trim_start().starts_with('[') {
        let written = serde_json::from_str(text).map_err(|error| fault(1, &error))?;
        return Ok(vec![(written, place(1, None))]);
    }
    let list: Vec<Value> = serde_json::from_str(text).map_err(|error| fault(1, &error))?;
    let read = |(index, value)| {
        let written = serde_json::from_value(value).map_err(|error| fault(index + 1, &error))?;
        Ok((written, place(index + 1, None)))
    };
    list.into_iter().enumerate().map(read).collect()
}

/// A fault that the hub found, with the document's place instead of its number in the request.
///
/// The hub counts from 0: `documents[2].spec.type: …`.
pub fn placed(line: &str, documents: &[Document]) -> String {
    let rest = line.strip_prefix("documents[").and_then(|rest| rest.split_once(']'));
    let found = rest.and_then(|(index, rest)| Some((documents.get(index.parse::<usize>().ok()?)?, rest)));
    match found {
        Some((document, rest)) => {
            let (kind, name) = (document.kind.as_str(), &document.name);
            format!("{} ({kind} `{name}`): {}", document.place, rest.trim_start_matches(['.', ':', ' ']))
        }
        None => line.to_owned(),
    }
}

/// Two documents for one record would leave the outcome to their order.
fn refuse_twins(documents: &[Document]) -> Result<(), DocumentError> {
    let mut seen: HashMap<_, &Place> = HashMap::new();
    for document in documents {
        let key = (document.kind, &document.tenant, &document.name);
        if let Some(first) = seen.insert(key, &document.place) {
            let (kind, name) = (document.kind.as_str(), &document.name);
            let why = format!("{kind} `{name}` of tenant `{}` stands already at {first}", document.tenant);
            return Err(DocumentError { place: document.place.clone(), why });
        }
    }
    Ok(())
}

fn inline_keys(document: &mut Document) -> Result<(), Failure> {
    if document.kind != RecordKind::Issuer {
        return Ok(());
    }
    let Some(keys) = document.spec.get_mut("keys") else { return Ok(()) };
    let Some(file) = keys.get("file") else { return Ok(()) };
    let fault =
        |why: &str| DocumentError { place: document.place.clone(), why: format!("`spec.keys`: {why}") };
    if keys.as_object().is_some_and(|keys| keys.len() > 1) {
        return Err(fault("expected either `file` or one of the other ways").into());
    }
    let file = file.as_str().ok_or_else(|| fault("`file`: expected a path"))?;
    let jwks = read_jwks(&relative_to(&document.place.file, Path::new(file)));
    *keys = json!({ "inline": jwks.map_err(|failure| fault(failure.message()))? });
    Ok(())
}

#[cfg(test)]
mod tests;
