//! Envoy's external authorization on a real socket: rows of attributes, the expected reason,
//! and what must hold of every answer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use portreeve::core::evidence::Door;
use portreeve::core::policy::Reason;
use portreeve::pep::{ForwardSettings, Load};
use portreeve::wire::ext_authz::attribute_context::{HttpRequest, Peer, Request};
use portreeve::wire::ext_authz::authorization_client::AuthorizationClient;
use portreeve::wire::ext_authz::base::{Address, HeaderMap, HeaderValue, SocketAddress, address};
use portreeve::wire::ext_authz::check_response::HttpResponse;
use portreeve::wire::ext_authz::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, value::Kind,
};
use tonic::transport::Channel;

use crate::support::front::{Gate, ext_authz, ext_authz_with};
use crate::support::upstream::Upstream;
use crate::support::world::World;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn client(address: std::net::SocketAddr) -> AuthorizationClient<Channel> {
    AuthorizationClient::connect(format!("http://{address}")).await.unwrap()
}

/// A GET of `/orders/1` by `headers`, for the service `orders`.
fn call(headers: &[(&str, &str)]) -> CheckRequest {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let http = HttpRequest {
        id: "1".to_owned(),
        method: "GET".to_owned(),
        path: "/orders/1?x=1".to_owned(),
        host: "orders.test".to_owned(),
        scheme: "http".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        size: -1,
        headers: headers.collect(),
        ..HttpRequest::default()
    };
    let socket = SocketAddress { address: "10.1.2.3".to_owned(), ..SocketAddress::default() };
    let address = Address { address: Some(address::Address::SocketAddress(socket)) };
    let attributes = AttributeContext {
        source: Some(Peer { address: Some(address), ..Peer::default() }),
        request: Some(Request { http: Some(http) }),
        context_extensions: HashMap::from([("service".to_owned(), "orders".to_owned())]),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

/// The code of the answer to such a call, and the headers it removes.
pub(crate) fn ask(address: std::net::SocketAddr, headers: &[(&str, &str)]) -> (i32, Vec<String>) {
    let answer = runtime().block_on(async { client(address).await.check(call(headers)).await.unwrap() });
    let answer = answer.into_inner();
    let removed = judge(&answer).map_or_else(|_| Vec::new(), |ok| ok.headers_to_remove.clone());
    (answer.status.unwrap().code, removed)
}

/// The code of the answer to such a call, and the headers that its caller is told.
pub(crate) fn told(address: std::net::SocketAddr, headers: &[(&str, &str)]) -> (i32, Vec<(String, String)>) {
    let answer = runtime().block_on(async { client(address).await.check(call(headers)).await.unwrap() });
    let answer = answer.into_inner();
    let lines = match judge(&answer) {
        Ok(ok) => &ok.response_headers_to_add,
        Err(denied) => &denied.headers,
    };
    let lines = lines.iter().map(|option| option.header.clone().unwrap());
    let lines = lines.map(|line| (line.key, line.value)).collect();
    (answer.status.unwrap().code, lines)
}

fn http(call: &mut CheckRequest) -> &mut HttpRequest {
    call.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap()
}

/// Adds headers until there are `count`.
fn many(call: CheckRequest, count: usize) -> CheckRequest {
    changed(call, |http| {
        let more = count - http.headers.len();
        http.headers.extend((0..more).map(|n| (format!("h{n}"), "1".to_owned())));
    })
}

/// Moves the headers to the shape in which each line stands alone.
fn apart(mut call: CheckRequest, more: &[(&str, &str)]) -> CheckRequest {
    let http = http(&mut call);
    let mut headers: Vec<_> = http.headers.drain().collect();
    headers.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let lines = headers.into_iter().map(|(key, value)| HeaderValue {
        key,
        value: String::new(),
        raw_value: value.into_bytes().into(),
    });
    http.header_map = Some(HeaderMap { headers: lines.collect() });
    call
}

fn changed(mut call: CheckRequest, change: impl FnOnce(&mut HttpRequest)) -> CheckRequest {
    change(http(&mut call));
    call
}

fn for_service(mut call: CheckRequest, service: Option<&str>) -> CheckRequest {
    let extensions = &mut call.attributes.as_mut().unwrap().context_extensions;
    extensions.clear();
    extensions.extend(service.map(|service| ("service".to_owned(), service.to_owned())));
    call
}

/// What must hold of every answer; gives the reason that an answer tells, 401s aside.
fn judge(answer: &CheckResponse) -> Result<&OkHttpResponse, &DeniedHttpResponse> {
    let code = answer.status.as_ref().expect("a status").code;
    match answer.http_response.as_ref().expect("an answer") {
        HttpResponse::OkResponse(ok) => {
            assert_eq!(code, 0);
            let set: BTreeSet<&str> =
                ok.headers.iter().map(|option| option.header.as_ref().unwrap().key.as_str()).collect();
            for option in &ok.headers {
                assert_eq!((option.append, option.append_action), (Some(false), 2));
                assert!(!option.header.as_ref().unwrap().value.is_empty(), "Envoy drops empty values");
            }
            for removed in &ok.headers_to_remove {
                assert!(!set.contains(removed.as_str()), "{removed} is set and removed");
            }
            Ok(ok)
        }
        HttpResponse::DeniedResponse(denied) => {
            let status = denied.status.as_ref().unwrap().code;
            assert_eq!(code, if status == 401 { 16 } else { 7 }, "HTTP {status}");
            Err(denied)
        }
    }
}

fn header<'a>(
    headers: &'a [portreeve::wire::ext_authz::base::HeaderValueOption],
    name: &str,
) -> Option<&'a str> {
    let lines = headers.iter().map(|option| option.header.as_ref().unwrap());
    lines.filter(|line| line.key == name).map(|line| line.value.as_str()).next()
}

