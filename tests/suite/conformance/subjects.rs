//! Whose a subject is: exactly a known one, of exactly its issuer (T14, T19).

use std::sync::Arc;

use portreeve::core::credential::Algorithm;
use portreeve::core::identity::{Binding, Record};
use portreeve::core::policy::Reason;
use serde_json::json;

use crate::support::issuer::TestIssuer;
use crate::support::world::{World, identity, name};

#[test]
fn a_subject_that_only_looks_like_one_is_nobodys() {
    let world = World::new();
    assert_eq!(world.read_orders("ledger"), None);
    world.put_identity("accent", 1, identity("caf\u{e9}"));
    assert_eq!(world.read_orders("caf\u{e9}"), None);
    for subject in [
        "ledger ",
        " ledger",
        "Ledger",
        "LEDGER",
        "ledge",
        "ledgerx",
        "l\u{435}dger",
        "ledger\u{200b}",
        "\u{feff}ledger",
        "ledger/",
        "ledger%20",
        "cafe\u{301}",
        "main/ledger",
        "demo/ledger",
    ] {
        assert_eq!(world.read_orders(subject), Some(Reason::IdentityUnknown), "{subject:?}");
    }
}

#[test]
fn another_issuers_token_does_not_speak_for_the_same_subject() {
    let world = World::new();
    let other = TestIssuer::new("https://other.test", "key-1", Algorithm::Es256);
    world.put(vec![("other", 1, Record::Issuer(Arc::new(other.record())))]);
    let by_other = |subject: &str| {
        let mut claims = world.claims(subject);
        claims["iss"] = json!(other.iss());
        let token = other.sign(&other.header(), &claims);
        world.decide(&world.exchange(Some(&token), "GET", "/orders/1"))
    };
    assert_eq!(by_other("ledger"), Some(Reason::IdentityUnknown), "its subject is our issuer's");
    assert_eq!(world.read_orders("ledger"), None);
    let mut theirs = identity("ledger");
    theirs.bindings = vec![Binding { issuer: name("other"), subject: "ledger".into() }];
    world.put_identity("theirs", 1, theirs);
    assert_eq!(by_other("ledger"), None, "bound to both, it is two identities");
    let who = || world.log.last_verdict().basis().principal.as_ref().unwrap().name().clone();
    assert_eq!(who(), name("theirs"));
    assert_eq!(world.read_orders("ledger"), None);
    assert_eq!(who(), name("ledger"));
}
