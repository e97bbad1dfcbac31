//! Servers that fail, and how many questions go out at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use portreeve::core::policy::Reason;
use portreeve::pep::PauseRule;

use super::{Desk, MICRO, good, inactive};
use crate::support::idp::Reply;

const PAUSE: Duration = Duration::from_secs(10);

/// A server that works while it is told to.
async fn desk() -> (Desk, Arc<AtomicBool>) {
    let works = Arc::new(AtomicBool::new(true));
    let read = Arc::clone(&works);
    let answers = move |token: &str| match (read.load(Ordering::SeqCst), token) {
        (true, "gone") => inactive(),
        (true, _) => Reply::json(&good()),
        (false, _) => Reply::Text(500, vec![], String::new()),
    };
    let desk = Desk::with(answers, |settings| settings.pause = PauseRule { after: 3, pause: PAUSE }).await;
    (desk, works)
}

fn paused(desk: &Desk) -> u64 {
    desk.count(&format!("portreeve_introspection_paused{{endpoint=\"{}\"}}", desk.idp.url(super::PATH)))
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_and_tried_again() {
    let (desk, works) = desk().await;
    assert_eq!(desk.decide("known").await, None);
    works.store(false, Ordering::SeqCst);
    for token in ["a", "b", "c"] {
        assert_eq!(paused(&desk), 0);
        assert_eq!(desk.decide(token).await, Some(Reason::IntrospectionFailed), "{token}");
    }
    let asked = desk.idp.asked();
    assert_eq!((desk.decide("d").await, paused(&desk)), (Some(Reason::IntrospectionPaused), 1));
    // What is remembered counts on.
    assert_eq!(desk.decide("known").await, None);
    desk.advance(PAUSE - MICRO);
    assert_eq!(desk.decide("d").await, Some(Reason::IntrospectionPaused));
    assert_eq!(desk.idp.asked(), asked, "it is left alone");
    // One question tries it, and fails: as long again.
    desk.advance(MICRO);
    let all = join_all(["d", "e"].map(|token| desk.decide(token))).await;
    assert_eq!(all, [Some(Reason::IntrospectionFailed), Some(Reason::IntrospectionPaused)]);
    assert_eq!(desk.idp.asked(), asked + 1);
    desk.advance(PAUSE - MICRO);
    assert_eq!((desk.decide("d").await, paused(&desk)), (Some(Reason::IntrospectionPaused), 1));
    // It works again: that a token is not active is an answer, too.
    works.store(true, Ordering::SeqCst);
    desk.advance(MICRO);
    assert_eq!((desk.decide("gone").await, paused(&desk)), (Some(Reason::CredentialInactive), 0));
    assert_eq!(join_all(["d", "e"].map(|token| desk.decide(token))).await, [None, None]);
}

#[tokio::test]
async fn failures_count_only_in_a_row() {
    let (desk, works) = desk().await;
    for round in 0..3 {
        works.store(false, Ordering::SeqCst);
        for token in ["a", "b"] {
            assert_eq!(desk.decide(token).await, Some(Reason::IntrospectionFailed), "{round}: {token}");
        }
        works.store(true, Ordering::SeqCst);
        assert_eq!(desk.decide(&format!("good-{round}")).await, None);
    }
}

#[tokio::test]
async fn no_more_questions_are_under_way_than_may_be() {
    let silent = |token: &str| if token == "known" { Reply::json(&good()) } else { Reply::Silence };
    let desk = Desk::with(silent, |settings| {
        settings.concurrent_max = 2;
        settings.outbound.bounds.whole = Duration::from_millis(500);
    })
    .await;
    assert_eq!(desk.decide("known").await, None);
    let all = join_all(["a", "b", "c", "a", "known"].map(|token| desk.decide(token))).await;
    let failed = Some(Reason::IntrospectionFailed);
    assert_eq!(all, [failed, failed, Some(Reason::Overloaded), failed, None]);
    assert_eq!(desk.idp.asked(), 3);
    // There is room again.
    assert_eq!(desk.decide("c").await, failed);
}
