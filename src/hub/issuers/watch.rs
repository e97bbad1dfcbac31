//! Which issuers' keys are fetched, and when each is due: what a hub remembers of the store.

use std::collections::{BTreeMap, HashMap};

use super::attempt::{SPACE, Why, item_key};
use super::fetched::Fetched;
use super::{Issuers, Key};
use crate::core::id::Name;
use crate::core::identity::{Issuer, Record, RecordKind};
use crate::core::time::Timestamp;
use crate::hub::store::StoreError;
use crate::jwks::Looked;
use crate::telemetry::hub::IssuerReading;

/// What is watched.
#[derive(Default)]
pub(super) struct Watch {
    /// The head up to which cells were looked at.
    head: Option<u64>,
    /// Where each cell stood then.
    cells: HashMap<Name, u64>,
    watched: BTreeMap<Key, Watched>,
    pub(super) looked: Looked<Key>,
}

/// One issuer.
struct Watched {
    next: Timestamp,
    why: Why,
    busy: bool,
    /// Its keys come from elsewhere since the fetch that is under way began.
    again: bool,
    failing: bool,
    usable: usize,
    refused: usize,
}

impl Watch {
    pub(super) fn is_at(&self, head: u64) -> bool {
        self.head == Some(head)
    }

    /// Whose turn has come; each is busy until [`Self::done`].
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<(Key, Why)> {
        let due = self.watched.iter_mut().filter(|(_, it)| !it.busy && it.next <= now);
        let taken = due.map(|(key, it)| {
            it.busy = true;
            (key.clone(), std::mem::replace(&mut it.why, Why::Scheduled))
        });
        taken.collect()
    }

    /// Notes when an issuer is due next; `None`: it is not fetched any more.
    pub(super) fn done(&mut self, key: &Key, next: Option<Timestamp>) {
        match (self.watched.get_mut(key), next) {
            (Some(it), Some(next)) => {
                it.busy = false;
                // A report that came meanwhile stands.
                it.next = match it.why {
                    _ if std::mem::take(&mut it.again) => Timestamp::from_micros(0),
                    Why::Missing => it.next.min(next),
                    Why::Scheduled | Why::Asked => next,
                };
            }
            (Some(_), None) => {
                self.watched.remove(key);
            }
            (None, _) => {}
        }
    }

    /// Notes that a key is missing; whether the issuer is one that is fetched.
    pub(super) fn wanted(&mut self, key: &Key, not_before: Timestamp) -> bool {
        let Some(it) = self.watched.get_mut(key) else { return false };
        if it.busy || it.next > not_before {
            it.next = not_before;
            it.why = Why::Missing;
        }
        true
    }

    /// Notes how an issuer stands.
    pub(super) fn note(&mut self, key: &Key, issuer: &Issuer, state: &Fetched) {
        if let Some(it) = self.watched.get_mut(key) {
            it.failing = state.failures > 0;
            it.usable = issuer.keys.len();
            it.refused = issuer.keys.refused().len() + state.left_out.len();
        }
    }

    pub(super) fn reading(&self) -> IssuerReading {
        let count = |which: fn(&Watched) -> bool| self.watched.values().filter(|it| which(it)).count() as u64;
        IssuerReading {
            fetched: self.watched.len() as u64,
            failing: count(|it| it.failing),
            without_keys: count(|it| it.usable == 0),
            refused_keys: self.watched.values().map(|it| it.refused as u64).sum(),
            ..IssuerReading::default()
        }
    }
}

impl Issuers {
    /// Looks at the cells that moved. Blocks.
    pub(super) fn watch_cells(&self) -> Result<(), StoreError> {
        let store = self.feed.store();
        let (head, cells) = store.cells()?;
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

    fn watch_cell(&self, tenant: &Name) -> Result<(), StoreError> {
        let mut found = Vec::new();
        let mut after: Option<Name> = None;
        loop {
            let page = self.feed.store().page(tenant, RecordKind::Issuer, after.as_ref(), PAGE)?;
            for stored in &page.records {
                match stored.change().map(|change| change.record) {
                    Ok(Some(Record::Issuer(issuer))) if issuer.key_source.is_fetched() => {
                        found.push(((tenant.clone(), stored.name.clone()), issuer));
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(%tenant, issuer = %stored.name, %error, "unreadable"),
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        for (key, issuer) in &found {
            let item = self.feed.store().item(SPACE, &item_key(key))?;
            let state = item.map_or_else(|| Fetched::new(issuer), |item| Fetched::read(&item.value, issuer));
            let mut watch = self.watch.lock();
            let watched = watch.watched.entry(key.clone()).or_insert(Watched {
                next: state.next,
                why: Why::Scheduled,
                busy: false,
                again: false,
                failing: false,
                usable: 0,
                refused: 0,
            });
            watched.next = watched.next.min(state.next);
            watched.again = watched.busy && state.attempted.is_none();
            watch.note(key, issuer, &state);
        }
        self.forget_others(tenant, &found.into_iter().map(|(key, _)| key).collect::<Vec<_>>())
    }

    /// Lets go of a tenant's issuers whose keys are not fetched any more.
    fn forget_others(&self, tenant: &Name, fetched: &[Key]) -> Result<(), StoreError> {
        let gone: Vec<Key> = {
            let watch = self.watch.lock();
            let of_tenant = watch.watched.keys().filter(|key| key.0 == *tenant);
            of_tenant.filter(|key| !fetched.contains(key)).cloned().collect()
        };
        for key in gone {
            self.watch.lock().watched.remove(&key);
            if let Some(item) = self.feed.store().item(SPACE, &item_key(&key))? {
                match self.feed.store().remove_item(SPACE, &item.key, item.version) {
                    // Another hub was faster.
                    Ok(()) | Err(StoreError::Item(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

const PAGE: usize = 500;
