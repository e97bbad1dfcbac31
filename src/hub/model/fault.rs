//! Faults in what was written, each with its path.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

/// One fault, and where it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Fault {
    /// Where, such as `spec.routes[1].path`.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// All faults found in one place.
#[derive(Clone, PartialEq, Eq, Debug, Default, thiserror::Error)]
pub struct Faults {
    root: String,
    found: Vec<Fault>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.found.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            match fault.path.as_str() {
                "" => write!(f, "{separator}{}", fault.message)?,
                path => write!(f, "{separator}{path}: {}", fault.message)?,
            }
        }
        Ok(())
    }
}

impl Faults {
    /// None yet; paths given later are below `root`.
    pub fn at(root: &str) -> Self {
        Self { root: root.to_owned(), found: Vec::new() }
    }

    /// Exactly one, at `path`.
    pub fn one(path: &str, message: impl fmt::Display) -> Self {
        let fault = Fault { path: path.to_owned(), message: message.to_string() };
        Self { root: path.to_owned(), found: vec![fault] }
    }

    /// Notes a fault at `path`, below the root.
    pub fn push(&mut self, path: impl fmt::Display, message: impl fmt::Display) {
        if self.found.len() >= FAULTS_MAX {
            return;
        }
        let path = path.to_string();
        let path = match (self.root.as_str(), path.as_str()) {
            (root, "") => root.to_owned(),
            ("", path) => path.to_owned(),
            (root, path) => format!("{root}.{path}"),
        };
        self.found.push(Fault { path, message: message.to_string() });
    }

    /// Takes over the faults of `other`, whose paths are whole.
    pub fn absorb(&mut self, other: Self) {
        let room = FAULTS_MAX.saturating_sub(self.found.len());
        self.found.extend(other.found.into_iter().take(room));
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The faults found.
    pub fn list(&self) -> &[Fault] {
        &self.found
    }

    /// The faults found.
    pub fn into_list(self) -> Vec<Fault> {
        self.found
    }
}

const FAULTS_MAX: usize = 100;
