//! The sections of an enforcement point.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::config::raw::health::Health;
use crate::config::raw::introspection::Introspection;
use crate::config::raw::key_sources::KeySources;
use crate::config::raw::listener::{Listener, LiveSource};
use crate::config::raw::shared::{DurationText, Log, Metrics, SizeText};

/// The configuration of an enforcement point: `portreeve proxy --config FILE`.
///
/// A relative path is relative to the directory of the file. Any value may hold `${NAME}` or
/// `${NAME:-default}`, an environment variable; `$$` is a dollar sign. The schema describes the value after that.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ProxyFile {
    /// Which enforcement point this is and where it keeps its files.
    pub(in crate::config) enforcement_point: EnforcementPoint,
    /// The hub that identity state is streamed from.
    pub(in crate::config) hub: HubClient,
    /// Front doors; at least one.
    #[schemars(length(min = 1))]
    pub(in crate::config) listeners: Vec<Listener>,
    /// Servers that allowed requests are forwarded to, by name.
    #[serde(default)]
    pub(in crate::config) upstreams: BTreeMap<String, Upstream>,
    /// Which credentials are looked for and accepted.
    pub(in crate::config) credentials: Credentials,
    /// Who is asked about opaque tokens; nobody without it.
    pub(in crate::config) introspection: Option<Introspection>,
    /// The SPIFFE Workload API of this machine. Only what names it takes anything from it.
    pub(in crate::config) workload_api: Option<WorkloadApi>,
    /// Issuers whose keys this enforcement point fetches itself. Default: the hub fetches all.
    pub(in crate::config) key_sources: Option<KeySources>,
    /// What an upstream is told.
    #[serde(default)]
    pub(in crate::config) forward: Forward,
    /// Records of decisions.
    #[serde(default)]
    pub(in crate::config) evidence: Evidence,
    /// The local administration interface.
    #[serde(default)]
    pub(in crate::config) admin: Admin,
    /// Health and metrics.
    #[serde(default)]
    pub(in crate::config) metrics: Metrics,
    /// Diagnostics.
    #[serde(default)]
    pub(in crate::config) log: Log,
    /// Threads that serve listeners; 1 to 1024. Default: the number of processor cores.
    #[schemars(range(min = 1, max = 1024))]
    pub(in crate::config) workers: Option<u64>,
    /// How long open exchanges may go on when the process is asked to end; 0s to 1h.
    #[serde(default = "drain_timeout")]
    pub(in crate::config) drain_timeout: DurationText,
    /// Most bytes that the process may have in memory; 16MiB to 16TiB. Beyond nine tenths of it no connection is
    /// accepted, beyond all of it no request. Default: the limit of its control group, if that has one.
    pub(in crate::config) memory_budget: Option<SizeText>,
}

fn drain_timeout() -> DurationText {
    "25s".into()
}

/// The SPIFFE Workload API of this machine. Only what names it takes anything from it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct WorkloadApi {
    /// `unix:///path` of a socket, or `tcp://ip:port`. Default: what the variable `SPIFFE_ENDPOINT_SOCKET` says.
    #[schemars(length(min = 1))]
    pub(in crate::config) socket: Option<String>,
    /// Trust domains, `spiffe://name`, whose JWT bundles take the place of the keys in their issuer's record.
    #[serde(default)]
    #[schemars(inner(length(min = 1)))]
    pub(in crate::config) jwt_bundles: Vec<String>,
}

/// Which enforcement point this is and where it keeps its files.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct EnforcementPoint {
    /// Its name at the hub: `a-z`, `0-9`, `.`, `_`, `-`. Default: the host name in lower case.
    #[schemars(length(min = 1, max = 128))]
    pub(in crate::config) id: Option<String>,
    /// The tenant of a service that is named without one.
    #[serde(default = "tenant")]
    #[schemars(length(min = 1, max = 128))]
    pub(in crate::config) tenant: String,
    /// The directory of its state, decision log and lease.
    #[schemars(length(min = 1))]
    pub(in crate::config) data_dir: String,
}

fn tenant() -> String {
    "default".to_owned()
}

