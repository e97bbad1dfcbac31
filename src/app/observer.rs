//! What happens when state comes into force: memories are dropped, open exchanges end, it is put on record.

use std::sync::Arc;

use crate::core::credential::Verified;
use crate::core::id::{Name, Position};
use crate::core::identity::{Record, RevocationTarget, Snapshot};
use crate::pep::{Exchanges, Introspector, VerifiedTokens};
use crate::spool::SpoolLog;
use crate::state::{AppliedBatch, Observer};

/// Drops remembered verifications that a batch makes useless, has open exchanges judged again that
/// rest on what it changes, and records revocations in force.
///
/// Dropping is for memory and for the receipt's count: a remembered verification is never
/// consulted before the state that refuses it.
pub(super) struct OnRecord {
    pub(super) cache: Arc<VerifiedTokens>,
    pub(super) introspector: Option<Arc<Introspector>>,
    pub(super) log: Arc<SpoolLog>,
    pub(super) exchanges: Arc<Exchanges>,
}

impl Observer for OnRecord {
    fn in_force(&self, applied: &AppliedBatch<'_>) -> u64 {
        let batch = applied.batch;
        let mut purged = 0;
        let mut revocations = Vec::new();
        for change in &batch.changes {
            let gone: Box<dyn Fn(&Verified) -> bool> = match &change.record {
                Some(Record::Revocation(revocation)) => {
                    revocations.push(Arc::from(change.name.as_str()));
                    let gone = matching(&batch.cell, &revocation.target, applied.snapshot);
                    if let Some(introspector) = &self.introspector {
                        purged += introspector.purge(&gone) as u64;
                    }
                    gone
                }
                Some(Record::Issuer(issuer)) => {
                    let (cell, name, digest) = (batch.cell.clone(), change.name.clone(), issuer.digest);
                    Box::new(move |v| {
                        *v.tenant() == cell && v.issuer() == Some(&name) && *v.depends_on() != digest
                    })
                }
                _ => continue,
            };
            purged += self.cache.purge(gone) as u64;
        }
        let ended = self.exchanges.changed(&batch.cell, &batch.changes, applied.snapshot);
        if !revocations.is_empty() && !applied.ahead {
            let position = Position { epoch: batch.epoch, revision: batch.to_revision };
            self.log.note_in_force(batch.cell.as_str(), position, &revocations, [purged, ended]);
        }
        purged
    }

    fn replaced(&self, cell: &Name) {
        self.exchanges.replaced(cell);
    }

    fn take_ended(&self) -> u64 {
        self.exchanges.take_ended()
    }
}

fn matching(cell: &Name, target: &RevocationTarget, snapshot: &Snapshot) -> Box<dyn Fn(&Verified) -> bool> {
    let cell = cell.clone();
    match target.clone() {
        RevocationTarget::TokenId { issuer, jti, .. } => {
            let named = move |v: &Verified| v.token_id() == Some(&jti) || v.instance() == Some(&jti);
            Box::new(move |v| *v.tenant() == cell && v.issuer() == Some(&issuer) && named(v))
        }
        RevocationTarget::TokenDigest { digest, .. } => {
            Box::new(move |v| *v.signing_input_digest() == digest)
        }
        RevocationTarget::Credential(name) => {
            let held = snapshot.credential(&cell, &name).and_then(|held| held.value);
            let fingerprint = held.map(|credential| *credential.fingerprint);
            Box::new(move |v| fingerprint.as_ref() == Some(v.key_thumbprint()))
        }
        RevocationTarget::Identity { identity, .. } | RevocationTarget::IssuedBefore { identity, .. } => {
            let held = snapshot.identity(&cell, &identity).and_then(|held| held.value);
            let bindings = held.iter().flat_map(|identity| identity.bindings.iter());
            let bound: Vec<_> = bindings.filter_map(|binding| binding.record()).collect();
            Box::new(move |v| {
                *v.tenant() == cell
                    && bound.iter().any(|b| v.issuer() == Some(&b.issuer) && *b.subject == **v.subject())
            })
        }
    }
}
