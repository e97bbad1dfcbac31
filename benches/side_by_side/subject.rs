//! What is measured: the real programs, with configurations that do what is said of them and no more.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::call;
use crate::support::issuer::TestIssuer;
use crate::support::port::free;
use crate::{BASELINE, CORES};

/// The upstream with nothing before it.
pub(super) const DIRECT: &str = "the upstream, direct";
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that answers at an address.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    process: Option<Process>,
    /// The enforcement point that it asks.
    asked: Option<Process>,
    _hub: Option<Process>,
}

/// A process that ends with what holds it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Process {
    /// To the nanosecond, of threads that live; those that are measured live as long as the process.
    fn cpu_seconds(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let of_task = |task: std::io::Result<std::fs::DirEntry>| {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0)
        };
        tasks.map(of_task).sum::<u64>() as f64 / 1e9
    }

    fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

/// CPU seconds.
#[derive(Clone, Copy)]
pub(super) struct Cpu {
    /// Of all processes of a subject.
    pub(super) all: f64,
    /// Of the enforcement point alone that another asks.
    pub(super) asked: f64,
}

impl Subject {
    pub(super) const fn is_process(&self) -> bool {
        self.process.is_some()
    }

    pub(super) const fn asks(&self) -> bool {
        self.asked.is_some()
    }

    /// What `work` gave, and the CPU that it took.
    pub(super) fn cpu_of<T>(&self, work: impl FnOnce() -> T) -> (T, Cpu) {
        let before = self.cpu();
        let done = work();
        let after = self.cpu();
        (done, Cpu { all: after.all - before.all, asked: after.asked - before.asked })
    }

    fn cpu(&self) -> Cpu {
        let asked = self.asked.as_ref().map_or(0.0, Process::cpu_seconds);
        Cpu { all: self.process.as_ref().map_or(0.0, Process::cpu_seconds) + asked, asked }
    }

    pub(super) fn resident_mib(&self) -> f64 {
        self.process.iter().chain(&self.asked).map(Process::resident_mib).sum()
    }
}

/// What all subjects are about: one upstream, one issuer, and callers who may read orders.
pub(super) struct World<'a> {
    folder: &'a Path,
    upstream: SocketAddr,
    issuer: TestIssuer,
    requests: Arc<[Vec<u8>]>,
    tokens: Vec<String>,
}

impl<'a> World<'a> {
    pub(super) fn new(folder: &'a Path, upstream: SocketAddr, callers: usize) -> Self {
        let issuer = TestIssuer::rs256();
        let now = jsonwebtoken::get_current_timestamp();
        let token = |n: usize| {
            let claims = json!({
                "iss": issuer.iss(), "sub": caller(n), "aud": "orders", "iat": now, "exp": now + 3500,
            });
            issuer.sign(&issuer.header(), &claims)
        };
        let tokens: Vec<String> = (0..callers).map(token).collect();
        let request = |token: &String| {
            format!("GET /orders/17 HTTP/1.1\r\nhost: orders.test\r\nuser-agent: bench\r\nauthorization: Bearer {token}\r\n\r\n")
                .into_bytes()
        };
        let requests = tokens.iter().map(request).collect();
        Self { folder, upstream, issuer, requests, tokens }
    }

    pub(super) fn requests(&self) -> Arc<[Vec<u8>]> {
        Arc::clone(&self.requests)
    }

