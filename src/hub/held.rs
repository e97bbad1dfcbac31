//! Changes that wait for a second principal, or were let through by breaking the glass.
//!
//! A held change is its request, in the store: approved, it is judged again by the records of then. It has
//! no revision and no T before that. One that was let through stays on record, and its revisions do not
//! count against the next. A store that was put back brings requests back that may have been answered
//! since: those of another epoch are not taken up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::guard::Excess;
use super::model::{IdentityStatusSpec, TargetSpec, Time};
use super::store::{StateStore, StoreError};
use crate::core::id::Name;
use crate::core::time::Timestamp;

/// What was asked for, so that it can be asked again.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum Request {
    /// A revocation.
    Revoke { target: TargetSpec, reason: String },
    /// Documents of one tenant.
    Apply { documents: Vec<HeldDocument>, expect_revision: Option<u64> },
    /// An identity's way to another status.
    Status { name: String, status: IdentityStatusSpec, reason: String },
}

/// One document of a held change.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct HeldDocument {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) spec: Value,
    pub(crate) at: String,
}

/// How a held change stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HeldState {
    /// It waits.
    Held,
    /// It was approved and is being committed; approve it again if the hub stopped meanwhile.
    Releasing,
    /// It was committed.
    Released,
    /// Somebody said no.
    Rejected,
    /// Nobody answered in time.
    Expired,
}

/// A change that denies more identities than may be denied at once.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Held {
    /// Its name.
    pub(crate) id: String,
    /// How it stands.
    pub(crate) state: HeldState,
    /// The tenant.
    pub(crate) tenant: String,
    /// What it does, in words.
    pub(crate) what: String,
    /// Identities it comes to, with what was denied within the window before it.
    pub(crate) denied: usize,
    /// Most that may be without a second approval.
    pub(crate) limit: usize,
    /// Who asked.
    pub(crate) requested_by: String,
    /// When.
    pub(crate) requested_at: Time,
    /// Until when it can be approved.
    pub(crate) expires_at: Time,
    /// Whether whoever asked let it through alone.
    pub(crate) break_glass: bool,
    /// Who answered it.
    pub(crate) answered_by: Option<String>,
    /// Why so.
    pub(crate) answer: Option<String>,
    /// When.
    pub(crate) answered_at: Option<Time>,
    /// What it was committed as, each with its own T.
    pub(crate) revisions: Vec<u64>,
    /// Why it could not be committed when it was approved.
    pub(crate) last_error: Option<String>,
    /// The lineage it was asked in.
    pub(crate) epoch: String,
    /// How many parts hold the request.
    #[schema(ignore)]
    parts: usize,
}

/// Why a held change cannot be answered so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum HeldError {
    /// There is none of that name.
    #[error("no held change is named `{0}`")]
    Unknown(String),
    /// It was answered, or is over.
    #[error("`{id}` is {state}: ask for it again if it is still wanted")]
    Over { id: String, state: &'static str },
    /// Who asked cannot approve.
    #[error(
        "`{id}` was asked for by `{by}`: another principal of `api.admins` approves it, or ask again with `--break-glass`"
    )]
    SamePrincipal { id: String, by: String },
    /// There are too many.
    #[error("{MOST} changes are held: approve or reject some first")]
    Full,
    /// The request is too long to be kept.
    #[error("the change is longer than what can be held, {} bytes: split it", PARTS_MAX * PART_BYTES)]
    TooLong,
    /// What is kept cannot be read.
    #[error("held change `{0}` cannot be read: reject it, and ask again")]
    Unreadable(String),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Held changes, in the store. Every method blocks.
#[derive(Clone, Debug)]
pub(crate) struct HeldChanges {
    store: Arc<dyn StateStore>,
}

/// What is to be held.
#[derive(Clone, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) tenant: &'a Name,
    pub(crate) what: String,
    pub(crate) excess: Excess,
    pub(crate) by: &'a str,
    pub(crate) break_glass: bool,
}

impl HeldChanges {
    pub(crate) fn new(store: Arc<dyn StateStore>) -> Self {
        Self { store }
    }

