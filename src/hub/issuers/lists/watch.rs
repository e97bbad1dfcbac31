//! Which lists are fetched, and when each is due: what a hub remembers of the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::attempt::{SPACE, item_key};
use super::fetched::Fetched;
use super::{Lists, Place};
use crate::core::id::Name;
use crate::core::identity::{Issuer, Record, RecordKind};
use crate::core::time::Timestamp;
use crate::hub::authority::Refusal;
use crate::hub::issuers::Key;
use crate::hub::store::StoreError;
use crate::telemetry::hub::ListReading;

/// What is watched.
#[derive(Default)]
pub(super) struct Watch {
    /// The head up to which cells were looked at.
    head: Option<u64>,
    /// Where each cell stood then.
    cells: HashMap<Name, u64>,
    watched: BTreeMap<Place, Watched>,
}

/// One list.
#[derive(Default)]
struct Watched {
    next: Timestamp,
    busy: bool,
    failing: bool,
    /// It was reported, and has not been fetched since.
    reported: bool,
}

impl Watch {
    pub(super) fn is_at(&self, head: u64) -> bool {
        self.head == Some(head)
    }

    /// Whose turn has come; each is busy until [`Self::done`].
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<Place> {
        let due = self.watched.iter_mut().filter(|(_, it)| !it.busy && it.next <= now);
        let taken = due.map(|(place, it)| {
            it.busy = true;
            place.clone()
        });
        taken.collect()
    }

    /// Notes when a list is due next; `None`: it is not fetched any more.
    pub(super) fn done(&mut self, place: &Place, next: Option<Timestamp>) {
        let Some(next) = next else {
            self.watched.remove(place);
            return;
        };
        if let Some(it) = self.watched.get_mut(place) {
            (it.busy, it.reported, it.next) = (false, false, next);
        }
    }

    /// Notes that a list is missing; whether there is room for it.
    pub(super) fn wanted(&mut self, place: Place) -> bool {
        let reported = self.watched.values().filter(|it| it.reported).count();
        if let Some(it) = self.watched.get_mut(&place) {
            // What is held is told of by itself; only what is not is sought at once.
            it.reported |= !it.busy;
        } else if reported < REPORTED_MAX {
            self.watched.insert(place, Watched { reported: true, ..Watched::default() });
        } else {
            return false;
        }
        true
    }

    /// Notes that a list that was held is to be fetched as if it had never been.
    fn anew(&mut self, place: Place) {
        let it = self.watched.entry(place).or_default();
        (it.next, it.reported) = (Timestamp::default(), true);
    }

    /// Notes whether a fetch failed.
    pub(super) fn note(&mut self, place: &Place, failing: bool) {
        if let Some(it) = self.watched.get_mut(place) {
            it.failing = failing;
        }
    }

    pub(super) fn reading(&self) -> ListReading {
        let count = |which: fn(&Watched) -> bool| self.watched.values().filter(|it| which(it)).count() as u64;
        ListReading { watched: count(|_| true), failing: count(|it| it.failing), ..ListReading::default() }
    }
}

impl Lists {
    /// Looks at the cells that moved. Blocks.
    pub(super) fn watch_cells(&self) -> Result<(), Refusal> {
        let (head, cells) = self.feed.store().cells()?;
        for cell in cells {
            if self.watch.lock().cells.get(&cell.tenant) == Some(&cell.revision) {
                continue;
            }
            self.watch_cell(&cell.tenant)?;
            self.watch.lock().cells.insert(cell.tenant, cell.revision);
        }
        self.watch.lock().head = Some(head.revision);
        Ok(())
    }

    fn watch_cell(&self, tenant: &Name) -> Result<(), Refusal> {
        let issuers = self.issuers(tenant)?;
        self.withdraw_fallen(tenant, &issuers)?;
        let wanted = self.wanted(tenant, &issuers)?;
        for place in &wanted {
            let item = self.feed.store().item(SPACE, &item_key(place))?;
            let state = item.map_or_else(Fetched::default, |item| Fetched::read(&item.value));
            let mut watch = self.watch.lock();
            let it = watch.watched.entry(place.clone()).or_default();
            it.failing = state.failures > 0;
            if !it.busy {
                it.next = state.next;
            }
        }
        Ok(self.forget_others(tenant, &wanted)?)
    }

