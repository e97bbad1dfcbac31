//! Token Status List (draft 20): standards §11.

mod vectors;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use miniz_oxide::deflate::compress_to_vec_zlib;
use portreeve::core::credential::{Algorithm, StatusListError, status_list_name, verify_status_list};
use portreeve::core::identity::{Issuer, Record, StatusBits, StatusList, StatusLists};
use portreeve::core::policy::Reason;
use portreeve::core::time::Timestamp;
use serde_json::{Value, json};

use crate::support::clock::ManualClock;
use crate::support::issuer::{TestIssuer, base64url};
use crate::support::world::{World, name};

pub(crate) const URI: &str = "https://issuer.test/lists/1";

/// The header of a list's token.
pub(crate) fn list_header(issuer: &TestIssuer) -> Value {
    json!({ "alg": issuer.algorithm().as_str(), "kid": issuer.key_id(), "typ": "statuslist+jwt" })
}

/// Values of `bits` each, as a list's `status_list`.
pub(crate) fn status_list(bits: u8, bytes: &[u8]) -> Value {
    json!({ "bits": bits, "lst": base64url(&compress_to_vec_zlib(bytes, 9)) })
}

/// An issuer that takes lists below `https://issuer.test/lists/`.
pub(crate) fn listing(issuer: &TestIssuer) -> Issuer {
    let uris = vec!["https://issuer.test/lists/".into()];
    issuer.record().with_status_lists(StatusLists { uris, max_age_s: 3600 })
}

/// A list of issuer `main`, good for an hour.
pub(crate) fn list(uri: &str, bits: StatusBits, bytes: &[u8]) -> Record {
    list_until(uri, bits, bytes, 3600)
}

/// The same, good for so many seconds.
pub(crate) fn list_until(uri: &str, bits: StatusBits, bytes: &[u8], seconds: u64) -> Record {
    let mut list = StatusList::withdrawn(name("main"), uri.into());
    list.bits = bits;
    list.issued = ManualClock::START;
    list.valid_until = ManualClock::START.after(Duration::from_secs(seconds));
    list.signed_by = [7; 32];
    Record::StatusList(Arc::new(list.with_values(compress_to_vec_zlib(bytes, 9).into()).unwrap()))
}

/// The name of the record of issuer `main`'s list.
pub(crate) fn list_name(uri: &str) -> String {
    status_list_name(&name("main"), uri).unwrap().to_string()
}

const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_seconds(NOW)
}

fn claims() -> Value {
    json!({ "sub": URI, "iat": NOW - 10, "exp": NOW + 60, "ttl": 30, "status_list": status_list(2, &[0xc9]) })
}

fn with(mut object: Value, path: &str, value: Value) -> Value {
    *object.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
    object
}

fn without(mut object: Value, member: &str) -> Value {
    object.as_object_mut().unwrap().remove(member).unwrap();
    object
}

