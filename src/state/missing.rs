//! Reports of keys and status lists that tokens name and the state lacks: from requests to the hub.
//!
//! A request puts its report into a bounded queue and goes on; when that is full the report is lost,
//! and costs no more than the hub's next scheduled look. What is sent is told apart and counted here,
//! off the request path, so that a flood of made-up key ids is a trickle at the hub. Lists have a queue
//! and an allowance of their own: only a token that verifies names one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::credential::MissingKeys;
use crate::core::id::Name;
use crate::wire::state_proto as proto;
use crate::wire::state_proto::spoke_message::Message as ToHub;

/// What of an issuer is missing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Missing {
    tenant: Name,
    issuer: Name,
    what: What,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum What {
    /// A key, by its id.
    Key(Arc<str>),
    /// A status list, by its URI.
    List(Arc<str>),
}

/// Takes reports from requests.
#[derive(Debug)]
pub struct KeyReports {
    keys: mpsc::Sender<Missing>,
    lists: mpsc::Sender<Missing>,
    dropped: AtomicU64,
}

impl KeyReports {
    /// Both ends.
    pub fn new() -> (Arc<Self>, ReportQueue) {
        let (keys, waiting_keys) = mpsc::channel(WAITING_MAX);
        let (lists, waiting_lists) = mpsc::channel(WAITING_MAX);
        let reports = Arc::new(Self { keys, lists, dropped: AtomicU64::new(0) });
        (reports, ReportQueue { keys: Waiting::new(waiting_keys), lists: Waiting::new(waiting_lists) })
    }

    /// Reports that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl KeyReports {
    fn report(&self, tenant: &Name, issuer: &Name, what: What) {
        let queue = match what {
            What::Key(_) => &self.keys,
            What::List(_) => &self.lists,
        };
        let room = queue.try_reserve().map(|room| {
            room.send(Missing { tenant: tenant.clone(), issuer: issuer.clone(), what });
        });
        if room.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl MissingKeys for KeyReports {
    fn missing(&self, tenant: &Name, issuer: &Name, key_id: &str) {
        self.report(tenant, issuer, What::Key(Arc::from(key_id)));
    }

    fn missing_list(&self, tenant: &Name, issuer: &Name, uri: &str) {
        self.report(tenant, issuer, What::List(Arc::from(uri)));
    }
}

/// Gives reports to the stream, each key's and list's rarely and all of them slowly.
#[derive(Debug)]
pub struct ReportQueue {
    keys: Waiting,
    lists: Waiting,
}

/// Reports of one kind.
#[derive(Debug)]
struct Waiting {
    waiting: mpsc::Receiver<Missing>,
    /// When each was told of last.
    told: HashMap<Missing, Instant>,
    allowance: Allowance,
}

#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Option<Instant>,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            *self = Self { left: REPORTS_MAX, since: Some(now) };
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl ReportQueue {
    /// The next report that is worth sending; never ends without one. Nothing is lost by dropping it.
    pub(super) async fn next(&mut self) -> ToHub {
        let missing = tokio::select! {
            biased;
            list = self.lists.next() => list,
            key = self.keys.next() => key,
        };
        let (cell, issuer) = (missing.tenant.to_string(), missing.issuer.to_string());
        match missing.what {
            What::Key(id) => ToHub::MissingKey(proto::MissingKey { cell, issuer, key_id: id.to_string() }),
            What::List(uri) => ToHub::MissingList(proto::MissingList { cell, issuer, uri: uri.to_string() }),
        }
    }
}

impl Waiting {
    fn new(waiting: mpsc::Receiver<Missing>) -> Self {
        Self { waiting, told: HashMap::new(), allowance: Allowance { left: REPORTS_MAX, since: None } }
    }

    async fn next(&mut self) -> Missing {
        loop {
            let Some(missing) = self.waiting.recv().await else {
                // Nobody is left to report.
                return std::future::pending().await;
            };
            if self.is_news(&missing, Instant::now()) {
                return missing;
            }
        }
    }

    fn is_news(&mut self, missing: &Missing, now: Instant) -> bool {
        self.told.retain(|_, at| now.duration_since(*at) < TOLD_FOR);
        if self.told.contains_key(missing) || self.told.len() >= TOLD_MAX || !self.allowance.take(now) {
            return false;
        }
        self.told.insert(missing.clone(), now);
        true
    }
}

/// Reports of a kind that may wait for the stream.
const WAITING_MAX: usize = 64;
/// Keys told of that are remembered.
const TOLD_MAX: usize = 64;
/// How long a key is not told of again.
const TOLD_FOR: Duration = Duration::from_secs(10);
/// Most reports of a kind within [`WINDOW`].
const REPORTS_MAX: u32 = 4;
const WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_told_of_once_and_a_flood_is_a_trickle() {
        let (reports, mut queue) = KeyReports::new();
        let tell = |key: &str| reports.missing(&name("demo"), &name("main"), key);
        let key = |told: ToHub| match told {
            ToHub::MissingKey(missing) => missing.key_id,
            other => panic!("{other:?}"),
        };
        for key in ["a", "a", "b", "a"] {
            tell(key);
        }
        assert_eq!(key(queue.next().await), "a");
        assert_eq!(key(queue.next().await), "b");
        let silent = tokio::time::timeout(Duration::from_secs(1), queue.next()).await;
        assert!(silent.is_err(), "told twice: {silent:?}");
        tokio::time::advance(TOLD_FOR).await;
        tell("a");
        assert_eq!(key(queue.next().await), "a");

        // A flood: as many as have room, of which a few are sent.
        tokio::time::advance(TOLD_FOR).await;
        for n in 0..1000 {
            tell(&format!("made-up-{n}"));
        }
        assert_eq!(reports.dropped(), 1000 - 64);
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_ok() {
            sent += 1;
        }
        assert_eq!(sent, REPORTS_MAX);
        tell("later");
        assert!(tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_err());
        tokio::time::advance(WINDOW).await;
        tell("later still");
        assert_eq!(key(queue.next().await), "later still");
        // A list is another thing than a key of the same name.
        tokio::time::advance(WINDOW).await;
        reports.missing_list(&name("demo"), &name("main"), "later still");
        let list =
            proto::MissingList { cell: "demo".into(), issuer: "main".into(), uri: "later still".into() };
        assert_eq!(queue.next().await, ToHub::MissingList(list));
    }
}
