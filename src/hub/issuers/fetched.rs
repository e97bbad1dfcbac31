//! How fetching an issuer's keys went, as it lies in the store, and when it is due again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::identity::{Issuer, KeySource};
use crate::core::time::Timestamp;
use crate::jwks::Pace;

/// How fetching an issuer's keys went.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Fetched {
    /// What is fetched: another place begins anew.
    of: String,
    /// Where the set was found last.
    pub(super) url: Option<String>,
    /// When it was last tried.
    #[serde(with = "micros")]
    pub(super) attempted: Option<Timestamp>,
    /// When it was last tried because a key was missing.
    #[serde(with = "micros")]
    pub(super) refetched: Option<Timestamp>,
    /// When it last worked.
    #[serde(with = "micros")]
    pub(super) fetched: Option<Timestamp>,
    /// When it is due again.
    #[serde(with = "micros_now")]
    pub(crate) next: Timestamp,
    /// Until then it is somebody's turn.
    #[serde(with = "micros_now")]
    pub(crate) claimed_until: Timestamp,
    /// Failures since it last worked.
    pub(super) failures: u32,
    /// What went wrong the last time.
    pub(super) error: Option<String>,
    /// Keys that were left out of the set, and why.
    pub(super) left_out: Vec<String>,
    /// Whether the keys were given up because they could not be fetched for too long.
    pub(super) dropped: bool,
}

impl Fetched {
    /// Of an issuer that has not been fetched.
    pub(super) fn new(issuer: &Issuer) -> Self {
        Self { of: place(issuer), ..Self::default() }
    }

    /// As stored, if it is about what `issuer` fetches now.
    pub(super) fn read(value: &[u8], issuer: &Issuer) -> Self {
        let stored: Option<Self> = serde_json::from_slice(value).ok();
        stored.filter(|stored| stored.of == place(issuer)).unwrap_or_else(|| Self::new(issuer))
    }

    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// When a fetch because of a missing key is allowed.
    pub(super) fn refetch_at(&self, pace: &Pace) -> Timestamp {
        self.refetched.map_or(Timestamp::from_micros(0), |at| at.after(pace.refetch))
    }

    /// Until when keys are kept that cannot be fetched; `None`: there are none.
    pub(super) fn kept_until(&self, pace: &Pace) -> Option<Timestamp> {
        self.fetched.filter(|_| !self.dropped).map(|at| at.after(pace.keep))
    }

    /// Notes that it worked.
    pub(super) fn succeeded(&mut self, pace: &Pace, max_age: Option<Duration>, now: Timestamp, spread: u8) {
        *self = Self {
            of: std::mem::take(&mut self.of),
            url: self.url.take(),
            attempted: self.attempted,
            refetched: self.refetched,
            left_out: std::mem::take(&mut self.left_out),
            fetched: Some(now),
            next: now.after(pace.after_success(max_age, spread)),
            ..Self::default()
        };
    }

    /// Notes that it failed. Whether the keys are to be given up.
    pub(super) fn failed(&mut self, pace: &Pace, error: String, now: Timestamp, spread: u8) -> bool {
        self.failures = self.failures.saturating_add(1);
        let wait = pace.after_failure(self.failures, spread);
        self.error = Some(error.chars().take(ERROR_CHARS_MAX).collect());
        self.claimed_until = Timestamp::from_micros(0);
        let kept_until = self.kept_until(pace);
        let over = kept_until.is_some_and(|until| until <= now);
        self.dropped |= over;
        self.next = kept_until.filter(|_| !over).map_or(now.after(wait), |until| now.after(wait).min(until));
        over
    }
}

/// What an issuer's keys are fetched from, as a digest.
fn place(issuer: &Issuer) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(issuer.iss.as_bytes());
    hasher.update(&[0]);
    match &issuer.key_source {
        KeySource::Url(url) => hasher.update(url.as_bytes()),
        KeySource::Discovery | KeySource::Given => hasher.update(&[0]),
    };
    hasher.finalize().to_hex().to_string()
}

