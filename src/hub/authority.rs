//! The one place that writes: reads what is asked, judges it against the tenant's records, commits.
//!
//! INVARIANT: everything of a request is judged before its first commit; a tenant's records
//! are judged and committed under one lock, and the store compares once more: where another hub on it
//! committed to the tenant in between, the request is judged anew.

mod commit;
mod keys;
mod lists;
mod pass;
mod removal;
mod request;
mod retention;
mod turn;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::feed::Feed;
use super::guard::{Excess, GuardLimits, Weighed};
use super::held::HeldChanges;
use super::model::check::{Proposed, check};
use super::model::life::{self, Transition};
use super::model::{Fault, Faults, TenantImage, read_spec};
use super::store::{Edit, EditName, StoreError};
use crate::core::id::Name;
use crate::core::identity::{
    Change, Hygiene, IdentityStatus, PolicyMode, PolicySet, Record, RecordKind, Revocation, RevocationTarget,
};
use crate::core::policy::DEFAULT_POLICY;
use crate::core::time::{Clock, Timestamp};
use crate::wire::state::{decode_record, encode_record};

pub(crate) use keys::FetchedKeys;
pub(crate) use lists::Listed;
pub(crate) use pass::Pass;
pub(crate) use request::{Document, Refusal, Revoke};
pub(crate) use retention::DROPS_MAX;
pub(crate) use view::{Applied, AppliedChange, AppliedTenant, ChangeAction, RecordView, Revoked};

/// Takes changes.
pub(crate) struct Authority {
    feed: Arc<Feed>,
    clock: Arc<dyn Clock>,
    images: Mutex<Images>,
    limits: GuardLimits,
    held: HeldChanges,
    /// Locked after `images`.
    weighed: Mutex<Weighed>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("feed", &self.feed).finish_non_exhaustive()
    }
}

type Images = HashMap<Name, TenantImage>;

/// Edits of one tenant, judged and ready.
struct Plan {
    tenant: Name,
    edits: Vec<Edit>,
    actions: Vec<AppliedChange>,
    warnings: Vec<Fault>,
}

impl Authority {
    pub(crate) fn new(feed: Arc<Feed>, clock: Arc<dyn Clock>, limits: GuardLimits) -> Self {
        let held = HeldChanges::new(Arc::clone(feed.store()));
        Self { feed, clock, images: Mutex::default(), limits, held, weighed: Mutex::default() }
    }

    /// Changes that wait for a second principal.
    pub(crate) const fn held(&self) -> &HeldChanges {
        &self.held
    }

    /// The wall clock that changes are judged by.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    /// Applies documents: one transaction a tenant, all judged before the first.
    /// A tenant's part that the guard stops is left out, and named.
    pub(crate) fn apply(
        &self,
        documents: &[Document],
        dry_run: bool,
        pass: &mut Pass,
    ) -> Result<Applied, Refusal> {
        let tenants = documents.iter().map(|document| &document.tenant).collect::<BTreeSet<_>>();
        self.turn(&tenants.into_iter().collect::<Vec<_>>(), |images| {
            let applied = self.apply_in(images, documents, dry_run, pass);
            images.retain(|_, image| image.revision() > 0);
            applied
        })
    }

    fn apply_in(
        &self,
        images: &mut Images,
        documents: &[Document],
        dry_run: bool,
        pass: &mut Pass,
    ) -> Result<Applied, Refusal> {
        let now = self.clock.now().wall;
        let mut by_tenant: BTreeMap<&Name, Vec<&Document>> = BTreeMap::new();
        for document in documents {
            by_tenant.entry(&document.tenant).or_default().push(document);
        }
        let mut refused = Refusal::default();
        let mut plans = Vec::new();
        for (tenant, documents) in by_tenant {
            let image = self.image(images, tenant)?;
            match plan(image, tenant, &documents, now) {
                Ok(plan) => plans.push(plan),
                Err(refusal) => refused.absorb(refusal)?,
            }
        }
        refused.none()?;
        let mut applied = Applied::default();
        for plan in plans {
            let done = applied.tenants.iter().map(|t: &AppliedTenant| t.tenant.clone()).collect::<Vec<_>>();
            let tenant = plan.tenant.clone();
            match self.commit_plan(images, plan, dry_run, pass) {
                Ok(done) => applied.take(done),
                Err(Refusal::Guarded(excess)) => applied.guarded.push((tenant, excess)),
                Err(error) => return Err(error.after(&done)),
            }
        }
        Ok(applied)
    }

    /// Creates a record.
    pub(crate) fn create(&self, document: &Document, pass: &mut Pass) -> Result<RecordView, Refusal> {
        self.turn(&[&document.tenant], |images| {
            let image = self.image(images, &document.tenant)?;
            match image.get(document.kind, &document.name) {
                Some(held) => Err(Refusal::exists(held)),
                None => self.write(images, document, pass),
            }
        })
    }

