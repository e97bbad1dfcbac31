//! Issuers whose keys an enforcement point fetches itself, as run.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::key_sources as raw;
use crate::config::run::check::Check;
use crate::config::run::introspection::is_url;
use crate::config::run::shared;
use crate::core::id::Name;
use crate::core::identity::KeySource;

/// Issuers whose keys this enforcement point fetches itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeySources {
    /// The issuers; at least one, each once.
    pub issuers: Vec<DirectIssuer>,
    /// Hosts that may be at loopback or private addresses, in lower case.
    pub internal_hosts: BTreeSet<String>,
    /// The only authorities trusted; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// How often keys are fetched when their server does not say; 10 s to 1 h.
    pub refresh: Duration,
    /// Shortest time between fetches because a key is missing; 1 s to 1 h.
    pub refetch_interval: Duration,
    /// How long keys are kept that cannot be fetched; 1 h to 7 days.
    pub keep: Duration,
}

/// An issuer, and where its keys are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectIssuer {
    /// Its tenant.
    pub tenant: Name,
    /// The exact `iss` of its record.
    pub iss: Arc<str>,
    /// Where its keys are.
    pub source: KeySource,
}

/// What the rest of the file says that this rests on.
pub(super) struct Around<'a> {
    /// The tenant of an issuer that names none.
    pub(super) tenant: Option<&'a Name>,
    /// Trust domains whose keys come from the Workload API.
    pub(super) domains: &'a [String],
}

pub(super) fn key_sources(
    check: &mut Check<'_>,
    raw: &raw::KeySources,
    around: &Around<'_>,
) -> Option<KeySources> {
    let key = Key::root().field("key_sources");
    let issuers = issuers(check, &key.field("issuers"), &raw.issuers, around);
    let internal_hosts = shared::internal_hosts(check, &key.field("internal_hosts"), &raw.internal_hosts);
    let ca = raw.ca.as_ref().map(|path| check.path(&key.field("ca"), path));
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let refresh = check.duration(&key.field("refresh"), &raw.refresh, &(Duration::from_secs(10)..=hours(1)));
    let shortest = Duration::from_secs(1)..=hours(1);
    let refetch_interval = check.duration(&key.field("refetch_interval"), &raw.refetch_interval, &shortest);
    let keep = check.duration(&key.field("keep"), &raw.keep, &(hours(1)..=hours(7 * 24)));
    Some(KeySources {
        issuers: issuers?,
        internal_hosts: internal_hosts?,
        ca: match ca {
            Some(path) => Some(path?),
            None => None,
        },
        refresh: refresh?,
        refetch_interval: refetch_interval?,
        keep: keep?,
    })
}

fn issuers(
    check: &mut Check<'_>,
    key: &Key,
    raw: &[raw::KeySource],
    around: &Around<'_>,
) -> Option<Vec<DirectIssuer>> {
    if !(1..=ISSUERS_MAX).contains(&raw.len()) {
        let (found, expected) = (format!("{} issuers", raw.len()), format!("1 to {ISSUERS_MAX} issuers"));
        check.refuse(key, found, expected, "name those whose keys are fetched here, or remove `key_sources`");
        return None;
    }
    let mut seen = BTreeSet::new();
    let mut found = Some(Vec::new());
    for (place, raw) in raw.iter().enumerate() {
        let key = key.item(place);
        let issuer = issuer(check, &key, raw, around);
        let again = issuer.as_ref().is_some_and(|it| !seen.insert((it.tenant.clone(), Arc::clone(&it.iss))));
        if again {
            check.refuse(
                &key.field("iss"),
                quoted(&raw.iss),
                "each issuer of a tenant once",
                "remove one of the two",
            );
        }
        match (issuer.filter(|_| !again), &mut found) {
            (Some(issuer), Some(found)) => found.push(issuer),
            _ => found = None,
        }
    }
    found
}

fn issuer(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::KeySource,
    around: &Around<'_>,
) -> Option<DirectIssuer> {
    let tenant = match &raw.tenant {
        Some(tenant) => check.name(&key.field("tenant"), tenant),
        None => around.tenant.cloned(),
    };
    let iss_key = key.field("iss");
    let known = !raw.iss.is_empty() && !around.domains.contains(&raw.iss);
    if raw.iss.is_empty() {
        check.refuse(
            &iss_key,
            "an empty text",
            "the `iss` of an issuer's record",
            "write it letter by letter",
        );
    } else if !known {
        let expected = "an issuer whose keys come from nowhere else";
        check.refuse(
            &iss_key,
            quoted(&raw.iss),
            expected,
            "remove it here, or from `workload_api.jwt_bundles`",
        );
    }
    let source = source(check, key, raw);
    Some(DirectIssuer { tenant: tenant?, iss: known.then(|| Arc::from(raw.iss.as_str()))?, source: source? })
}

fn source(check: &mut Check<'_>, key: &Key, raw: &raw::KeySource) -> Option<KeySource> {
    match (&raw.url, raw.discovery) {
        (Some(url), None) => {
            let sound = is_url(url);
            if !sound {
                // What stands before an `@` may be a password: it is not shown.
                let given = if url.contains('@') { "a URL with a user".to_owned() } else { quoted(url) };
                let expected = "the `https` URL of a JSON Web Key Set";
                check.refuse(&key.field("url"), given, expected, "write where the issuer publishes its keys");
            }
            sound.then(|| KeySource::Url(Arc::from(url.as_str())))
        }
        (None, Some(true)) => {
            let sound = is_url(&raw.iss) && !raw.iss.contains('?');
            if !sound {
                let found = format!("`true`, with the `iss` {}", quoted(&raw.iss));
                let expected = "an `iss` that is an `https` URL without a query";
                check.refuse(&key.field("discovery"), found, expected, "write `url` instead");
            }
            sound.then_some(KeySource::Discovery)
        }
        _ => {
            let found = if raw.url.is_some() { "both `url` and `discovery`" } else { "neither" };
            check.refuse(key, found, "`url`, or `discovery: true`", "say where the keys are");
            None
        }
    }
}

const ISSUERS_MAX: usize = 64;
