//! Status lists that the hub fetches: reports, refreshes, outages, what is not taken, what goes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portreeve::core::credential::Algorithm;
use portreeve::core::policy::Reason;
use portreeve::core::time::Clock as _;
use portreeve::hub::{HubSettings, IssuerSettings, StoreSettings};
use serde_json::{Value, json};

use super::client::Client;
use super::lab::{HandClock, Lab, document, identity_spec, resource_spec, settings, until};
use crate::conformance::status::{list_header, status_list};
use crate::support::idp::{Idp, Reply, TestCa, fetched_spec};
use crate::support::issuer::TestIssuer;
use crate::support::postgres::shared;

const ISS: &str = "https://issuer.test";
const LISTS: &str = "/v1/tenants/demo/issuer/main/status-lists";
const REFRESH: &str = "/v1/tenants/demo/issuer/main/status-lists/refresh";
const ISSUER: &str = "/v1/tenants/demo/issuer/main";

/// Status, header lines, body.
type Page = (u16, Vec<(&'static str, String)>, String);

/// What is served at each path; what is not there is an outage.
#[derive(Clone, Default)]
struct Served(Arc<Mutex<BTreeMap<String, Page>>>);

impl Served {
    fn put(&self, path: &str, status: u16, lines: Vec<(&'static str, String)>, body: String) {
        self.0.lock().unwrap().insert(path.to_owned(), (status, lines, body));
    }

    fn list(&self, path: &str, token: String) {
        let kind = vec![("content-type", "application/statuslist+jwt".to_owned())];
        self.put(path, 200, kind, token);
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    async fn serve(&self, ca: &TestCa) -> Idp {
        let served = self.clone();
        Idp::start(ca, move |path| match served.0.lock().unwrap().get(path).cloned() {
            Some((status, lines, body)) => Reply::Text(status, lines, body),
            None => Reply::Text(503, vec![], String::new()),
        })
        .await
    }
}

fn with(directory: &Path, issuers: IssuerSettings) -> HubSettings {
    HubSettings { issuers, ..settings(directory) }
}

/// A hub, a server of lists, and an issuer of tenant `demo` whose lists are there.
struct Bench {
    lab: Lab,
    idp: Idp,
    served: Served,
    clock: Arc<HandClock>,
    issuer: TestIssuer,
    _folder: tempfile::TempDir,
    _ca: TestCa,
}

impl Bench {
    /// Whose issuer takes lists from these paths.
    async fn start(paths: &[&str]) -> Self {
        let (ca, served, clock) = (TestCa::new(), Served::default(), HandClock::new());
        let folder = tempfile::tempdir().unwrap();
        let idp = served.serve(&ca).await;
        let lab = Lab::start_with(with(folder.path(), ca.issuers()), clock.clone()).await;
        let issuer = TestIssuer::new(ISS, "key-1", Algorithm::Es256);
        let bench = Self { lab, idp, served, clock, issuer, _folder: folder, _ca: ca };
        bench.take(paths).await;
        bench
            .lab
            .apply(&[
                document("resource", "orders", resource_spec()),
                document("identity", "ledger", identity_spec("ledger")),
            ])
            .await;
        bench
    }

    /// The same, with a list at each of these paths.
    async fn holding(paths: &[&str]) -> Self {
        let bench = Self::start(&[]).await;
        paths.iter().for_each(|path| bench.publish(path, &[0]));
        bench.take(paths).await;
        bench.until_held(paths.len()).await;
        bench
    }

    /// Has the issuer's record take lists from these paths, and no others.
    async fn take(&self, paths: &[&str]) {
        self.lab.apply(&[document("issuer", "main", self.spec(paths, &self.issuer))]).await;
    }

    fn spec(&self, paths: &[&str], issuer: &TestIssuer) -> Value {
        let mut spec = fetched_spec(ISS, json!({ "inline": { "keys": [issuer.jwk()] } }));
        if !paths.is_empty() {
            let uris: Vec<_> = paths.iter().map(|path| self.idp.url(path)).collect();
            spec["status_lists"] = json!({ "uris": uris, "max_age": "1h" });
        }
        spec
    }

    fn now(&self) -> i64 {
        self.clock.now().wall.as_seconds()
    }

    fn claims(&self, path: &str, bytes: &[u8]) -> Value {
        json!({ "sub": self.idp.url(path), "iat": self.now(), "status_list": status_list(1, bytes) })
    }

    /// Publishes values of one bit.
    fn publish(&self, path: &str, bytes: &[u8]) {
        self.publish_claims(path, &self.claims(path, bytes));
    }

    fn publish_claims(&self, path: &str, claims: &Value) {
        self.served.list(path, self.issuer.sign(&list_header(&self.issuer), claims));
    }

    /// A token of `ledger` at a place of a list.
    fn token(&self, path: &str, index: u64) -> String {
        let now = self.now();
        let claims = json!({
            "iss": ISS, "sub": "ledger", "aud": "orders", "iat": now, "exp": now + 3600,
            "status": { "status_list": { "idx": index, "uri": self.idp.url(path) } },
        });
        self.issuer.sign(&self.issuer.header(), &claims)
    }

    async fn lists(&self) -> Vec<Value> {
        self.lab.ask("GET", LISTS, None).await.1["lists"].as_array().unwrap().clone()
    }

    async fn refresh(&self) -> Vec<Value> {
        let (status, answer) = self.lab.ask("POST", REFRESH, None).await;
        assert_eq!(status, 200, "{answer:#}");
        answer["lists"].as_array().unwrap().clone()
    }

    async fn until_held(&self, how_many: usize) {
        // The attempt is noted after what it brought.
        let done = |list: &&Value| !list["held"].is_null() && !list["fetched_at"].is_null();
        let held = |answer: &Value| answer["lists"].as_array().unwrap().iter().filter(done).count();
        self.lab.until_answer(LISTS, |answer| held(answer) == how_many).await;
    }

    async fn revision(&self) -> u64 {
        self.lab.ask("GET", "/v1/status", None).await.1["revision"].as_u64().unwrap()
    }

    async fn client(&self, folder: &Path) -> Client {
        let client = Client::start(folder, &format!("http://{}", self.lab.stream), &self.clock);
        client.confirmed().await;
        client
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_its_list_known_and_the_list_turns_what_was_remembered() {
    let bench = Bench::start(&["/lists/"]).await;
    let folder = tempfile::tempdir().unwrap();
    let client = bench.client(folder.path()).await;
    let judge = client.judge(&bench.clock);
    bench.publish("/lists/a", &[0b0000_0010]);
    let [good, bad, past] = [0, 1, 8].map(|index| bench.token("/lists/a", index));
    assert_eq!(bench.idp.asked(), 0, "nobody has named it");
    assert_eq!(judge(&good), Some(Reason::StatusMissing));
    let begun = std::time::Instant::now();
    until("the list is in force", || judge(&good).is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(judge(&bad), Some(Reason::StatusInvalid));
    assert_eq!(judge(&past), Some(Reason::StatusRange));
    assert_eq!(bench.idp.asked(), 1);

    // The issuer withdraws a token; its list is fetched by itself.
    bench.clock.pass(Duration::from_secs(300));
    bench.publish("/lists/a", &[0b0000_0001]);
    until("the token is withdrawn", || judge(&good) == Some(Reason::StatusInvalid)).await;
    until("another is good again, and the state fresh", || judge(&bad).is_none()).await;
    assert_eq!(bench.idp.asked(), 2);

    // Where its issuer takes none, nothing is asked.
    let elsewhere = bench.token("/elsewhere", 0);
    assert_eq!(judge(&elsewhere), Some(Reason::StatusUnlisted));
    // A list that is not there: refused, and asked for once within the interval.
    let nowhere = bench.token("/lists/none", 0);
    for _ in 0..50 {
        assert_eq!(judge(&nowhere), Some(Reason::StatusMissing));
    }
    until("it is asked for", || bench.idp.asked() == 3).await;
    let lists = bench.lists().await;
    assert_eq!(lists.len(), 1, "what was never there is not remembered: {lists:#?}");
    client.stop().await;
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_list_of_the_issuer_is_not_taken() {
    let path = "/list";
    let bench = Bench::holding(&[path]).await;
    let held = bench.lists().await[0]["held"].clone();
    assert_eq!((&held["entries"], &held["bits"]), (&json!(8), &json!(1)));
    let first = bench.revision().await;
    let claims = bench.claims(path, &[1]);
    let sign = |claims: &Value| bench.issuer.sign(&list_header(&bench.issuer), claims);
    let changed = |member: &str, value: Value| {
        let mut claims = claims.clone();
        claims[member] = value;
        claims
    };
    let other = TestIssuer::new(ISS, "key-1", Algorithm::Es256);
    let kind = |kind: &str| vec![("content-type", kind.to_owned())];
    let list = || kind("application/statuslist+jwt");
    let bomb = vec![0; (1 << 20) + 1];
    let to = |path: &str| vec![("location", bench.idp.url(path))];
    bench.served.list("/elsewhere", sign(&claims));
    for (what, status, lines, body, expected) in [
        ("another list", 200, list(), sign(&changed("sub", json!("https://x.test/list"))), "`sub`"),
        ("another issuer's", 200, list(), sign(&changed("iss", json!("https://x.test"))), "`iss`"),
        ("over", 200, list(), sign(&changed("exp", json!(bench.now()))), "has expired"),
        ("ahead", 200, list(), sign(&changed("iat", json!(bench.now() + 100))), "from the future"),
        ("older", 200, list(), sign(&changed("iat", json!(bench.now() - 100))), "older than the one"),
        ("three bits", 200, list(), sign(&changed("status_list", status_list(3, &[0]))), "`bits`"),
        ("a bomb", 200, list(), sign(&changed("status_list", status_list(1, &bomb))), "longer than"),
        (
            "no compression",
            200,
            list(),
            sign(&changed("status_list", json!({ "bits": 1, "lst": "AAAA" }))),
            "not compressed",
        ),
        ("another key", 200, list(), other.sign(&list_header(&bench.issuer), &claims), "no key"),
        ("another kind", 200, list(), bench.issuer.sign(&bench.issuer.header(), &claims), "statuslist+jwt"),
        ("a page", 200, kind("text/html"), sign(&claims), "not of the type asked for but `text/html`"),
        ("JSON", 200, kind("application/json"), sign(&claims), "not of the type asked for"),
        ("a redirect", 302, to("/elsewhere"), String::new(), "redirects are not followed"),
        ("an outage", 503, vec![], String::new(), "503"),
        ("nonsense", 200, list(), "nonsense".to_owned(), "no signed token"),
        ("too long", 200, list(), "a".repeat(1 << 20), "longer than"),
    ] {
        bench.served.put(path, status, lines, body);
        let lists = bench.refresh().await;
        let error = lists[0]["last_error"].as_str().unwrap_or_else(|| panic!("{what}: {lists:#?}"));
        assert!(error.contains(expected), "{what}: {error}");
        assert_eq!(lists[0]["held"], held, "{what}: the last good one stays");
    }
    assert_eq!(bench.revision().await, first, "none of it is a change");
    bench.publish(path, &[1]);
    let lists = bench.refresh().await;
    assert_eq!((&lists[0]["last_error"], &lists[0]["failures"]), (&Value::Null, &json!(0)), "{lists:#?}");
    assert_eq!(bench.revision().await, first + 1);
    // The same again is no change.
    bench.publish(path, &[1]);
    assert_eq!(bench.refresh().await[0]["last_error"], Value::Null);
    assert_eq!(bench.revision().await, first + 1);
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_says_of_its_time_is_heard_within_bounds() {
    let bench = Bench::holding(&["/list"]).await;
    let seconds = |text: &Value| {
        let at: jiff::Timestamp = text.as_str().unwrap().parse().unwrap();
        at.as_second() - bench.now()
    };
    // (`ttl`, `exp`, `Cache-Control`), then after how long it is fetched again, and how long it counts.
    // What is listed changes each time: the same again is kept as it is.
    for (value, (ttl, exp, cached, again, counts)) in (2..).zip([
        (None, None, None, 300, 3600),
        (None, None, Some("max-age=600"), 600, 3600),
        (Some(60), None, Some("max-age=600"), 60, 3600),
        (Some(1), None, None, 15, 3600),
        (Some(43_200), None, None, 1800, 3600),
        (None, Some(100), None, 50, 100),
        (Some(60), Some(7200), None, 60, 3600),
        (None, Some(3600), None, 300, 3600),
        (None, Some(3601), None, 300, 3600),
        (None, Some(3599), None, 300, 3599),
    ]) {
        bench.clock.pass(Duration::from_secs(2));
        let mut claims = bench.claims("/list", &[value]);
        if let Some(ttl) = ttl {
            claims["ttl"] = json!(ttl);
        }
        if let Some(exp) = exp {
            claims["exp"] = json!(bench.now() + exp);
        }
        let mut lines = vec![("content-type", "application/statuslist+jwt".to_owned())];
        lines.extend(cached.map(|cached| ("cache-control", cached.to_owned())));
        let token = bench.issuer.sign(&list_header(&bench.issuer), &claims);
        bench.served.put("/list", 200, lines, token);
        let list = &bench.refresh().await[0];
        let said = format!("{ttl:?} {exp:?} {cached:?}: {list:#}");
        assert_eq!(seconds(&list["held"]["valid_until"]), counts, "{said}");
        let next = seconds(&list["next_at"]);
        // Up to a tenth earlier, so that not all come at once.
        assert!(next <= again && next >= again * 9 / 10 - 1, "{said}");
    }
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_outlives_an_outage_up_to_its_bound() {
    let bench = Bench::holding(&["/list"]).await;
    let folder = tempfile::tempdir().unwrap();
    let client = bench.client(folder.path()).await;
    let judge = client.judge(&bench.clock);
    let token = bench.token("/list", 0);
    until("the list is in force", || judge(&token).is_none()).await;
    bench.served.clear();
    bench.clock.pass(Duration::from_secs(300));
    bench.lab.until_answer(LISTS, |answer| answer["lists"][0]["failures"] != 0).await;
    client.confirmed().await;
    bench.clock.pass(Duration::from_secs(3299) - Duration::from_micros(1));
    until("the state is fresh", || judge(&token) != Some(Reason::StateStale)).await;
    assert_eq!(judge(&token), None, "the last good list stays");
    bench.clock.pass(Duration::from_secs(2));
    until("it is too old", || judge(&token) == Some(Reason::StatusStale)).await;
    // It comes back by itself.
    bench.publish("/list", &[0]);
    bench.clock.pass(Duration::from_secs(60));
    let again = bench.token("/list", 0);
    until("it is fetched again", || judge(&again).is_none()).await;
    client.stop().await;
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_with_what_it_rests_on() {
    let bench = Bench::holding(&["/ahead"]).await;
    bench.publish("/lists/a", &[0]);
    bench.take(&["/lists/", "/ahead"]).await;
    let folder = tempfile::tempdir().unwrap();
    let client = bench.client(folder.path()).await;
    let judge = client.judge(&bench.clock);
    let token = bench.token("/lists/a", 0);
    until("the list is in force", || judge(&token).is_none()).await;
    bench.until_held(2).await;

    // The record takes it no more, and then again.
    bench.take(&["/ahead"]).await;
    until("the record is in force", || judge(&token) == Some(Reason::StatusUnlisted)).await;
    bench.until_held(1).await;
    let (_, page) = bench.lab.ask("GET", "/v1/tenants/demo/status-list", None).await;
    let entries: Vec<_> = page["items"].as_array().unwrap().iter().map(|it| &it["spec"]["entries"]).collect();
    assert_eq!(entries.iter().filter(|entries| **entries == &json!(0)).count(), 1, "{page:#}");
    bench.take(&["/lists/", "/lists/a", "/ahead"]).await;
    until("the list is in force again", || judge(&token).is_none()).await;

    // Its key left the set: what that key signed counts no more, and is fetched anew.
    let next = TestIssuer::new(ISS, "key-2", Algorithm::Es256);
    let mut spec = bench.spec(&["/lists/", "/ahead"], &next);
    spec["keys"]["inline"]["keys"] = json!([next.jwk()]);
    bench.lab.apply(&[document("issuer", "main", spec)]).await;
    bench.until_held(0).await;
    for path in ["/lists/a", "/ahead"] {
        let claims = bench.claims(path, &[0]);
        bench.served.list(path, next.sign(&list_header(&next), &claims));
    }
    bench.clock.pass(Duration::from_secs(60));
    bench.lab.ask("POST", REFRESH, None).await;
    bench.lab.until_answer(LISTS, |answer| !answer["lists"][0]["held"].is_null()).await;

    // Lists are nobody's to write, and go with their issuer.
    let name = page["items"][0]["name"].as_str().unwrap();
    let at = format!("/v1/tenants/demo/status-list/{name}");
    assert_eq!(bench.lab.ask("DELETE", &at, None).await.0, 405);
    assert_eq!(bench.lab.ask("PUT", &at, Some(json!({ "spec": {} }))).await.0, 405);
    let made = document("status-list", "mine", json!({}));
    assert_eq!(bench.lab.ask("POST", "/v1/apply", Some(json!({ "documents": [made] }))).await.0, 422);
    assert_eq!(bench.lab.ask("GET", "/v1/tenants/demo/issuer/none/status-lists", None).await.0, 404);
    assert_eq!(bench.lab.ask("POST", "/v1/tenants/demo/issuer/none/status-lists/refresh", None).await.0, 404);
    let mut unbound = identity_spec("ledger");
    unbound.as_object_mut().unwrap().remove("bindings");
    bench.lab.apply(&[document("identity", "ledger", unbound)]).await;
    assert_eq!(bench.lab.ask("DELETE", ISSUER, None).await.0, 200);
    let (_, page) = bench.lab.ask("GET", "/v1/tenants/demo/status-list", None).await;
    assert_eq!(page["items"], json!([]), "{page:#}");
    client.stop().await;
    bench.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_hubs_one_fetches() {
    let Some(server) = shared() else { return };
    let database = server.database("lists");
    let (ca, served, clock) = (TestCa::new(), Served::default(), HandClock::new());
    let idp = served.serve(&ca).await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let over = |folder: &tempfile::TempDir| HubSettings {
        store: StoreSettings::Postgres(database.clone()),
        ..with(folder.path(), ca.issuers())
    };
    let one = Lab::start_with(over(&folders[0]), clock.clone()).await;
    std::fs::copy(folders[0].path().join("cluster.key"), folders[1].path().join("cluster.key")).unwrap();
    let other = Lab::start_with(over(&folders[1]), clock.clone()).await;
    let issuer = TestIssuer::new(ISS, "key-1", Algorithm::Es256);
    let publish = |round: u8| {
        let iat = clock.now().wall.as_seconds();
        let claims = json!({ "sub": idp.url("/list"), "iat": iat, "status_list": status_list(1, &vec![0; 1 + usize::from(round)]) });
        served.list("/list", issuer.sign(&list_header(&issuer), &claims));
    };
    publish(0);
    let mut spec = fetched_spec(ISS, json!({ "inline": { "keys": [issuer.jwk()] } }));
    spec["status_lists"] = json!({ "uris": [idp.url("/list")] });
    one.apply(&[document("issuer", "main", spec)]).await;
    for round in 0..=3u8 {
        if round > 0 {
            publish(round);
            clock.pass(Duration::from_secs(300));
        }
        let entries = json!(8 * (u64::from(round) + 1));
        for lab in [&one, &other] {
            lab.until_answer(LISTS, |answer| answer["lists"][0]["held"]["entries"] == entries).await;
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