    /// Replaces a record, which need not exist unless a revision is expected.
    pub(crate) fn replace(
        &self,
        document: &Document,
        expected: Option<u64>,
        pass: &mut Pass,
    ) -> Result<RecordView, Refusal> {
        self.turn(&[&document.tenant], |images| {
            let image = self.image(images, &document.tenant)?;
            let found = image.get(document.kind, &document.name).map(|change| change.revision);
            match expected {
                Some(expected) if found != Some(expected) => Err(Refusal::changed(document, expected, found)),
                _ => self.write(images, document, pass),
            }
        })
    }

    fn write(
        &self,
        images: &mut Images,
        document: &Document,
        pass: &mut Pass,
    ) -> Result<RecordView, Refusal> {
        let applied = self.apply_in(images, std::slice::from_ref(document), false, pass)?;
        if let Some((_, excess)) = applied.guarded.first() {
            return Err(Refusal::Guarded(*excess));
        }
        let view = self.view(images, &document.tenant, document.kind, &document.name)?;
        Ok(RecordView { warnings: applied.warnings, ..view })
    }

    fn view(
        &self,
        images: &mut Images,
        tenant: &Name,
        kind: RecordKind,
        name: &Name,
    ) -> Result<RecordView, Refusal> {
        let change = self.image(images, tenant)?.get(kind, name);
        change.map(|change| RecordView::of(tenant, change)).ok_or_else(|| Refusal::unknown(kind, name))
    }

    /// Takes an identity to another status.
    pub(crate) fn transition(
        &self,
        tenant: &Name,
        name: &Name,
        asked: &Transition,
        reason: &str,
        pass: &mut Pass,
    ) -> Result<RecordView, Refusal> {
        self.turn(&[tenant], |images| self.transition_in(images, (tenant, name), asked, reason, pass))
    }

    fn transition_in(
        &self,
        images: &mut Images,
        (tenant, name): (&Name, &Name),
        asked: &Transition,
        reason: &str,
        pass: &mut Pass,
    ) -> Result<RecordView, Refusal> {
        let now = self.clock.now().wall;
        let image = self.known_tenant(images, tenant)?;
        let (change, held) =
            image.identity(name).ok_or_else(|| Refusal::unknown(RecordKind::Identity, name))?;
        let next = life::transition(image, name, held, asked, now).map_err(|r| Refusal::step("", r))?;
        let Some(next) = next else { return Ok(RecordView::of(tenant, change)) };
        let reinstates = !asked.lifts.is_empty();
        let mut edits = Vec::new();
        if !reinstates {
            edits.extend(carried(image, name, &next));
        }
        let record = Some(Record::Identity(Arc::new(next)));
        edits.push(Edit { reinstates, ..Edit::new(RecordKind::Identity, name.clone(), record) });
        let committed = self.commit(images, tenant, edits, pass)?;
        tracing::info!(
            %tenant, identity = %name, status = asked.to.as_str(), reason,
            revision = committed.revision, "an identity's status changed"
        );
        self.view(images, tenant, RecordKind::Identity, name)
    }

    /// Takes something away; what is taken away already stays as it is.
    pub(crate) fn revoke(&self, tenant: &Name, asked: &Revoke, pass: &mut Pass) -> Result<Revoked, Refusal> {
        self.turn(&[tenant], |images| self.revoke_in(images, tenant, asked, pass))
    }

    fn revoke_in(
        &self,
        images: &mut Images,
        tenant: &Name,
        asked: &Revoke,
        pass: &mut Pass,
    ) -> Result<Revoked, Refusal> {
        let image = self.known_tenant(images, tenant)?;
        let target = resolve(image, &asked.target)?;
        if let Some((held, _)) = image.revocations_like(&target).find(|(_, held)| held.covers(&target)) {
            return Ok(Revoked { name: held.name.clone(), revision: held.revision, is_new: false });
        }
        let record = Record::Revocation(Arc::new(Revocation {
            target,
            reason: Arc::clone(&asked.reason),
            requested_by: Arc::clone(&asked.requested_by),
            at: self.clock.now().wall,
        }));
        let edit = Edit {
            kind: RecordKind::Revocation,
            name: EditName::ByRevision,
            record: Some(record),
            reinstates: false,
            drops: false,
        };
        let committed = self.commit(images, tenant, vec![edit], pass)?;
        let name = committed.changes.first().map(|change| change.name.clone());
        let name = name.ok_or_else(|| Refusal::unknown(RecordKind::Revocation, tenant))?;
        tracing::info!(%tenant, revocation = %name, revision = committed.revision, "revoked");
        Ok(Revoked { name, revision: committed.revision, is_new: true })
    }

