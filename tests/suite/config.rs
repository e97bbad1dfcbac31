//! Configuration: samples accepted, each refusal with its exact message, the schema in step with the reader.

mod traces;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portreeve::config::{
    Assertion, Authorities, ClientCertificates, ConfigError, Environment, Health, HubAccess, HubConfig,
    ListenerKind, Loaded, OwnCertificate, ProxyConfig, Role, Sink, StateSecurity, Store, UpstreamAddress,
    UpstreamCredential, WorkloadApi, detect_role, load_hub, load_proxy, parse_hub, parse_proxy, schema,
};
use portreeve::core::identity::KeySource;
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/golden/config").join(name)
}

fn sample(name: &str) -> String {
    std::fs::read_to_string(golden(name)).expect("a sample beside this file")
}

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "NAME" => "orders-2",
        "NUMBER" => "7",
        "TRUE" => "true",
        "PORT" => "7409",
        "ADDR" => "127.0.0.1:7409",
        "EMPTY" => "",
        "SPIFFE_ENDPOINT_SOCKET" => "tcp://127.0.0.1:8000",
        "INJECTION" => "x\nworkers: 9\n# \"}",
        _ => return None,
    };
    Some(value.to_owned())
}

fn environment() -> Environment<'static> {
    Environment { host_name: "Host-7.example", cores: 6, variables: &variable }
}

fn proxy(text: &str) -> Result<Loaded<ProxyConfig>, ConfigError> {
    parse_proxy(text, Path::new("/etc/portreeve/proxy.yaml"), &environment())
}

fn hub(text: &str) -> Result<Loaded<HubConfig>, ConfigError> {
    parse_hub(text, Path::new("/etc/portreeve/hub.yaml"), &environment())
}

/// Replaces the one occurrence of `from`.
fn edited(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "`{from}` once in the sample");
    text.replacen(from, to, 1)
}

/// One block of `errors.txt`.
struct Row<'a> {
    head: Vec<&'a str>,
    role: &'a str,
    edits: Vec<(String, String)>,
    expected: Vec<&'a str>,
}

fn row(block: &str) -> Row<'_> {
    let unescaped = |text: &str| text.replace("\\n", "\n");
    let (expected, head): (Vec<_>, Vec<_>) = block.lines().partition(|line| line.starts_with("> "));
    let role = head.get(1).copied().unwrap_or_default();
    let sides = |sign: &'static str| {
        head.iter().skip(2).filter_map(move |line| line.strip_prefix(sign)).map(unescaped).collect::<Vec<_>>()
    };
    let edits = sides("- ").into_iter().zip(sides("+ ")).collect();
    Row { role, edits, expected, head: head.into_iter().filter(|line| !line.is_empty()).collect() }
}

#[test]
fn each_refusal_has_its_message() {
    let file = sample("errors.txt");
    let (preface, blocks) = file.split_once("\n== ").expect("rows");
    let mut rewritten = preface.to_owned();
    let mut wrong = Vec::new();
    for block in blocks.split("\n== ") {
        let Row { head, role, edits, expected } = row(block);
        let mut text = sample(&format!("{role}.yaml"));
        assert!(!edits.is_empty(), "{block}");
        for (from, to) in &edits {
            text = edited(&text, from, to);
        }
        let origin = format!("{role}.yaml");
        let error = match role {
            "proxy" => parse_proxy(&text, Path::new(&origin), &environment()).err(),
            _ => parse_hub(&text, Path::new(&origin), &environment()).err(),
        };
        let told = error.map_or_else(|| "accepted".to_owned(), |error| error.to_string());
        let told: Vec<String> = told.lines().map(|line| format!("> {line}")).collect();
        if told != expected {
            wrong.push(format!("== {}\n{}", head.join("\n"), told.join("\n")));
        }
        rewritten.push_str(&format!("\n== {}\n{}\n", head.join("\n"), told.join("\n")));
    }
    if std::env::var_os("PORTREEVE_GOLDEN").is_some_and(|value| value == "rewrite") {
        std::fs::write(golden("errors.txt"), rewritten).expect("the golden file is written");
    } else {
        assert!(wrong.is_empty(), "other messages than in errors.txt:\n{}", wrong.join("\n"));
    }
}