#[test]
fn rows() {
    let world = World::new();
    let (running, _door) = ext_authz(&world, ForwardSettings::default());
    let token = world.token(&world.claims("ledger"));
    let bearer = format!("Bearer {token}");
    let auth = ("authorization", bearer.as_str());
    let joined = format!("{bearer},{bearer}");
    let good = || call(&[auth, ("host", "orders.test"), (":path", "/orders/1"), ("accept", "*/*")]);
    let rows: Vec<(&str, CheckRequest, Option<Reason>)> = vec![
        ("headers", good(), None),
        ("header_map", apart(good(), &[]), None),
        ("tenant in the service", for_service(good(), Some("demo/orders")), None),
        ("own header is removed", call(&[auth, ("x-portreeve-identity", "root")]), None),
        (
            "no host, as gRPC clients may",
            changed(good(), |http| {
                http.host.clear();
                http.headers.remove("host");
            }),
            None,
        ),
        ("forwarded headers are Envoy's", call(&[auth, ("x-forwarded-for", "1.2.3.4")]), None),
        ("no credential", call(&[]), Some(Reason::CredentialMissing)),
        ("other scheme", call(&[("authorization", "Basic eDp5")]), Some(Reason::CredentialMalformed)),
        ("replaced bytes", call(&[("authorization", "Bearer !!!")]), Some(Reason::CredentialMalformed)),
        ("two joined", call(&[("authorization", &joined)]), Some(Reason::RequestCredentials)),
        ("two lines", apart(good(), &[auth]), Some(Reason::RequestCredentials)),
        (
            "both shapes",
            {
                let mut both = apart(good(), &[]);
                http(&mut both).headers.insert("authorization".to_owned(), bearer.clone());
                both
            },
            Some(Reason::RequestCredentials),
        ),
        ("alias", call(&[auth, ("x_portreeve_identity", "root")]), Some(Reason::RequestAmbiguous)),
        ("alias apart", apart(good(), &[("X.Portreeve.Identity", "root")]), Some(Reason::RequestAmbiguous)),
        ("no header name", call(&[auth, ("a b", "1")]), Some(Reason::RequestAmbiguous)),
        ("no method", changed(good(), |http| http.method.clear()), Some(Reason::RequestAmbiguous)),
        ("no path", changed(good(), |http| http.path.clear()), Some(Reason::RequestAmbiguous)),
        (
            "dot segments",
            changed(good(), |http| http.path = "/orders/../admin".into()),
            Some(Reason::RequestAmbiguous),
        ),
        ("dots in the query", changed(good(), |http| http.path = "/orders/1?/../a".into()), None),
        ("query split at the first ?", changed(good(), |http| http.path = "/orders/1?a?/b".into()), None),
        (
            "fragment",
            changed(good(), |http| http.path = "/orders/1?a#b".into()),
            Some(Reason::RequestAmbiguous),
        ),
        ("two hosts", changed(good(), |http| http.host = "a, b".into()), Some(Reason::RequestAmbiguous)),
        (
            "another host",
            changed(good(), |http| http.host = "admin.test".into()),
            Some(Reason::RequestAmbiguous),
        ),
        ("as many headers as fit", many(good(), 24_576), None),
        ("one more", many(good(), 24_577), Some(Reason::RequestLimit)),
        ("no service", for_service(good(), None), Some(Reason::PolicyDenied)),
        ("unknown service", for_service(good(), Some("ledger")), Some(Reason::PolicyDenied)),
        ("malformed service", for_service(good(), Some("demo/orders/1")), Some(Reason::PolicyDenied)),
        ("another tenant", for_service(good(), Some("other/orders")), Some(Reason::StateAbsent)),
        ("entitlement", changed(good(), |http| http.method = "POST".into()), Some(Reason::PolicyDenied)),
        ("nothing at all", CheckRequest::default(), Some(Reason::RequestAmbiguous)),
    ];
    runtime().block_on(async {
        let mut client = client(running.address()).await;
        for (index, (row, call, expected)) in rows.into_iter().enumerate() {
            let answer = client.check(call).await.unwrap().into_inner();
            assert_eq!(world.log.entries().len(), index + 1, "{row}");
            assert_eq!(world.log.last_verdict().reason(), expected, "{row}");
            let Err(denied) = judge(&answer) else {
                assert_eq!(expected, None, "{row}");
                continue;
            };
            let reason = expected.unwrap_or_else(|| panic!("{row}: {denied:?}"));
            assert_eq!(denied.status.as_ref().unwrap().code, i32::from(reason.status()), "{row}");
            let told = (reason.status() != 401).then(|| reason.code());
            assert_eq!(header(&denied.headers, "x-portreeve-reason"), told, "{row}");
            assert!(denied.body.contains("\"decision\":"), "{row}");
        }
    });
}

