//! Keys that an enforcement point fetches itself, from a real server: rotated, withdrawn, missing, out of reach.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portreeve::core::credential::{Algorithm, KeySet, KeyUse, MissingKeys};
use portreeve::core::id::Name;
use portreeve::core::identity::{
    Binding, Credential, CredentialKind, CredentialStatus, Issuer, KeySource, Record, TokenProfile,
};
use portreeve::core::policy::Reason;
use portreeve::core::time::Clock as _;
use portreeve::jwks::{DirectKeys, DirectSettings, DirectSource, DirectView, Pace, Place};
use portreeve::outbound::OutboundSettings;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::PATIENCE;
use crate::support::idp::{Idp, Reply, TestCa};
use crate::support::issuer::{TestIssuer, jwks};
use crate::support::world::{AUDIENCE, TENANT, World, identity, name};

const ISS: &str = "https://issuer.test";
const DAY: Duration = Duration::from_secs(86_400);
const PACE: Pace = Pace { refresh: Duration::from_secs(600), refetch: Duration::from_secs(30), keep: DAY };
const UNVERIFIED: Option<Reason> = Some(Reason::CredentialUnverified);

/// Sets by path, to be changed while they are served; what is not there is an outage.
type Documents = Arc<Mutex<BTreeMap<String, Value>>>;

/// A decision path whose issuer's keys are fetched, and who publishes them.
struct Bench {
    world: World,
    documents: Documents,
    idp: Idp,
    keys: Arc<DirectKeys>,
    moved: Arc<AtomicUsize>,
    stop: CancellationToken,
    _runtime: tokio::runtime::Runtime,
    _ca: TestCa,
}

struct Told(Arc<DirectKeys>);

impl MissingKeys for Told {
    fn missing(&self, tenant: &Name, issuer: &Name, key_id: &str) {
        assert!(self.0.missing(tenant, issuer, key_id), "nobody's");
    }

    fn missing_list(&self, _: &Name, _: &Name, _: &str) {}
}

impl Bench {
    /// Its keys at `/jwks`.
    fn new(keys: &[&TestIssuer]) -> Self {
        Self::of(
            World::new(),
            |idp| (ISS.into(), KeySource::Url(idp.url("/jwks").into())),
            keys,
            &["localhost"],
        )
    }