#[test]
fn the_full_sample_of_a_proxy() {
    let Loaded { config, warnings } = proxy(&sample("proxy.yaml")).expect("accepted");
    assert_eq!(config.enforcement_point.id.as_str(), "orders-1");
    assert_eq!(config.workers, 4);
    assert_eq!(config.drain_timeout, Duration::from_secs(25));
    assert_eq!(config.evidence.spool.max_bytes, 4 << 30);
    assert_eq!(config.evidence.sinks, [Sink::File("/etc/portreeve/decisions.jsonl".into()), Sink::Stdout]);
    assert_eq!(
        config.hub.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["https://127.0.0.1:7410", "https://[::1]:7410"]
    );
    let HubAccess::Files { ca, .. } = &config.hub.access else { panic!("files") };
    assert_eq!(ca, Path::new("/etc/portreeve/ca.pem"));
    let [inbound, envoy, mesh] = config.listeners.as_slice() else { panic!("three listeners") };
    let ListenerKind::Proxy(inbound) = &inbound.kind else { panic!("a proxy") };
    let certificate = &inbound.tls.as_ref().expect("TLS").certificates[0];
    assert_eq!((certificate.default, &*certificate.certificate), (true, Path::new("/etc/portreeve/tls.crt")));
    let at = |name: &str| Path::new("/etc/portreeve").join(name);
    let clients = ClientCertificates { ca: Authorities::File(at("clients.pem")), required: false };
    assert_eq!(inbound.tls.as_ref().expect("TLS").clients, Some(clients));
    let ListenerKind::Proxy(mesh) = &mesh.kind else { panic!("a proxy") };
    let clients =
        ClientCertificates { ca: Authorities::WorkloadApi("spiffe://mesh.example".into()), required: true };
    let mesh = mesh.tls.as_ref().expect("TLS");
    assert_eq!((mesh.from_workload_api, mesh.certificates.len(), &mesh.clients), (true, 0, &Some(clients)));
    let api = WorkloadApi {
        endpoint: "unix:///run/spire/agent.sock".into(),
        jwt_bundles: vec!["spiffe://acme.example".into()],
    };
    assert_eq!(config.workload_api, Some(api));
    let sources = config.key_sources.as_ref().expect("sources of keys");
    let issuers: Vec<_> =
        sources.issuers.iter().map(|it| (it.tenant.as_str(), &*it.iss, &it.source)).collect();
    let url = KeySource::Url("https://ci.example/jwks".into());
    let expected =
        [("acme", "https://idp.example", &KeySource::Discovery), ("finance", "https://ci.example", &url)];
    assert_eq!(issuers, expected);
    let pace = (sources.refresh, sources.refetch_interval, sources.keep);
    let seconds = Duration::from_secs;
    assert_eq!(pace, (seconds(300), seconds(20), seconds(12 * 3600)));
    let UpstreamAddress::Secure(_, tls) = &config.upstreams["mesh"].address else { panic!("TLS") };
    assert_eq!(tls.own, Some(OwnCertificate::WorkloadApi));
    let services: Vec<_> = inbound
        .routes
        .iter()
        .map(|route| route.service.as_ref().map(|service| format!("{}/{}", service.tenant, service.resource)))
        .collect();
    assert_eq!(services, [Some("acme/orders".to_owned()), Some("finance/ledger".to_owned()), None]);
    let rules: Vec<_> = inbound.routes.iter().map(|route| &route.rules).collect();
    assert_eq!(rules[0].staleness.deny_after, Some(Duration::from_secs(900)));
    assert!(!rules[0].proof_nonces && rules[0].public_origin.is_some());
    assert_eq!(rules[1].staleness.warn_after, Duration::from_secs(5), "the default never exceeds deny_after");
    assert_eq!(rules[1].audiences.iter().map(|name| &**name).collect::<Vec<_>>(), ["ledger"]);
    assert!(rules[2].anonymous && rules[2].audiences.is_empty() && rules[2].staleness.deny_after.is_none());
    let UpstreamAddress::Clear(app) = &config.upstreams["app"].address else { panic!("in clear") };
    assert_eq!(app.to_string(), "http://127.0.0.1:8080");
    let UpstreamAddress::Secure(server, tls) = &config.upstreams["grpc"].address else { panic!("TLS") };
    assert_eq!(
        (server.to_string().as_str(), &*tls.server_name),
        ("https://app.example:9090", "app.internal")
    );
    assert_eq!(config.credentials.dpop_nonce_key, Some(at("nonces.key")));
    assert_eq!(
        (&tls.ca, &tls.own),
        (&at("app-ca.pem"), &Some(OwnCertificate::Files(at("own.crt"), at("own.key"))))
    );
    let socket = UpstreamAddress::Socket(Path::new("/run/app.sock").into());
    assert_eq!(config.upstreams["local"].address, socket);
    let assertion = Assertion {
        issuer: "https://portreeve.example".into(),
        audience: "grpc".into(),
        lifetime: Duration::from_secs(45),
    };
    assert_eq!(config.upstreams["grpc"].assertion, Some(assertion));
    assert_eq!(config.upstreams["app"].assertion, None);
    let credential = |upstream: &str| config.upstreams[upstream].credential.clone();
    let header = UpstreamCredential::Header("x-app-key".into(), at("app.key"));
    let basic = UpstreamCredential::Basic("portreeve".into(), at("app.password"));
    assert_eq!((credential("app"), credential("grpc")), (Some(header), None));
    assert_eq!(credential("local"), Some(basic));
    let health = Health {
        path: Some("/healthz".into()),
        interval: Duration::from_secs(9),
        timeout: Duration::from_secs(3),
        healthy_after: 4,
        unhealthy_after: 6,
        expected_status: [200, 204].into(),
        gates_readiness: true,
    };
    assert_eq!((&config.upstreams["local"].health, &config.upstreams["app"].health), (&Some(health), &None));
    let ListenerKind::ExtAuthz(envoy) = &envoy.kind else { panic!("ext_authz") };
    assert_eq!((&*envoy.service_key, &*envoy.rules.upstream), ("service", ""));
    assert_eq!(envoy.rules.staleness.deny_after, None);
    assert!(envoy.rules.proof_nonces);
    let file = "/etc/portreeve/proxy.yaml";
    assert_eq!(
        warnings,
        [
            format!(
                "{file}:34:20: `listeners[0].routes[2].anonymous`: anyone may use this route: no credential is asked for, and so no revocation reaches it"
            ),
            format!(
                "{file}:40:15: `listeners[1].evidence`: decisions go on without their record when there is no room, and a crash loses records"
            ),
            format!(
                "{file}:41:47: `listeners[1].staleness.deny_after`: requests are allowed on state of any age: a revocation may never take effect here"
            ),
            format!(
                "{file}:73:20: `forward.pass_credential`: upstreams receive credentials and could use them elsewhere"
            ),
        ]
    );
}

