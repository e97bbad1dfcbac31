//! Keys of trust domains in the place of those in the issuer's record.

use std::sync::Arc;

use portreeve::core::credential::{Algorithm, KeySet, KeyUse};
use portreeve::core::identity::{
    Binding, Credential, CredentialKind, CredentialStatus, Issuer, Record, TokenProfile,
};
use portreeve::core::policy::Reason;
use serde_json::{Value, json};
use tonic::Code;

use super::{Ask, DOMAIN, Followed, LEDGER, Read};
use crate::support::issuer::{TestIssuer, jwks};
use crate::support::until;
use crate::support::world::{AUDIENCE, World, identity, name};

const OTHER: &str = "spiffe://other.example";
const UNVERIFIED: Option<Reason> = Some(Reason::CredentialUnverified);

fn key(key_id: &str) -> TestIssuer {
    TestIssuer::new(DOMAIN, key_id, Algorithm::Es256)
}

fn jwk(key: &TestIssuer) -> Value {
    let mut jwk = key.jwk();
    jwk["use"] = json!("jwt-svid");
    jwk
}

fn set(keys: &[&TestIssuer]) -> Vec<u8> {
    jwks(&keys.iter().map(|key| jwk(key)).collect::<Vec<_>>())
}

fn record(keys: &[&TestIssuer], audiences: &[&str]) -> Record {
    let audiences = audiences.iter().map(|audience| Arc::from(*audience)).collect();
    let (profile, algorithms) = (TokenProfile::JwtSvid, vec![Algorithm::Es256]);
    Record::Issuer(Arc::new(Issuer::new(
        DOMAIN.into(),
        profile,
        algorithms,
        audiences,
        3600,
        set(keys).into(),
    )))
}

/// A world in which `ledger` is bound to its SPIFFE ID, whose domain's record has the keys of `hub`.
fn world(hub: &TestIssuer) -> World {
    let world = World::new();
    let mut ledger = identity("ledger");
    ledger.bindings.push(Binding { issuer: name("td"), subject: LEDGER.into() });
    world.put(vec![("td", 1, record(&[hub], &[])), ("ledger", 1, Record::Identity(Arc::new(ledger)))]);
    world
}

/// What is decided of a token by `key`.
fn asked(world: &World, key: &TestIssuer, subject: &str) -> Option<Reason> {
    let mut claims = world.claims(subject);
    claims.as_object_mut().unwrap().remove("iss");
    claims["jti"] = json!(key.key_id());
    claims["aud"] = json!(AUDIENCE);
    let token = key.sign(&key.header(), &claims);
    world.decide(&world.exchange(Some(&token), "GET", "/orders/1"))
}

#[test]
fn keys_arrive_rotate_and_are_withdrawn() {
    let (hub, first, second) = (key("hub"), key("first"), key("second"));
    let world = world(&hub);
    let mut followed = Followed::new(|_| {});
    let decide = |key: &TestIssuer| asked(&world, key, LEDGER);
    assert_eq!((decide(&hub), decide(&first)), (None, UNVERIFIED), "without a setting the record counts");
    followed.follow(Ask { domains: &[DOMAIN], ..Ask::default() }, Read::of(&world));
    assert!(decide(&hub).is_some(), "with it, nothing does before something is said");
    followed.agent.signs(&[(DOMAIN, set(&[&first])), (OTHER, set(&[&second]))]);
    until("the first key", || decide(&first).is_none());
    assert_eq!((decide(&hub), decide(&second)), (UNVERIFIED, UNVERIFIED), "those of the record do not count");
    followed.agent.signs(&[(DOMAIN, set(&[&first, &second]))]);
    until("the second key", || decide(&second).is_none());
    assert_eq!(decide(&first), None);
    followed.agent.signs(&[(DOMAIN, set(&[&second]))]);
    until("a key that is gone verifies nothing, remembered or not", || decide(&first) == UNVERIFIED);
    assert_eq!(decide(&second), None);
    followed.agent.signs(&[(OTHER, set(&[&second]))]);
    until("a domain that is gone", || decide(&second) == UNVERIFIED);
    assert_eq!(decide(&hub), UNVERIFIED, "and does not come back by the record");
    followed.agent.signs(&[(DOMAIN, set(&[&second]))]);
    until("it is there again", || decide(&second).is_none());
    followed.agent.ends_keys(Code::Unavailable);
    until("a wait", || followed.waited() == 1);
    assert_eq!(decide(&second), None, "a stream that breaks withdraws nothing");
    followed.agent.ends_keys(Code::PermissionDenied);
    followed.pass();
    until("a denial withdraws", || decide(&second) == UNVERIFIED);
}

#[test]
fn the_record_stays_the_hubs() {
    let (hub, local) = (key("hub"), key("local"));
    let world = world(&hub);
    let mut followed = Followed::new(|agent| agent.signs(&[(DOMAIN, set(&[&local]))]));
    followed.follow(Ask { domains: &[DOMAIN], ..Ask::default() }, Read::of(&world));
    let decide = |key: &TestIssuer| asked(&world, key, LEDGER);
    until("the local key", || decide(&local).is_none());
    world.put(vec![("td", 1, record(&[&hub], &["elsewhere"]))]);
    until("put in again", || decide(&local) == Some(Reason::CredentialAudience));
    world.put(vec![("td", 1, record(&[&hub], &[AUDIENCE]))]);
    until("put in again", || decide(&local).is_none());
    // A key that the hub revoked stays revoked, whoever publishes it.
    let thumbprint =
        *KeySet::parse_for(&set(&[&local]), &[Algorithm::Es256], KeyUse::JwtSvid).keys()[0].thumbprint();
    let revoked = Credential {
        kind: CredentialKind::SigningKey,
        identity: None,
        fingerprint: thumbprint,
        digest: None,
        issued: None,
        rotate_by: None,
        expires: None,
        status: CredentialStatus::Revoked,
        source: None,
    };
    world.put(vec![("stolen", 1, Record::Credential(Arc::new(revoked)))]);
    assert_eq!(decide(&local), Some(Reason::CredentialRevoked));
}

#[test]
fn nobody_is_known_whom_no_record_and_no_setting_names() {
    let (hub, local) = (key("hub"), key("local"));
    let world = world(&hub);
    let both = [(DOMAIN, set(&[&local])), (OTHER, set(&[&local]))];
    let mut followed = Followed::new(|agent| agent.signs(&both));
    // Named in the configuration, and by no record; the other way round.
    followed.follow(Ask { domains: &[OTHER], ..Ask::default() }, Read::of(&world));
    until("taken", || followed.status.updates() == 1);
    let (edition, root) = (world.trust.edition(), world.state.load().root());
    world.put(vec![("x", 1, Record::Identity(Arc::new(identity("x"))))]);
    assert_ne!(world.state.load().root(), root);
    for _ in 0..3 {
        assert_eq!(
            asked(&world, &local, "spiffe://other.example/ns/pay/ledger"),
            Some(Reason::CredentialMalformed)
        );
        assert_eq!((asked(&world, &hub, LEDGER), asked(&world, &local, LEDGER)), (None, UNVERIFIED));
    }
    assert_eq!(world.trust.edition(), edition, "nothing was put anywhere");
}