    /// How many identities of a tenant are in each status, in the order of [`IdentityStatus::ALL`].
    pub(crate) fn identity_statuses(&self, tenant: &Name) -> Result<[u64; 4], Refusal> {
        self.turn(&[tenant], |images| {
            let image = self.image(images, tenant)?;
            Ok(IdentityStatus::ALL.map(|status| image.identities_in(status)))
        })
    }

    fn known_tenant<'i>(&self, images: &'i mut Images, tenant: &Name) -> Result<&'i TenantImage, Refusal> {
        if self.image(images, tenant)?.revision() == 0 {
            images.remove(tenant);
        }
        images.get(tenant).ok_or_else(|| Refusal::unknown_tenant(tenant))
    }

    fn image<'i>(&self, images: &'i mut Images, tenant: &Name) -> Result<&'i TenantImage, Refusal> {
        if !images.contains_key(tenant) {
            let image = match self.feed.store().snapshot(tenant)? {
                Some(cell) => {
                    let dropped = self.feed.store().dropped(tenant)?;
                    TenantImage::load(&cell, &dropped).map_err(Refusal::Unreadable)?
                }
                None => TenantImage::empty(),
            };
            images.insert(tenant.clone(), image);
        }
        images.get(tenant).ok_or_else(|| Refusal::unknown_tenant(tenant))
    }

    fn commit_plan(
        &self,
        images: &mut Images,
        plan: Plan,
        dry_run: bool,
        pass: &mut Pass,
    ) -> Result<AppliedTenant, Refusal> {
        let Plan { tenant, edits, actions: changes, mut warnings } = plan;
        if dry_run && let Some(excess) = self.exceeds(images, &tenant, &edits)? {
            let Excess { denied, limit } = excess;
            let message = format!(
                "this would be held: with what was denied shortly before it comes to {denied} identities of \
                 tenant `{tenant}`, at most {limit} are without a second approval"
            );
            warnings.push(Fault { path: String::new(), message });
        }
        let revision = if dry_run || edits.is_empty() {
            self.image(images, &tenant)?.revision()
        } else {
            if self.image(images, &tenant)?.revision() == 0 {
                self.room_for_a_tenant()?;
            }
            self.commit(images, &tenant, edits, pass)?.revision
        };
        Ok(AppliedTenant { tenant, revision, changes, warnings })
    }

    fn room_for_a_tenant(&self) -> Result<(), Refusal> {
        let (_, cells) = self.feed.store().cells()?;
        if cells.len() < TENANTS_MAX { Ok(()) } else { Err(Refusal::full(TENANTS_MAX)) }
    }
}

/// Judges the documents of one tenant.
fn plan(
    image: &TenantImage,
    tenant: &Name,
    documents: &[&Document],
    now: Timestamp,
) -> Result<Plan, Refusal> {
    let mut plan = Plan { tenant: tenant.clone(), edits: vec![], actions: vec![], warnings: vec![] };
    let mut faults = Faults::at("");
    let mut steps = Refusal::default();
    let mut proposed: BTreeMap<(RecordKind, Name), Proposed> = BTreeMap::new();
    for document in documents {
        let held = image.get(document.kind, &document.name);
        if let Some(removed) = held.filter(|held| held.record.is_none()) {
            steps.absorb(Refusal::removed(document, removed))?;
            continue;
        }
        let read = match read_spec(document.kind, &document.spec, &document.at) {
            Ok(read) => read,
            Err(found) => {
                faults.absorb(found);
                continue;
            }
        };
        plan.warnings.extend(read.warnings.iter().map(|w| document.relocate(w)));
        let record = match life::settle(image, held, &document.name, read, now) {
            Ok(record) => record,
            Err(refused) => {
                steps.absorb(Refusal::step(&document.at, refused))?;
                continue;
            }
        };
        let edit = document.propose(record);
        if proposed.insert((document.kind, document.name.clone()), edit).is_some() {
            let (kind, name) = (document.kind.as_str(), &document.name);
            faults.absorb(Faults::one(&document.at, format_args!("{kind} `{name}` is there twice")));
        }
    }
    let changed = sort_out(image, proposed, &mut plan.actions);
    steps.none()?;
    if !faults.is_empty() {
        return Err(Refusal::Invalid(faults));
    }
    // Only now: a document that could not be read would be missed by those that name it.
    check(image, &changed, now)?;
    plan.finish(image, changed)?;
    Ok(plan)
}