    fn of(
        world: World,
        source: impl FnOnce(&Idp) -> (Arc<str>, KeySource),
        keys: &[&TestIssuer],
        inside: &[&str],
    ) -> Self {
        let (ca, documents) = (TestCa::new(), Documents::default());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let served = Arc::clone(&documents);
        let idp = runtime.block_on(Idp::start(&ca, move |path| match served.lock().unwrap().get(path) {
            Some(document) => Reply::json(document),
            None => Reply::Text(503, vec![], String::new()),
        }));
        let (iss, source) = source(&idp);
        let sources = vec![DirectSource { tenant: name(TENANT), iss, source }];
        let look_every = Duration::from_millis(5);
        let outbound: OutboundSettings = ca.outbound(inside);
        let settings = DirectSettings { sources, pace: PACE, outbound, look_every };
        let (keys_, reports) = DirectKeys::new(settings, world.clock.clone(), &world.trust);
        let world = world.telling(Arc::new(Told(Arc::clone(&keys_))));
        let (moved, stop) = (Arc::<AtomicUsize>::default(), CancellationToken::new());
        let count = Arc::clone(&moved);
        let place = Place {
            trust: Arc::clone(&world.trust),
            state: Arc::clone(&world.state),
            moved: Arc::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }),
        };
        let bench = Self { world, documents, idp, keys: keys_, moved, stop, _runtime: runtime, _ca: ca };
        bench.publish(keys);
        bench._runtime.spawn(Arc::clone(&bench.keys).run(reports, place, bench.stop.clone()));
        bench
    }

    fn put(&self, path: &str, document: Value) {
        self.documents.lock().unwrap().insert(path.to_owned(), document);
    }

    fn publish(&self, keys: &[&TestIssuer]) {
        self.put("/jwks", json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }));
    }

    fn fall_silent(&self) {
        self.documents.lock().unwrap().clear();
    }

    fn pass(&self, span: Duration) {
        self.world.clock.advance(span);
        self.world.refresh();
    }

    fn view(&self) -> DirectView {
        self.keys.views().remove(0)
    }

    /// What is decided of a token by `key`, made now.
    fn decide(&self, key: &TestIssuer) -> Option<Reason> {
        let token = key.sign(&key.header(), &self.world.claims("ledger"));
        self.present(&token)
    }

    fn present(&self, token: &str) -> Option<Reason> {
        self.world.decide(&self.world.exchange(Some(token), "GET", "/orders/1"))
    }

    fn moved(&self) -> usize {
        self.moved.load(Ordering::SeqCst)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn key(key_id: &str) -> TestIssuer {
    TestIssuer::new(ISS, key_id, Algorithm::Es256)
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not yet: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn fetched_keys_take_the_place_of_the_records() {
    let here = key("here");
    let world = World::new();
    let of_record = world.issuer.sign(&world.issuer.header(), &world.claims("ledger"));
    let judged = |world: &World| world.decide(&world.exchange(Some(&of_record), "GET", "/orders/1"));
    assert_eq!(judged(&world), None, "without a source the record counts");
    let at = |idp: &Idp| (ISS.into(), KeySource::Url(idp.url("/none").into()));
    let bench = Bench::of(world, at, &[], &["localhost"]);
    eventually("a failure", || bench.view().failures > 0);
    assert!(bench.present(&of_record).is_some(), "nothing came, and the record's keys count no more");
    assert_eq!(bench.keys.failing(), 1);
    bench.put("/none", json!({ "keys": [here.jwk()] }));
    bench.pass(Duration::from_secs(5));
    eventually("the key", || bench.decide(&here).is_none());
    assert_eq!(bench.present(&of_record), UNVERIFIED);
    let view = bench.view();
    assert_eq!((view.failures, view.error, view.url), (0, None, Some(bench.idp.url("/none"))));
    assert_eq!(view.kept_until, Some(bench.world.clock.now().wall.after(DAY)));
    assert_eq!((bench.keys.failing(), bench.keys.fetches(), bench.keys.fetch_failures()), (0, 2, 1));
}

#[test]
fn a_new_key_is_found_by_its_first_token_and_a_removed_one_is_gone_at_once() {
    let (old, new) = (key("old"), key("new"));
    let bench = Bench::new(&[&old]);
    eventually("the key", || bench.decide(&old).is_none());
    let by_old = old.sign(&old.header(), &bench.world.claims("ledger"));
    assert_eq!(bench.present(&by_old), None, "and remembered");
    let (asked, moved) = (bench.idp.asked(), bench.moved());
    bench.publish(&[&old, &new]);
    let begun = Instant::now();
    assert_eq!(bench.decide(&new), UNVERIFIED, "its first token");
    eventually("the new key", || bench.decide(&new).is_none());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((bench.idp.asked(), bench.moved()), (asked + 1, moved + 1), "one fetch");
    assert_eq!(bench.present(&by_old), None, "the old key is as good as before");
    // Removed: what it verified before, and is remembered, counts no more; nor between decision and release.
    bench.publish(&[&new]);
    let exchange = bench.world.exchange(Some(&by_old), "GET", "/orders/1");
    let removed = bench.world.decide_with(&exchange, || {
        bench.pass(PACE.refresh);
        eventually("the next set", || bench.moved() == moved + 2);
    });
    assert_eq!(removed, UNVERIFIED);
    assert_eq!((bench.present(&by_old), bench.decide(&old)), (UNVERIFIED, UNVERIFIED));
    assert_eq!(bench.decide(&new), None);
    // An empty set is a set.
    bench.publish(&[]);
    bench.pass(PACE.refresh);
    eventually("no key", || bench.decide(&new) == UNVERIFIED);
}

#[test]
fn an_outage_is_outlived_up_to_the_bound() {
    let held = key("held");
    let bench = Bench::new(&[&held]);
    eventually("the key", || bench.decide(&held).is_none());
    let until = bench.view().kept_until.unwrap();
    bench.fall_silent();
    bench.pass(PACE.refresh);
    eventually("a failure", || bench.view().failures == 1);
    assert_eq!(bench.decide(&held), None, "the last good set");
    assert_eq!(
        bench.world.log.last_verdict().basis().until,
        Some(bench.world.clock.now().wall.after(Duration::from_secs(330)))
    );
    let moved = bench.moved();
    bench.pass(DAY - PACE.refresh - Duration::from_micros(1));
    assert_eq!(bench.decide(&held), None, "a moment before the bound");
    assert_eq!(bench.world.log.last_verdict().basis().until, Some(until), "what is open ends there");
    bench.pass(Duration::from_micros(1));
    assert_eq!(bench.decide(&held), UNVERIFIED, "at the bound");
    bench.pass(DAY);
    assert_eq!(bench.decide(&held), UNVERIFIED, "past the bound");
    assert_eq!(bench.moved(), moved, "time alone did that");
    // It comes back by itself.
    bench.publish(&[&held]);
    bench.pass(Duration::from_secs(60));
    eventually("it counts again", || bench.decide(&held).is_none());
}

#[test]
fn made_up_keys_bring_one_fetch_an_interval_and_each_one_once() {
    let held = key("held");
    let bench = Bench::new(&[&held]);
    eventually("the key", || bench.decide(&held).is_none());
    let asked = bench.idp.asked();
    let by = |key_id: &str| {
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": key_id });
        held.sign(&header, &bench.world.claims("ledger"))
    };
    for n in 0..2000 {
        assert_eq!(bench.present(&by(&format!("made-up-{n}"))), UNVERIFIED);
    }
    eventually("a fetch", || bench.idp.asked() == asked + 1);
    for early in [Duration::ZERO, PACE.refetch - Duration::from_micros(1)] {
        bench.pass(early);
        assert_eq!(bench.present(&by(&format!("early-{early:?}"))), UNVERIFIED);
    }
    bench.pass(Duration::from_micros(1));
    eventually("another fetch", || bench.idp.asked() == asked + 2);
    assert_eq!(bench.keys.fetches(), 3, "one an interval");
    assert_eq!(bench.decide(&held), None);
}

#[test]
fn the_record_stays_the_hubs() {
    let held = key("held");
    let bench = Bench::new(&[&held]);
    eventually("the key", || bench.decide(&held).is_none());
    let record = |audience: &str, generation| {
        let jwks = Arc::from(bench.world.issuer.jwks());
        let (profile, algorithms) = (TokenProfile::Generic, vec![Algorithm::Es256]);
        let issuer = Issuer::new(ISS.into(), profile, algorithms, vec![audience.into()], 3600, jwks);
        bench.world.put(vec![("main", generation, Record::Issuer(Arc::new(issuer)))]);
    };
    record("elsewhere", 2);
    eventually("put in again", || bench.decide(&held) == Some(Reason::CredentialAudience));
    record(AUDIENCE, 3);
    eventually("put in again", || bench.decide(&held).is_none());
    // A key that the hub revoked stays revoked, whoever publishes it.
    let set = KeySet::parse_for(&jwks(&[held.jwk()]), &[Algorithm::Es256], KeyUse::Signature);
    let revoked = Credential {
        kind: CredentialKind::SigningKey,
        identity: None,
        fingerprint: *set.keys()[0].thumbprint(),
        digest: None,
        issued: None,
        rotate_by: None,
        expires: None,
        status: CredentialStatus::Revoked,
        source: None,
    };
    bench.world.put(vec![("stolen", 1, Record::Credential(Arc::new(revoked)))]);
    assert_eq!(bench.decide(&held), Some(Reason::CredentialRevoked));
}

/// The record of an issuer without keys of its own.
fn keyless(iss: &str, profile: TokenProfile) -> Record {
    let none = Arc::from(&br#"{"keys":[]}"#[..]);
    Record::Issuer(Arc::new(Issuer::new(iss.into(), profile, vec![Algorithm::Es256], vec![], 3600, none)))
}

#[test]
fn without_a_record_nothing_is_fetched_and_nobody_is_known() {
    const OTHER: &str = "https://other.test";
    let key = |key_id: &str| TestIssuer::new(OTHER, key_id, Algorithm::Es256);
    let (before, after) = (key("before"), key("after"));
    let at = |idp: &Idp| (OTHER.into(), KeySource::Url(idp.url("/jwks").into()));
    let bench = Bench::of(World::new(), at, &[&before], &["localhost"]);
    let decide = |key: &TestIssuer| {
        let mut claims = bench.world.claims("ledger");
        claims["iss"] = json!(OTHER);
        bench.present(&key.sign(&key.header(), &claims))
    };
    assert_eq!(decide(&before), Some(Reason::IssuerUnknown));
    assert_eq!(bench.world.read_orders("ledger"), None, "another issuer's record keeps its keys");
    assert!(!bench.keys.missing(&name(TENANT), &name("main"), "k"), "and its reports go to the hub");
    bench.publish(&[&after]);
    let mut ledger = identity("ledger");
    ledger.bindings.push(Binding { issuer: name("other"), subject: "ledger".into() });
    bench.world.put(vec![
        ("other", 1, keyless(OTHER, TokenProfile::Generic)),
        ("ledger", 1, Record::Identity(Arc::new(ledger))),
    ]);
    eventually("the key", || decide(&after).is_none());
    assert_eq!(bench.idp.asked(), 1, "and not before there was a record");
}

#[test]
fn keys_are_found_by_discovery() {
    let bench =
        Bench::of(World::new(), |idp| (idp.url("/tenant").into(), KeySource::Discovery), &[], &["localhost"]);
    let iss = bench.idp.url("/tenant");
    let held = TestIssuer::new(&iss, "held", Algorithm::Es256);
    let mut ledger = identity("ledger");
    ledger.bindings.push(Binding { issuer: name("found"), subject: "ledger".into() });
    bench.world.put(vec![
        ("found", 1, keyless(&iss, TokenProfile::Generic)),
        ("ledger", 1, Record::Identity(Arc::new(ledger))),
    ]);
    let document = "/tenant/.well-known/openid-configuration";
    bench.publish(&[&held]);
    for (n, (of, expected)) in
        [("https://evil.example", "not of this issuer"), (&*format!("{iss}/"), "not of this issuer")]
            .into_iter()
            .enumerate()
    {
        bench.put(document, json!({ "issuer": of, "jwks_uri": bench.idp.url("/jwks") }));
        bench.pass(Duration::from_secs(60));
        eventually("a failure", || {
            bench.view().failures > u32::try_from(n).unwrap()
                && bench.view().error.is_some_and(|error| error.contains(expected))
        });
    }
    bench.put(document, json!({ "issuer": iss, "jwks_uri": bench.idp.url("/jwks") }));
    bench.pass(Duration::from_secs(60));
    let decide = || {
        let mut claims = bench.world.claims("ledger");
        claims["iss"] = json!(iss);
        bench.present(&held.sign(&held.header(), &claims))
    };
    eventually("the key", || decide().is_none());
}

#[test]
fn a_trust_domains_bundle_gives_its_keys_for_tokens() {
    let (domain, subject) = ("spiffe://acme.example", "spiffe://acme.example/ns/pay/ledger");
    let world = World::new();
    let mut ledger = identity("ledger");
    ledger.bindings.push(Binding { issuer: name("td"), subject: subject.into() });
    world.put(vec![
        ("td", 1, keyless(domain, TokenProfile::JwtSvid)),
        ("ledger", 1, Record::Identity(Arc::new(ledger))),
    ]);
    let at = |idp: &Idp| (domain.into(), KeySource::Url(idp.url("/bundle").into()));
    let bench = Bench::of(world, at, &[], &["localhost"]);
    let used = |key: &TestIssuer, key_use: &str| {
        let mut jwk = key.jwk();
        jwk["use"] = json!(key_use);
        jwk
    };
    let (good, other) = (key("good"), key("other"));
    bench.put(
        "/bundle",
        json!({ "spiffe_sequence": 1, "keys": [used(&good, "jwt-svid"), used(&other, "x509-svid")] }),
    );
    bench.pass(Duration::from_secs(5));
    let decide = |key: &TestIssuer| {
        let mut claims = bench.world.claims(subject);
        claims.as_object_mut().unwrap().remove("iss");
        bench.present(&key.sign(&key.header(), &claims))
    };
    eventually("the domain's key", || decide(&good).is_none());
    assert_eq!(decide(&other), UNVERIFIED);
}

#[test]
fn only_judged_addresses_are_asked() {
    for (source, expected) in [
        ("https://169.254.169.254/jwks", "metadata"),
        ("https://[::ffff:127.0.0.1]/jwks", "IPv4 address inside IPv6"),
        ("https://10.0.0.1/jwks", "private"),
        ("https://localhost:1/jwks", "loopback"),
        ("http://localhost/jwks", "is not `https`"),
    ] {
        let held = key("held");
        let at = |_: &Idp| (ISS.into(), KeySource::Url(source.into()));
        let bench = Bench::of(World::new(), at, &[&held], &["10.0.0.2"]);
        eventually("a failure", || bench.view().failures > 0);
        let error = bench.view().error.unwrap();
        assert!(error.contains(expected), "{source}: {error}");
        assert!(bench.decide(&held).is_some(), "{source}");
        assert_eq!(bench.idp.asked(), 0);
    }
}

#[test]
fn a_bad_set_takes_the_place_of_nothing_and_a_bad_key_of_no_other() {
    let (held, weak) = (key("held"), key("weak"));
    let bench = Bench::new(&[&held]);
    eventually("the key", || bench.decide(&held).is_none());
    for (n, bad) in
        [json!([]), json!({}), json!({ "keys": {} }), json!({ "keys": vec![0; 101] })].into_iter().enumerate()
    {
        bench.put("/jwks", bad.clone());
        bench.pass(PACE.refresh);
        eventually("a failure", || bench.view().failures == u32::try_from(n).unwrap() + 1);
        assert_eq!(bench.decide(&held), None, "{bad}");
    }
    let mut private = weak.jwk();
    private["d"] = json!("c2VjcmV0");
    bench.put("/jwks", json!({ "keys": [private, held.jwk()] }));
    bench.pass(PACE.refresh);
    eventually("a set", || bench.view().failures == 0);
    assert!(bench.view().left_out.iter().any(|why| why.contains("weak")), "{:?}", bench.view());
    eventually("put in", || (bench.decide(&held), bench.decide(&weak)) == (None, UNVERIFIED));
}