    /// Starts those that are wanted, and sees that each lets the right ones in.
    pub(super) fn start(&self, wanted: impl Fn(&str) -> bool) -> Vec<Subject> {
        type Start<'b> = (&'static str, &'b dyn Fn(&'static str) -> Subject, u16);
        let starts: [Start<'_>; 7] = [
            (
                DIRECT,
                &|name| Subject { name, address: self.upstream, process: None, asked: None, _hub: None },
                200,
            ),
            ("nginx, plain", &|name| self.nginx(name), 200),
            (BASELINE, &|name| self.envoy(name, &[], &[]), 200),
            ("Envoy, jwt_authn without a cache", &|name| self.envoy(name, &[self.jwt_authn(0)], &[]), 401),
            (
                "Envoy, jwt_authn with a cache",
                &|name| self.envoy(name, &[self.jwt_authn(10 * self.tokens.len())], &[]),
                401,
            ),
            (
                "Portreeve, authorization and evidence",
                &|name| self.portreeve(name, "p1", &Listener::proxy()),
                401,
            ),
            ("Envoy, ext_authz by Portreeve", &|name| self.checked_envoy(name), 401),
        ];
        let wanted = starts.into_iter().filter(|(name, _, _)| wanted(name));
        wanted
            .map(|(name, start, without)| {
                eprintln!("starting {name}");
                let subject = start(name);
                let bearer = format!("Bearer {}", self.tokens[0]);
                let status = |headers: &[(&str, &str)]| {
                    call(subject.address, "GET", "/orders/17", headers).status.as_u16()
                };
                wait("it lets a caller in", || status(&[("authorization", &bearer)]) == 200);
                assert_eq!(status(&[]), without, "{name} without a credential");
                subject
            })
            .collect()
    }

    fn nginx(&self, name: &'static str) -> Subject {
        let address = free();
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr crit;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n  access_log off; keepalive_requests 1000000000; client_body_temp_path t1; proxy_temp_path t2;\n  \
             fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n  \
             upstream app {{ server {}; keepalive 64; keepalive_requests 1000000000; }}\n  \
             server {{ listen {address}; location / {{ proxy_pass http://app; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; }} }}\n}}\n",
            self.upstream
        );
        let path = self.folder.join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        let program = std::env::var_os("PORTREEVE_NGINX").unwrap_or_else(|| "nginx".into());
        let arguments = ["-p".into(), self.folder.into(), "-c".into(), path.into_os_string()];
        self.subject(name, address, &program, &arguments)
    }

    /// Checks every token; `cache`: so many are remembered.
    fn jwt_authn(&self, cache: usize) -> Value {
        let mut provider = json!({
            "issuer": self.issuer.iss(), "audiences": ["orders"], "forward": true,
            "local_jwks": { "inline_string": String::from_utf8(self.issuer.jwks()).unwrap() },
        });
        if cache > 0 {
            provider["jwt_cache_config"] = json!({ "jwt_cache_size": cache });
        }
        json!({ "name": "jwt", "typed_config": {
            "@type": format!("{ENVOY_FILTERS}.http.jwt_authn.v3.JwtAuthentication"),
            "providers": { "main": provider },
            "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "main" } }],
        } })
    }

    /// Envoy that asks an enforcement point of its own, beside it on the same core.
    fn checked_envoy(&self, name: &'static str) -> Subject {
        let asked = self.portreeve(name, "p2", &Listener::checks());
        let filter = json!({ "name": "ext_authz", "typed_config": {
            "@type": format!("{ENVOY_FILTERS}.http.ext_authz.v3.ExtAuthz"),
            "transport_api_version": "V3",
            "failure_mode_allow": false,
            "encode_raw_headers": true,
            "grpc_service": { "envoy_grpc": { "cluster_name": "portreeve" }, "timeout": "1s" },
        } });
        let http2 = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        } });
        let mut cluster = cluster("portreeve", asked.address);
        cluster["typed_extension_protocol_options"] = http2;
        let envoy = self.envoy(name, &[filter], &[cluster]);
        let Subject { process, _hub, .. } = asked;
        Subject { asked: process, _hub, ..envoy }
    }

    fn envoy(&self, name: &'static str, filters: &[Value], clusters: &[Value]) -> Subject {
        let address = free();
        // Who checks for another is told which service it is about.
        let per_filter = match clusters {
            [] => json!({}),
            _ => json!({ "ext_authz": {
                "@type": format!("{ENVOY_FILTERS}.http.ext_authz.v3.ExtAuthzPerRoute"),
                "check_settings": { "context_extensions": { "service": "orders" } },
            } }),
        };
        let router = json!({ "name": "router", "typed_config": { "@type": format!("{ENVOY_FILTERS}.http.router.v3.Router") } });
        let filters: Vec<_> = filters.iter().chain([&router]).collect();
        let app = cluster("app", self.upstream);
        let clusters: Vec<_> = clusters.iter().chain([&app]).collect();
        let manager = json!({
            "@type": format!("{ENVOY_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "bench",
            "http_filters": filters,
            "route_config": { "virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "typed_per_filter_config": per_filter,
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "app" } }],
            }] },
        });
        let config = json!({ "static_resources": {
            "listeners": [{
                "address": socket(address),
                "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
            }],
            "clusters": clusters,
        } });
        let path = self.folder.join(format!("envoy-{}.json", address.port()));
        std::fs::write(&path, config.to_string()).unwrap();
        let program =
            std::env::var_os("PORTREEVE_ENVOY").expect("PORTREEVE_ENVOY is set: `eval \"$(.ci/peers)\"`");
        let arguments: Vec<OsString> =
            ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error", "-c"]
                .into_iter()
                .map(OsString::from)
                .chain([path.into_os_string()])
                .collect();
        self.subject(name, address, &program, &arguments)
    }

    /// An enforcement point with its hub: each caller an identity with an entitlement that the resource asks
    /// for, each decision a record on disk before its effect, and shipped to a file as JSON.
    fn portreeve(&self, name: &'static str, id: &str, listener: &Listener) -> Subject {
        let [state, api] = [free(), free()];
        let own = self.folder.join(id);
        std::fs::create_dir(&own).unwrap();
        let binary = OsString::from(env!("CARGO_BIN_EXE_portreeve"));
        let hub = format!(
            "hub: {{ store: \"sqlite://hub.db\", data_dir: hub }}\nstate: {{ address: \"{state}\" }}\n\
             api: {{ address: \"{api}\" }}\nmetrics: {{ address: \"127.0.0.1:0\" }}\nlog: {{ level: warn }}\n"
        );
        let hub_file = written(&own, "hub.yaml", &hub);
        let mut hub = Command::new(&binary);
        hub.arg("hub").arg("--config").arg(hub_file).stdout(Stdio::null());
        let hub = Process(hub.spawn().unwrap());
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&binary);
            command.args(arguments).env("PORTREEVE_HUB", format!("http://{api}"));
            command.env("PORTREEVE_TOKEN_FILE", own.join("hub/admin.token"));
            command.env("PORTREEVE_TENANT", "demo").stdin(Stdio::null()).stdout(Stdio::null());
            command.status().unwrap().success()
        };
        wait("the hub serves", || std::net::TcpStream::connect(api).is_ok());
        let records = written(&own, "records.yaml", &self.records(&own));
        assert!(command(&["apply", "-f", records.to_str().unwrap()]));
        let token = own.join("join.token");
        assert!(command(&[
            "hub",
            "join-token",
            "--id",
            id,
            "--tenant",
            "demo",
            "--to",
            token.to_str().unwrap()
        ]));
        let point = format!(
            "enforcement_point: {{ id: {id}, tenant: demo, data_dir: proxy }}\n\
             hub: {{ endpoints: [\"https://{state}\"], join_token_file: join.token }}\n\
             listeners:\n{}upstreams: {{ app: {{ url: \"http://{}\" }} }}\ncredentials: {{ audiences: [orders] }}\n\
             evidence: {{ spool: {{ max_bytes: 1GiB, segment_bytes: 16MiB }}, \
             sinks: [{{ kind: file, path: decisions.jsonl }}] }}\n\
             admin: {{ address: \"127.0.0.1:0\" }}\nmetrics: {{ address: \"127.0.0.1:0\" }}\nlog: {{ level: warn }}\n",
            listener.text, self.upstream
        );
        let point = written(&own, "proxy.yaml", &point);
        let arguments = ["proxy".into(), "--config".into(), point.into_os_string()];
        let mut subject = self.subject(name, listener.address, &binary, &arguments);
        subject._hub = Some(hub);
        subject
    }

    fn records(&self, beside: &Path) -> String {
        std::fs::write(beside.join("jwks.json"), self.issuer.jwks()).unwrap();
        let mut text = format!(
            "kind: issuer\nname: main\nspec: {{ iss: \"{}\", profile: generic, algorithms: [RS256], \
             audiences: [orders], keys: {{ file: jwks.json }}, max_lifetime: 1h }}\n---\nkind: resource\n\
             name: orders\nspec: {{ environment: prod, routes: [{{ methods: [GET], path: \"/orders/**\", requires: read }}] }}\n",
            self.issuer.iss()
        );
        for n in 0..self.tokens.len() {
            let name = caller(n);
            text.push_str(&format!(
                "---\nkind: identity\nname: {name}\nspec: {{ type: workload, environment: prod, \
                 bindings: [{{ issuer: main, subject: {name} }}], entitlements: [{{ name: read }}] }}\n"
            ));
        }
        text
    }

    /// Starts it on the subjects' core.
    fn subject(
        &self,
        name: &'static str,
        address: SocketAddr,
        program: &OsString,
        arguments: &[OsString],
    ) -> Subject {
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(CORES[1].to_string()).arg(program).args(arguments);
        let child = command.current_dir(self.folder).stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|e| panic!("cannot start {program:?} by taskset: {e}"));
        let subject = Subject { name, address, process: Some(Process(child)), asked: None, _hub: None };
        wait("it listens", || std::net::TcpStream::connect(address).is_ok());
        subject
    }
}

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Where Envoy's own names for its filters begin.
const ENVOY_FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

fn socket(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

/// What Envoy knows of a server.
fn cluster(name: &str, at: SocketAddr) -> Value {
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": socket(at) } },
        ] }] },
    })
}

/// A listener of an enforcement point, as its configuration says it.
struct Listener {
    address: SocketAddr,
    text: String,
}

impl Listener {
    /// The reverse proxy.
    fn proxy() -> Self {
        let address = free();
        let text = format!(
            "  - name: inbound\n    kind: proxy\n    address: \"{address}\"\n    \
             routes: [{{ match: {{ path: \"/**\" }}, service: orders, upstream: app }}]\n"
        );
        Self { address, text }
    }

    /// What Envoy asks.
    fn checks() -> Self {
        let address = free();
        let text = format!(
            "  - name: envoy\n    kind: ext_authz\n    address: \"{address}\"\n    \
             service_from: context_extensions.service\n"
        );
        Self { address, text }
    }
}

fn caller(n: usize) -> String {
    format!("caller-{n}")
}

fn wait(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