/// The hub that identity state is streamed from.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HubClient {
    /// `https://host:port` of each hub, tried in this order; at least one.
    #[schemars(length(min = 1))]
    pub(in crate::config) endpoints: Vec<String>,
    /// Certificates of an authority of your own.
    pub(in crate::config) tls: Option<HubTls>,
    /// The file of a join token of `portreeve hub join-token`; the certificate it brings is kept and renewed below `data_dir`.
    #[schemars(length(min = 1))]
    pub(in crate::config) join_token_file: Option<String>,
    /// Speak in clear, `http://host:port`; on loopback hosts only.
    #[serde(default)]
    pub(in crate::config) insecure_cleartext_loopback: bool,
}

/// Certificates for the hub; read again when a file changes.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HubTls {
    /// PEM file: authorities of the hub's certificate.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca: String,
    /// PEM file: this enforcement point's certificate, then its intermediates. It names `enforcement_point.id`.
    #[schemars(length(min = 1))]
    pub(in crate::config) certificate: String,
    /// PEM file: its private key.
    #[schemars(length(min = 1))]
    pub(in crate::config) key: String,
}

/// A server that allowed requests are forwarded to.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Upstream {
    /// `http://host:port`, `https://host:port`, or `unix:///path` of a socket.
    pub(in crate::config) url: String,
    /// TLS; needed for `https`.
    pub(in crate::config) tls: Option<UpstreamTls>,
    /// Longest wait for a connection; 10ms to 1m.
    #[serde(default = "connect_timeout")]
    pub(in crate::config) connect_timeout: DurationText,
    /// Longest wait for the head of an answer; 10ms to 1h.
    #[serde(default = "response_timeout")]
    pub(in crate::config) response_timeout: DurationText,
    /// Idle connections each worker keeps; 0 to 10000.
    #[serde(default = "max_idle_per_worker")]
    #[schemars(range(max = 10_000))]
    pub(in crate::config) max_idle_per_worker: u64,
    /// Speak HTTP/2: by ALPN where TLS is spoken, else with prior knowledge; needed for gRPC.
    #[serde(default)]
    pub(in crate::config) http2: bool,
    /// What it is shown in place of the caller's credential, which it is never sent then.
    pub(in crate::config) credential: Option<UpstreamCredential>,
    /// Send it `x-portreeve-assertion`, a signed JWT of who calls.
    pub(in crate::config) assertion: Option<Assertion>,
    /// Checks of whether it answers; none without it.
    pub(in crate::config) health: Option<Health>,
}

/// A signed JWT of who calls; its key is at `/.well-known/jwks.json` of `metrics.address`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Assertion {
    /// Its `iss`.
    #[schemars(length(min = 1, max = 256))]
    pub(in crate::config) issuer: String,
    /// Its `aud`.
    #[schemars(length(min = 1, max = 256))]
    pub(in crate::config) audience: String,
    /// From its `iat` to its `exp`; 1s to 60s.
    #[serde(default = "lifetime")]
    pub(in crate::config) lifetime: DurationText,
}

fn lifetime() -> DurationText {
    "30s".into()
}

/// What an upstream is shown in place of the caller's credential; read again when the file changes.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(tag = "kind", rename_all = "snake_case")]
pub(in crate::config) enum UpstreamCredential {
    /// A user and a password, in `authorization`.
    Basic(BasicCredential),
    /// The value of a header.
    Header(HeaderCredential),
}

/// A user and a password, in `authorization`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct BasicCredential {
    /// The user; without `:`.
    #[schemars(length(min = 1, max = 256))]
    pub(in crate::config) user: String,
    /// The file of the password, one line.
    #[schemars(length(min = 1))]
    pub(in crate::config) password_file: String,
}

/// The value of a header.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HeaderCredential {
    /// Its name, in lower case: `authorization`, or one of the upstream's own.
    #[schemars(length(min = 1, max = 64))]
    pub(in crate::config) header: String,
    /// The file of its whole value, one line.
    #[schemars(length(min = 1))]
    pub(in crate::config) value_file: String,
}

/// TLS to an upstream. Its certificate is always verified; files are read again when they change.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct UpstreamTls {
    /// PEM file: authorities of its certificate, the only ones trusted.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca: String,
    /// PEM file: the certificate it is shown, then its intermediates. Default: none is.
    #[schemars(length(min = 1))]
    pub(in crate::config) certificate: Option<String>,
    /// PEM file: the private key of `certificate`.
    #[schemars(length(min = 1))]
    pub(in crate::config) key: Option<String>,
    /// Show it this process's own X.509-SVID instead; not with `certificate` and `key`.
    pub(in crate::config) certificate_from: Option<LiveSource>,
    /// The DNS name or IP address its certificate must be for. Default: the host of `url`.
    #[schemars(length(min = 1))]
    pub(in crate::config) server_name: Option<String>,
}

