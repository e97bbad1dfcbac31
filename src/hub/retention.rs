//! What a store no longer has to keep: the log behind a window, and what denies nothing any more.
//!
//! Every time here is the hub's wall clock. Letting go of a record is a commit like any other: it has a
//! revision, is streamed, and changes the digest of its cell alike everywhere. Deliberately absent: any
//! timer at an enforcement point, and any limit by size. A hub whose wall clock stepped lets go of nothing
//! until it is started again.

use std::sync::Arc;
use std::time::Duration;

use super::api::Context;
use super::authority::{DROPS_MAX, Refusal};
use super::blocking;
use super::model::life::LEEWAY_MAX;
use super::roster::with_drift;
use super::store::{StateStore, StoreError};
use crate::core::time::Timestamp;

/// How long a hub keeps what it no longer needs to decide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetentionSettings {
    /// Commits stay in the change log for so long; longer where a lease, or a clock, may be longer wrong.
    pub log: Duration,
    /// What a credential is given past its end: the most that an issuer's clock is forgiven, and an hour for
    /// any other clock's error. The longest lease comes on top of it.
    pub past_end: Duration,
    /// How often it is looked at.
    pub look_every: Duration,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            log: Duration::from_secs(7 * 86_400),
            past_end: LEEWAY_MAX.saturating_add(Duration::from_secs(3600)),
            look_every: Duration::from_secs(60),
        }
    }
}

/// Trims the log and lets go of records, again and again.
pub(super) async fn run(context: &Arc<Context>, settings: &RetentionSettings) {
    let steps = context.clock.anchor().steps;
    let mut told = false;
    loop {
        tokio::time::sleep(settings.look_every).await;
        if context.clock.anchor().steps != steps {
            // Letting go cannot be taken back: not by a clock that has been wrong.
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("the wall clock stepped: nothing is let go of until the hub is started again");
            }
            continue;
        }
        let (it, settings) = (Arc::clone(context), settings.clone());
        let looked = blocking(&**context.feed.store(), move || look(&it, &settings)).await;
        if let Err(error) = looked {
            tracing::warn!(%error, "what need not be kept could not be let go of");
        }
    }
}

fn look(context: &Context, settings: &RetentionSettings) -> Result<(), Refusal> {
    let now = context.clock.now().wall;
    let store = context.feed.store();
    // An enforcement point takes a token for live by its own clock, and may not yet have heard otherwise.
    let lease = with_drift(context.roster.longest_deny_after());
    let margin = settings.past_end.saturating_add(lease);
    let kept = settings.log.max(margin);
    trim(&**store, now.before(kept))?;
    for cell in store.cells()?.1 {
        for _ in 0..COMMITS_MAX {
            if context.authority.drop_spent(&cell.tenant, kept, margin)? < DROPS_MAX {
                break;
            }
        }
    }
    Ok(())
}

/// Lets the log go up to the first commit that is not older than `before`.
fn trim(store: &dyn StateStore, before: Timestamp) -> Result<(), StoreError> {
    let first = store.oldest()?;
    let mut oldest = first;
    loop {
        let part = match store.tail(oldest.saturating_sub(1), READ_MAX) {
            Ok(part) => part,
            // Another hub on the store was faster.
            Err(StoreError::Compacted { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let older = part.iter().take_while(|logged| logged.at < before).count();
        if older > 0 {
            oldest = oldest.saturating_add(older as u64);
            store.trim(oldest)?;
        }
        if older < READ_MAX {
            break;
        }
    }
    if oldest > first {
        tracing::info!(oldest, trimmed = oldest - first, "trimmed the change log");
    }
    Ok(())
}

/// Commits read at once.
const READ_MAX: usize = 64;
/// Commits to one tenant in one look.
const COMMITS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Name;
    use crate::core::identity::{Owner, Record, RecordKind, Resource};
    use crate::core::time::{BootInstant, Clock, Now};
    use crate::hub::store::{ChangeSet, Edit, SqliteStore};
    use std::sync::atomic::{AtomicI64, Ordering};

    struct HandClock(AtomicI64);

    impl Clock for HandClock {
        fn now(&self) -> Now {
            let wall = Timestamp::from_seconds(self.0.load(Ordering::SeqCst));
            Now { wall, boot: BootInstant::from_micros(1) }
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn the_log_goes_up_to_the_first_commit_that_is_young_enough() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(HandClock(AtomicI64::new(0)));
        let store = SqliteStore::open(&directory.path().join("hub.db"), clock.clone()).unwrap();
        // More than is read at once, and a clock that fell in between.
        let times = (0..150).chain([140, 151]);
        for (place, seconds) in times.enumerate() {
            clock.0.store(seconds, Ordering::SeqCst);
            let resource =
                Resource { environment: "prod".into(), owner: Owner::default(), routes: Vec::new() };
            let name = Name::parse(&format!("n{place}")).unwrap();
            let edits =
                vec![Edit::new(RecordKind::Resource, name, Some(Record::Resource(Arc::new(resource))))];
            let tenant = Name::parse("a").unwrap();
            store.commit(&ChangeSet { tenant, stands_at: None, edits }, &[]).unwrap();
        }
        for (before, oldest) in
            [(0, 1), (1, 2), (1, 2), (100, 101), (140, 141), (150, 152), (151, 152), (152, 153)]
        {
            trim(&store, at(before)).unwrap();
            assert_eq!(store.oldest().unwrap(), oldest, "before {before} s");
        }
        trim(&store, at(0)).unwrap();
        assert_eq!(store.oldest().unwrap(), 153, "what went does not come back");
    }
}