#[test]
fn a_lists_token_is_read_as_strictly_as_any() {
    let issuer = TestIssuer::es256();
    let record = issuer.record();
    let verify = |token: &str| verify_status_list(token.as_bytes(), URI, &record, now());
    let read = |claims: &Value| verify(&issuer.sign(&list_header(&issuer), claims));
    let good = read(&claims()).unwrap();
    assert_eq!((good.bits, good.issued), (StatusBits::Two, Timestamp::from_seconds(NOW - 10)));
    assert_eq!(good.expires, Some(Timestamp::from_seconds(NOW + 60)));
    assert_eq!(good.ttl, Some(Duration::from_secs(30)));
    assert_eq!(&good.signed_by, record.keys.keys()[0].thumbprint());
    let bare = without(without(claims(), "exp"), "ttl");
    let bare = read(&bare).unwrap();
    assert_eq!((bare.expires, bare.ttl), (None, None));
    let at = |seconds: i64| json!(NOW + seconds);
    for (what, taken) in [
        ("its issuer", with_new(claims(), "iss", json!(issuer.iss()))),
        ("from as far ahead as clocks differ", with(claims(), "/iat", at(60))),
        ("to its last second", with(claims(), "/exp", at(1))),
        ("a claim that nobody knows", with_new(claims(), "more", json!([1]))),
        ("another way to find lists", with_new(claims(), "aggregation_uri", json!("https://x.test"))),
    ] {
        assert!(read(&taken).is_ok(), "{what}: {:?}", read(&taken));
    }
    use StatusListError::{Claim, Expired, Future, Issuer, Subject};
    for (what, refused, error) in [
        ("another list", with(claims(), "/sub", json!("https://issuer.test/lists/2")), Subject),
        (
            "the same in another spelling",
            with(claims(), "/sub", json!("https://ISSUER.test/lists/1")),
            Subject,
        ),
        ("no list", without(claims(), "sub"), Claim("sub")),
        ("a list that is no text", with(claims(), "/sub", json!(1)), Claim("sub")),
        ("another issuer", with_new(claims(), "iss", json!("https://other.test")), Issuer),
        ("an issuer that is no text", with_new(claims(), "iss", json!(null)), Claim("iss")),
        ("no time", without(claims(), "iat"), Claim("iat")),
        ("a time as text", with(claims(), "/iat", json!("1")), Claim("iat")),
        ("ahead", with(claims(), "/iat", at(61)), Future),
        ("over this second", with(claims(), "/exp", at(0)), Expired),
        ("an end as text", with(claims(), "/exp", json!("never")), Claim("exp")),
        ("no time to live", with(claims(), "/ttl", json!(0)), Claim("ttl")),
        ("a negative time to live", with(claims(), "/ttl", json!(-1)), Claim("ttl")),
        ("no values", without(claims(), "status_list"), Claim("status_list")),
        ("values that are no object", with(claims(), "/status_list", json!([])), Claim("status_list")),
        ("three bits", with(claims(), "/status_list/bits", json!(3)), Claim("bits")),
        ("no bits", with(claims(), "/status_list/bits", json!(0)), Claim("bits")),
        ("sixteen bits", with(claims(), "/status_list/bits", json!(16)), Claim("bits")),
        ("bits as text", with(claims(), "/status_list/bits", json!("1")), Claim("bits")),
        ("values as numbers", with(claims(), "/status_list/lst", json!([0])), Claim("lst")),
        ("values with padding", with(claims(), "/status_list/lst", json!("eNoDAAAAAAE=")), Claim("lst")),
        ("values in another alphabet", with(claims(), "/status_list/lst", json!("eN+/")), Claim("lst")),
    ] {
        assert_eq!(read(&refused), Err(error), "{what}");
    }
}

fn with_new(mut object: Value, member: &str, value: Value) -> Value {
    object[member] = value;
    object
}

#[test]
fn a_lists_token_is_its_issuers_and_of_its_own_kind() {
    let (issuer, other) = (TestIssuer::es256(), TestIssuer::es256());
    let record = issuer.record();
    let of = |token: &str| verify_status_list(token.as_bytes(), URI, &record, now()).map(|_| ());
    let header = |path: &str, value| with_new(list_header(&issuer), path, value);
    use StatusListError::{Jws, Kind, Signature, Size};
    for kind in ["statuslist+jwt", "application/statuslist+jwt", "StatusList+JWT"] {
        assert_eq!(of(&issuer.sign(&header("typ", json!(kind)), &claims())), Ok(()), "{kind}");
    }
    for kind in ["JWT", "at+jwt", "statuslist+cwt", "statuslist", ""] {
        assert_eq!(of(&issuer.sign(&header("typ", json!(kind)), &claims())), Err(Kind), "{kind}");
    }
    assert_eq!(of(&issuer.sign(&without(list_header(&issuer), "typ"), &claims())), Err(Kind));
    for (what, token) in [
        ("another key of the same id", other.sign(&list_header(&issuer), &claims())),
        ("an unknown key", issuer.sign(&header("kid", json!("key-2")), &claims())),
        ("no algorithm", issuer.sign(&header("alg", json!("none")), &claims())),
        ("a symmetric algorithm", issuer.sign(&header("alg", json!("HS256")), &claims())),
        ("another algorithm", issuer.sign(&header("alg", json!("ES384")), &claims())),
    ] {
        assert_eq!(of(&token), Err(Signature), "{what}");
    }
    // The key is there, the issuer's record does not take its algorithm.
    let strict = Issuer { algorithms: vec![Algorithm::EdDsa], ..issuer.record() };
    let good = issuer.sign(&list_header(&issuer), &claims());
    assert_eq!(verify_status_list(good.as_bytes(), URI, &strict, now()), Err(Signature));
    assert!(matches!(of(&format!("{good}.")), Err(Jws(_))));
    assert!(matches!(of(&format!("{good}\n")), Err(Jws(_))), "a line break");
    assert!(matches!(of(&issuer.sign(&header("crit", json!(["x"])), &claims())), Err(Jws(_))));
    assert!(matches!(of(&issuer.sign(&header("zip", json!("DEF")), &claims())), Err(Jws(_))));
    assert_eq!(of(&"a".repeat(2 << 20)), Err(Size));
    // A list is nobody's credential, whoever signed it.
    let world = World::new();
    let mut both = world.claims("ledger");
    both["status_list"] = status_list(1, &[0]);
    let token = world.issuer.sign(&list_header(&world.issuer), &both);
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    assert_eq!(world.decide(&exchange), Some(Reason::CredentialUnverified));
}