#[test]
fn an_allow_introduces_the_caller_and_removes_what_it_must() {
    let world = World::new();
    let bearer = format!("Bearer {}", world.token(&world.claims("ledger")));
    let asked =
        call(&[("authorization", &bearer), ("x-portreeve-later", "1"), ("x-portreeve-identity", "root")]);
    for (forward, set, removed) in [
        (
            ForwardSettings::default(),
            vec![("x-portreeve-identity", "ledger"), ("x-portreeve-tenant", "demo")],
            vec![
                "authorization",
                "dpop",
                "x-portreeve-assertion",
                "x-portreeve-later",
                "x-portreeve-reason",
                "x-portreeve-warning",
            ],
        ),
        (
            ForwardSettings { identity_headers: false, pass_credential: true },
            vec![],
            vec![
                "x-portreeve-assertion",
                "x-portreeve-decision",
                "x-portreeve-identity",
                "x-portreeve-later",
                "x-portreeve-reason",
                "x-portreeve-tenant",
                "x-portreeve-warning",
            ],
        ),
    ] {
        let (running, _door) = ext_authz(&world, forward);
        let answer =
            runtime().block_on(async { client(running.address()).await.check(asked.clone()).await.unwrap() });
        let answer = answer.into_inner();
        let ok = judge(&answer).unwrap();
        for (name, value) in &set {
            assert_eq!(header(&ok.headers, name), Some(*value));
        }
        assert_eq!(ok.headers.len(), if set.is_empty() { 0 } else { set.len() + 1 });
        assert_eq!(ok.headers_to_remove, removed);
        let fields = &answer.dynamic_metadata.as_ref().unwrap().fields;
        let text = |name: &str| match fields[name].kind.as_ref().unwrap() {
            Kind::StringValue(text) => text.clone(),
            Kind::NumberValue(number) => number.to_string(),
            Kind::BoolValue(flag) => flag.to_string(),
        };
        assert_eq!(
            (text("identity"), text("tenant"), text("revision")),
            ("ledger".into(), "demo".into(), "1".into())
        );
        assert_eq!(
            header(&ok.response_headers_to_add, "x-portreeve-decision"),
            Some(text("decision").as_str())
        );
    }
    assert_eq!(world.log.last_verdict().basis().position.revision, 1);
    assert_eq!(Door::ExtAuthz.as_str(), "ext_authz");
}

