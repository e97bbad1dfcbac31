//! Upstreams and what they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::endpoint::{ENDPOINT_FORM, Endpoint};
use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::proxy as raw;
use crate::config::run::check::Check;

/// A server that allowed requests are forwarded to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Longest wait for a connection; 10 ms to 1 min.
    pub connect_timeout: Duration,
    /// Longest wait for the head of an answer; 10 ms to 1 h.
    pub response_timeout: Duration,
    /// Idle connections each worker keeps; 0 to 10,000.
    pub max_idle_per_worker: usize,
    /// Whether HTTP/2 is spoken in cleartext, with prior knowledge.
    pub http2: bool,
}

/// What an upstream is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward {
    /// Whether `x-portreeve-identity`, `-tenant` and `-decision` are sent.
    pub identity_headers: bool,
    /// Whether the credential is sent on.
    pub pass_credential: bool,
}

pub(super) fn upstreams(
    check: &mut Check<'_>,
    raw: &BTreeMap<String, raw::Upstream>,
) -> Option<BTreeMap<Arc<str>, Arc<Upstream>>> {
    let key = Key::root().field("upstreams");
    // All are judged before the first that failed ends the collecting.
    let judged: Vec<_> = raw.iter().map(|(name, raw)| upstream(check, &key.field(name), name, raw)).collect();
    judged.into_iter().map(|one| one.map(|one| (Arc::clone(&one.name), Arc::new(one)))).collect()
}

fn upstream(check: &mut Check<'_>, key: &Key, name: &str, raw: &raw::Upstream) -> Option<Upstream> {
    let wait = |longest_s| Duration::from_millis(10)..=Duration::from_secs(longest_s);
    let known_name = check.name(key, name);
    let endpoint = endpoint(check, &key.field("url"), &raw.url);
    let connect_timeout = check.duration(&key.field("connect_timeout"), &raw.connect_timeout, &wait(60));
    let response_timeout = check.duration(&key.field("response_timeout"), &raw.response_timeout, &wait(3600));
    let idle = check.number(&key.field("max_idle_per_worker"), raw.max_idle_per_worker, 0..=10_000);
    Some(Upstream {
        name: Arc::from(known_name?.as_str()),
        endpoint: endpoint?,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        max_idle_per_worker: idle?,
        http2: raw.http2,
    })
}

/// Reads `http://host:port`.
pub(super) fn endpoint(check: &mut Check<'_>, key: &Key, text: &str) -> Option<Endpoint> {
    let endpoint = Endpoint::parse(text);
    if endpoint.is_none() {
        // What stands before an `@` may be a password: it is not shown.
        let found = if text.contains('@') { "a URL with a user".to_owned() } else { quoted(text) };
        let remedy = if text.starts_with("https:") {
            "TLS is not built in there yet; write an `http` URL"
        } else {
            "write `http://`, the host, `:` and the port, and nothing else"
        };
        check.refuse(key, found, ENDPOINT_FORM, remedy);
    }
    endpoint
}

pub(super) fn forward(check: &mut Check<'_>, raw: &raw::Forward) -> Forward {
    if raw.pass_credential {
        let key = Key::root().field("forward").field("pass_credential");
        check.warn(&key, "upstreams receive credentials and could use them elsewhere");
    }
    Forward { identity_headers: raw.identity_headers, pass_credential: raw.pass_credential }
}
