//! Front doors and their routes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::proxy::Carrier;
use crate::config::raw::shared::{DurationOrNeverText, DurationText, SizeText};

/// A front door.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(tag = "kind", rename_all = "snake_case")]
pub(in crate::config) enum Listener {
    /// The reverse proxy: HTTP/1.1 and HTTP/2.
    Proxy(ProxyListener),
    /// Envoy's external authorization, gRPC.
    ExtAuthz(ExtAuthzListener),
}

/// The reverse proxy: HTTP/1.1 and HTTP/2.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ProxyListener {
    /// Its name in evidence and metrics, unique: `a-z`, `0-9`, `.`, `_`, `-`.
    #[schemars(length(min = 1, max = 128))]
    pub(in crate::config) name: String,
    /// IP address and port.
    pub(in crate::config) address: String,
    /// Serve over TLS. Default: cleartext.
    pub(in crate::config) tls: Option<Tls>,
    /// The `iss` of the issuer record whose certificates callers show. Default: only certificates that the hub
    /// has records of count.
    #[schemars(length(min = 1))]
    pub(in crate::config) client_issuer: Option<String>,
    /// Proxies in front that say which certificate they verified.
    pub(in crate::config) forwarded_client_certificate: Option<ForwardedCertificate>,
    /// Scheme and authority as callers see them, `https://host`; needed for tokens bound to a key (DPoP).
    #[schemars(regex(pattern = "^https?://[^/]+/?$"))]
    pub(in crate::config) public_url: Option<String>,
    /// Ask for a nonce of ours in each proof (DPoP); needs `public_url`.
    #[serde(default)]
    pub(in crate::config) dpop_nonces: bool,
    /// Tried in this order; a request that none matches is refused. At least one.
    #[schemars(length(min = 1))]
    pub(in crate::config) routes: Vec<Route>,
    /// Where credentials are looked for. Default: as `credentials` says.
    #[schemars(length(min = 1))]
    pub(in crate::config) carriers: Option<Vec<Carrier>>,
    /// Most records a second of refusals before an identity is resolved; 1 to 1000000. What is beyond is counted.
    #[serde(default = "unresolved_refusals_per_s")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) unresolved_refusals_per_s: u64,
    /// Bounds of its connections.
    #[serde(default)]
    pub(in crate::config) limits: Limits,
}

/// Envoy's external authorization, gRPC.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ExtAuthzListener {
    /// Its name in evidence and metrics, unique: `a-z`, `0-9`, `.`, `_`, `-`.
    #[schemars(length(min = 1, max = 128))]
    pub(in crate::config) name: String,
    /// IP address and port.
    pub(in crate::config) address: String,
    /// Take the certificate of a check's `source`: Envoy asks callers for it and validates it, and its
    /// `include_peer_certificate` is set.
    #[serde(default)]
    pub(in crate::config) client_certificates_validated_by_envoy: bool,
    /// The `iss` of the issuer record whose certificates callers show. Default: only certificates that the hub
    /// has records of count.
    #[schemars(length(min = 1))]
    pub(in crate::config) client_issuer: Option<String>,
    /// Scheme and authority as callers see them, `https://host`; needed for tokens bound to a key (DPoP).
    #[schemars(regex(pattern = "^https?://[^/]+/?$"))]
    pub(in crate::config) public_url: Option<String>,
    /// Ask for a nonce of ours in each proof (DPoP); needs `public_url`.
    #[serde(default)]
    pub(in crate::config) dpop_nonces: bool,
    /// Where a check names its service: `context_extensions.KEY`.
    #[serde(default = "service_from")]
    #[schemars(regex(pattern = r"^context_extensions\.[A-Za-z0-9_.-]+$"))]
    pub(in crate::config) service_from: String,
    /// How safe the record of each check must be before it is answered.
    #[serde(default)]
    pub(in crate::config) evidence: EvidenceModeName,
    /// How old the identity state may be for each check.
    #[serde(default)]
    pub(in crate::config) staleness: Staleness,
    /// Audiences a token must name one of, for each check. Default: those of `credentials`.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub(in crate::config) audiences: Option<Vec<String>>,
    /// Where credentials are looked for. Default: as `credentials` says.
    #[schemars(length(min = 1))]
    pub(in crate::config) carriers: Option<Vec<Carrier>>,
    /// Most records a second of refusals before an identity is resolved; 1 to 1000000. What is beyond is counted.
    #[serde(default = "unresolved_refusals_per_s")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) unresolved_refusals_per_s: u64,
    /// Bounds of its connections.
    #[serde(default)]
    pub(in crate::config) limits: Limits,
}

