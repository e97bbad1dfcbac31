//! What its issuer's status list says of a token: looked at each time, remembered or not.

use super::{Case, Pipeline};
use crate::core::credential::Verified;
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

impl Pipeline {
    /// Until when the status list that the token names lets it pass. Not before its identity is known:
    /// who is nobody here has nothing fetched.
    pub(super) fn token_status(
        &self,
        case: &Case<'_>,
        verified: &Verified,
    ) -> Result<Option<Timestamp>, Reason> {
        let tenant = &case.service.tenant;
        let found = case.snapshot.token_status(tenant, verified, case.now.wall);
        if found == Err(Reason::StatusMissing)
            && let (Some(told), Some(status), Some(issuer)) =
                (&self.missing, verified.status(), verified.issuer())
        {
            told.missing_list(tenant, issuer, &status.uri);
        }
        found
    }
}