/// The certificate of a check counts where Envoy is said to have validated it; its principal never does.
#[test]
fn certificates_that_envoy_validated() {
    let made = |uris: &[&str]| {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names =
            uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
        let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        pem.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>()
    };
    let ledger = "spiffe://acme.example/ns/pay/ledger";
    let (good, none) = (made(&[ledger]), made(&[]));
    let rows = [
        (true, good.as_str(), "", 0),
        (false, good.as_str(), "", 16),
        (true, "", ledger, 16),
        (true, none.as_str(), ledger, 16),
        (true, "%00", ledger, 7),
    ];
    for (validated, certificate, principal, expected) in rows {
        let world = World::new();
        crate::conformance::certificate::prepare_for_long(&world);
        let (running, _door) = ext_authz_with(&world, |settings| {
            settings.takes_certificates = validated;
            settings.client_issuer = Some("spiffe://acme.example".into());
        });
        let mut asked = call(&[]);
        let source = asked.attributes.as_mut().unwrap().source.as_mut().unwrap();
        (source.certificate, source.principal) = (certificate.to_owned(), principal.to_owned());
        let answer =
            runtime().block_on(async { client(running.address()).await.check(asked).await.unwrap() });
        let code = answer.into_inner().status.unwrap().code;
        assert_eq!(code, expected, "§1 validated {validated}, principal `{principal}`");
    }
}

/// What would have the upstream act on another request is removed; what Envoy says of the caller stays.
#[test]
fn headers_that_name_another_request_are_removed() {
    let world = World::new();
    let (running, _door) = ext_authz(&world, ForwardSettings::default());
    let bearer = format!("Bearer {}", world.token(&world.claims("ledger")));
    let asked = call(&[
        ("authorization", &bearer),
        ("x-http-method-override", "DELETE"),
        ("x_http_method", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("x-forwarded-for", "10.1.2.3"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "orders.test"),
        ("x-forwarded-client-cert", "Hash=aa"),
        ("x_forwarded_for", "10.1.2.3"),
        ("x-forwarded-user", "root"),
        ("forwarded", "for=10.1.2.3"),
        ("x-real-ip", "10.1.2.3"),
        ("client-cert", ":AA==:"),
        ("ssl-client-verify", "SUCCESS"),
        ("ssl_client_subject_dn", "CN=root"),
    ]);
    let answer = runtime()
        .block_on(async { client(running.address()).await.check(asked).await.unwrap() })
        .into_inner();
    let removed = &judge(&answer).unwrap().headers_to_remove;
    for name in [
        "x-http-method-override",
        "x_http_method",
        "x-original-url",
        "x-rewrite-url",
        "x_forwarded_for",
        "x-forwarded-user",
        "forwarded",
        "x-real-ip",
        "client-cert",
        "ssl-client-verify",
        "ssl_client_subject_dn",
    ] {
        assert!(removed.iter().any(|held| held == name), "{name} stays");
    }
    for name in ["for", "proto", "host", "client-cert"] {
        let name = format!("x-forwarded-{name}");
        assert!(!removed.contains(&name), "{name} is Envoy's own: {removed:?}");
    }
}

/// Envoy forwards the form that was judged, not the one it was sent.
#[test]
fn a_target_in_another_form_is_replaced() {
    let world = World::new();
    let (running, _door) = ext_authz(&world, ForwardSettings::default());
    let bearer = format!("Bearer {}", world.token(&world.claims("ledger")));
    runtime().block_on(async {
        let mut client = client(running.address()).await;
        for (sent, expected) in [
            ("/orders/1?%2e=%7e", None),
            ("/%6frders/%7e", Some("/orders/~")),
            ("/%6frders/1?%2e=%7e?", Some("/orders/1?%2e=%7e?")),
        ] {
            let asked = changed(call(&[("authorization", &bearer)]), |http| http.path = sent.to_owned());
            let answer = client.check(asked).await.unwrap().into_inner();
            assert_eq!(header(&judge(&answer).unwrap().headers, ":path"), expected, "{sent}");
        }
    });
}

/// The same request is refused in the same words by both doors.
#[test]
fn a_refusal_reads_as_the_proxy_writes_it() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let by_proxy = gate
        .caller()
        .ask("POST /orders/1?x=1 HTTP/1.1\r\nHost: orders.test\r\nAuthorization: Basic x\r\n\r\n");
    let (running, _door) = ext_authz(&gate.world, ForwardSettings::default());
    let asked = changed(call(&[("authorization", "Basic x")]), |http| http.method = "POST".into());
    let answer = runtime().block_on(async { client(running.address()).await.check(asked).await.unwrap() });
    let answer = answer.into_inner();
    let denied = judge(&answer).unwrap_err();
    assert_eq!(denied.status.as_ref().unwrap().code, i32::from(by_proxy.status));
    let decision = by_proxy.one("x-portreeve-decision").unwrap();
    let other = header(&denied.headers, "x-portreeve-decision").unwrap();
    assert_eq!(denied.body.replace(other, decision), by_proxy.body);
    for name in ["content-type", "cache-control", "www-authenticate"] {
        assert_eq!(header(&denied.headers, name), by_proxy.one(name), "{name}");
    }
}