/// Keeps what changes something, in the order of application, and says what becomes of each.
fn sort_out(
    image: &TenantImage,
    proposed: BTreeMap<(RecordKind, Name), Proposed>,
    actions: &mut Vec<AppliedChange>,
) -> Vec<Proposed> {
    let mut ordered: Vec<_> = proposed.into_values().collect();
    ordered.sort_by_key(|edit| RecordKind::ALL.iter().position(|kind| *kind == edit.kind));
    ordered.retain(|edit| {
        let action = match image.live(edit.kind, &edit.name) {
            None => ChangeAction::Create,
            Some(held) if Some(held) == edit.record.as_ref() => ChangeAction::Unchanged,
            Some(_) => ChangeAction::Update,
        };
        actions.push(AppliedChange { kind: edit.kind, name: edit.name.clone(), action });
        action != ChangeAction::Unchanged
    });
    ordered
}

impl Plan {
    /// Turns judged edits into what the store takes, with what goes along with them.
    fn finish(&mut self, image: &TenantImage, changed: Vec<Proposed>) -> Result<(), Refusal> {
        for edit in &changed {
            survives_the_wire(edit)?;
            if let Some(Record::Identity(next)) = &edit.record {
                self.edits.extend(carried(image, &edit.name, next));
            }
        }
        if image.revision() == 0 && !changed.is_empty() {
            self.add_default_policy(&changed)?;
        }
        self.edits.extend(changed.into_iter().map(|e| Edit::new(e.kind, e.name, e.record)));
        Ok(())
    }

    /// A tenant begins with a policy that enforces.
    fn add_default_policy(&mut self, changed: &[Proposed]) -> Result<(), Refusal> {
        let sets = || changed.iter().filter(|edit| edit.kind == RecordKind::PolicySet);
        let enforces = |edit: &Proposed| match &edit.record {
            Some(Record::PolicySet(set)) => set.mode == PolicyMode::Enforce,
            _ => false,
        };
        if sets().any(enforces) {
            return Ok(());
        }
        let name = Name::parse("default").map_err(|e| Refusal::Invalid(Faults::one("name", e)))?;
        if let Some(shadow) = sets().find(|edit| edit.name == name) {
            let message = "a new tenant's policy `default` enforces: name a shadow set otherwise";
            return Err(Refusal::Invalid(Faults::one(&format!("{}.mode", shadow.at), message)));
        }
        let set = PolicySet {
            cedar: Arc::from(DEFAULT_POLICY),
            mode: PolicyMode::Enforce,
            hygiene: Hygiene::default(),
        };
        self.actions.push(AppliedChange {
            kind: RecordKind::PolicySet,
            name: name.clone(),
            action: ChangeAction::Create,
        });
        let record = Some(Record::PolicySet(Arc::new(set)));
        self.edits.push(Edit::new(RecordKind::PolicySet, name, record));
        Ok(())
    }
}

/// An enforcement point must be able to read what is about to be logged.
fn survives_the_wire(edit: &Proposed) -> Result<(), Refusal> {
    let Some(record) = &edit.record else { return Ok(()) };
    match decode_record(edit.kind, &encode_record(record)) {
        Ok(read) if read == *record => Ok(()),
        Ok(_) => Err(Refusal::Invalid(Faults::one(&edit.at, "cannot be sent as it is written"))),
        Err(error) => Err(Refusal::Invalid(Faults::one(&edit.at, error))),
    }
}

fn carried(image: &TenantImage, name: &Name, next: &crate::core::identity::Identity) -> Vec<Edit> {
    life::kills_to_carry(image, name, next)
        .into_iter()
        .map(|(name, record)| Edit::new(RecordKind::Revocation, name, Some(record)))
        .collect()
}

/// Fills in what only the records know, and refuses what they do not.
fn resolve(image: &TenantImage, target: &RevocationTarget) -> Result<RevocationTarget, Refusal> {
    let known = |kind, name: &Name| match image.live(kind, name) {
        Some(_) => Ok(()),
        None => Err(Refusal::unknown(kind, name)),
    };
    match target {
        RevocationTarget::Identity { identity, .. } => {
            let held: Option<(&Change, _)> = image.identity(identity);
            let (held, _) = held.ok_or_else(|| Refusal::unknown(RecordKind::Identity, identity))?;
            let generation = held.generation;
            return Ok(RevocationTarget::Identity { identity: identity.clone(), generation });
        }
        RevocationTarget::IssuedBefore { identity, .. } => known(RecordKind::Identity, identity)?,
        RevocationTarget::Credential(name) => known(RecordKind::Credential, name)?,
        RevocationTarget::TokenId { issuer, .. } => known(RecordKind::Issuer, issuer)?,
        RevocationTarget::TokenDigest { .. } => {}
    }
    Ok(target.clone())
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store { error, committed: Vec::new() }
    }
}

/// Most tenants of one hub.
pub(crate) const TENANTS_MAX: usize = 1024;