#[test]
fn a_credential_in_clear_is_a_warning_where_a_network_is_crossed() {
    for (url, warned) in [("http://app.example:8080", true), ("http://localhost:8080", false)] {
        let text = edited(&sample("proxy.yaml"), "http://127.0.0.1:8080", url);
        let warnings = proxy(&text).expect("accepted").warnings;
        let told = warnings.iter().any(|line| line.contains("`upstreams.app.credential`"));
        assert_eq!(told, warned, "{url}: {warnings:?}");
    }
}

#[test]
fn the_other_samples_and_their_defaults() {
    let minimal = proxy(&sample("minimal-proxy.yaml")).expect("accepted");
    assert!(minimal.warnings.is_empty());
    let config = minimal.config;
    assert_eq!(config.hub.access, HubAccess::JoinToken("/etc/portreeve/join.token".into()));
    assert_eq!(config.enforcement_point.id.as_str(), "host-7.example");
    assert_eq!(config.enforcement_point.tenant.as_str(), "default");
    assert_eq!(config.enforcement_point.data_dir, Path::new("/etc/portreeve/data"));
    assert_eq!((config.workers, config.listeners[0].unresolved_refusals_per_s), (6, 100));
    assert_eq!(config.evidence.spool.max_bytes, 1 << 30);
    assert_eq!(config.evidence.spool.segment_bytes, 64 << 20);
    assert_eq!(config.admin.to_string(), "127.0.0.1:7403");
    assert!(config.forward.identity_headers && !config.forward.pass_credential);
    let limits = config.listeners[0].limits;
    assert_eq!(
        (limits.max_connections, limits.max_header_bytes, limits.max_concurrent_streams),
        (10_000, 32 << 10, 200)
    );
    let ListenerKind::ExtAuthz(envoy) = &config.listeners[0].kind else { panic!("ext_authz") };
    assert_eq!(envoy.rules.staleness, portreeve::core::policy::Staleness::default());

    let full = hub(&sample("hub.yaml")).expect("accepted").config;
    assert_eq!(full.store, Store::Sqlite("/etc/portreeve/hub.db".into()));
    assert_eq!(full.witness, Path::new("/var/lib/witness/hub.witness"));
    let StateSecurity::MutualTls(Some(files)) = &full.state.security else { panic!("files") };
    assert_eq!(files.client_ca.as_deref(), Some(Path::new("/etc/portreeve/spokes.pem")));
    assert_eq!(full.api.admin_token_file, Path::new("/var/lib/portreeve/admin.token"));
    let minimal = hub(&sample("minimal-hub.yaml")).expect("accepted").config;
    assert_eq!(minimal.store, Store::Sqlite("/var/lib/portreeve/hub.db".into()));
    assert_eq!(minimal.witness, Path::new("/etc/portreeve/data/hub.witness"));
    assert_eq!(minimal.api.admin_token_file, Path::new("/etc/portreeve/data/admin.token"));
    assert_eq!(minimal.state.security, StateSecurity::MutualTls(None), "never in clear unasked");
    assert!(!minimal.state.all_tenants_by_default);
    assert_eq!(minimal.state.certificate_lifetime, Duration::from_secs(86_400));
    assert_eq!(
        (minimal.state.address.port(), minimal.api.address.port(), minimal.metrics.port()),
        (7410, 7411, 7404)
    );
}