#[test]
fn health_says_what_it_is_told() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    let world = World::new();
    let (running, door) = ext_authz(&world, ForwardSettings::default());
    runtime().block_on(async {
        let endpoint = Channel::from_shared(format!("http://{}", running.address())).unwrap();
        let mut client = HealthClient::new(endpoint.connect().await.unwrap());
        for told in [None, Some(true), Some(false)] {
            if let Some(serving) = told {
                door.serves().set(serving).await;
            }
            for service in ["", "envoy.service.auth.v3.Authorization"] {
                let asked = HealthCheckRequest { service: service.to_owned() };
                let status = client.check(asked).await.unwrap().into_inner().status();
                let serving = told.unwrap_or(false);
                let expected = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
                assert_eq!(status, expected, "{service} {told:?}");
            }
        }
        let unknown = HealthCheckRequest { service: "other".to_owned() };
        assert_eq!(client.check(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
    });
}

#[test]
fn one_check_too_many_is_shed_on_record() {
    let world = World::new();
    let load = Arc::new(Load::new(1, Arc::default()));
    let (running, _door) = ext_authz_with(&world, |settings| settings.load = Arc::clone(&load));
    let bearer = format!("Bearer {}", world.token(&world.claims("ledger")));
    let auth = [("authorization", bearer.as_str())];
    for (most, code) in [(1, 0), (0, 7), (1, 0)] {
        load.set_requests_max(most);
        let (found, lines) = told(running.address(), &auth);
        assert_eq!(found, code, "{most}");
        assert_eq!(world.log.last_verdict().reason(), (most == 0).then_some(Reason::Overloaded));
        let reason = lines.iter().find(|(name, _)| name == "x-portreeve-reason");
        assert_eq!(reason.map(|(_, value)| value.as_str()), (most == 0).then_some("overloaded"));
    }
    assert_eq!(world.log.entries().len(), 3);
}

#[test]
fn a_check_is_bounded_in_size_and_time() {
    let world = World::new();
    let short = std::time::Duration::from_millis(100);
    let (running, _door) = ext_authz_with(&world, |settings| settings.message_timeout = short);
    let bearer = format!("Bearer {}", world.token(&world.claims("ledger")));
    let sized = |length| call(&[("authorization", &bearer), ("x", &"y".repeat(length))]);
    runtime().block_on(async {
        let mut client = client(running.address()).await;
        let refused = client.check(sized(1 << 20)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::OutOfRange);
        // One whose message does not end.
        let stream = tokio::net::TcpStream::connect(running.address()).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = http::Request::post("http://a/envoy.service.auth.v3.Authorization/Check");
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let (answer, mut upload) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        upload.send_data(bytes::Bytes::from_static(&[0, 0, 0, 1, 0, 10]), false).unwrap();
        assert_eq!(answer.await.unwrap().headers()["grpc-status"], "4");
        assert!(world.log.entries().is_empty(), "there was nothing to judge");
        assert_eq!(client.check(sized(1 << 19)).await.unwrap().into_inner().status.unwrap().code, 0);
    });
}

#[test]
fn http1_is_not_spoken_here() {
    let world = World::new();
    let (running, _door) = ext_authz(&world, ForwardSettings::default());
    let mut caller = crate::support::caller::Caller::to(running.address());
    caller.write(b"POST /envoy.service.auth.v3.Authorization/Check HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(caller.is_closed());
    assert!(world.log.entries().is_empty());
}
