//! How fetching one issuer's keys stands.

use std::sync::Arc;
use std::time::Duration;

use super::DirectSource;
use crate::core::credential::{Algorithm, KeySet, KeyUse};
use crate::core::id::Name;
use crate::core::time::Timestamp;
use crate::jwks::{Found, Pace};

/// How fetching one issuer's keys stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// What keys were asked for: others are another set.
    key_use: Option<KeyUse>,
    /// The last good set.
    set: Option<Set>,
    /// When it was last tried because a key was missing.
    refetched: Option<Timestamp>,
    /// When it is due again.
    next: Timestamp,
    /// Failures since it last worked.
    failures: u32,
    /// What went wrong the last time.
    error: Option<String>,
    busy: bool,
    /// Whether a token named a key that is not there.
    wanted: bool,
}

/// A set that was fetched.
#[derive(Clone, Debug)]
struct Set {
    jwks: Arc<[u8]>,
    /// The same, to know which keys it names.
    named: KeySet,
    url: String,
    left_out: Vec<String>,
    fetched: Timestamp,
}

/// How fetching one issuer's keys stands, for operators.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectView {
    /// The tenant.
    pub tenant: Name,
    /// The issuer.
    pub iss: Arc<str>,
    /// Where the set was found; `None`: nowhere yet.
    pub url: Option<String>,
    /// When it was last fetched.
    pub fetched: Option<Timestamp>,
    /// The first instant at which it counts no more.
    pub kept_until: Option<Timestamp>,
    /// Keys that are not even kept, and why.
    pub left_out: Vec<String>,
    /// Failures since it last worked.
    pub failures: u32,
    /// What went wrong the last time.
    pub error: Option<String>,
}

impl Standing {
    /// Whether there is a set, and this key is not in it: who asked may have asked before it came.
    pub(super) fn lacks(&self, key_id: &str) -> bool {
        self.set.as_ref().is_some_and(|set| !set.named.names(key_id))
    }

    /// Notes that a key is missing.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether it is due, and then that it is begun.
    pub(super) fn begin(&mut self, key_use: KeyUse, now: Timestamp, refetch: Duration) -> bool {
        if self.busy {
            return false;
        }
        if self.key_use != Some(key_use) {
            // What was fetched for another use is not this issuer's.
            *self = Self { key_use: Some(key_use), ..Self::default() };
        }
        let looked = self.wanted && self.refetched.is_none_or(|at| at.after(refetch) <= now);
        if !looked && self.next > now {
            return false;
        }
        if looked {
            self.refetched = Some(now);
        }
        (self.busy, self.wanted) = (true, false);
        true
    }

    /// Notes that it worked. Whether the set is another one.
    pub(super) fn succeeded(&mut self, found: Found, pace: &Pace, now: Timestamp, spread: u8) -> bool {
        let changed = self.set.as_ref().is_none_or(|set| *set.jwks != *found.set.jwks);
        let left_out = found.set.dropped.iter().map(ToString::to_string).collect();
        let key_use = self.key_use.unwrap_or(KeyUse::Signature);
        let named = KeySet::parse_for(&found.set.jwks, &Algorithm::ALL, key_use);
        let jwks = Arc::from(found.set.jwks);
        self.set = Some(Set { jwks, named, url: found.url, left_out, fetched: now });
        (self.busy, self.failures, self.error) = (false, 0, None);
        self.next = now.after(pace.after_success(found.max_age, spread));
        changed
    }

    /// Notes that it failed. Whether that is news.
    pub(super) fn failed(&mut self, error: String, pace: &Pace, now: Timestamp, spread: u8) -> bool {
        let error: String = error.chars().take(ERROR_CHARS_MAX).collect();
        let news = self.error.as_ref() != Some(&error);
        self.failures = self.failures.saturating_add(1);
        (self.busy, self.error) = (false, Some(error));
        self.next = now.after(pace.after_failure(self.failures, spread));
        news
    }

    /// The last good set for `key_use`, and the first instant at which it counts no more.
    pub(super) fn keys(&self, key_use: KeyUse, pace: &Pace) -> Option<(Arc<[u8]>, Timestamp)> {
        let set = self.set.as_ref().filter(|_| self.key_use == Some(key_use))?;
        Some((Arc::clone(&set.jwks), set.fetched.after(pace.keep)))
    }