fn service_from() -> String {
    "context_extensions.service".to_owned()
}

const fn unresolved_refusals_per_s() -> u64 {
    100
}

/// Proxies in front that say which certificate they verified. They must remove the header that callers send.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ForwardedCertificate {
    /// Where they say it.
    pub(in crate::config) header: ForwardedHeader,
    /// Networks they are in, `address/bits`; from others the header counts for nothing.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub(in crate::config) trusted_peers: Vec<String>,
}

/// The header in which a proxy says which certificate it verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum ForwardedHeader {
    /// Envoy's, with its `Cert` element.
    XForwardedClientCert,
    /// RFC 9440.
    ClientCert,
}

/// Certificates by name, and which certificates clients may show.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Tls {
    /// Each is shown to clients that ask for a name in it; at least one.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(in crate::config) certificates: Vec<Certificate>,
    /// Show this process's own X.509-SVID instead; not with `certificates`.
    pub(in crate::config) certificate_from: Option<LiveSource>,
    /// The least version.
    #[serde(default)]
    pub(in crate::config) min_version: TlsVersion,
    /// A PEM file: who vouches for client certificates. Default: none is asked for.
    #[schemars(length(min = 1))]
    pub(in crate::config) client_ca: Option<String>,
    /// Let the bundle of the trust domain that `client_issuer` names vouch instead; not with `client_ca`.
    pub(in crate::config) client_ca_from: Option<LiveSource>,
    /// Whether a client must show one; `optional` and `required` only with `client_ca`, `none` only without.
    /// Default: `optional` with it.
    pub(in crate::config) client_certificates: Option<ClientCertificates>,
}

/// The files of one certificate.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Certificate {
    /// A PEM file: the certificate, then its chain.
    #[schemars(length(min = 1))]
    pub(in crate::config) certificate: String,
    /// A PEM file: the private key.
    #[schemars(length(min = 1))]
    pub(in crate::config) key: String,
    /// Show it also to clients that ask for no name, or for one that no certificate is for; else they are refused. At
    /// most one. Default: `true` for the only certificate, else `false`.
    pub(in crate::config) default: Option<bool>,
}

/// The least version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(in crate::config) enum TlsVersion {
    /// TLS 1.2 or 1.3.
    #[default]
    #[serde(rename = "tls1.2")]
    Tls12,
    /// TLS 1.3 only.
    #[serde(rename = "tls1.3")]
    Tls13,
}

/// Where certificates come from that change while they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum LiveSource {
    /// The SPIFFE Workload API of the section `workload_api`.
    WorkloadApi,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum ClientCertificates {
    /// None is asked for.
    None,
    /// It may; one that does not verify ends the connection.
    Optional,
    /// It must.
    Required,
}

/// A route: what it matches, whom it asks for, where it leads. Exactly one of `service` and `anonymous: true`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Route {
    /// Which requests it is for.
    pub(in crate::config) r#match: Match,
    /// The protected service: `name`, or `tenant/name`.
    #[schemars(length(min = 1))]
    pub(in crate::config) service: Option<String>,
    /// Ask for no credential. Still recorded.
    #[serde(default)]
    pub(in crate::config) anonymous: bool,
    /// The name of an upstream.
    #[schemars(length(min = 1))]
    pub(in crate::config) upstream: String,
    /// How safe the record must be before the request is forwarded.
    #[serde(default)]
    pub(in crate::config) evidence: EvidenceModeName,
    /// How old the identity state may be; not with `anonymous`.
    pub(in crate::config) staleness: Option<Staleness>,
    /// Audiences a token must name one of; not with `anonymous`. Default: those of `credentials`.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub(in crate::config) audiences: Option<Vec<String>>,
}