/// A world whose issuer takes lists, and holds one of two bits: 1, 2, 0, 3 and so on.
fn listed_world() -> World {
    let world = World::new();
    world.put(vec![
        ("main", 1, Record::Issuer(Arc::new(listing(&world.issuer)))),
        (&list_name(URI), 1, list(URI, StatusBits::Two, &[0xc9, 0x44, 0xf9])),
    ]);
    world
}

fn judged(world: &World, status: Value) -> Option<Reason> {
    let mut claims = world.claims("ledger");
    claims["status"] = status;
    let exchange = world.exchange(Some(&world.token(&claims)), "GET", "/orders/1");
    let first = world.decide(&exchange);
    assert_eq!(world.decide(&exchange), first, "remembered, it is the same");
    first
}

fn place(index: impl Into<Value>) -> Value {
    json!({ "status_list": { "idx": index.into(), "uri": URI } })
}

#[test]
fn what_the_list_says_decides() {
    let world = listed_world();
    assert_eq!(world.read_orders("ledger"), None, "a token without status");
    use Reason::{
        CredentialMalformed, StatusInvalid, StatusMissing, StatusOther, StatusRange, StatusSuspended,
        StatusUnlisted,
    };
    for (index, expected) in [
        (0, Some(StatusInvalid)),
        (1, Some(StatusSuspended)),
        (2, None),
        (3, Some(StatusOther)),
        (10, Some(StatusOther)),
        (11, Some(StatusOther)),
        (12, Some(StatusRange)),
        (u64::MAX, Some(StatusRange)),
    ] {
        assert_eq!(judged(&world, place(index)), expected, "{index}");
    }
    let at = |uri: &str| json!({ "status_list": { "idx": 2, "uri": uri } });
    let list = |list: Value| json!({ "status_list": list });
    for (what, status, expected) in [
        ("a list that is not here", at("https://issuer.test/lists/2"), StatusMissing),
        ("another host's", at("https://other.test/lists/1"), StatusUnlisted),
        ("another scheme's", at("http://issuer.test/lists/1"), StatusUnlisted),
        ("another spelling's", at("https://ISSUER.test/lists/1"), StatusUnlisted),
        ("beside those that are taken", at("https://issuer.test/listings"), StatusUnlisted),
        ("the folder itself", at("https://issuer.test/lists/"), StatusUnlisted),
        ("out of the folder", at("https://issuer.test/lists/../1"), StatusUnlisted),
        ("out of it in disguise", at("https://issuer.test/lists/%2e%2e/1"), StatusUnlisted),
        ("with a query", at("https://issuer.test/lists/1?a"), StatusUnlisted),
        ("another user's", at("https://issuer.test/lists/@169.254.169.254/"), StatusUnlisted),
        ("a way that is not known", json!({ "other": { "a": 1 } }), StatusUnlisted),
        ("nothing", json!({}), CredentialMalformed),
        ("text", json!("active"), CredentialMalformed),
        ("null", json!(null), CredentialMalformed),
        ("a list that is no object", list(json!(7)), CredentialMalformed),
        ("no place", list(json!({ "uri": URI })), CredentialMalformed),
        ("no list", list(json!({ "idx": 2 })), CredentialMalformed),
        ("an empty list", list(json!({ "idx": 2, "uri": "" })), CredentialMalformed),
        ("a negative place", place(-1), CredentialMalformed),
        ("a place with a fraction", place(2.0), CredentialMalformed),
        ("a place as text", place("2"), CredentialMalformed),
        ("a line break", at("https://issuer.test/lists/1\n"), CredentialMalformed),
    ] {
        assert_eq!(judged(&world, status), Some(expected), "{what}");
    }
    let mut both = place(2);
    both["other"] = json!({ "a": 1 });
    assert_eq!(judged(&world, both), None, "one known way of several suffices");
}

