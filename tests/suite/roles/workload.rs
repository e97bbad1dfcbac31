//! An enforcement point whose certificate, authorities and keys come from a Workload API.

use std::fs;

use portreeve::core::credential::Algorithm;
use serde_json::json;
use tonic::Code;

use super::Site;
use crate::support::http::call;
use crate::support::issuer::{TestIssuer, jwks};
use crate::support::spiffe::{Agent, Domain, Peer, status};
use crate::support::until;
use crate::support::upstream::Upstream;

const DOMAIN: &str = "spiffe://acme.example";
const LEDGER: &str = "spiffe://acme.example/ns/pay/ledger";

fn take_from_agent(site: &Site, agent: &Agent) {
    let file = site.folder.path().join("proxy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let tls = "tls: { certificate_from: workload_api, client_ca_from: workload_api }";
    let text =
        text.replace("kind: proxy\n", &format!("kind: proxy\n    {tls}\n    client_issuer: \"{DOMAIN}\"\n"));
    let api = format!("workload_api: {{ socket: \"{}\", jwt_bundles: [\"{DOMAIN}\"] }}\n", agent.socket());
    fs::write(&file, text + &api).unwrap();
}

fn records(site: &Site, certificate: &str, keys: &str) {
    let at = |name: &str| site.folder.path().join(name);
    let text = format!(
        "kind: issuer\nname: td\nspec: {{ iss: \"{DOMAIN}\", profile: jwt-svid, algorithms: [ES256], \
         audiences: [orders], keys: {{ inline: {keys} }}, max_lifetime: 1h }}\n---\nkind: resource\n\
         name: orders\nspec: {{ environment: prod, routes: [{{ path: \"/**\", requires: read }}] }}\n---\n\
         kind: identity\nname: ledger\nspec: {{ type: workload, environment: prod, \
         bindings: [{{ issuer: td, subject: \"{LEDGER}\" }}], entitlements: [{{ name: read }}] }}\n"
    );
    fs::write(at("records.yaml"), text).unwrap();
    fs::write(at("ledger.pem"), certificate).unwrap();
    site.command(&["apply", "-f", at("records.yaml").to_str().unwrap()]);
    let file = at("ledger.pem");
    let own = ["--certificate", file.to_str().unwrap(), "--identity", "ledger"];
    site.command(&[&["credential", "create", "ledger-tls", "--kind", "certificate"][..], &own].concat());
}

#[test]
fn what_the_agent_gives_is_used_and_what_it_withdraws_is_not() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let agent = Agent::start(&site.folder.path().join("agent.sock"));
    take_from_agent(&site, &agent);
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    let domain = Domain::new();
    let caller = domain.svid(LEDGER, "ledger.test");
    let bundle = |key: &TestIssuer| {
        let mut jwk = key.jwk();
        jwk["use"] = json!("jwt-svid");
        jwks(&[jwk])
    };
    let of_record = TestIssuer::new(DOMAIN, "record", Algorithm::Es256);
    let keys = String::from_utf8(bundle(&of_record)).unwrap();
    records(&site, &portreeve::mtls::encode("CERTIFICATE", &caller.certificate), &keys);

    let ready = || call(site.health, "GET", "/readyz", &[]);
    until("the state", || !String::from_utf8_lossy(&ready().body).contains("state.absent"));
    let answer = ready();
    let told = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 503, "{told}");
    assert!(told.contains("workload_api: no certificate of its own has come"), "{told}");
    assert!(told.contains("X.509 bundles: PermissionDenied"), "{told}");

    agent.gives(&domain.svid("spiffe://acme.example/portreeve", "orders.test"));
    agent.vouches(&[(DOMAIN, &[&domain])]);
    let key = TestIssuer::new(DOMAIN, "local", Algorithm::Es256);
    agent.signs(&[(DOMAIN, bundle(&key))]);
    until("it is ready", || ready().status == 200);
    let asked = |own, lines: &str| {
        let mut peer = Peer::new(site.proxy, own, &domain);
        peer.ask(&format!("{lines}Connection: close\r\n"));
        status(&peer.rest())
    };
    until("a certificate counts", || asked(Some(&caller), "") == 200);
    assert_eq!(asked(None, ""), 401);
    let now = jsonwebtoken::get_current_timestamp();
    let claims = json!({ "sub": LEDGER, "aud": "orders", "iat": now, "exp": now + 300 });
    let bearer = format!("Authorization: Bearer {}\r\n", key.sign(&key.header(), &claims));
    until("a token counts", || asked(None, &bearer) == 200);
    let metrics = || String::from_utf8(call(site.health, "GET", "/metrics", &[]).body.to_vec()).unwrap();
    assert!(metrics().contains("portreeve_workload_api_streams_down 0"), "{}", metrics());

    let mut kept = Peer::new(site.proxy, Some(&caller), &domain);
    kept.ask("");
    assert_eq!(status(&kept.read_to("hello")), 200);
    agent.vouches(&[("spiffe://other.example", &[&domain])]);
    agent.signs(&[]);
    until("the certificate is refused", || asked(Some(&caller), "") == 0);
    until("the token is refused", || asked(None, &bearer) == 401);
    kept.ask("");
    assert_eq!(status(&kept.read_to("\r\n\r\n")), 401);
    agent.ends_certificates(Code::PermissionDenied);
    until("it is not ready", || ready().status == 503);
    assert!(metrics().contains("portreeve_workload_api_streams_down 1"), "{}", metrics());
    proxy.stop();
    hub.stop();
}
