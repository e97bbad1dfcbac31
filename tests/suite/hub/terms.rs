//! `deny_after` as a term of the lease: asked for with a ping, kept before it is granted with the answer.

use std::time::Duration;

use portreeve::wire::state_proto as proto;
use portreeve::wire::state_proto::hub_message::Message as Down;
use portreeve::wire::state_proto::spoke_message::Message as Up;
use tonic::Code;

use super::lab::{HandClock, Lab, demo};
use super::stream::{MINUTE, Spoke, hello, lab};

fn us(span: Duration) -> u64 {
    span.as_micros().try_into().unwrap()
}

impl Spoke {
    /// What the answer to a ping grants that asks for `asked`.
    async fn granted(&mut self, nonce: u64, asked: Duration) -> u64 {
        self.send(Up::Ping(proto::Ping { nonce, deny_after_max_us: us(asked), ..Default::default() })).await;
        loop {
            match self.next().await.unwrap() {
                Down::Beat(beat) if beat.echo_nonce == nonce => return beat.deny_after_max_us,
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_grants_the_longest_term_asked_for_and_never_less() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    // Zero asks for what the hello did; a shorter one may come while an older lease still runs.
    for (nonce, asked, granted) in [
        (1, Duration::ZERO, MINUTE),
        (2, MINUTE, MINUTE),
        (3, MINUTE / 2, MINUTE),
        (4, MINUTE * 2, MINUTE * 2),
        (5, MINUTE, MINUTE * 2),
    ] {
        assert_eq!(spoke.granted(nonce, asked).await, us(granted), "ping {nonce} asks for {asked:?}");
    }
    assert_eq!(lab.ask("GET", "/v1/fleet", None).await.1["members"][0]["deny_after_max_ms"], 120_000);
    // Another stream of the same process begins where this one stood.
    let mut again = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    again.welcome().await;
    assert_eq!(again.granted(1, MINUTE).await, us(MINUTE * 2));
    let mut other = Spoke::connect(&lab, hello("other", 2, Duration::ZERO)).await;
    other.welcome().await;
    assert_eq!(other.granted(1, Duration::ZERO).await, 0, "nothing was asked for");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_term_beyond_thirty_days_ends_the_stream() {
    let (_directory, lab) = lab().await;
    let month = Duration::from_secs(30 * 86_400);
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    assert_eq!(spoke.granted(1, month).await, us(month));
    let longer = us(month) + 1;
    spoke.send(Up::Ping(proto::Ping { nonce: 2, deny_after_max_us: longer, ..Default::default() })).await;
    assert_eq!(spoke.end().await.code(), Code::InvalidArgument);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_term_moves_no_promise_that_was_given_and_outlives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HandClock::new();
    let lab = Lab::start(directory.path(), clock.clone()).await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    spoke.granted(1, MINUTE).await;
    let before = lab.revoke("ledger").await;
    let path = "/v1/revisions/2/receipts";
    clock.pass(Duration::from_secs(1));
    spoke.granted(2, MINUTE * 2).await;
    // So does one that comes after the commit: its first answer names it.
    let mut late = Spoke::connect(&lab, hello("late", 2, MINUTE * 3)).await;
    late.welcome().await;
    let told = lab.ask("GET", path, None).await.1;
    assert_eq!(
        (&told["effective_by"], told["members"].as_array().unwrap().len()),
        (&before["effective_by"], 2)
    );
    lab.stop().await;
    // What was granted is in the store: who died right after it may still be fresh by it.
    let lab = Lab::start(directory.path(), clock.clone()).await;
    let fleet = lab.ask("GET", "/v1/fleet", None).await.1;
    let terms: Vec<_> =
        fleet["members"].as_array().unwrap().iter().map(|it| &it["deny_after_max_ms"]).collect();
    assert_eq!(terms, [120_000, 180_000]);
    lab.stop().await;
}
