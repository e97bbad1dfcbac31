//! Keys count up to their bound, and not at it: JWKS that can be fetched no more.

use std::sync::Arc;
use std::time::Duration;

use portreeve::core::identity::Record;
use portreeve::core::policy::Reason;

use crate::support::clock::ManualClock;
use crate::support::world::World;

#[test]
fn keys_that_were_not_fetched_for_too_long_verify_nothing() {
    let world = World::new();
    let until = ManualClock::START.after(Duration::from_secs(100));
    let bounded = world.issuer.record().with_keys_until(Some(until));
    world.put(vec![("main", 1, Record::Issuer(Arc::new(bounded.clone())))]);
    let token = world.token(&world.claims("ledger"));
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    assert_eq!(world.decide(&exchange), None);
    assert_eq!(world.log.last_verdict().basis().until, Some(until), "what is open ends then");
    // Remembered or not, both sides of the bound.
    for (later, expected) in [
        (Duration::from_micros(99_999_999), None),
        (Duration::from_micros(1), Some(Reason::CredentialUnverified)),
        (Duration::from_secs(1), Some(Reason::CredentialUnverified)),
    ] {
        world.clock.advance(later);
        world.refresh();
        assert_eq!(world.decide(&exchange), expected, "remembered, {later:?} later");
        assert_eq!(world.read_orders("ledger"), expected, "new, {later:?} later");
    }
    // Between the decision and the last look.
    let longer = |by| bounded.clone().with_keys_until(Some(until.after(Duration::from_secs(by))));
    world.put(vec![("main", 2, Record::Issuer(Arc::new(longer(10))))]);
    assert_eq!(world.decide(&exchange), None, "fetched again: what was remembered counts again");
    let withdrawn = || {
        world.put(vec![("main", 3, Record::Issuer(Arc::new(longer(0))))]);
    };
    assert_eq!(world.decide_with(&exchange, withdrawn), Some(Reason::CredentialUnverified));
}
