//! What is remembered, for how long, and what is never spared by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use portreeve::core::credential::ANSWER_GRACE;
use portreeve::core::identity::{IdentityStatus, Record, Revocation, RevocationTarget};
use portreeve::core::policy::Reason;
use portreeve::core::time::Clock as _;
use serde_json::json;

use super::{Desk, MICRO, good, inactive, with};
use crate::conformance::opaque::TOKEN;
use crate::support::PATIENCE;
use crate::support::clock::ManualClock;
use crate::support::idp::Reply;
use crate::support::world::{identity, name};

const SECOND: Duration = Duration::from_secs(1);

/// Says what a test may change at any time.
fn while_good() -> (Arc<AtomicBool>, impl Fn(&str) -> Reply + Send + Sync + 'static) {
    let said = Arc::new(AtomicBool::new(true));
    let read = Arc::clone(&said);
    let answers = move |_: &str| match read.load(Ordering::SeqCst) {
        true => Reply::json(&with(good(), "exp", json!(ManualClock::START.as_seconds() + 3000))),
        false => inactive(),
    };
    (said, answers)
}

#[tokio::test]
async fn an_answer_counts_to_its_bound_and_no_longer() {
    let (said, answers) = while_good();
    let desk = Desk::new(answers).await;
    assert_eq!(desk.decide(TOKEN).await, None);
    // Revoked at its issuer a moment after it was asked.
    said.store(false, Ordering::SeqCst);
    desk.advance(30 * SECOND - MICRO);
    assert_eq!((desk.decide(TOKEN).await, desk.idp.asked()), (None, 1));
    desk.advance(MICRO);
    assert_eq!((desk.decide(TOKEN).await, desk.idp.asked()), (Some(Reason::CredentialInactive), 2));
    // That it is not active counts for a shorter time.
    said.store(true, Ordering::SeqCst);
    desk.advance(5 * SECOND - MICRO);
    assert_eq!((desk.decide(TOKEN).await, desk.idp.asked()), (Some(Reason::CredentialInactive), 2));
    desk.advance(MICRO);
    assert_eq!((desk.decide(TOKEN).await, desk.idp.asked()), (None, 3));
    let hits = desk.count("portreeve_introspection_cache_hits_total");
    // Each decision looks once, an allow of unmoved state not again at its last look.
    assert_eq!((hits, desk.count("portreeve_introspection_cache_misses_total")), (2, 3));
}

#[tokio::test]
async fn an_answer_is_as_old_as_its_question() {
    let (said, answers) = while_good();
    let clock = Arc::new(std::sync::OnceLock::<Arc<ManualClock>>::new());
    let read = Arc::clone(&clock);
    // The answer takes ten seconds.
    let slow = move |token: &str| {
        let clock: &Arc<ManualClock> = read.get().unwrap();
        clock.advance(10 * SECOND);
        answers(token)
    };
    let desk = Desk::new(slow).await;
    clock.set(desk.world.clock.clone()).ok().unwrap();
    assert_eq!(desk.decide(TOKEN).await, None);
    said.store(false, Ordering::SeqCst);
    desk.advance(20 * SECOND - MICRO);
    assert_eq!(desk.decide(TOKEN).await, None);
    desk.advance(MICRO);
    assert_eq!(desk.decide(TOKEN).await, Some(Reason::CredentialInactive));
}

