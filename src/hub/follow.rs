//! What other hubs on the same store do: their commits, and how their members stand.

use std::sync::Arc;
use std::time::Duration;

use super::api::Context;
use super::blocking;
use super::roster::MEET_EVERY;

/// Follows what the other hubs on the same store do: their commits, and how their members stand.
pub(super) async fn run(context: &Context) {
    let (feed, roster) = (&context.feed, &context.roster);
    if !feed.store().is_shared() {
        return std::future::pending().await;
    }
    let commits = async {
        let mut beaten = tokio::time::Instant::now();
        loop {
            let (it, clock, beat) =
                (Arc::clone(feed), Arc::clone(&context.clock), beaten.elapsed() > BEAT_EVERY);
            let followed = blocking(&**feed.store(), move || {
                it.store().await_change(LOOK_EVERY);
                // A look is cheap; only what is new, or a sign of life, needs a write.
                let is_new = it.store().head()?.revision > it.head();
                if is_new || beat { it.follow(&*clock).map(|_| true) } else { Ok(false) }
            });
            match followed.await {
                Ok(true) => beaten = tokio::time::Instant::now(),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the store cannot be followed");
                    tokio::time::sleep(BEAT_EVERY).await;
                }
            }
        }
    };
    let members = async {
        loop {
            tokio::time::sleep(MEET_EVERY).await;
            let met = roster.tell().await;
            if let Err(error) = met.and(roster.meet().await) {
                tracing::warn!(%error, "the other hubs' members are not known");
            }
        }
    };
    tokio::join!(commits, members);
}

/// How often a shared store is looked at when nobody hints.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a hub on a shared store shows that it lives.
const BEAT_EVERY: Duration = Duration::from_millis(500);
