//! Letting go of tombstones, and of revocations that deny nothing which is not denied without them.
//!
//! INVARIANT: nothing goes before the longest-lived credential that it could bring back has ended, by the
//! slowest clock there may be and for the longest lease; nor while the change log still speaks of it. What
//! denies an identity, or a key, for as long as that is there, goes only once something else denies the same.

use std::sync::Arc;
use std::time::Duration;

use super::{Authority, Images, Pass, Refusal};
use crate::core::id::Name;
use crate::core::identity::{Change, Identity, Record, RecordKind, RevocationTarget, TokenProfile};
use crate::core::time::Timestamp;
use crate::hub::model::TenantImage;
use crate::hub::store::{Edit, StoredRecord};

impl Authority {
    /// Lets go of at most [`DROPS_MAX`] spent records of a tenant, in one commit; says of how many.
    /// They were last changed longer than `kept` ago; credentials are given `margin` past their end. Blocks.
    pub(crate) fn drop_spent(
        &self,
        tenant: &Name,
        kept: Duration,
        margin: Duration,
    ) -> Result<usize, Refusal> {
        let now = self.clock.now().wall;
        if self.feed.store().settled(tenant, now.before(kept))?.is_empty() {
            // Most tenants: their records need not be in memory.
            return Ok(0);
        }
        self.turn(&[tenant], |images| self.drop_spent_in(images, tenant, kept, margin))
    }

    fn drop_spent_in(
        &self,
        images: &mut Images,
        tenant: &Name,
        kept: Duration,
        margin: Duration,
    ) -> Result<usize, Refusal> {
        let now = self.clock.now().wall;
        let image = self.known_tenant(images, tenant)?;
        let settled_for = kept.max(longest_lifetime(image).saturating_add(margin));
        let settled = self.feed.store().settled(tenant, now.before(settled_for))?;
        let spent = settled.into_iter().filter(|record| is_spent(image, record, now.before(margin)));
        let edits: Vec<_> =
            spent.take(DROPS_MAX).map(|record| Edit::drop(record.kind, record.name)).collect();
        if edits.is_empty() {
            return Ok(0);
        }
        let dropped = edits.len();
        let committed = self.commit_part(images, tenant, edits, &mut Pass::guarded())?;
        tracing::info!(%tenant, dropped, revision = committed.revision, "let go of what denies nothing any more");
        Ok(dropped)
    }
}

/// The longest that a token of any issuer is good for.
fn longest_lifetime(image: &TenantImage) -> Duration {
    let lifetimes = image.of_kind(RecordKind::Issuer).filter_map(|change| match &change.record {
        Some(Record::Issuer(issuer)) => Some(issuer.max_lifetime_s),
        _ => None,
    });
    Duration::from_secs(lifetimes.max().unwrap_or(0).into())
}

/// Whether nothing is denied by a record alone. Credentials that ended before `ended` come back nowhere.
fn is_spent(image: &TenantImage, record: &StoredRecord, ended: Timestamp) -> bool {
    let held = image.get(record.kind, &record.name);
    let Some(held) = held.filter(|held| !held.dropped && held.revision == record.revision) else {
        return false;
    };
    let revocation = match &held.record {
        None => return true,
        Some(Record::Revocation(revocation)) => revocation,
        Some(_) => return false,
    };
    match &revocation.target {
        // There a token id may be that of a pod, which has new tokens as long as it lives.
        RevocationTarget::TokenId { issuer, .. } if names_pods(image, issuer) => false,
        RevocationTarget::TokenId { expires, .. } | RevocationTarget::TokenDigest { expires, .. } => {
            *expires < ended
        }
        RevocationTarget::Credential(name) => image.live(RecordKind::Credential, name).is_none(),
        RevocationTarget::IssuedBefore { identity, not_before } => {
            image.identity(identity).is_none_or(|(_, identity)| identity.not_before >= Some(*not_before))
        }
        RevocationTarget::Identity { identity, .. } => {
            let is_lifted = |(change, identity): (&Change, &Arc<Identity>)| {
                revocation.is_lifted(change.generation, identity.not_before)
            };
            image.identity(identity).is_none_or(is_lifted)
        }
    }
}

/// Whether an issuer's tokens carry the id of the pod that they were made for.
fn names_pods(image: &TenantImage, issuer: &Name) -> bool {
    matches!(image.live(RecordKind::Issuer, issuer),
        Some(Record::Issuer(issuer)) if issuer.profile == TokenProfile::Kubernetes)
}

/// Records let go of in one commit.
pub(crate) const DROPS_MAX: usize = 512;
