//! Keys of an issuer that were fetched.

use std::sync::Arc;

use super::{Authority, Pass, Proposed, Refusal, survives_the_wire};
use crate::core::id::Name;
use crate::core::identity::{Issuer, Record, RecordKind};
use crate::hub::store::Edit;

/// An issuer's record, and the revision that gave it the keys; `None`: it had them.
pub(crate) type Keyed = (Arc<Issuer>, Option<u64>);

impl Authority {
    /// Gives an issuer other keys, if its record still wants them from where they were fetched; `None`:
    /// it does not, or is gone.
    pub(crate) fn set_keys(
        &self,
        (tenant, name): &(Name, Name),
        fetched_for: &Issuer,
        jwks: Arc<[u8]>,
        pass: &mut Pass,
    ) -> Result<Option<Keyed>, Refusal> {
        self.turn(&[tenant], |images| {
            let held = self.known_tenant(images, tenant)?.live(RecordKind::Issuer, name);
            let Some(Record::Issuer(held)) = held else { return Ok(None) };
            if held.iss != fetched_for.iss || held.key_source != fetched_for.key_source {
                return Ok(None);
            }
            if held.jwks == jwks {
                return Ok(Some((Arc::clone(held), None)));
            }
            let next = Arc::new(held.with_jwks(Arc::clone(&jwks)));
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