#[test]
fn bounds_hold_on_both_sides() {
    // (what the sample has, the key, least, one below, most, one above); an empty text: no such side.
    let rows = [
        ("workers: 4", "workers: ", "1", "0", "1024", "1025"),
        ("drain_timeout: 25s", "drain_timeout: ", "0s", "", "1h", "3600001ms"),
        ("unresolved_refusals_per_s: 200", "unresolved_refusals_per_s: ", "1", "0", "1000000", "1000001"),
        ("max_connections: 10000", "max_connections: ", "1", "0", "1000000", "1000001"),
        ("header_timeout: 10s", "header_timeout: ", "100ms", "99ms", "10m", "600001ms"),
        ("max_header_bytes: 32KiB", "max_header_bytes: ", "8KiB", "8191", "1MiB", "1048577"),
        ("max_concurrent_streams: 200", "max_concurrent_streams: ", "1", "0", "10000", "10001"),
        ("end_timeout: 500ms", "end_timeout: ", "10ms", "9ms", "900ms", "901ms"),
        ("max_requests: 10000", "max_requests: ", "1", "0", "1000000", "1000001"),
        ("idle_timeout: 75s", "idle_timeout: ", "1s", "999ms", "1h", "3600001ms"),
        ("send_timeout: 30s", "send_timeout: ", "1s", "999ms", "1h", "3600001ms"),
        ("max_headers: 100", "max_headers: ", "10", "9", "1000", "1001"),
        ("max_uri_bytes: 8KiB", "max_uri_bytes: ", "64", "63", "64KiB", "65537"),
        ("max_body_bytes: 64MiB", "max_body_bytes: ", "0", "", "16TiB", "17592186044417"),
        ("body_timeout: 15s", "body_timeout: ", "1s", "999ms", "1h", "3600001ms"),
        ("min_body_rate: 240", "min_body_rate: ", "0", "", "1MiB", "1048577"),
        ("max_resets: 200", "max_resets: ", "1", "0", "100000", "100001"),
        ("max_control_frames: 1000", "max_control_frames: ", "100", "99", "1000000", "1000001"),
        ("memory_budget: 512MiB", "memory_budget: ", "16MiB", "16777215", "16TiB", "17592186044417"),
        ("connect_timeout: 1s", "connect_timeout: ", "10ms", "9ms", "1m", "60001ms"),
        ("response_timeout: 30s", "response_timeout: ", "10ms", "9ms", "1h", "3600001ms"),
        ("max_idle_per_worker: 64", "max_idle_per_worker: ", "0", "", "10000", "10001"),
        ("lifetime: 45s", "lifetime: ", "1s", "999ms", "60s", "60001ms"),
        ("interval: 9s", "interval: ", "100ms", "99ms", "1h", "3600001ms"),
        ("timeout: 3s", "timeout: ", "10ms", "9ms", "1m", "60001ms"),
        (" healthy_after: 4", " healthy_after: ", "1", "0", "100", "101"),
        ("unhealthy_after: 6", "unhealthy_after: ", "1", "0", "100", "101"),
        ("expected_status: [200, 204]", "expected_status: ", "[200]", "[199]", "[599]", "[600]"),
        ("clock_skew: 30s", "clock_skew: ", "0s", "", "60s", "60001ms"),
        ("timeout: 2s", "timeout: ", "50ms", "49ms", "5s", "5001ms"),
        ("active_max: 25s", "active_max: ", "1s", "999ms", "30s", "30001ms"),
        ("inactive_max: 5s", "inactive_max: ", "1s", "999ms", "10s", "10001ms"),
        ("max_concurrent: 63", "max_concurrent: ", "1", "0", "10000", "10001"),
        ("pause_after: 5", "pause_after: ", "1", "0", "1000", "1001"),
        ("pause: 11s", "pause: ", "1s", "999ms", "5m", "300001ms"),
        ("segment_bytes: 64MiB", "segment_bytes: ", "1MiB", "1048575", "1GiB", "1073741825"),
        ("max_bytes: 4GiB", "max_bytes: ", "256MiB", "268435455", "16TiB", "17592186044417"),
        ("warn_after: 10s, deny_after: 15m", "deny_after: ", "1s", "999ms", "30d", "2592000001ms"),
        (
            "warn_after: 10s, deny_after: 15m",
            "deny_after: 30d, warn_after: ",
            "1s",
            "999ms",
            "30d",
            "2592000001ms",
        ),
    ];
    let text = sample("proxy.yaml");
    for (from, key, least, below, most, above) in rows {
        for good in [least, most] {
            let told =
                proxy(&edited(&text, from, &format!("{key}{good}"))).err().map(|error| error.to_string());
            assert_eq!(told, None, "{key}{good}");
        }
        for bad in [below, above].into_iter().filter(|bad| !bad.is_empty()) {
            assert!(proxy(&edited(&text, from, &format!("{key}{bad}"))).is_err(), "{key}{bad}");
        }
    }
}

