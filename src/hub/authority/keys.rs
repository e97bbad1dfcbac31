//! Keys of an issuer that were fetched.

use std::sync::Arc;
use std::time::Duration;

use super::{Authority, Pass, Proposed, Refusal, survives_the_wire};
use crate::core::id::Name;
use crate::core::identity::{Issuer, Record, RecordKind};
use crate::core::time::Timestamp;
use crate::hub::store::Edit;

/// Keys that were fetched, and until when they count.
pub(crate) struct FetchedKeys {
    /// `None`: those that are held; only how long they count may be new.
    pub(crate) jwks: Option<Arc<[u8]>>,
    /// `None`: there are none that count.
    pub(crate) until: Option<Timestamp>,
    /// How much longer they must count than those that are held, for the same to be written again.
    pub(crate) worth: Duration,
}

/// An issuer's record, and the revision that gave it the keys; `None`: it had them.
pub(crate) type Keyed = (Arc<Issuer>, Option<u64>);

impl Authority {
    /// Gives an issuer other keys, if its record still wants them from where they were fetched; `None`:
    /// it does not, or is gone.
    pub(crate) fn set_keys(
        &self,
        (tenant, name): &(Name, Name),
        fetched_for: &Issuer,
        keys: &FetchedKeys,
        pass: &mut Pass,
    ) -> Result<Option<Keyed>, Refusal> {
        self.turn(&[tenant], |images| {
            let held = self.known_tenant(images, tenant)?.live(RecordKind::Issuer, name);
            let Some(Record::Issuer(held)) = held else { return Ok(None) };
            if held.iss != fetched_for.iss || held.key_source != fetched_for.key_source {
                return Ok(None);
            }
            let jwks = keys.jwks.as_ref().unwrap_or(&held.jwks);
            if held.jwks == *jwks && !counts_longer(held.keys_until, keys.until, keys.worth) {
                return Ok(Some((Arc::clone(held), None)));
            }
            let next = Arc::new(held.with_jwks(Arc::clone(jwks)).with_keys_until(keys.until));
            let record = Some(Record::Issuer(Arc::clone(&next)));
            let at = "keys".to_owned();
            survives_the_wire(&Proposed {
                kind: RecordKind::Issuer,
                name: name.clone(),
                record: record.clone(),
                at,
            })?;
            let edit = Edit::new(RecordKind::Issuer, name.clone(), record);
            let revision = self.commit(images, tenant, vec![edit], pass)?.revision;
            Ok(Some((next, Some(revision))))
        })
    }
}

/// Whether keys that count until `next` are worth a change of those that count until `held`.
fn counts_longer(held: Option<Timestamp>, next: Option<Timestamp>, worth: Duration) -> bool {
    match (held, next) {
        (Some(held), Some(next)) => held < next && held <= next.before(worth),
        (held, next) => held != next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_keys_are_written_again_when_they_count_much_longer() {
        let at = |seconds: i64| Some(Timestamp::from_seconds(seconds));
        let worth = Duration::from_secs(10);
        for (held, next, expected) in [
            (None, None, false),
            (None, at(100), true),
            (at(100), None, true),
            (at(100), at(100), false),
            (at(100), at(109), false),
            (at(100), at(110), true),
            (at(100), at(90), false),
        ] {
            assert_eq!(counts_longer(held, next, worth), expected, "{held:?} {next:?}");
        }
        assert!(counts_longer(at(100), at(101), Duration::ZERO));
        assert!(!counts_longer(at(100), at(100), Duration::ZERO));
    }
}
