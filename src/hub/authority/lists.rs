//! Status lists that were fetched, and those that stand no more.
//!
//! INVARIANT: a list that has values stands: its issuer's record takes its URI, for as long as it says, and
//! has the key that signed it. What does not is withdrawn, and its name kept: it may come again.

use std::sync::Arc;
use std::time::Duration;

use super::{Authority, Pass, Proposed, Refusal, survives_the_wire};
use crate::core::id::Name;
use crate::core::identity::{Issuer, Record, RecordKind, StatusList};
use crate::core::time::Timestamp;
use crate::hub::model::TenantImage;
use crate::hub::store::Edit;

/// What became of a list that was fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Listed {
    /// It is held as this; the revision that made it so, if it is another than before.
    Held(Arc<StatusList>, Option<u64>),
    /// A newer one is held.
    Older,
    /// The issuer's record is gone, or another than it was fetched for.
    NotTaken,
    /// There is no room for it.
    Full(&'static str),
}

impl Authority {
    /// The lists of a tenant that have values.
    pub(crate) fn status_lists(&self, tenant: &Name) -> Result<Vec<(Name, Arc<StatusList>)>, Refusal> {
        self.turn(&[tenant], |images| {
            let image = self.known_tenant(images, tenant)?;
            Ok(held(image).map(|(name, list)| (name.clone(), Arc::clone(list))).collect())
        })
    }

    /// Puts a list in place, if its issuer's record is the one that it was fetched for.
    pub(crate) fn set_list(
        &self,
        tenant: &Name,
        name: &Name,
        fetched_for: &Issuer,
        list: &Arc<StatusList>,
    ) -> Result<Listed, Refusal> {
        self.turn(&[tenant], |images| {
            let image = self.known_tenant(images, tenant)?;
            match image.live(RecordKind::Issuer, &list.issuer) {
                Some(Record::Issuer(issuer)) if **issuer == *fetched_for => {}
                _ => return Ok(Listed::NotTaken),
            }
            if let Some(Record::StatusList(held)) = image.live(RecordKind::StatusList, name) {
                if list.issued < held.issued {
                    return Ok(Listed::Older);
                }
                if is_as_good(held, list, fetched_for) {
                    return Ok(Listed::Held(Arc::clone(held), None));
                }
            }
            if let Some(full) = room(image, name, list) {
                return Ok(Listed::Full(full));
            }
            let record = Some(Record::StatusList(Arc::clone(list)));
            survives_the_wire(&Proposed {
                kind: RecordKind::StatusList,
                name: name.clone(),
                record: record.clone(),
                at: "list".to_owned(),
            })?;
            let edit = Edit::new(RecordKind::StatusList, name.clone(), record);
            let revision = self.commit(images, tenant, vec![edit], &mut Pass::guarded())?.revision;
            Ok(Listed::Held(Arc::clone(list), Some(revision)))
        })
    }

    /// Withdraws the lists of a tenant that stand no more, and `also` that one.
    pub(crate) fn withdraw_lists(
        &self,
        tenant: &Name,
        also: Option<&Name>,
    ) -> Result<Vec<Arc<StatusList>>, Refusal> {
        self.turn(&[tenant], |images| {
            let image = self.known_tenant(images, tenant)?;
            let now = self.clock.now().wall;
            let falls = |name, list: &StatusList| Some(name) == also || !stands(image, list, now);
            let fallen = held(image).filter(|(name, list)| falls(*name, list));
            let fallen: Vec<_> = fallen.map(|(name, list)| (name.clone(), Arc::clone(list))).collect();
            if fallen.is_empty() {
                return Ok(Vec::new());
            }
            let edit = |(name, list): &(Name, Arc<StatusList>)| {
                let empty = StatusList::withdrawn(list.issuer.clone(), Arc::clone(&list.uri));
                Edit::new(RecordKind::StatusList, name.clone(), Some(Record::StatusList(Arc::new(empty))))
            };
            let edits = fallen.iter().map(edit).collect();
            self.commit(images, tenant, edits, &mut Pass::guarded())?;
            Ok(fallen.into_iter().map(|(_, list)| list).collect())
        })
    }
}

/// The names of an issuer's lists, those that were withdrawn among them.
pub(super) fn lists_of<'a>(image: &'a TenantImage, issuer: &'a Name) -> impl Iterator<Item = Name> + 'a {
    image.of_kind(RecordKind::StatusList).filter_map(move |change| match &change.record {
        Some(Record::StatusList(list)) if list.issuer == *issuer => Some(change.name.clone()),
        _ => None,
    })
}

fn held(image: &TenantImage) -> impl Iterator<Item = (&Name, &Arc<StatusList>)> {
    image.of_kind(RecordKind::StatusList).filter_map(|change| match &change.record {
        Some(Record::StatusList(list)) if !list.is_withdrawn() => Some((&change.name, list)),
        _ => None,
    })
}

fn stands(image: &TenantImage, list: &StatusList, now: Timestamp) -> bool {
    let Some(Record::Issuer(issuer)) = image.live(RecordKind::Issuer, &list.issuer) else { return false };
    // Not longer than the record says now, either; the rest is for hubs whose clocks differ.
    let longest = |max_age_s: u32| now.after(Duration::from_secs(u64::from(max_age_s))).after(CLOCKS_DIFFER);
    let takes = issuer.status_lists.as_ref();
    takes.is_some_and(|lists| lists.takes(&list.uri) && list.valid_until <= longest(lists.max_age_s))
        && issuer.keys.keys().iter().any(|key| *key.thumbprint() == list.signed_by)
}

/// Whether a list that is held need not be written again: it says the same, and counts nearly as long.
fn is_as_good(held: &StatusList, next: &StatusList, issuer: &Issuer) -> bool {
    let max_age = issuer.status_lists.as_ref().map_or(0, |lists| lists.max_age_s);
    let half = Duration::from_secs(u64::from(max_age) / 2);
    held.says_the_same(next)
        // When it was signed is not looked at: some issuers sign anew for whoever asks.
        && held.signed_by == next.signed_by
        && held.valid_until <= next.valid_until
        && held.valid_until >= next.valid_until.before(half)
}

/// Why there is no room for a list; `None`: there is.
fn room(image: &TenantImage, name: &Name, list: &StatusList) -> Option<&'static str> {
    let others = || held(image).filter(|(other, _)| *other != name).map(|(_, other)| other);
    let bytes: usize = others().map(|other| other.values().len()).sum();
    if others().filter(|other| other.issuer == list.issuer).count() >= LISTS_OF_ISSUER_MAX {
        Some("the issuer has 64 lists already, the most that are held")
    } else if others().count() >= LISTS_MAX {
        Some("the tenant has 256 lists already, the most that are held")
    } else if bytes + list.values().len() > BYTES_MAX {
        Some("the tenant's lists would be longer than 64 MiB")
    } else {
        None
    }
}

const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
/// Most lists of an issuer.
const LISTS_OF_ISSUER_MAX: usize = 64;
/// Most lists of a tenant.
const LISTS_MAX: usize = 256;
/// Most of all lists of a tenant, in bytes as they are held.
const BYTES_MAX: usize = 64 << 20;