#[test]
fn variables_become_values_and_nothing_else() {
    let text = sample("proxy.yaml");
    let with = |from: &str, to: &str| proxy(&edited(&text, from, to)).expect(to).config;
    assert_eq!(with("id: orders-1", "id: ${NAME}").enforcement_point.id.as_str(), "orders-2");
    assert_eq!(with("id: orders-1", "id: \"${MISSING:-spare}-1\"").enforcement_point.id.as_str(), "spare-1");
    assert_eq!(with("id: orders-1", "id: ${EMPTY:-spare}").enforcement_point.id.as_str(), "spare");
    assert_eq!(with("workers: 4", "workers: ${NUMBER}").workers, 7);
    assert_eq!(with("workers: 4", "workers: \"${NUMBER}\"").workers, 7);
    assert!(with("identity_headers: true", "identity_headers: ${TRUE}").forward.identity_headers);
    let api = with("socket: \"unix:///run/spire/agent.sock\", jwt", "jwt").workload_api;
    assert_eq!(api.map(|api| api.endpoint.to_string()).as_deref(), Some("http://127.0.0.1:8000"));
    assert_eq!(with("127.0.0.1:7401", "${ADDR}").listeners[1].address.port(), 7409);
    assert_eq!(with("127.0.0.1:7401", "127.0.0.1:${PORT}").listeners[1].address.port(), 7409);
    let audience = |config: &ProxyConfig| config.credentials.audiences[0].to_string();
    assert_eq!(audience(&with("[orders]", "[\"$${NAME} $ $x $$$$\"]")), "${NAME} $ $x $$");
    assert_eq!(audience(&with("[orders]", "[\"${INJECTION}\"]")), "x\nworkers: 9\n# \"}");
    let injected = with("[orders]", "\n    - ${INJECTION}");
    assert_eq!((audience(&injected).as_str(), injected.workers), ("x\nworkers: 9\n# \"}", 4));
}

