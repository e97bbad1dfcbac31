//! The last step of every change: past the guard, into the store, and on to the streams.

use std::collections::BTreeSet;

use super::{Authority, Images, Pass, Refusal};
use crate::core::id::Name;
use crate::hub::guard::{Excess, denied, exceeds, slices};
use crate::hub::store::{ChangeSet, Committed, Edit, StoreError};

impl Authority {
    /// Commits edits at once, or in parts when they were let through the guard.
    pub(super) fn commit(
        &self,
        images: &mut Images,
        tenant: &Name,
        edits: Vec<Edit>,
        pass: &mut Pass,
    ) -> Result<Committed, Refusal> {
        let excess = self.exceeds(images, tenant, &edits)?;
        let Some(excess) = excess else { return self.commit_part(images, tenant, edits, pass) };
        if !pass.lets_through() {
            return Err(Refusal::Guarded(excess));
        }
        let now = self.clock.now().wall;
        let mut parts = slices(self.image(images, tenant)?, edits, excess.limit, now).into_iter();
        let first = parts.next().unwrap_or_default();
        let mut committed = self.commit_part(images, tenant, first, pass)?;
        for part in parts {
            committed = self.commit_part(images, tenant, part, pass)?;
        }
        Ok(committed)
    }

    pub(super) fn exceeds(
        &self,
        images: &mut Images,
        tenant: &Name,
        edits: &[Edit],
    ) -> Result<Option<Excess>, Refusal> {
        let now = self.clock.now().wall;
        let image = self.image(images, tenant)?;
        if denied(image, edits, now).is_empty() {
            return Ok(None);
        }
        let mut weighed = self.weighed.lock();
        weighed.let_through(self.held.released(now).map_err(Refusal::from)?.into_iter());
        Ok(exceeds(&self.limits, &**self.feed.store(), (tenant, image), edits, (now, &weighed))?)
    }

    pub(super) fn commit_part(
        &self,
        images: &mut Images,
        tenant: &Name,
        edits: Vec<Edit>,
        pass: &mut Pass,
    ) -> Result<Committed, Refusal> {
        if let Some(fault) = self.feed.witness().contradicted() {
            return Err(StoreError::from(fault).into());
        }
        let image = self.image(images, tenant)?;
        let stands_at = Some(image.revision());
        let weight = match pass.lets_through() {
            true => BTreeSet::new(),
            false => denied(image, &edits, self.clock.now().wall),
        };
        let changes = ChangeSet { tenant: tenant.clone(), stands_at, edits };
        let committed = match self.feed.store().commit(&changes, &[]) {
            Ok(committed) => committed,
            Err(error) => {
                // Whatever happened, the store knows better than what is held here.
                images.remove(tenant);
                if let Err(error) = self.feed.follow(&*self.clock) {
                    tracing::debug!(%error, "whether a failed commit happened is found out later");
                }
                return Err(error.into());
            }
        };
        pass.committed(committed.revision);
        self.weighed.lock().note(committed.revision, weight);
        if let Some(image) = images.get_mut(tenant) {
            image.take(&committed.changes, committed.revision);
        }
        if let Err(error) = self.feed.advance(committed.revision, self.clock.now()) {
            // The change is durable; streams find it at their next ping.
            tracing::error!(%error, revision = committed.revision, "a commit could not be read back");
        }
        Ok(committed)
    }
}
