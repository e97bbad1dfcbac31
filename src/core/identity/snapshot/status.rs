//! What status lists say of a token.

use super::*;
use crate::core::credential::Verified;
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

impl Snapshot {
    /// A status list by name.
    pub fn status_list(&self, tenant: &Name, name: &Name) -> Option<&Arc<StatusList>> {
        let held = self.records.status_lists.at(self.named(Space::StatusList, tenant, name.as_str()))?;
        held.value.as_ref().filter(|list| !list.is_withdrawn())
    }

    /// Until when the list that a token names says that it counts; `None`: the token names none.
    ///
    /// # Errors
    /// [`Reason::StatusMissing`], [`Reason::StatusStale`] and [`Reason::StatusRange`] when it says
    /// nothing; another reason for each value but 0.
    ///
    /// # Standard
    /// Token Status List §7.1, §8.3. Stricter: only what says VALID is valid.
    pub fn token_status(
        &self,
        tenant: &Name,
        verified: &Verified,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Reason> {
        let Some(status) = verified.status() else { return Ok(None) };
        let list = self.status_list(tenant, &status.list).ok_or(Reason::StatusMissing)?;
        if verified.issuer() != Some(&list.issuer) || list.uri != status.uri {
            return Err(Reason::StatusMissing);
        }
        if now >= list.valid_until {
            return Err(Reason::StatusStale);
        }
        match list.value(status.index).ok_or(Reason::StatusRange)? {
            0 => Ok(Some(list.valid_until)),
            1 => Err(Reason::StatusInvalid),
            2 => Err(Reason::StatusSuspended),
            _ => Err(Reason::StatusOther),
        }
    }
}