#[tokio::test]
async fn no_answer_counts_beyond_the_end_of_its_token() {
    let ends = ManualClock::START.as_seconds() + 10;
    let desk = Desk::new(move |_| Reply::json(&with(good(), "exp", json!(ends)))).await;
    assert_eq!(desk.decide(TOKEN).await, None);
    desk.advance(10 * SECOND - MICRO);
    assert_eq!((desk.decide(TOKEN).await, desk.idp.asked()), (None, 1));
    desk.advance(MICRO);
    // Its issuer still says that it is active.
    assert_eq!((desk.decide(TOKEN).await, desk.idp.asked()), (Some(Reason::CredentialExpired), 2));
    // Nor does one that was attached to a request before.
    let desk = Desk::new(move |_| Reply::json(&with(good(), "exp", json!(ends)))).await;
    let mut exchange = desk.exchange(TOKEN);
    desk.world.pipeline.introspect(&mut exchange).await;
    desk.advance(10 * SECOND - MICRO);
    assert_eq!(desk.settle(&exchange).await, None);
    desk.advance(MICRO);
    assert_eq!(desk.settle(&exchange).await, Some(Reason::CredentialExpired));
}

#[tokio::test]
async fn a_wall_clock_that_falls_lengthens_nothing() {
    let (said, answers) = while_good();
    let desk = Desk::new(answers).await;
    assert_eq!(desk.decide(TOKEN).await, None);
    said.store(false, Ordering::SeqCst);
    desk.world.clock.step_wall_back(10 * SECOND);
    desk.advance(30 * SECOND);
    assert_eq!(desk.decide(TOKEN).await, Some(Reason::CredentialInactive));
}

#[tokio::test]
async fn a_revocation_wins_over_a_remembered_answer_at_once() {
    let (_said, answers) = while_good();
    let desk = Desk::new(answers).await;
    assert_eq!(desk.decide(TOKEN).await, None);
    let mut judged = desk.exchange(TOKEN);
    desk.world.pipeline.introspect(&mut judged).await;
    let opened = desk.world.clock.now().wall;
    assert_eq!(desk.world.pipeline.review(&judged, opened).reason(), None);
    let revocation = Revocation {
        target: RevocationTarget::Identity { identity: name("ledger"), generation: 1 },
        reason: "test".into(),
        requested_by: "test".into(),
        at: opened,
    };
    desk.world.put(vec![("r-1", 1, Record::Revocation(Arc::new(revocation)))]);
    assert_eq!(desk.decide(TOKEN).await, Some(Reason::IdentityRevoked));
    assert_eq!(desk.settle(&judged).await, Some(Reason::IdentityRevoked));
    assert_eq!(desk.world.pipeline.review(&judged, opened).reason(), Some(Reason::IdentityRevoked));
    assert_eq!(desk.idp.asked(), 1, "the answer was there");
    // So does a record that says less.
    let (_said, answers) = while_good();
    let desk = Desk::new(answers).await;
    assert_eq!(desk.decide(TOKEN).await, None);
    desk.world.put_identity("ledger", 1, {
        let mut ledger = identity("ledger");
        ledger
            .bindings
            .push(portreeve::core::identity::Binding { issuer: name("opaque"), subject: "ledger".into() });
        portreeve::core::identity::Identity { status: IdentityStatus::Suspended, ..ledger }
    });
    assert_eq!(desk.decide(TOKEN).await, Some(Reason::IdentitySuspended));
    // And what is dropped from memory is asked about again.
    assert_eq!(desk.introspector.purge(|verified| &**verified.subject() == "other"), 0);
    assert_eq!(desk.introspector.purge(|verified| &**verified.subject() == "ledger"), 1);
    assert_eq!((desk.decide(TOKEN).await, desk.idp.asked()), (Some(Reason::IdentitySuspended), 2));
}