    /// Keeps a request.
    pub(crate) fn hold(
        &self,
        asked: Asked<'_>,
        request: &Request,
        now: Timestamp,
    ) -> Result<Held, HeldError> {
        let waiting = self.list(now)?.iter().filter(|held| held.state == HeldState::Held).count();
        if waiting >= MOST && !asked.break_glass {
            return Err(HeldError::Full);
        }
        let text = serde_json::to_vec(request).map_err(|_| HeldError::TooLong)?;
        let parts: Vec<&[u8]> = text.chunks(PART_BYTES).collect();
        if parts.len() > PARTS_MAX {
            return Err(HeldError::TooLong);
        }
        let mut random = [0; 5];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| HeldError::Full)?;
        let id: String =
            std::iter::once("h".to_owned()).chain(random.map(|byte| format!("{byte:02x}"))).collect();
        for (place, part) in parts.iter().enumerate() {
            self.store.put_item(PARTS, &part_key(&id, place), part, None)?;
        }
        let held = Held {
            state: HeldState::Held,
            tenant: asked.tenant.to_string(),
            what: asked.what,
            denied: asked.excess.denied,
            limit: asked.excess.limit,
            requested_by: asked.by.to_owned(),
            requested_at: Time(now),
            expires_at: Time(now.after(KEPT)),
            break_glass: asked.break_glass,
            answered_by: None,
            answer: None,
            answered_at: None,
            revisions: Vec::new(),
            last_error: None,
            epoch: self.store.identity().epoch.to_string(),
            parts: parts.len(),
            id,
        };
        self.store.put_item(SPACE, &held.id, &encoded(&held)?, None)?;
        Ok(held)
    }

    /// Every one that is kept, oldest first.
    pub(crate) fn list(&self, now: Timestamp) -> Result<Vec<Held>, HeldError> {
        let items = self.store.items(SPACE)?;
        let mut all = Vec::with_capacity(items.len());
        for item in items {
            let held: Held =
                serde_json::from_slice(&item.value).map_err(|_| HeldError::Unreadable(item.key.clone()))?;
            all.push(self.seen(held, now));
        }
        all.sort_by_key(|held| (held.requested_at, held.id.clone()));
        Ok(all)
    }

    /// One.
    pub(crate) fn show(&self, id: &str, now: Timestamp) -> Result<Held, HeldError> {
        Ok(self.load(id, now)?.0)
    }

    /// Revisions that somebody let through.
    pub(crate) fn released(&self, now: Timestamp) -> Result<BTreeSet<u64>, HeldError> {
        Ok(self.list(now)?.into_iter().flat_map(|held| held.revisions).collect())
    }

    /// Takes an approval, and gives what is to be done now.
    pub(crate) fn approve(
        &self,
        id: &str,
        (by, answer): (&str, &str),
        now: Timestamp,
    ) -> Result<(Held, Request), HeldError> {
        let (mut held, version) = self.load(id, now)?;
        match held.state {
            HeldState::Held if by == held.requested_by && !held.break_glass => {
                let by = held.requested_by;
                return Err(HeldError::SamePrincipal { id: held.id, by });
            }
            // Approved before, and not finished: whoever asks has it finished.
            HeldState::Held | HeldState::Releasing => {}
            state => return Err(HeldError::Over { id: held.id, state: state.as_str() }),
        }
        let request = self.request(&held)?;
        if held.state == HeldState::Held {
            held.state = HeldState::Releasing;
            held.answered_by = Some(by.to_owned());
            held.answer = Some(answer.to_owned());
            held.answered_at = Some(Time(now));
            self.store.put_item(SPACE, id, &encoded(&held)?, Some(version))?;
        }
        Ok((held, request))
    }

    /// Takes a refusal.
    pub(crate) fn reject(
        &self,
        id: &str,
        (by, answer): (&str, &str),
        now: Timestamp,
    ) -> Result<Held, HeldError> {
        let (mut held, version) = self.load(id, now)?;
        if held.state != HeldState::Held {
            return Err(HeldError::Over { id: held.id, state: held.state.as_str() });
        }
        held.state = HeldState::Rejected;
        held.answered_by = Some(by.to_owned());
        held.answer = Some(answer.to_owned());
        held.answered_at = Some(Time(now));
        self.store.put_item(SPACE, id, &encoded(&held)?, Some(version))?;
        self.forget_parts(&held);
        Ok(held)
    }

    /// Notes what an approved change was committed as, or why it could not be.
    pub(crate) fn settle(
        &self,
        id: &str,
        revisions: &[u64],
        failed: Option<String>,
        now: Timestamp,
    ) -> Result<Held, HeldError> {
        let (mut held, version) = self.load(id, now)?;
        held.revisions.extend_from_slice(revisions);
        held.state = if failed.is_some() { HeldState::Held } else { HeldState::Released };
        held.last_error = failed;
        self.store.put_item(SPACE, id, &encoded(&held)?, Some(version))?;
        if held.state == HeldState::Released {
            self.forget_parts(&held);
        }
        Ok(held)
    }

    /// Lets go of what was over long ago; called now and then.
    pub(crate) fn sweep(&self, now: Timestamp) -> Result<(), HeldError> {
        for item in self.store.items(SPACE)? {
            let Ok(held) = serde_json::from_slice::<Held>(&item.value) else { continue };
            if now.since(held.expires_at.0) > ON_RECORD {
                self.forget_parts(&held);
                self.store.remove_item(SPACE, &item.key, item.version)?;
            }
        }
        Ok(())
    }

    fn load(&self, id: &str, now: Timestamp) -> Result<(Held, u64), HeldError> {
        let item = self.store.item(SPACE, id)?.ok_or_else(|| HeldError::Unknown(id.to_owned()))?;
        let held = serde_json::from_slice(&item.value).map_err(|_| HeldError::Unreadable(id.to_owned()))?;
        Ok((self.seen(held, now), item.version))
    }

    /// As it stands now: what nobody answered in time, or in this lineage, is over.
    fn seen(&self, mut held: Held, now: Timestamp) -> Held {
        let another = held.epoch != self.store.identity().epoch.to_string();
        let open = matches!(held.state, HeldState::Held | HeldState::Releasing);
        if open && (another || now >= held.expires_at.0) {
            held.state = HeldState::Expired;
        }
        held
    }

    fn request(&self, held: &Held) -> Result<Request, HeldError> {
        let unreadable = || HeldError::Unreadable(held.id.clone());
        let mut text = Vec::new();
        for place in 0..held.parts {
            let part = self.store.item(PARTS, &part_key(&held.id, place))?.ok_or_else(unreadable)?;
            text.extend_from_slice(&part.value);
        }
        serde_json::from_slice(&text).map_err(|_| unreadable())
    }

    /// The request is not needed any more; what of it stays costs room and nothing else.
    fn forget_parts(&self, held: &Held) {
        for place in 0..held.parts {
            let key = part_key(&held.id, place);
            let part = self.store.item(PARTS, &key);
            if let Ok(Some(part)) = part
                && let Err(error) = self.store.remove_item(PARTS, &key, part.version)
            {
                tracing::warn!(%error, held = held.id, "a part of a held change stays in the store");
            }
        }
    }
}

impl HeldState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Releasing => "being released",
            Self::Released => "released",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}

fn encoded(held: &Held) -> Result<Vec<u8>, HeldError> {
    serde_json::to_vec(held).map_err(|_| HeldError::Unreadable(held.id.clone()))
}

fn part_key(id: &str, place: usize) -> String {
    format!("{id}.{place}")
}

const SPACE: &str = "held";
const PARTS: &str = "held-part";
const PART_BYTES: usize = 192 * 1024;
const PARTS_MAX: usize = 64;
/// Most changes that wait at once.
const MOST: usize = 256;
/// How long one can be approved.
const KEPT: Duration = Duration::from_secs(86_400);
/// How long one stays on record after that.
const ON_RECORD: Duration = Duration::from_secs(30 * 86_400);
