//! Keys that the hub fetches: changes, rotations, outages, bad keys, missing ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use portreeve::core::credential::Algorithm;
use portreeve::core::id::Name;
use portreeve::core::policy::Reason;
use portreeve::core::time::{Clock as _, Timestamp};
use portreeve::hub::{HubSettings, IssuerSettings, StoreSettings};
use portreeve::wire::state_proto as proto;
use portreeve::wire::state_proto::spoke_message::Message as Up;
use serde_json::{Value, json};

use super::client::Client;
use super::lab::{HandClock, Lab, document, identity_spec, resource_spec, settings, until};
use super::stream::{MINUTE, Spoke, hello};
use crate::support::idp::{Idp, Reply, TestCa, fetched_spec};
use crate::support::issuer::TestIssuer;
use crate::support::postgres::shared;

const ISS: &str = "https://issuer.test";
const KEYS: &str = "/v1/tenants/demo/issuer/main/keys";
const REFRESH: &str = "/v1/tenants/demo/issuer/main/refresh";

/// Documents by path, to be changed while they are served; what is not there is an outage, and null is absent.
#[derive(Clone, Default)]
struct Documents(Arc<Mutex<BTreeMap<String, Value>>>);

impl Documents {
    fn put(&self, path: &str, document: Value) {
        self.0.lock().unwrap().insert(path.to_owned(), document);
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    async fn serve(&self, ca: &TestCa) -> Idp {
        let documents = self.clone();
        Idp::start(ca, move |path| match documents.0.lock().unwrap().get(path) {
            Some(Value::Null) => Reply::Text(404, vec![], String::new()),
            Some(document) => Reply::json(document),
            None => Reply::Text(503, vec![], String::new()),
        })
        .await
    }
}

fn key(key_id: &str) -> Value {
    TestIssuer::new(ISS, key_id, Algorithm::Es256).jwk()
}

fn with(directory: &Path, issuers: IssuerSettings) -> HubSettings {
    HubSettings { issuers, ..settings(directory) }
}

/// A hub, a server of keys, and an issuer of tenant `demo` whose keys are there.
struct Bench {
    lab: Lab,
    idp: Idp,
    documents: Documents,
    clock: Arc<HandClock>,
    _folder: tempfile::TempDir,
    _ca: TestCa,
}

impl Bench {
    async fn start(keys: &[Value]) -> Self {
        let (ca, documents, clock) = (TestCa::new(), Documents::default(), HandClock::new());
        let folder = tempfile::tempdir().unwrap();
        documents.put("/jwks", json!({ "keys": keys }));
        let idp = documents.serve(&ca).await;
        let lab = Lab::start_with(with(folder.path(), ca.issuers()), clock.clone()).await;
        let spec = fetched_spec(ISS, json!({ "url": idp.url("/jwks") }));
        lab.apply(&[document("issuer", "main", spec)]).await;
        Self { lab, idp, documents, clock, _folder: folder, _ca: ca }
    }

    async fn until_keys(&self, wanted: &[&str]) -> Value {
        self.lab.until_answer(KEYS, |keys| kids(keys) == wanted && !keys["fetched_at"].is_null()).await;
        self.lab.ask("GET", KEYS, None).await.1
    }