#[test]
fn a_token_of_an_issuer_without_lists_must_not_name_one() {
    let world = World::new();
    world.put(vec![(&list_name(URI), 1, list(URI, StatusBits::Two, &[0]))]);
    assert_eq!(judged(&world, place(0)), Some(Reason::StatusUnlisted));
    // The record takes them from now on, and then no more: at once, remembered or not.
    let mut claims = world.claims("ledger");
    claims["status"] = place(0);
    let exchange = world.exchange(Some(&world.token(&claims)), "GET", "/orders/1");
    world.put(vec![("main", 1, Record::Issuer(Arc::new(listing(&world.issuer))))]);
    assert_eq!(world.decide(&exchange), None);
    world.put(vec![("main", 1, Record::Issuer(Arc::new(world.issuer.record())))]);
    assert_eq!(world.decide(&exchange), Some(Reason::StatusUnlisted));
}

#[test]
fn the_token_comes_first_and_our_own_revocations_before_its_issuers() {
    let world = listed_world();
    let reads = |change: fn(&mut Value), index: u64| {
        let mut claims = world.claims("ledger");
        claims["status"] = place(index);
        change(&mut claims);
        world.decide(&world.exchange(Some(&world.token(&claims)), "GET", "/orders/1"))
    };
    assert_eq!(reads(|_| {}, 2), None);
    for index in [0, 2, 99] {
        let expired = |claims: &mut Value| claims["exp"] = json!(claims["iat"].as_i64().unwrap() - 100);
        assert_eq!(reads(expired, index), Some(Reason::CredentialExpired), "{index}");
        let elsewhere = |claims: &mut Value| claims["aud"] = json!("elsewhere");
        assert_eq!(reads(elsewhere, index), Some(Reason::CredentialAudience), "{index}");
        let stranger = |claims: &mut Value| claims["sub"] = json!("stranger");
        assert_eq!(reads(stranger, index), Some(Reason::IdentityUnknown), "{index}");
    }
}

#[test]
fn a_list_counts_until_its_last_moment() {
    let world = listed_world();
    let reads = || {
        let mut claims = world.claims("ledger");
        claims["status"] = place(2);
        world.refresh();
        world.decide(&world.exchange(Some(&world.token(&claims)), "GET", "/orders/1"))
    };
    world.clock.advance(Duration::from_secs(3600) - Duration::from_micros(1));
    assert_eq!(reads(), None);
    world.clock.advance(Duration::from_micros(1));
    assert_eq!(reads(), Some(Reason::StatusStale));
    world.put(vec![(&list_name(URI), 1, list_until(URI, StatusBits::Two, &[0], 3601))]);
    assert_eq!(reads(), None);
    let gone = StatusList::withdrawn(name("main"), URI.into());
    world.put(vec![(&list_name(URI), 1, Record::StatusList(Arc::new(gone)))]);
    assert_eq!(reads(), Some(Reason::StatusMissing));
}

