//! One request at a time, judged against what the store holds, whoever wrote it.

use super::{Authority, Images, Refusal};
use crate::core::id::Name;
use crate::hub::model::TenantImage;
use crate::hub::store::{Logged, StoreError};
use crate::wire::state::decode_body;

impl Authority {
    /// Runs `work` on images of these tenants that are as the store is; anew when another hub
    /// committed to one of them before `work` did.
    pub(super) fn turn<T>(
        &self,
        tenants: &[&Name],
        mut work: impl FnMut(&mut Images) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut images = self.images.lock();
        if !self.feed.store().is_shared() {
            return work(&mut images);
        }
        let mut turns = 0;
        loop {
            for tenant in tenants {
                self.freshen(&mut images, tenant)?;
            }
            turns += 1;
            match work(&mut images) {
                Err(Refusal::Store { error: StoreError::Moved { .. }, .. }) if turns < TURNS_MAX => {}
                other => return other,
            }
        }
    }

    /// Brings an image that is held to where the store is, or lets go of it.
    fn freshen(&self, images: &mut Images, tenant: &Name) -> Result<(), Refusal> {
        let Some(image) = images.get_mut(tenant) else { return Ok(()) };
        let stands_at = self.feed.store().cell(tenant)?.map_or(0, |cell| cell.revision);
        if stands_at == image.revision() {
            return Ok(());
        }
        let missed = self.missed(tenant, image.revision(), stands_at);
        if !missed.is_ok_and(|missed| catch_up(image, &missed)) {
            images.remove(tenant);
        }
        Ok(())
    }

    /// The commits to a tenant after `from` up to `to`, newest first; none when they are too many.
    fn missed(&self, tenant: &Name, from: u64, to: u64) -> Result<Vec<Logged>, StoreError> {
        let mut missed = Vec::new();
        let mut at = to;
        while at > from {
            let logged = self.feed.store().logged(at)?.filter(|logged| logged.tenant == *tenant);
            let Some(logged) = logged.filter(|_| missed.len() < MISSED_MAX) else { return Ok(Vec::new()) };
            at = logged.from_revision;
            missed.push(logged);
        }
        Ok(missed)
    }
}

/// Takes commits into an image, newest first as they come; `false`: they do not lead on from it.
fn catch_up(image: &mut TenantImage, missed: &[Logged]) -> bool {
    if missed.last().is_none_or(|oldest| oldest.from_revision != image.revision()) {
        return false;
    }
    for logged in missed.iter().rev() {
        let Ok(changes) = decode_body(&logged.body) else { return false };
        image.take(&changes, logged.revision);
    }
    true
}

/// How often a request is judged anew because another hub was faster.
const TURNS_MAX: usize = 16;
/// Commits that are caught up with one by one; more are read as a whole.
const MISSED_MAX: usize = 64;