#[test]
fn scalars_are_what_their_key_says() {
    let text = sample("proxy.yaml");
    for audience in ["no", "0777", "1e3", "1.10", "true", "2026-01-01"] {
        let config = proxy(&edited(&text, "[orders]", &format!("[{audience}]"))).expect(audience).config;
        assert_eq!(&*config.credentials.audiences[0], audience);
    }
    let size = proxy(&edited(&text, "32KiB", "32768")).expect("plain bytes").config;
    assert_eq!(size.listeners[0].limits.max_header_bytes, 32 << 10);
}

#[test]
fn aliases_are_copies_and_bounded() {
    let text = edited(&sample("proxy.yaml"), "audiences: [orders]", "audiences: &all [orders, billing]");
    let text = edited(&text, "audiences: [mesh]", "audiences: [mesh]");
    let moved = edited(&text, "credentials:\n", "credentials:\n  # anchored\n");
    assert_eq!(proxy(&moved).expect("anchors are accepted").config.credentials.audiences.len(), 2);

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..=12 {
        let below = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", ")));
    }
    let told = proxy(&bomb).expect_err("too many").to_string();
    assert!(told.contains("found more values than are accepted, expected at most 100000"), "{told}");
}

#[test]
fn files_that_are_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy.yaml");
    let told = |bytes: Option<&[u8]>| {
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).expect("written");
        }
        let error = load_proxy(&path, &environment()).expect_err("refused");
        error.to_string().replace(&path.display().to_string(), "FILE")
    };
    assert_eq!(told(None), "FILE: no such file, expected a configuration; name it with `--config`");
    assert_eq!(
        told(Some(b"workers: \xff")),
        "FILE: not UTF-8 at byte 9, expected UTF-8; save it in that encoding"
    );
    let empty = "FILE: empty, expected the configuration of a proxy; `portreeve check --schema` describes it";
    for nothing in ["", "\n\n", "# only a comment\n", "---\n", "~\n"] {
        assert_eq!(told(Some(nothing.as_bytes())), empty, "{nothing:?}");
    }
    let other = "FILE: the configuration of a hub, expected that of a proxy; run `portreeve hub`, or name another file";
    assert_eq!(told(Some(sample("hub.yaml").as_bytes())), other);
    let large = vec![b'#'; (4 << 20) + 1];
    assert_eq!(told(Some(&large)), "FILE: larger than 4194304 bytes, the most that is read; shorten it");
    assert_eq!(told(Some(&large[1..])), empty);
    let error = load_hub(directory.path(), &environment()).expect_err("a directory");
    assert!(matches!(error, ConfigError::Unreadable(_)), "{error}");
    std::fs::write(&path, sample("minimal-proxy.yaml")).expect("written");
    let loaded = load_proxy(&path, &environment()).expect("accepted").config;
    assert_eq!(loaded.enforcement_point.data_dir, directory.path().join("data"));
}

