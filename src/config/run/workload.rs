//! The SPIFFE Workload API, and what is taken from it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::proxy as raw;
use crate::config::run::check::Check;
use crate::core::credential::SpiffeId;

/// The SPIFFE Workload API of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkloadApi {
    /// `unix:///path`, or `http://ip:port`.
    pub endpoint: Arc<str>,
    /// Trust domains, `spiffe://` and a name, whose JWT bundles take the place of their issuer's keys.
    pub jwt_bundles: Vec<Arc<str>>,
}

/// What the socket looks like.
const SOCKET_FORM: &str = "`unix:///path` of a socket, or `tcp://ip:port`";

/// The variable that names the socket where the configuration does not (SPIFFE Workload Endpoint §4).
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

pub(super) fn workload_api(check: &mut Check<'_>, raw: &raw::WorkloadApi) -> Option<WorkloadApi> {
    let key = Key::root().field("workload_api");
    let socket_key = key.field("socket");
    let socket = raw.socket.clone().or_else(|| (check.environment.variables)(VARIABLE));
    let endpoint = socket.as_deref().and_then(endpoint);
    if endpoint.is_none() {
        let found = match (&socket, &raw.socket) {
            (None, _) => format!("nothing, and no variable `{VARIABLE}`"),
            (Some(text), None) => format!("nothing, and {} in `{VARIABLE}`", quoted(text)),
            (Some(text), Some(_)) => quoted(text),
        };
        check.refuse(&socket_key, found, SOCKET_FORM, "write where the agent listens");
    }
    let before = check.problems.len();
    let domains_key = key.field("jwt_bundles");
    for (index, text) in raw.jwt_bundles.iter().enumerate() {
        trust_domain(check, &domains_key.item(index), text);
    }
    let jwt_bundles = raw.jwt_bundles.iter().map(|text| Arc::from(text.as_str())).collect();
    (check.problems.len() == before).then_some(())?;
    Some(WorkloadApi { endpoint: endpoint?, jwt_bundles })
}

/// Whether `text` is a trust domain's own SPIFFE ID.
pub(super) fn trust_domain(check: &mut Check<'_>, key: &Key, text: &str) -> bool {
    let sound = SpiffeId::parse(text).is_some_and(|id| !id.has_path());
    if !sound {
        let expected = "a trust domain, such as `spiffe://acme.example`";
        check.refuse(key, quoted(text), expected, "write the domain's own SPIFFE ID, without a path");
    }
    sound
}

/// What `key` takes from the Workload API must have one.
pub(super) fn needed(check: &mut Check<'_>, key: &Key, there: bool) {
    if !there {
        let expected = "the section `workload_api`, which says where it is";
        check.refuse(key, "`workload_api` and no such section", expected, "add `workload_api: {}`");
    }
}

/// # Standard
/// SPIFFE Workload Endpoint §4: an absolute path without authority, or an address and a port and nothing else.
fn endpoint(text: &str) -> Option<Arc<str>> {
    if let Some(path) = text.strip_prefix("unix://") {
        let sound = path.starts_with('/') && !path.ends_with('/') && !path.contains(['\0', '?', '#', '%']);
        return (sound && path.len() <= SOCKET_BYTES_MAX).then(|| Arc::from(text));
    }
    let address: SocketAddr = text.strip_prefix("tcp://")?.parse().ok()?;
    Some(Arc::from(format!("http://{address}")))
}

/// Bytes that the path of a socket may have: one less than the system's address holds.
const SOCKET_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets() {
        let rows = [
            ("unix:///run/spire/agent.sock", Some("unix:///run/spire/agent.sock")),
            ("tcp://127.0.0.1:8000", Some("http://127.0.0.1:8000")),
            ("tcp://[::1]:8000", Some("http://[::1]:8000")),
            ("unix://run/agent.sock", None),
            ("unix:/run/agent.sock", None),
            ("unix:///run/agent.sock?x", None),
            ("unix:///run/", None),
            ("/run/agent.sock", None),
            ("tcp://127.0.0.1", None),
            ("tcp://127.0.0.1:8000/x", None),
            ("tcp://localhost:8000", None),
            ("http://127.0.0.1:8000", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(endpoint(text).as_deref(), expected, "{text}");
        }
    }
}