    async fn revision(&self) -> u64 {
        self.lab.ask("GET", "/v1/status", None).await.1["revision"].as_u64().unwrap()
    }
}

fn kids(keys: &Value) -> Vec<&str> {
    keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_a_change_only_when_it_is_another_set() {
    let (a, b) = (key("a"), key("b"));
    let bench = Bench::start(&[a.clone(), b.clone()]).await;
    bench.until_keys(&["a", "b"]).await;
    let first = bench.revision().await;
    // Another order, and members that verify nothing.
    let mut dressed = a.clone();
    dressed["x5t"] = json!("whatever");
    bench.documents.put("/jwks", json!({ "spiffe_sequence": 9, "keys": [b.clone(), dressed] }));
    let (status, again) = bench.lab.ask("POST", REFRESH, None).await;
    assert_eq!((status, &again["last_error"]), (200, &Value::Null), "{again:#}");
    assert_eq!(bench.revision().await, first, "the same set is no change");
    let asked = bench.idp.asked();
    // Not before it is due, and then without anybody asking.
    bench.documents.put("/jwks", json!({ "keys": [b.clone()] }));
    bench.clock.pass(Duration::from_secs(8 * 60));
    assert_eq!(kids(&bench.until_keys(&["a", "b"]).await), ["a", "b"]);
    assert_eq!(bench.idp.asked(), asked);
    bench.clock.pass(Duration::from_secs(2 * 60));
    bench.until_keys(&["b"]).await;
    assert_eq!(bench.revision().await, first + 1);
    // An empty set is a set: every key is gone.
    bench.documents.put("/jwks", json!({ "keys": [] }));
    assert_eq!(bench.lab.ask("POST", REFRESH, None).await.0, 200);
    bench.until_keys(&[]).await;
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_says_where_its_keys_are_and_keeps_them_while_that_stays() {
    let bench = Bench::start(&[key("a")]).await;
    bench.until_keys(&["a"]).await;
    let (_, record) = bench.lab.ask("GET", "/v1/tenants/demo/issuer/main", None).await;
    assert_eq!(record["spec"]["keys"], json!({ "url": bench.idp.url("/jwks") }));
    // What is shown can be applied, and changes nothing; another field does, and the keys stay.
    let mut spec = record["spec"].clone();
    let applied = bench.lab.apply(&[document("issuer", "main", spec.clone())]).await;
    assert_eq!(applied["tenants"][0]["changes"][0]["action"], "unchanged", "{applied:#}");
    spec["max_lifetime"] = json!("2h");
    bench.documents.clear();
    bench.lab.apply(&[document("issuer", "main", spec.clone())]).await;
    assert_eq!(kids(&bench.lab.ask("GET", KEYS, None).await.1), ["a"]);
    // From another place nothing of the old is kept, not even while that place is silent.
    spec["keys"] = json!({ "url": bench.idp.url("/other") });
    bench.lab.apply(&[document("issuer", "main", spec.clone())]).await;
    assert!(kids(&bench.lab.ask("GET", KEYS, None).await.1).is_empty());
    bench.lab.until_answer(KEYS, |keys| keys["failures"] != 0).await;
    bench.documents.put("/other", json!({ "keys": [key("b")] }));
    bench.clock.pass(Duration::from_secs(5));
    bench.until_keys(&["b"]).await;
    // Given keys are not fetched, and cannot be.
    spec["keys"] = json!({ "inline": { "keys": [key("c")] } });
    bench.lab.apply(&[document("issuer", "main", spec)]).await;
    let (_, keys) = bench.lab.ask("GET", KEYS, None).await;
    assert_eq!((keys["source"].as_str(), kids(&keys)), (Some("inline"), vec!["c"]));
    assert_eq!(keys["next_at"], Value::Null);
    assert_eq!(bench.lab.ask("POST", REFRESH, None).await.0, 409);
    assert_eq!(bench.lab.ask("POST", "/v1/tenants/demo/issuer/none/refresh", None).await.0, 404);
    assert_eq!(bench.lab.ask("GET", "/v1/tenants/demo/issuer/none/keys", None).await.0, 404);
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_is_believed_only_of_the_issuer_itself() {
    let (ca, documents, clock) = (TestCa::new(), Documents::default(), HandClock::new());
    let folder = tempfile::tempdir().unwrap();
    let idp = documents.serve(&ca).await;
    let iss = idp.url("/tenant");
    let discovery = "/tenant/.well-known/openid-configuration";
    documents.put("/jwks", json!({ "keys": [key("a")] }));
    let lab = Lab::start_with(with(folder.path(), ca.issuers()), clock.clone()).await;
    let rows = [
        (json!({ "issuer": format!("{iss}/"), "jwks_uri": idp.url("/jwks") }), "not of this issuer"),
        (json!({ "issuer": "https://evil.example", "jwks_uri": idp.url("/jwks") }), "not of this issuer"),
        (json!({ "issuer": iss, "jwks_uri": "http://localhost/jwks" }), "is not `https`"),
        (json!({ "issuer": iss, "jwks_uri": "https://169.254.169.254/jwks" }), "metadata"),
        (json!({ "issuer": iss, "jwks_uri": "https://127.0.0.1/jwks" }), "loopback"),
        (json!({ "issuer": iss }), "cannot be read"),
    ];
    for (n, (document_, expected)) in rows.iter().enumerate() {
        documents.put(discovery, document_.clone());
        if n == 0 {
            let spec = fetched_spec(&iss, json!({ "discovery": true }));
            lab.apply(&[document("issuer", "main", spec)]).await;
            lab.until_answer(KEYS, |keys| keys["failures"] == 1).await;
        }
        let (_, keys) = lab.ask("POST", REFRESH, None).await;
        let error = keys["last_error"].as_str().unwrap();
        assert!(error.contains(expected), "{document_}: {error}");
        assert!(kids(&keys).is_empty());
    }
    documents.put(discovery, json!({ "issuer": iss, "jwks_uri": idp.url("/jwks") }));
    let (_, keys) = lab.ask("POST", REFRESH, None).await;
    assert_eq!((kids(&keys), &keys["url"]), (vec!["a"], &json!(idp.url("/jwks"))), "{keys:#}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_counts_only_where_there_is_no_discovery_document() {
    let (ca, documents, clock) = (TestCa::new(), Documents::default(), HandClock::new());
    let folder = tempfile::tempdir().unwrap();
    let idp = documents.serve(&ca).await;
    let iss = idp.url("/tenant");
    let (discovery, metadata) =
        ("/tenant/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/tenant");
    let of = |issuer: &str, set: &str| json!({ "issuer": issuer, "jwks_uri": idp.url(set) });
    documents.put("/open", json!({ "keys": [key("open")] }));
    documents.put("/meta", json!({ "keys": [key("meta")] }));
    documents.put(metadata, of(&iss, "/meta"));
    let lab = Lab::start_with(with(folder.path(), ca.issuers()), clock.clone()).await;
    // An outage of the one is not the absence of it.
    lab.apply(&[document("issuer", "main", fetched_spec(&iss, json!({ "discovery": true })))]).await;
    lab.until_answer(KEYS, |keys| keys["failures"] == 1).await;
    let (_, keys) = lab.ask("GET", KEYS, None).await;
    assert!(kids(&keys).is_empty() && keys["last_error"].as_str().unwrap().contains("503"), "{keys:#}");
    // Where there is none, the metadata counts, if it is the issuer's.
    documents.put(discovery, Value::Null);
    documents.put(metadata, of(&idp.url(""), "/meta"));
    let (_, keys) = lab.ask("POST", REFRESH, None).await;
    assert!(keys["last_error"].as_str().unwrap().contains("not of this issuer"), "{keys:#}");
    documents.put(metadata, of(&iss, "/meta"));
    let (_, keys) = lab.ask("POST", REFRESH, None).await;
    assert_eq!((kids(&keys), &keys["url"]), (vec!["meta"], &json!(idp.url("/meta"))), "{keys:#}");
    // Where there is one, it counts.
    documents.put(discovery, of(&iss, "/open"));
    let (_, keys) = lab.ask("POST", REFRESH, None).await;
    assert_eq!(kids(&keys), ["open"], "{keys:#}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_is_refused_and_the_others_are_used() {
    let good = key("good");
    let with = |key_id: &str, name: &str, value: Value| {
        let mut bad = key(key_id);
        bad[name] = value;
        bad
    };
    let short = json!({ "kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB" });
    let bench = Bench::start(&[
        with("private", "d", json!("c2VjcmV0")),
        with("other-use", "use", json!("enc")),
        with("encrypts", "key_ops", json!(["encrypt"])),
        with("curve", "crv", json!("P-384")),
        good.clone(),
        short,
        key("twin"),
        key("twin"),
    ])
    .await;
    let keys = bench.until_keys(&["good"]).await;
    let refused: Vec<_> = keys["refused"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    for key_id in ["private", "other-use", "encrypts", "curve", "short", "twin"] {
        assert!(
            refused.iter().any(|it| it.starts_with(&format!("key `{key_id}`"))),
            "{key_id}: {refused:#?}"
        );
    }
    assert_eq!(refused.len(), 7);
    let metrics = bench.lab.metrics();
    assert!(metrics.contains("\nportreeve_hub_issuer_keys_refused 7\n"), "somebody is told: {metrics}");
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outlive_an_outage_up_to_their_bound() {
    let bench = Bench::start(&[key("a")]).await;
    bench.until_keys(&["a"]).await;
    let first = bench.revision().await;
    bench.documents.clear();
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    bench.clock.pass(minutes(10));
    bench.lab.until_answer(KEYS, |keys| keys["failures"] == 1).await;
    let (_, keys) = bench.lab.ask("GET", KEYS, None).await;
    assert_eq!(kids(&keys), ["a"], "the last good set stays");
    assert!(keys["last_error"].as_str().unwrap().contains("503"));
    bench.clock.pass(minutes(24 * 60 - 12));
    bench.lab.until_answer(KEYS, |keys| keys["failures"] == 2).await;
    assert_eq!(kids(&bench.lab.ask("GET", KEYS, None).await.1), ["a"]);
    assert_eq!(bench.revision().await, first);
    bench.clock.pass(minutes(2));
    bench.lab.until_answer(KEYS, |keys| keys["given_up"] == true).await;
    assert!(kids(&bench.lab.ask("GET", KEYS, None).await.1).is_empty());
    assert_eq!(bench.revision().await, first + 1, "and enforcement points are told");
    // It comes back by itself.
    bench.documents.put("/jwks", json!({ "keys": [key("b")] }));
    bench.clock.pass(minutes(1));
    bench.until_keys(&["b"]).await;
    bench.lab.until_answer(KEYS, |keys| keys["given_up"] == false && keys["failures"] == 0).await;
    bench.lab.stop().await;
}

/// Until when the keys of `main` count at an enforcement point.
fn until_of(client: &Client) -> Option<Timestamp> {
    let state = client.state.load();
    state.issuer_of(&Name::parse("demo").unwrap(), ISS)?.value.as_ref()?.keys_until
}

#[tokio::test(flavor = "multi_thread")]
async fn enforcement_points_are_told_until_when_keys_count() {
    let bench = Bench::start(&[key("a")]).await;
    bench.until_keys(&["a"]).await;
    let folder = tempfile::tempdir().unwrap();
    let client = Client::start(folder.path(), &format!("http://{}", bench.lab.stream), &bench.clock);
    client.confirmed().await;
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let bound = || bench.clock.now().wall.after(hours(24));
    let first = bound();
    until("the bound", || until_of(&client) == Some(first)).await;
    let (revision, minute) = (bench.revision().await, Duration::from_secs(60));
    // Fetched again, and not worth a change; then it is.
    bench.clock.pass(hours(12) - minute);
    assert_eq!(bench.lab.ask("POST", REFRESH, None).await.0, 200);
    assert_eq!(bench.revision().await, revision);
    bench.clock.pass(minute);
    assert_eq!(bench.lab.ask("POST", REFRESH, None).await.0, 200);
    let second = bound();
    until("a later bound", || until_of(&client) == Some(second)).await;
    assert_eq!(bench.revision().await, revision + 1);
    // An outage: the last time that it worked counts whole.
    bench.clock.pass(hours(6));
    assert_eq!(bench.lab.ask("POST", REFRESH, None).await.0, 200);
    let third = bound();
    assert_eq!(until_of(&client), Some(second));
    bench.documents.clear();
    bench.clock.pass(hours(1));
    until("the whole of it", || until_of(&client) == Some(third)).await;
    assert_eq!(bench.revision().await, revision + 2);
    // A record that is written again keeps it.
    let mut spec = bench.lab.ask("GET", "/v1/tenants/demo/issuer/main", None).await.1["spec"].clone();
    spec["max_lifetime"] = json!("2h");
    bench.lab.apply(&[document("issuer", "main", spec)]).await;
    until("the record", || client.state.load().position().revision == revision + 3).await;
    assert_eq!(until_of(&client), Some(third));
    client.stop().await;
    bench.lab.stop().await;
}

fn missing(cell: &str, issuer: &str, key_id: &str) -> Up {
    Up::MissingKey(proto::MissingKey { cell: cell.into(), issuer: issuer.into(), key_id: key_id.into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_brings_one_fetch_and_a_flood_of_them_no_more() {
    let bench = Bench::start(&[key("a")]).await;
    bench.until_keys(&["a"]).await;
    let mut spoke = Spoke::connect(&bench.lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let asked = bench.idp.asked();
    bench.clock.pass(Duration::from_secs(30));
    bench.documents.put("/jwks", json!({ "keys": [key("a"), key("b")] }));
    for nobody in [missing("other", "main", "b"), missing("demo", "none", "b"), missing("", "", "")] {
        spoke.send(nobody).await;
    }
    spoke.beat(1).await;
    assert_eq!(bench.idp.asked(), asked, "nobody's key");
    spoke.send(missing("demo", "main", "b")).await;
    bench.until_keys(&["a", "b"]).await;
    assert_eq!(bench.idp.asked(), asked + 1);
    // Keys that are made up: none of a thousand within the interval, one after it.
    for n in 0..1000u32 {
        spoke.send(missing("demo", "main", &format!("made-up-{n}"))).await;
        if n % 10 == 0 {
            bench.clock.pass(Duration::from_millis(20));
        }
    }
    spoke.beat(2).await;
    assert_eq!(bench.idp.asked(), asked + 1, "the interval is not over");
    bench.documents.put("/jwks", json!({ "keys": [key("c")] }));
    bench.clock.pass(Duration::from_secs(28));
    bench.until_keys(&["c"]).await;
    assert_eq!(bench.idp.asked(), asked + 2, "one for all of them");
    // The same made-up key again is looked for no more; only what is due is fetched.
    bench.clock.pass(Duration::from_secs(29));
    spoke.send(missing("demo", "main", "made-up-0")).await;
    spoke.beat(3).await;
    assert_eq!(bench.idp.asked(), asked + 2);
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_hubs_one_fetches() {
    let Some(server) = shared() else { return };
    let database = server.database("issuers");
    let (ca, documents, clock) = (TestCa::new(), Documents::default(), HandClock::new());
    documents.put("/jwks", json!({ "keys": [key("a")] }));
    let idp = documents.serve(&ca).await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let over = |folder: &tempfile::TempDir| HubSettings {
        store: StoreSettings::Postgres(database.clone()),
        ..with(folder.path(), ca.issuers())
    };
    let one = Lab::start_with(over(&folders[0]), clock.clone()).await;
    std::fs::copy(folders[0].path().join("cluster.key"), folders[1].path().join("cluster.key")).unwrap();
    let other = Lab::start_with(over(&folders[1]), clock.clone()).await;
    let spec = fetched_spec(ISS, json!({ "url": idp.url("/jwks") }));
    one.apply(&[document("issuer", "main", spec)]).await;
    for lab in [&one, &other] {
        lab.until_answer(KEYS, |keys| kids(keys) == ["a"]).await;
    }
    for round in 1..=3 {
        let key_id = format!("round-{round}");
        documents.put("/jwks", json!({ "keys": [key(&key_id)] }));
        clock.pass(Duration::from_secs(600));
        for lab in [&one, &other] {
            lab.until_answer(KEYS, |keys| kids(keys) == [key_id.as_str()]).await;
        }
        // Both have had their look at it by now.
        for lab in [&one, &other] {
            lab.ask("GET", "/v1/status", None).await;
        }
    }
    assert_eq!(idp.asked(), 4, "one fetch a round");
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::start(folder.path(), HandClock::new()).await;
    for (iss, keys, expected) in [
        (ISS, json!({ "url": "http://idp.example/jwks" }), "is not `https`"),
        (ISS, json!({ "url": "https://u:p@idp.example/jwks" }), "user"),
        (ISS, json!({ "url": "jwks" }), "keys.url"),
        (ISS, json!({ "discovery": false }), "keys.discovery"),
        ("spiffe://td", json!({ "discovery": true }), "nothing is found at `iss`"),
        (ISS, json!({ "discovery": true, "url": "https://idp.example/jwks" }), "expected one of"),
        (ISS, json!({}), "expected one of"),
        (ISS, json!({ "inline": { "keys": [] } }), "no usable key"),
    ] {
        let body = json!({ "documents": [document("issuer", "main", fetched_spec(iss, keys.clone()))] });
        let (status, answer) = lab.ask("POST", "/v1/apply", Some(body)).await;
        assert_eq!(status, 422, "{keys}: {answer:#}");
        assert!(answer["detail"].as_str().unwrap().contains(expected), "{keys}: {answer:#}");
    }
    lab.stop().await;
}

/// A token of `issuer` for `ledger`.
fn token(issuer: &TestIssuer, clock: &HandClock) -> String {
    let now = clock.now().wall.as_seconds();
    let claims = json!({ "iss": ISS, "sub": "ledger", "aud": "orders", "iat": now, "exp": now + 300 });
    issuer.sign(&issuer.header(), &claims)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_found_by_its_first_token_and_a_removed_one_is_gone_at_once() {
    let issuer = |key_id: &str| TestIssuer::new(ISS, key_id, Algorithm::Es256);
    let (old, new) = (issuer("old"), issuer("new"));
    let bench = Bench::start(&[old.jwk()]).await;
    bench
        .lab
        .apply(&[
            document("resource", "orders", resource_spec()),
            document("identity", "ledger", identity_spec("ledger")),
        ])
        .await;
    bench.until_keys(&["old"]).await;
    let folder = tempfile::tempdir().unwrap();
    let client = Client::start(folder.path(), &format!("http://{}", bench.lab.stream), &bench.clock);
    client.confirmed().await;
    let judge = client.judge(&bench.clock);
    let (by_old, by_new) = (token(&old, &bench.clock), token(&new, &bench.clock));
    until("the key is in force", || judge(&by_old).is_none()).await;
    assert_eq!(judge(&by_old), None, "remembered");

    // Published: its first use is refused, and is what makes it known.
    bench.documents.put("/jwks", json!({ "keys": [old.jwk(), new.jwk()] }));
    let asked = bench.idp.asked();
    assert_eq!(judge(&by_new), Some(Reason::CredentialUnverified));
    let begun = std::time::Instant::now();
    until("the new key is in force", || judge(&by_new).is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(bench.idp.asked(), asked + 1, "one fetch");
    assert_eq!(judge(&by_old), None, "the old key is as good as before");

    // Removed: what it verified before, and is remembered, counts no more.
    bench.documents.put("/jwks", json!({ "keys": [new.jwk()] }));
    assert_eq!(bench.lab.ask("POST", REFRESH, None).await.0, 200);
    until("the old key is gone", || judge(&by_old) == Some(Reason::CredentialUnverified)).await;
    assert_eq!(judge(&by_new), None);
    client.stop().await;
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spiffe_bundle_gives_its_keys_for_tokens() {
    let (ca, documents, clock) = (TestCa::new(), Documents::default(), HandClock::new());
    let folder = tempfile::tempdir().unwrap();
    let used = |key_id: &str, key_use: &str| {
        let mut key = key(key_id);
        key["use"] = json!(key_use);
        key
    };
    let mut certificate = used("none", "x509-svid");
    certificate["x5c"] = json!(["MIIB"]);
    certificate.as_object_mut().unwrap().remove("kid");
    let keys = [used("tokens", "jwt-svid"), used("weak", "sig"), certificate];
    documents.put("/bundle", json!({ "spiffe_sequence": 3, "spiffe_refresh_hint": 300, "keys": keys }));
    let idp = documents.serve(&ca).await;
    let lab = Lab::start_with(with(folder.path(), ca.issuers()), clock).await;
    let mut spec = fetched_spec("spiffe://acme.example", json!({ "url": idp.url("/bundle") }));
    (spec["profile"], spec["algorithms"]) = (json!("jwt-svid"), json!(["ES256"]));
    lab.apply(&[document("issuer", "main", spec)]).await;
    lab.until_answer(KEYS, |keys| !keys["fetched_at"].is_null()).await;
    let (_, keys) = lab.ask("GET", KEYS, None).await;
    assert_eq!(kids(&keys), ["tokens"]);
    let refused = keys["refused"].as_array().unwrap();
    assert!(refused.len() == 1 && refused[0].as_str().unwrap().starts_with("key `weak`"), "{keys:#}");
    lab.stop().await;
}