/// Which requests a route is for.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Match {
    /// The exact host, without a port. Default: any.
    pub(in crate::config) host: Option<String>,
    /// A path; a segment `*` stands for any one, a last `**` for any rest.
    #[schemars(regex(pattern = "^/"))]
    pub(in crate::config) path: String,
    /// Methods, in upper case. Default: any.
    #[schemars(length(min = 1))]
    pub(in crate::config) methods: Option<Vec<String>>,
}

/// How safe a record must be before the decision has its effect.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum EvidenceModeName {
    /// On stable storage: survives a crash of the host.
    Require,
    /// With the kernel: survives a crash of the process.
    #[default]
    ProcessSafe,
    /// Queued: survives nothing, and is counted as lost when there is no room.
    BestEffort,
}

/// How old the identity state may be.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Staleness {
    /// Older than this is marked and counted; 1s to `deny_after`. Default: 10s, or `deny_after` if that is less.
    pub(in crate::config) warn_after: Option<DurationText>,
    /// Older than this denies; 1s to 30d. `never`: it does not, and receipts list the route as waived. Default: 5m.
    pub(in crate::config) deny_after: Option<DurationOrNeverText>,
}

/// Bounds of a listener's connections.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Limits {
    /// Most open connections; 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) max_connections: u64,
    /// Longest wait for the head of a request; 100ms to 10m.
    pub(in crate::config) header_timeout: DurationText,
    /// Most bytes of the head of a request; 8KiB to 1MiB.
    pub(in crate::config) max_header_bytes: SizeText,
    /// Most open HTTP/2 streams of one connection; 1 to 10000.
    #[schemars(range(min = 1, max = 10_000))]
    pub(in crate::config) max_concurrent_streams: u64,
    /// How long a caller may take to take the end of an exchange that is allowed no more; 10ms to 900ms.
    pub(in crate::config) end_timeout: DurationText,
    /// Most requests under way; what is beyond is refused with 503; 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) max_requests: u64,
    /// How long a connection may be without a request; 1s to 1h.
    pub(in crate::config) idle_timeout: DurationText,
    /// How long a caller may take nothing of the answers that are there for it; 1s to 1h.
    pub(in crate::config) send_timeout: DurationText,
    /// Most header lines of a request; 10 to 1000. Of `proxy` listeners.
    #[schemars(range(min = 10, max = 1000))]
    pub(in crate::config) max_headers: u64,
    /// Most bytes of a request's target, path and query; 64 to 64KiB, the path 8KiB at most. Of `proxy` listeners.
    pub(in crate::config) max_uri_bytes: SizeText,
    /// Most bytes of a request's body; 0 to 16TiB. Default: any. Of `proxy` listeners.
    pub(in crate::config) max_body_bytes: Option<SizeText>,
    /// Longest silence within a request's body, but that of a gRPC call, or within the message of a check; 1s to 1h.
    pub(in crate::config) body_timeout: DurationText,
    /// Least bytes a second of a request's body that is waited for, but that of a gRPC call; 0 to 1MiB; 0: any. Of
    /// `proxy` listeners.
    pub(in crate::config) min_body_rate: SizeText,
    /// Most HTTP/2 streams of one connection that the caller may reset in each 30 s; 1 to 100000. By default
    /// 200, and 20000 on an `ext_authz` listener: there all callers of an Envoy share a connection.
    #[schemars(range(min = 1, max = 100_000))]
    pub(in crate::config) max_resets: Option<u64>,
    /// Most HTTP/2 frames of one connection that carry nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE), in 30 s,
    /// beside ten for each frame of an answer; 100 to 1000000.
    #[schemars(range(min = 100, max = 1_000_000))]
    pub(in crate::config) max_control_frames: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header_timeout: "10s".into(),
            max_header_bytes: "32KiB".into(),
            max_concurrent_streams: 200,
            end_timeout: "500ms".into(),
            max_requests: 10_000,
            idle_timeout: "75s".into(),
            send_timeout: "30s".into(),
            max_headers: 100,
            max_uri_bytes: "8KiB".into(),
            max_body_bytes: None,
            body_timeout: "15s".into(),
            min_body_rate: "240".into(),
            max_resets: None,
            max_control_frames: 1000,
        }
    }
}
