//! Streams: what is tried again and when, and for how long counts what was said.

use std::time::Duration;

use portreeve::workload::KEPT_MAX;
use tonic::Code;

use super::{Ask, DOMAIN, Followed, HOST, PROXY, Read};
use crate::support::spiffe::{Domain, Svid};
use crate::support::until;
use crate::support::world::World;

const IDENTITY: Ask<'_> = Ask { identity: true, authorities: false, domains: &[] };

#[test]
fn a_denial_withdraws_and_is_asked_again_ever_later() {
    let domain = Domain::new();
    let mut followed = Followed::new(|agent| agent.gives(&domain.svid(PROXY, HOST)));
    let world = World::new();
    assert!(!followed.status.lacks_identity(), "nothing is wanted yet");
    followed.follow(IDENTITY, Read::of(&world));
    until("a certificate", || followed.identity.current().is_some());
    until("an open stream", || followed.status.down() == 0 && !followed.status.lacks_identity());
    assert_eq!((followed.status.troubles(), followed.waited()), (Vec::new(), 0));

    followed.agent.ends_certificates(Code::PermissionDenied);
    until("withdrawn", || followed.identity.current().is_none() && followed.status.lacks_identity());
    for turn in 1..=7 {
        until("a wait", || followed.waited() == turn);
        let asked = followed.agent.asked();
        followed.pass();
        until("asked again", || followed.agent.asked() == asked + 1);
    }
    let waits = followed.waits.lock().unwrap().clone();
    for (wait, whole) in waits.iter().zip([1, 2, 4, 8, 16, 30, 30]) {
        let whole = Duration::from_secs(whole);
        assert!(*wait <= whole && *wait * 2 > whole, "{waits:?}");
    }
    assert_eq!(
        followed.status.troubles(),
        ["workload_api: X.509-SVID: PermissionDenied: so it is"],
        "and no word that it is over"
    );

    // Only then has the last question its answer.
    until("a wait", || followed.waited() == 8);
    let second = domain.svid(PROXY, HOST);
    followed.agent.gives(&second);
    followed.pass();
    until("the next certificate", || {
        followed.identity.current().is_some_and(|held| held.cert == [second.certificate.clone()])
    });
    followed.agent.ends_certificates(Code::Unavailable);
    until("a wait", || followed.waited() == 9);
    assert!(followed.waits.lock().unwrap()[8] <= Duration::from_secs(1), "it begins anew");
    assert!(followed.identity.current().is_some(), "a stream that breaks withdraws nothing");
}

#[test]
fn what_asking_again_would_not_change_is_not_asked_again() {
    for code in [Code::InvalidArgument, Code::Unimplemented] {
        let domain = Domain::new();
        let mut followed = Followed::new(|agent| agent.gives(&domain.svid(PROXY, HOST)));
        followed.follow(IDENTITY, Read::of(&World::new()));
        until("a certificate", || followed.identity.current().is_some());
        followed.agent.ends_certificates(code);
        for turn in 1..=5 {
            until("a wait", || followed.waited() == turn);
            followed.pass();
        }
        until("a wait", || followed.waited() == 6);
        assert_eq!(followed.agent.asked(), 1, "{code:?}");
        let told = format!("workload_api: X.509-SVID: {code:?}: so it is; it is not tried again");
        assert_eq!(followed.status.troubles(), [told]);
        assert!(followed.identity.current().is_some(), "{code:?}");
    }
}

#[test]
fn what_was_said_counts_for_a_day_after_the_stream_has_broken() {
    for (after, kept) in [(KEPT_MAX - Duration::from_micros(1), true), (KEPT_MAX, false)] {
        let domain = Domain::new();
        let mut followed = Followed::new(|agent| agent.vouches(&[(DOMAIN, &[&domain])]));
        let world = World::new();
        followed.follow(Ask { authorities: true, ..Ask::default() }, Read::of(&world));
        until("authorities", || !followed.bundles.is_empty());
        followed.agent.ends_authorities(Code::Unavailable);
        until("a wait", || followed.waited() == 1);
        world.clock.advance(after);
        followed.pass();
        until("another wait", || followed.waited() == 2);
        assert_eq!(!followed.bundles.is_empty(), kept, "{after:?}");
        followed.agent.vouches(&[(DOMAIN, &[&domain])]);
        followed.pass();
        until("authorities again", || !followed.bundles.is_empty() && followed.status.down() == 0);
    }
}

#[test]
fn an_agent_that_comes_later_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut followed = Followed::new(|_| {});
    let path = folder.path().join("later.sock");
    std::fs::rename(&followed.agent.socket()["unix://".len()..], &path).unwrap();
    followed.follow(IDENTITY, Read::of(&World::new()));
    until("a wait", || followed.waited() == 1);
    assert_eq!((followed.agent.asked(), followed.status.down()), (0, 1));
    assert!(followed.status.lacks_identity());
    std::fs::rename(&path, &followed.agent.socket()["unix://".len()..]).unwrap();
    followed.agent.gives(&Domain::new().svid(PROXY, HOST));
    followed.pass();
    until("a certificate", || followed.identity.current().is_some());
}

#[test]
fn what_cannot_be_used_is_told_and_changes_nothing() {
    let domain = Domain::new();
    let good = domain.svid(PROXY, HOST);
    let mut followed = Followed::new(|agent| agent.gives(&good));
    followed.follow(Ask { identity: true, authorities: true, domains: &[] }, Read::of(&World::new()));
    until("a certificate", || followed.identity.current().is_some());
    let other = domain.svid("spiffe://acme.example/other", HOST);
    let bad = [
        Svid { key: other.key.clone(), ..good.clone() },
        Svid { id: other.id.clone(), ..good.clone() },
        Svid { id: DOMAIN.to_owned(), ..good.clone() },
        Svid { id: "https://acme.example/x".to_owned(), ..good.clone() },
        Svid { certificate: vec![1, 2, 3].into(), ..good.clone() },
        Svid { key: Vec::new(), ..domain.svid(PROXY, HOST) },
    ];
    for (turn, svid) in (1..).zip(&bad) {
        followed.agent.gives(svid);
        until("told", || followed.status.refused() == turn);
        assert_eq!(followed.identity.current().unwrap().cert.first(), Some(&good.certificate), "{turn}");
    }
    followed.agent.gives_all(&[other.clone(), good.clone()]);
    until("the first of two", || {
        followed.identity.current().is_some_and(|held| held.cert == [other.certificate.clone()])
    });
    followed.agent.gives_all(&[]);
    until("none", || followed.identity.current().is_none());
    let refused = followed.status.refused();
    let der = domain.certificate.to_vec();
    followed.agent.vouches_by([(DOMAIN.to_owned(), der.clone())].into());
    until("a wait", || followed.waited() >= 1);
    followed.pass();
    until("authorities", || !followed.bundles.is_empty());
    let rows = [(DOMAIN, [&der[..], &[0]].concat()), ("acme.example", der.clone()), (PROXY, der)];
    for (turn, (id, der)) in (refused + 1..).zip(rows) {
        followed.agent.vouches_by([(id.to_owned(), der)].into());
        until("told", || followed.status.refused() == turn);
        assert!(followed.bundles.is_empty(), "{id}: nobody vouches");
    }
}