#[test]
fn a_list_that_comes_counts_for_what_was_verified_before() {
    let world = listed_world();
    let mut claims = world.claims("ledger");
    claims["status"] = place(2);
    let exchange = world.exchange(Some(&world.token(&claims)), "GET", "/orders/1");
    for (bytes, expected) in [
        ([0xc9], None),
        ([0xd9], Some(Reason::StatusInvalid)),
        ([0xe9], Some(Reason::StatusSuspended)),
        ([0x0f], None),
    ] {
        world.put(vec![(&list_name(URI), 1, list(URI, StatusBits::Two, &bytes))]);
        assert_eq!(world.decide(&exchange), expected, "{bytes:?}");
    }
    // Between decision and last look, too.
    let turned = world.decide_with(&exchange, || {
        world.put(vec![(&list_name(URI), 1, list(URI, StatusBits::Two, &[0x10]))]);
    });
    assert_eq!(turned, Some(Reason::StatusInvalid));
}

/// Whoever writes a list under another's name is not believed.
#[test]
fn a_list_is_its_issuers_and_its_uris() {
    let world = listed_world();
    let lies = |change: fn(&mut StatusList)| {
        let Record::StatusList(list) = list(URI, StatusBits::Two, &[0]) else { unreachable!() };
        let mut list = StatusList::clone(&list);
        change(&mut list);
        world.put(vec![(&list_name(URI), 1, Record::StatusList(Arc::new(list)))]);
        judged(&world, place(2))
    };
    assert_eq!(lies(|_| {}), None);
    assert_eq!(lies(|list| list.issuer = name("other")), Some(Reason::StatusMissing));
    assert_eq!(lies(|list| list.uri = "https://issuer.test/lists/2".into()), Some(Reason::StatusMissing));
}

/// What is missing is told of; what only says no, or is not known, is not.
#[test]
fn only_a_list_that_is_missing_is_reported() {
    use portreeve::core::credential::{FingerprintKey, MissingKeys};
    use portreeve::core::id::Name;

    #[derive(Default)]
    struct Told(std::sync::Mutex<Vec<u8>>);
    impl MissingKeys for Told {
        fn missing(&self, _: &Name, issuer: &Name, key_id: &str) {
            writeln!(self.0.lock().unwrap(), "key {issuer} {key_id}").unwrap();
        }
        fn missing_list(&self, tenant: &Name, issuer: &Name, uri: &str) {
            writeln!(self.0.lock().unwrap(), "list {tenant} {issuer} {uri}").unwrap();
        }
    }
    let world = listed_world();
    let told = Arc::new(Told::default());
    let pipeline = portreeve::pipeline::Pipeline::new(
        Arc::clone(&world.state),
        world.clock.clone(),
        Arc::clone(&world.log) as Arc<dyn portreeve::core::evidence::EvidenceLog>,
        Arc::new(crate::support::world::MapCache::default()),
        Arc::new(crate::support::world::MapMemory::default()),
        FingerprintKey::new([9; 32]),
    )
    .telling(told.clone());
    let asks = |subject: &str, status: Value| {
        let mut claims = world.claims(subject);
        claims["status"] = status;
        pipeline.explain(&world.exchange(Some(&world.token(&claims)), "GET", "/orders/1")).0.reason()
    };
    let at = |uri: &str| json!({ "status_list": { "idx": 2, "uri": uri } });
    let missing = "https://issuer.test/lists/2";
    assert_eq!(asks("ledger", place(2)), None);
    assert_eq!(asks("ledger", place(0)), Some(Reason::StatusInvalid));
    assert_eq!(asks("ledger", place(99)), Some(Reason::StatusRange));
    assert_eq!(asks("ledger", at("https://evil.test/lists/2")), Some(Reason::StatusUnlisted));
    assert_eq!(asks("stranger", at(missing)), Some(Reason::IdentityUnknown));
    assert!(told.0.lock().unwrap().is_empty());
    assert_eq!(asks("ledger", at(missing)), Some(Reason::StatusMissing));
    let told = String::from_utf8(told.0.lock().unwrap().clone()).unwrap();
    assert_eq!(told, format!("list demo main {missing}\n"));
}