#[test]
fn roles_are_told_by_their_keys() {
    for (name, role) in [
        ("proxy.yaml", Role::Proxy),
        ("minimal-proxy.yaml", Role::Proxy),
        ("hub.yaml", Role::Hub),
        ("minimal-hub.yaml", Role::Hub),
    ] {
        assert_eq!(detect_role(&sample(name)), Some(role), "{name}");
    }
    for neither in ["", "- 1", "log: {}", "hub: {}", "a: [", "metrics: 3"] {
        assert_eq!(detect_role(neither), None, "{neither}");
    }
}

/// The schema that `schema` refers to, if it does.
fn resolved<'a>(defs: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
        Some(name) => &defs[name],
        None => schema,
    }
}

/// Key paths of `schema`, with `[]` for any item and `*` for any key; each object must be closed and described.
fn walk(defs: &Value, schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    let schema = resolved(defs, schema);
    assert!(!schema.to_string().contains("\"null\""), "{at} offers null");
    for choice in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        walk(defs, choice, at, found);
    }
    for (name, below) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        assert_eq!(schema.get("additionalProperties"), Some(&Value::Bool(false)), "{at} accepts any key");
        let path = format!("{at}.{name}");
        let told = below.get("description").or_else(|| resolved(defs, below).get("description"));
        assert!(told.is_some() || name == "kind", "{path} has no description");
        walk(defs, below, &path, found);
        found.insert(path);
    }
    if let Some(items) = schema.get("items") {
        walk(defs, items, &format!("{at}[]"), found);
    }
    if let Some(any) = schema.get("additionalProperties").filter(|any| any.is_object()) {
        walk(defs, any, &format!("{at}.*"), found);
    }
}

/// Key paths of a file's text in the sample's plain style, by way of the same parser that reads it.
fn written(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, below) in map {
                let name = if at == ".upstreams" { "*" } else { name };
                let path = format!("{at}.{name}");
                written(below, &path, found);
                if name != "*" {
                    found.insert(path);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| written(item, &format!("{at}[]"), found)),
        _ => {}
    }
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

#[test]
fn the_schema_has_each_accepted_key_and_no_other() {
    // What excludes each other stands in the one or in the other.
    for (role, name) in [(Role::Proxy, "proxy.yaml"), (Role::Hub, "hub.yaml")] {
        let document: Value = serde_json::from_str(&schema(Some(role))).expect("JSON");
        assert_eq!(document["$schema"], "https://json-schema.org/draft/2020-12/schema");
        let (mut promised, mut used) = (BTreeSet::new(), BTreeSet::new());
        walk(&document["$defs"], &document, "", &mut promised);
        for name in [name, &format!("minimal-{name}")] {
            written(&yaml(&sample(name)), "", &mut used);
        }
        assert_eq!(promised, used, "{name} is to have every key");
    }
    let both: Value = serde_json::from_str(&schema(None)).expect("JSON");
    assert_eq!(both["oneOf"].as_array().map(Vec::len), Some(2));
}

