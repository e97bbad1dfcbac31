//! Asking issuers about opaque tokens, as run.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::endpoint::Endpoint;
use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::introspection as raw;
use crate::config::run::check::Check;
use crate::config::run::shared;

/// Who is asked about opaque tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Introspection {
    /// The servers; at least one, URLs unique.
    pub clients: Vec<IntrospectionClient>,
    /// Hosts that may be at loopback or private addresses, in lower case.
    pub internal_hosts: BTreeSet<String>,
    /// The only authorities trusted; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Longest wait for a whole answer; 50 ms to 5 s.
    pub timeout: Duration,
    /// How long it counts that a token is active; 1 s to 30 s.
    pub active_max: Duration,
    /// How long it counts that a token is not active; 1 s to 10 s.
    pub inactive_max: Duration,
    /// Questions to one server at once; 1 to 10,000.
    pub max_concurrent: usize,
    /// Failures in a row after which a server is left alone; 1 to 1000.
    pub pause_after: u32,
    /// For how long; 1 s to 5 min.
    pub pause: Duration,
}

/// A server, and who we are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntrospectionClient {
    /// Its `https` URL.
    pub endpoint: Arc<str>,
    /// The client's id there.
    pub client_id: Arc<str>,
    /// The file of its secret.
    pub client_secret_file: PathBuf,
}

pub(super) fn introspection(check: &mut Check<'_>, raw: &raw::Introspection) -> Option<Introspection> {
    let key = Key::root().field("introspection");
    let clients = clients(check, &key.field("clients"), &raw.clients);
    let internal_hosts = shared::internal_hosts(check, &key.field("internal_hosts"), &raw.internal_hosts);
    let ca = raw.ca.as_ref().map(|path| check.path(&key.field("ca"), path));
    let seconds = Duration::from_secs;
    let timeout =
        check.duration(&key.field("timeout"), &raw.timeout, &(Duration::from_millis(50)..=seconds(5)));
    let active_max = check.duration(&key.field("active_max"), &raw.active_max, &(seconds(1)..=seconds(30)));
    let inactive_max =
        check.duration(&key.field("inactive_max"), &raw.inactive_max, &(seconds(1)..=seconds(10)));
    let max_concurrent = check.number(&key.field("max_concurrent"), raw.max_concurrent, 1..=10_000);
    let pause_after = check.number(&key.field("pause_after"), raw.pause_after, 1..=1000);
    let pause = check.duration(&key.field("pause"), &raw.pause, &(seconds(1)..=seconds(300)));
    Some(Introspection {
        clients: clients?,
        internal_hosts: internal_hosts?,
        ca: match ca {
            Some(path) => Some(path?),
            None => None,
        },
        timeout: timeout?,
        active_max: active_max?,
        inactive_max: inactive_max?,
        max_concurrent: max_concurrent?,
        pause_after: pause_after?,
        pause: pause?,
    })
}

fn clients(
    check: &mut Check<'_>,
    key: &Key,
    raw: &[raw::IntrospectionClient],
) -> Option<Vec<IntrospectionClient>> {
    if raw.is_empty() {
        check.refuse(key, "an empty list", "at least one server", "name one, or remove `introspection`");
        return None;
    }
    let mut seen = BTreeSet::new();
    let mut found = Some(Vec::new());
    for (place, raw) in raw.iter().enumerate() {
        let client = client(check, &key.item(place), raw);
        let known = !seen.insert(raw.endpoint.as_str());
        if known {
            let remedy = "remove one of the two";
            check.refuse(&key.item(place).field("endpoint"), quoted(&raw.endpoint), "each URL once", remedy);
        }
        match (client.filter(|_| !known), &mut found) {
            (Some(client), Some(found)) => found.push(client),
            _ => found = None,
        }
    }
    found
}

fn client(check: &mut Check<'_>, key: &Key, raw: &raw::IntrospectionClient) -> Option<IntrospectionClient> {
    let file = check.path(&key.field("client_secret_file"), &raw.client_secret_file);
    let id = raw.client_id.as_str();
    let sound = (1..=ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
    if !sound {
        let expected = format!("1 to {ID_BYTES_MAX} bytes of text");
        check.refuse(&key.field("client_id"), quoted(id), expected, "write the id that the issuer gave");
    }
    let url = is_url(&raw.endpoint);
    if !url {
        // What stands before an `@` may be a password: it is not shown.
        let given =
            if raw.endpoint.contains('@') { "a URL with a user".to_owned() } else { quoted(&raw.endpoint) };
        let expected = "the `https` URL of an introspection endpoint";
        check.refuse(&key.field("endpoint"), given, expected, "write it as the issuer's record has it");
    }
    let endpoint = Arc::from(url.then_some(raw.endpoint.as_str())?);
    Some(IntrospectionClient {
        endpoint,
        client_id: Arc::from(sound.then_some(id)?),
        client_secret_file: file?,
    })
}

/// An `https` URL with a host, without user and fragment.
pub(super) fn is_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://") else { return false };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let server = |port: &str| Endpoint::parse_either(&format!("https://{authority}{port}")).is_some();
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'@' | b'"' | b'<' | b'>'));
    plain && text.len() <= URL_BYTES_MAX && (server("") || server(":443"))
}

const URL_BYTES_MAX: usize = 2048;
const ID_BYTES_MAX: usize = 256;