#[tokio::test]
async fn one_token_is_asked_about_once_at_a_time() {
    let desk = Desk::new(|_| Reply::json(&good())).await;
    let all = join_all((0..20).map(|_| desk.decide(TOKEN))).await;
    assert_eq!((all, desk.idp.asked()), (vec![None; 20], 1));
    let others: Vec<_> = (0..20).map(|n| format!("{TOKEN}{n}")).collect();
    let all = join_all(others.iter().map(|token| desk.decide(token))).await;
    assert_eq!((all, desk.idp.asked()), (vec![None; 20], 21));
    // Whoever waited with one that failed has no answer either.
    let desk = Desk::with(|_| Reply::Silence, |s| s.outbound.bounds.whole = Duration::from_millis(300)).await;
    let all = join_all((0..20).map(|_| desk.decide(TOKEN))).await;
    assert_eq!((all, desk.idp.asked()), (vec![Some(Reason::IntrospectionFailed); 20], 1));
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_no_question_with_it() {
    let desk = Desk::new(|_| Reply::json(&good())).await;
    let mut exchange = desk.exchange(TOKEN);
    let asking = std::pin::pin!(desk.world.pipeline.introspect(&mut exchange));
    assert!(futures_util::poll!(asking).is_pending());
    assert_eq!((desk.decide(TOKEN).await, desk.idp.asked()), (None, 1));
}

#[tokio::test]
async fn an_open_exchange_has_its_issuer_asked_again() {
    let (said, answers) = while_good();
    let desk = Desk::new(answers).await;
    let opened = desk.world.clock.now().wall;
    let mut exchange = desk.exchange(TOKEN);
    desk.world.pipeline.introspect(&mut exchange).await;
    let judged = || desk.world.pipeline.review(&exchange, opened);
    let until = |seconds| Some(opened.after(seconds * SECOND));
    let first = judged();
    assert_eq!((first.reason(), first.basis().until), (None, until(15)));
    desk.advance(15 * SECOND - MICRO);
    assert_eq!((judged().reason(), desk.idp.asked()), (None, 1));
    // Asked again when half of its time is over; it goes on meanwhile.
    desk.advance(MICRO);
    assert_eq!((judged().reason(), judged().basis().until), (None, until(15)));
    let begun = std::time::Instant::now();
    while judged().basis().until != until(30) {
        assert!(begun.elapsed() < PATIENCE, "it is not asked again");
        tokio::task::yield_now().await;
    }
    assert_eq!((judged().reason(), desk.idp.asked()), (None, 2));
    // Keys of its issuer that change are none of its.
    desk.world.put(vec![("opaque", 1, with_keys(&desk))]);
    assert_eq!((judged().reason(), judged().basis().until), (None, until(30)));
    // Revoked at its issuer: ended once it has been asked.
    said.store(false, Ordering::SeqCst);
    desk.advance(15 * SECOND - MICRO);
    assert_eq!((judged().reason(), desk.idp.asked()), (None, 2));
    desk.advance(MICRO);
    assert_eq!(judged().reason(), None);
    while judged().reason() != Some(Reason::CredentialInactive) {
        assert!(begun.elapsed() < PATIENCE, "it is not ended");
        tokio::task::yield_now().await;
    }
    assert_eq!(desk.idp.asked(), 3);
}

/// The issuer's record with other keys for its JWTs.
fn with_keys(desk: &Desk) -> Record {
    let held = desk.world.state.load();
    let Some(issuer) = held.introspecting(&name("demo"))[0].value.clone() else { panic!("an issuer") };
    Record::Issuer(Arc::new(issuer.with_jwks(Arc::from(desk.world.issuer.jwks()))))
}

#[tokio::test]
async fn an_open_exchange_whose_issuer_is_silent_ends() {
    let (said, answers) = while_good();
    let answers = move |token: &str| match said.load(Ordering::SeqCst) {
        true => {
            let answer = answers(token);
            said.store(false, Ordering::SeqCst);
            answer
        }
        false => Reply::Text(500, vec![], String::new()),
    };
    let desk = Desk::new(answers).await;
    let opened = desk.world.clock.now().wall;
    let mut exchange = desk.exchange(TOKEN);
    desk.world.pipeline.introspect(&mut exchange).await;
    desk.advance(30 * SECOND + ANSWER_GRACE);
    assert_eq!(desk.world.pipeline.review(&exchange, opened).reason(), None);
    desk.advance(MICRO);
    let ended = desk.world.pipeline.review(&exchange, opened).reason();
    assert_eq!(ended, Some(Reason::IntrospectionFailed));
}