pub(super) mod micros {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::core::time::Timestamp;

    pub(in crate::hub::issuers) fn serialize<S: Serializer>(
        at: &Option<Timestamp>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        at.map(Timestamp::as_micros).serialize(s)
    }

    pub(in crate::hub::issuers) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<i64>::deserialize(d)?.map(Timestamp::from_micros))
    }
}

pub(super) mod micros_now {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::core::time::Timestamp;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(in crate::hub::issuers) fn serialize<S: Serializer>(at: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        at.as_micros().serialize(s)
    }

    pub(in crate::hub::issuers) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Timestamp, D::Error> {
        Ok(Timestamp::from_micros(i64::deserialize(d)?))
    }
}

pub(super) const ERROR_CHARS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identity::TokenProfile;

    const PACE: Pace = Pace {
        refresh: Duration::from_secs(600),
        refetch: Duration::from_secs(30),
        keep: Duration::from_secs(86_400),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn issuer(iss: &str, source: KeySource) -> Issuer {
        let jwks = std::sync::Arc::from(&b"{\"keys\":[]}"[..]);
        Issuer::new(iss.into(), TokenProfile::Generic, vec![], vec![], 60, jwks).with_source(source)
    }

    #[test]
    fn what_a_server_says_is_heard_within_bounds() {
        for (said, wait) in [
            (None, 600),
            (Some(0), 60),
            (Some(59), 60),
            (Some(61), 61),
            (Some(3600), 3600),
            (Some(3601), 3600),
        ] {
            let mut state = Fetched::default();
            state.succeeded(&PACE, said.map(Duration::from_secs), at(1000), 0);
            assert_eq!(state.next, at(1000 + wait), "{said:?}");
            state.succeeded(&PACE, said.map(Duration::from_secs), at(1000), 255);
            assert!(state.next < at(1000 + wait) && state.next >= at(1000 + wait * 9 / 10), "{said:?}");
        }
        let often = Pace { refresh: Duration::from_secs(10), ..PACE };
        let mut state = Fetched::default();
        state.succeeded(&often, Some(Duration::ZERO), at(1000), 0);
        assert_eq!(state.next, at(1010));
    }

    #[test]
    fn failures_are_tried_again_ever_later_and_keys_given_up_at_their_bound() {
        let mut state = Fetched::default();
        state.succeeded(&PACE, None, at(0), 0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            assert!(!state.failed(&PACE, "no".to_owned(), at(1000), 0));
            waits.push(state.next.as_micros() / 1_000_000 - 1000);
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        assert!(!state.failed(&PACE, "no".to_owned(), at(86_399), 0));
        assert_eq!(state.next, at(86_400), "not past the bound");
        assert!(state.failed(&PACE, "no".to_owned(), at(86_400), 0));
        assert!(state.dropped);
        assert!(!state.failed(&PACE, "no".to_owned(), at(86_500), 0), "given up once");
        state.succeeded(&PACE, None, at(90_000), 0);
        assert_eq!((state.dropped, state.failures, &state.error), (false, 0, &None));
    }

    #[test]
    fn another_place_begins_anew() {
        let (one, other) = ("https://one.example", "https://other.example");
        let url = |text: &str| KeySource::Url(text.into());
        let known = issuer(one, url("https://one.example/jwks"));
        let mut state = Fetched::new(&known);
        state.attempted = Some(at(7));
        state.succeeded(&PACE, None, at(7), 0);
        assert_eq!(Fetched::read(&state.write(), &known), state);
        for changed in [
            issuer(other, url("https://one.example/jwks")),
            issuer(one, url("https://one.example/jwks2")),
            issuer(one, KeySource::Discovery),
        ] {
            assert_eq!(Fetched::read(&state.write(), &changed), Fetched::new(&changed));
        }
        assert_eq!(Fetched::read(b"nonsense", &known), Fetched::new(&known));
    }
}