    /// Whether a tenant has lists; without, its records need not be in memory. Asked at each commit to it.
    fn has_lists(&self, tenant: &Name) -> Result<bool, StoreError> {
        Ok(!self.feed.store().page(tenant, RecordKind::StatusList, None, 1)?.records.is_empty())
    }

    /// Withdraws what stands no more; what its issuer still takes is sought anew.
    fn withdraw_fallen(&self, tenant: &Name, issuers: &BTreeMap<Name, Arc<Issuer>>) -> Result<(), Refusal> {
        if !self.has_lists(tenant)? {
            return Ok(());
        }
        for fallen in self.authority.withdraw_lists(tenant, None)? {
            tracing::warn!(%tenant, issuer = %fallen.issuer, uri = %fallen.uri,
                "a status list is withdrawn: its issuer's record has another place or key");
            let of = (tenant.clone(), fallen.issuer.clone());
            let Some(place) = Place::new(&of, &fallen.uri) else { continue };
            self.forget(&place)?;
            let taken = issuers.get(&fallen.issuer).and_then(|issuer| issuer.status_lists.as_ref());
            if taken.is_some_and(|lists| lists.takes(&fallen.uri)) {
                self.watch.lock().anew(place);
            }
        }
        Ok(())
    }

    /// The lists of a tenant that are to be fetched.
    fn wanted(
        &self,
        tenant: &Name,
        issuers: &BTreeMap<Name, Arc<Issuer>>,
    ) -> Result<BTreeSet<Place>, Refusal> {
        let place = |issuer: &Name, uri: &str| Place::new(&(tenant.clone(), issuer.clone()), uri);
        let mut wanted = BTreeSet::new();
        for (name, issuer) in issuers {
            let uris = issuer.status_lists.iter().flat_map(|lists| &lists.uris);
            wanted.extend(uris.filter(|uri| !uri.ends_with('/')).filter_map(|uri| place(name, uri)));
        }
        if self.has_lists(tenant)? {
            let held = self.authority.status_lists(tenant)?;
            wanted.extend(held.iter().filter_map(|(_, list)| place(&list.issuer, &list.uri)));
        }
        Ok(wanted)
    }

    /// The issuers of a tenant that have status lists.
    fn issuers(&self, tenant: &Name) -> Result<BTreeMap<Name, Arc<Issuer>>, StoreError> {
        let mut found = BTreeMap::new();
        let mut after: Option<Name> = None;
        loop {
            let page = self.feed.store().page(tenant, RecordKind::Issuer, after.as_ref(), PAGE)?;
            for stored in &page.records {
                match stored.change().map(|change| change.record) {
                    Ok(Some(Record::Issuer(issuer))) if issuer.status_lists.is_some() => {
                        found.insert(stored.name.clone(), issuer);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(%tenant, issuer = %stored.name, %error, "unreadable"),
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    /// The lists of one issuer that are fetched. Blocks.
    pub(super) fn places(&self, (tenant, name): &Key) -> Result<Vec<Place>, Refusal> {
        let issuers = self.issuers(tenant)?;
        let wanted = self.wanted(tenant, &issuers)?;
        Ok(wanted.into_iter().filter(|place| place.issuer == *name).collect())
    }

    /// Lets go of a tenant's lists that are not fetched any more.
    fn forget_others(&self, tenant: &Name, wanted: &BTreeSet<Place>) -> Result<(), StoreError> {
        let gone: Vec<Place> = {
            let watch = self.watch.lock();
            let others = watch.watched.iter().filter(|(place, it)| {
                place.tenant == *tenant && !it.reported && !it.busy && !wanted.contains(place)
            });
            others.map(|(place, _)| place.clone()).collect()
        };
        for place in gone {
            self.watch.lock().watched.remove(&place);
            self.forget(&place)?;
        }
        Ok(())
    }

    fn forget(&self, place: &Place) -> Result<(), StoreError> {
        let Some(item) = self.feed.store().item(SPACE, &item_key(place))? else { return Ok(()) };
        match self.feed.store().remove_item(SPACE, &item.key, item.version) {
            // Another hub was faster.
            Ok(()) | Err(StoreError::Item(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

const PAGE: usize = 500;
/// Most lists that are sought because they were reported.
const REPORTED_MAX: usize = 256;