fn connect_timeout() -> DurationText {
    "1s".into()
}

fn response_timeout() -> DurationText {
    "30s".into()
}

const fn max_idle_per_worker() -> u64 {
    64
}

/// Which credentials are looked for and accepted.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Credentials {
    /// Where a credential is looked for.
    #[serde(default = "carriers")]
    #[schemars(length(min = 1, max = 1))]
    pub(in crate::config) carriers: Vec<Carrier>,
    /// Audiences a token must name one of; at least one.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub(in crate::config) audiences: Vec<String>,
    /// Tolerated difference between an issuer's clock and ours; 0s to 60s.
    #[serde(default = "clock_skew")]
    pub(in crate::config) clock_skew: DurationText,
    /// A file of at least 32 random bytes that nonces are made from, the same for all enforcement points
    /// behind one address. Default: a secret of this process alone.
    #[schemars(length(min = 1))]
    pub(in crate::config) dpop_nonce_key: Option<String>,
}

fn carriers() -> Vec<Carrier> {
    vec![Carrier::Authorization]
}

fn clock_skew() -> DurationText {
    "30s".into()
}

/// Where a credential is looked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum Carrier {
    /// The `authorization` header, scheme `Bearer`.
    Authorization,
    /// A header that holds an API key and nothing else.
    ApiKey(ApiKeyCarrier),
}

/// A header that holds an API key and nothing else.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ApiKeyCarrier {
    /// Its name, in lower case.
    pub(in crate::config) header: String,
}

impl JsonSchema for Carrier {
    fn schema_name() -> Cow<'static, str> {
        "Carrier".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where a credential is looked for.",
            "oneOf": [
                { "description": "The `authorization` header, scheme `Bearer`.", "const": "authorization" },
                {
                    "description": "A header that holds an API key and nothing else.",
                    "type": "object",
                    "properties": {
                        "kind": { "const": "api-key" },
                        "header": {
                            "description": "Its name, in lower case.",
                            "type": "string",
                            "pattern": "^[a-z0-9-]{1,64}$",
                            "examples": ["x-api-key"]
                        }
                    },
                    "required": ["kind", "header"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// What an upstream is told.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Forward {
    /// Send `x-portreeve-identity`, `x-portreeve-tenant` and `x-portreeve-decision`.
    pub(in crate::config) identity_headers: bool,
    /// Send the credential on: the upstream could use it elsewhere. Never to one with a `credential` of its own.
    pub(in crate::config) pass_credential: bool,
}

impl Default for Forward {
    fn default() -> Self {
        Self { identity_headers: true, pass_credential: false }
    }
}

/// Records of decisions.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Evidence {
    /// The decision log on disk, below `data_dir`.
    pub(in crate::config) spool: Spool,
    /// Where records are sent from there; each at least once.
    pub(in crate::config) sinks: Vec<Sink>,
}

/// The decision log on disk.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Spool {
    /// Most bytes on disk; at least four segments, at most 16TiB.
    pub(in crate::config) max_bytes: SizeText,
    /// Bytes of one segment file; 1MiB to 1GiB.
    pub(in crate::config) segment_bytes: SizeText,
}

impl Default for Spool {
    fn default() -> Self {
        Self { max_bytes: "1GiB".into(), segment_bytes: "64MiB".into() }
    }
}

/// Where records are sent.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(tag = "kind", rename_all = "snake_case")]
pub(in crate::config) enum Sink {
    /// A file of JSON lines.
    File(FileSink),
    /// Standard output, as JSON lines.
    Stdout(StdoutSink),
}

/// A file of JSON lines.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FileSink {
    /// The file; appended to.
    #[schemars(length(min = 1))]
    pub(in crate::config) path: String,
}

/// Standard output, as JSON lines.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct StdoutSink {}

/// The local administration interface.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Admin {
    /// IP address and port; loopback only.
    pub(in crate::config) address: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: "127.0.0.1:7403".to_owned() }
    }
}