    pub(super) const fn is_failing(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn url(&self) -> Option<&str> {
        self.set.as_ref().map(|set| set.url.as_str())
    }

    pub(super) fn view(&self, of: &DirectSource, pace: &Pace) -> DirectView {
        let set = self.set.as_ref();
        DirectView {
            tenant: of.tenant.clone(),
            iss: Arc::clone(&of.iss),
            url: set.map(|set| set.url.clone()),
            fetched: set.map(|set| set.fetched),
            kept_until: set.map(|set| set.fetched.after(pace.keep)),
            left_out: set.map(|set| set.left_out.clone()).unwrap_or_default(),
            failures: self.failures,
            error: self.error.clone(),
        }
    }
}

const ERROR_CHARS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::credential::CanonicalSet;

    const PACE: Pace = Pace {
        refresh: Duration::from_secs(600),
        refetch: Duration::from_secs(30),
        keep: Duration::from_secs(86_400),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn found(jwks: &[u8]) -> Found {
        let set = CanonicalSet { jwks: jwks.to_vec(), dropped: Vec::new() };
        Found { url: "https://idp.example/jwks".into(), set, max_age: None }
    }

    #[test]
    fn it_is_fetched_when_due_and_once_an_interval_for_missing_keys() {
        let (mut standing, signature) = (Standing::default(), KeyUse::Signature);
        let due = |standing: &mut Standing, now| standing.begin(signature, at(now), PACE.refetch);
        assert!(due(&mut standing, 0), "at once");
        assert!(!due(&mut standing, 1000), "one at a time");
        assert!(standing.succeeded(found(b"a"), &PACE, at(0), 0));
        for (now, expected) in [(1, false), (599, false), (600, true)] {
            assert_eq!(due(&mut standing, now), expected, "{now}");
        }
        assert!(!standing.succeeded(found(b"a"), &PACE, at(600), 0), "the same set");
        standing.want();
        assert!(due(&mut standing, 601), "a key is missing");
        standing.succeeded(found(b"a"), &PACE, at(601), 0);
        standing.want();
        for (now, expected) in [(602, false), (630, false), (631, true)] {
            assert_eq!(due(&mut standing, now), expected, "{now}");
        }
    }

    #[test]
    fn a_key_is_missing_only_from_a_set_that_is_there_and_lacks_it() {
        let mut standing = Standing::default();
        assert!(!standing.lacks("a"), "the first set is on its way");
        assert!(standing.begin(KeyUse::Signature, at(0), PACE.refetch));
        standing.succeeded(found(br#"{"keys":[{"kid":"a","kty":"oct"}]}"#), &PACE, at(0), 0);
        assert!(!standing.lacks("a") && standing.lacks("b"), "a key that is refused is there, too");
    }

    #[test]
    fn the_last_good_set_stays_with_its_bound() {
        let (mut standing, signature) = (Standing::default(), KeyUse::Signature);
        assert!(standing.begin(signature, at(0), PACE.refetch));
        assert!(standing.failed("no".into(), &PACE, at(0), 0));
        assert_eq!(standing.keys(signature, &PACE), None);
        assert!(standing.begin(signature, at(5), PACE.refetch));
        standing.succeeded(found(b"a"), &PACE, at(5), 0);
        let kept = Some((Arc::from(&b"a"[..]), at(86_405)));
        assert_eq!(standing.keys(signature, &PACE), kept);
        for (now, news) in [(605, true), (610, false), (620, false)] {
            assert!(standing.begin(signature, at(now), PACE.refetch), "{now}");
            assert_eq!(standing.failed("no".into(), &PACE, at(now), 0), news, "{now}");
            assert_eq!(standing.keys(signature, &PACE), kept, "no later bound");
        }
        assert!(standing.is_failing() && !standing.begin(signature, at(639), PACE.refetch));
        assert!(standing.begin(KeyUse::JwtSvid, at(639), PACE.refetch), "another use is another set");
        assert_eq!(standing.keys(KeyUse::JwtSvid, &PACE), None);
    }
}
