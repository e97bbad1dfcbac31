//! Texts, names and owners: the parts every record has.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Faults;
use crate::core::id::Name;
use crate::core::identity::Owner;

/// Longest text of one field, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 1024;

/// Who answers for a record: a team or a person, and how to reach them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `team`, `person`, `contact`")]
pub struct OwnerSpec {
    /// A team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// A person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// How to reach them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
}

impl OwnerSpec {
    pub(super) fn read(&self, at: &str, faults: &mut Faults) -> Owner {
        Owner {
            team: optional(self.team.as_ref(), &format!("{at}.team"), faults),
            person: optional(self.person.as_ref(), &format!("{at}.person"), faults),
            contact: optional(self.contact.as_ref(), &format!("{at}.contact"), faults),
        }
    }

    /// As [`Self::read`], for a place where someone must be named.
    pub(super) fn read_named(&self, at: &str, faults: &mut Faults) -> Owner {
        let owner = self.read(at, faults);
        if owner.name().is_none() {
            faults.push(at, "names nobody: expected `team` or `person`");
        }
        owner
    }

    pub(super) fn of(owner: &Owner) -> Option<Self> {
        (*owner != Owner::default()).then(|| Self {
            team: shown(owner.team.as_ref()),
            person: shown(owner.person.as_ref()),
            contact: shown(owner.contact.as_ref()),
        })
    }
}

/// A text that must not be empty.
pub(super) fn needed(value: &str, at: &str, faults: &mut Faults) -> Arc<str> {
    needed_within(value, TEXT_BYTES_MAX, at, faults)
}

/// A text that must not be empty, of at most `max` bytes.
pub(super) fn needed_within(value: &str, max: usize, at: &str, faults: &mut Faults) -> Arc<str> {
    if value.trim().is_empty() {
        faults.push(at, "is empty");
    } else if value.len() > max {
        faults.push(at, format_args!("is {} bytes: expected at most {max}", value.len()));
    } else if value.chars().any(char::is_control) {
        faults.push(at, "has a control character");
    }
    Arc::from(value)
}

/// A text that may be absent, but not empty.
pub(super) fn optional(value: Option<&String>, at: &str, faults: &mut Faults) -> Option<Arc<str>> {
    value.map(|value| needed(value, at, faults))
}

/// A record's name.
pub(super) fn name(value: &str, at: &str, faults: &mut Faults) -> Option<Name> {
    Name::parse(value).map_err(|error| faults.push(at, error)).ok()
}

/// A list of names, each once.
pub(super) fn names(values: &[String], at: &str, faults: &mut Faults) -> Vec<Name> {
    bounded(values.len(), LIST_MAX, at, faults);
    let mut found: Vec<Name> = Vec::new();
    for (place, value) in values.iter().enumerate() {
        let at = format!("{at}[{place}]");
        match name(value, &at, faults) {
            Some(name) if found.contains(&name) => faults.push(at, format_args!("`{name}` is there twice")),
            Some(name) => found.push(name),
            None => {}
        }
    }
    found
}

/// Labels.
pub(super) fn labels(values: &BTreeMap<String, String>, faults: &mut Faults) -> BTreeMap<Arc<str>, Arc<str>> {
    bounded(values.len(), LABELS_MAX, "labels", faults);
    let mut label = |(key, value): (&String, &String)| {
        let at = format!("labels.{key}");
        (needed(key, &at, faults), needed(value, &at, faults))
    };
    values.iter().map(&mut label).collect()
}

/// Refuses more than `max` of something.
pub(super) fn bounded(count: usize, max: usize, at: &str, faults: &mut Faults) {
    if count > max {
        faults.push(at, format_args!("has {count} entries: expected at most {max}"));
    }
}

pub(super) fn shown(value: Option<&Arc<str>>) -> Option<String> {
    value.map(|text| text.to_string())
}

/// Most entries of a list of names.
pub(super) const LIST_MAX: usize = 256;
const LABELS_MAX: usize = 64;
