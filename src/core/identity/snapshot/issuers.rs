//! Issuers of a snapshot.

use super::*;

impl Snapshot {
    /// The issuer with exactly this `iss`.
    pub fn issuer_of(&self, tenant: &Name, iss: &str) -> Option<&Arc<Held<Issuer>>> {
        self.by_iss.at(self.keyer.key(Space::IssuerByIss, &[tenant.as_str().as_bytes(), iss.as_bytes()]))
    }

    /// The tenant's issuers that are asked about opaque tokens.
    pub fn introspecting(&self, tenant: &Name) -> &[Arc<Held<Issuer>>] {
        self.cell(tenant).map_or(&[], |cell| &cell.introspecting)
    }

    /// Every issuer that there is.
    pub fn issuers(&self) -> impl Iterator<Item = (&Held<Issuer>, &Arc<Issuer>)> {
        self.records.issuers.iter().filter_map(|(_, held)| Some((&**held, held.value.as_ref()?)))
    }
}
