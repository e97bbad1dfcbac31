//! Removing a record.

use super::lists::lists_of;
use super::{Authority, Images, Pass, Refusal};
use crate::core::id::Name;
use crate::core::identity::RecordKind;
use crate::hub::model::check::{Proposed, check};
use crate::hub::model::life;
use crate::hub::store::Edit;

impl Authority {
    /// Removes a record for good.
    pub(crate) fn remove(&self, tenant: &Name, kind: RecordKind, name: &Name) -> Result<u64, Refusal> {
        self.turn(&[tenant], |images| self.remove_in(images, tenant, kind, name))
    }

    fn remove_in(
        &self,
        images: &mut Images,
        tenant: &Name,
        kind: RecordKind,
        name: &Name,
    ) -> Result<u64, Refusal> {
        let image = self.known_tenant(images, tenant)?;
        if image.live(kind, name).is_none() {
            return Err(Refusal::unknown(kind, name));
        }
        let now = self.clock.now().wall;
        life::removal(image, kind, name, now).map_err(|refused| Refusal::step("", refused))?;
        let proposed = Proposed { kind, name: name.clone(), record: None, at: String::new() };
        check(image, &[proposed], now)?;
        let mut edits = vec![Edit::new(kind, name.clone(), None)];
        if kind == RecordKind::Issuer {
            edits.extend(lists_of(image, name).map(|list| Edit::new(RecordKind::StatusList, list, None)));
        }
        Ok(self.commit(images, tenant, edits, &mut Pass::guarded())?.revision)
    }
}
