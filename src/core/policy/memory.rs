//! Remembering what policies answered to the same question.
//!
//! A question is the same when everything its policies can read is: the policies
//! themselves (by digest), the records (by epoch and revision), method, route, delegation,
//! and path and address where some policy reads them. Where one reads the time or the
//! credential's age, nothing is remembered. An answer holds between two ends of entitlements.

use std::sync::Arc;
use std::time::Duration;

use crate::core::id::Epoch;
use crate::core::policy::cedar::{Answer, Question, ShadowOutcome, TenantPolicy};
use crate::core::time::Timestamp;

/// An answer with the time for which it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// What the enforced policies answered.
    pub answer: Arc<Answer>,
    /// What the shadow sets answered.
    pub shadow: Vec<ShadowOutcome>,
    /// The first instant at which it holds; `None`: it always did.
    pub from: Option<Timestamp>,
    /// The first instant at which the answer may be another; `None`: never.
    pub until: Option<Timestamp>,
}

impl Remembered {
    /// Whether it is the answer at `now`. The wall clock may have been set back since.
    fn holds(&self, now: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

/// A bounded memory of answers. It may forget anything at any time.
///
/// INVARIANT: what `lookup` returns for a key is what was stored under that key.
pub trait PolicyMemory: Send + Sync {
    /// The answer stored under `key`, if it is remembered.
    fn lookup(&self, key: &[u8; 32]) -> Option<Arc<Remembered>>;

    /// Remembers an answer under `key`.
    fn store(&self, key: [u8; 32], answer: Arc<Remembered>);
}

/// How often an answer that rests on the time of day is asked for again while it is relied on.
const TIME_CONDITIONS_EVERY: Duration = Duration::from_secs(60);

impl TenantPolicy {
    /// The answer to `question`, remembered or asked.
    pub(crate) fn answer(
        &self,
        question: &Question<'_>,
        epoch: Epoch,
        memory: &dyn PolicyMemory,
    ) -> Arc<Remembered> {
        let key = self.key(question, epoch);
        let held = key.as_ref().and_then(|key| memory.lookup(key));
        let now = question.now.wall;
        if let Some(held) = held.filter(|held| held.holds(now)) {
            return held;
        }
        let (answer, shadow) = self.ask(question);
        let ends = || question.principal.identity().entitlements.iter().filter_map(|e| e.expires);
        let from = ends().filter(|end| *end <= now).max();
        let until = ends().filter(|end| *end > now).min();
        // Without a key the policies read the time itself: their answer is asked for again.
        let again = key.is_none().then(|| now.after(TIME_CONDITIONS_EVERY));
        let until = [until, again].into_iter().flatten().min();
        let asked = Arc::new(Remembered { answer: Arc::new(answer), shadow, from, until });
        if let Some(key) = key.filter(|_| asked.answer.errors.is_empty()) {
            memory.store(key, Arc::clone(&asked));
        }
        asked
    }

    fn key(&self, question: &Question<'_>, epoch: Epoch) -> Option<[u8; 32]> {
        let reads = self.reads();
        if reads.now || reads.credential {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(self.digest());
        field(epoch.as_bytes());
        field(question.resource.tenant.as_str().as_bytes());
        field(question.principal.name().as_str().as_bytes());
        field(&question.principal.revision().to_le_bytes());
        field(question.resource.name.as_str().as_bytes());
        field(&question.resource.revision.to_le_bytes());
        field(question.route.path.text().as_bytes());
        field(question.route.requires.as_deref().unwrap_or_default().as_bytes());
        field(&[
            u8::from(question.route.requires.is_some()),
            u8::from(!question.verified.actors().is_empty()),
        ]);
        field(question.exchange.method.as_bytes());
        if reads.path {
            field(question.exchange.path.as_str().as_bytes());
        }
        if reads.source_ip {
            match question.exchange.peer {
                Some(std::net::IpAddr::V4(peer)) => field(&peer.octets()),
                Some(std::net::IpAddr::V6(peer)) => field(&peer.octets()),
                None => field(&[]),
            }
        }
        Some(*hasher.finalize().as_bytes())
    }
}