/// Adds an unknown key to each mapping of `value` in turn.
fn with_strangers(value: &Value) -> Vec<(String, Value)> {
    fn add(root: &Value, pointer: &str, value: &Value, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) => {
                if pointer != "/upstreams" {
                    let mut copy = root.clone();
                    copy.pointer_mut(pointer).expect("there")["stranger"] = Value::Bool(true);
                    out.push((pointer.to_owned(), copy));
                }
                map.iter().for_each(|(name, below)| add(root, &format!("{pointer}/{name}"), below, out));
            }
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(index, item)| add(root, &format!("{pointer}/{index}"), item, out));
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    add(value, "", value, &mut out);
    out
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    let mut levels = 0;
    for name in ["proxy.yaml", "hub.yaml"] {
        for (pointer, value) in with_strangers(&yaml(&sample(name))) {
            // JSON is YAML.
            let text = value.to_string();
            let told = match name {
                "proxy.yaml" => proxy(&text).expect_err(&pointer).to_string(),
                _ => hub(&text).expect_err(&pointer).to_string(),
            };
            assert!(told.contains("stranger`: found an unknown key, expected o"), "{pointer}: {told}");
            assert_eq!(told.lines().count(), 1, "{told}");
            levels += 1;
        }
    }
    assert!(levels > 25, "{levels}");
}

#[test]
fn addresses_that_cannot_both_be_listened_on() {
    let text = sample("proxy.yaml");
    for (address, free) in [
        ("127.0.0.1:7402", true),
        ("127.0.0.2:7400", true),
        ("127.0.0.1:0", true),
        ("0.0.0.0:7400", false),
        ("[::]:7400", false),
        ("[::1]:7400", true),
        ("[::1]:7404", true),
        ("127.0.0.9:7404", false),
        ("[::ffff:127.0.0.1]:7400", false),
    ] {
        let text = edited(&text, "127.0.0.1:7401", &format!("\"{address}\""));
        assert_eq!(proxy(&text).is_ok(), free, "{address}");
    }
}

#[test]
fn a_state_stream_in_clear_is_asked_for_by_its_long_name_and_warned_of() {
    let text = sample("minimal-proxy.yaml");
    let clear = edited(&text, "https://localhost:7410", "http://localhost:7410");
    let clear = edited(&clear, "join_token_file: join.token", "insecure_cleartext_loopback: true");
    let Loaded { config, warnings } = proxy(&clear).expect("accepted");
    assert_eq!(config.hub.access, HubAccess::InsecureCleartext);
    assert!(warnings[0].contains("decides what is allowed here"), "{warnings:?}");
    let text = sample("minimal-hub.yaml");
    let clear = format!("{text}state: {{ insecure_cleartext_loopback: true }}\n");
    let Loaded { config, warnings } = hub(&clear).expect("accepted");
    assert_eq!(config.state.security, StateSecurity::InsecureCleartext);
    assert!(config.state.all_tenants_by_default);
    assert!(warnings[0].contains("pose as any enforcement point"), "{warnings:?}");
    let narrow = format!("{text}state: {{ insecure_cleartext_loopback: true, default_scope: none }}\n");
    assert!(!hub(&narrow).expect("accepted").config.state.all_tenants_by_default);
}

#[test]
fn listening_on_the_network_in_clear_is_warned_of() {
    let text = edited(&sample("minimal-proxy.yaml"), "127.0.0.1:7401", "0.0.0.0:7401");
    let warnings = proxy(&text).expect("accepted").warnings;
    assert_eq!(
        warnings,
        [
            "/etc/portreeve/proxy.yaml:5:46: `listeners[0].address`: credentials cross the network in clear: not a loopback address, and no TLS"
        ]
    );
}
