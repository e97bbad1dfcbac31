//! Who may come, and for which tenants: the admission of each enforcement point, and join tokens.
//!
//! An admission is an item of the store, by the enforcement point's id; its version rises with each
//! change and is the version of its scope. Where there is none, the default of the configuration
//! stands. Of a join token a digest is kept, and by whom it was used: for a key other than that of
//! its first use it is spent.
//!
//! INVARIANT: what is judged by is read from the store at the time, never from memory: another
//! hub on the same store may have changed it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

use super::authority::TENANTS_MAX;
use super::blocking;
use super::enrolment::CertificateAuthority;
use super::model::Time;
use super::store::{Item, StateStore, StoreError};
use crate::core::id::Name;
use crate::core::time::{Clock, Timestamp};
use crate::mtls::{Certified, JoinToken};

/// Tenants whose state an enforcement point may hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Scope {
    /// Every tenant, those to come included.
    #[default]
    All,
    /// These; none: it may hold nothing.
    Tenants(BTreeSet<Name>),
}

/// How one enforcement point is admitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Admission {
    pub(crate) scope: Scope,
    /// Of this scope; rises with each change, 1 while the default stands.
    pub(crate) version: u64,
    /// Whether it is to be turned away until it is admitted anew.
    pub(crate) removed: bool,
    /// Certificates from before this are turned away for good.
    pub(crate) refused_before: Option<Timestamp>,
}

/// Reads and changes admissions.
pub(crate) struct Admissions {
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    default_scope: Scope,
    changes: watch::Sender<u64>,
}

/// A join token that was just made.
#[derive(Debug)]
pub(crate) struct MintedToken {
    pub(crate) token: JoinToken,
    pub(crate) expires: Timestamp,
    pub(crate) admission: Admission,
}

/// Why an admission cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Others write at the same time.
    #[error("it is being changed by others at the same time: try again")]
    Contended,
    #[error("there are {TOKENS_MAX} join tokens that nobody has used: let some expire first")]
    TooManyTokens,
    #[error("the system has no random bytes")]
    NoRandom,
}

/// Why a join token is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedeemError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the join token is not known here: it expired long ago, was withdrawn, or is of another store")]
    Unknown,
    #[error("the join token expired at {0}")]
    Expired(String),
    #[error("the join token was used already")]
    Used,
    #[error("the enforcement point was removed from the fleet after the join token was made")]
    Removed,
}

/// An admission as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAdmission {
    /// `None`: every tenant.
    tenants: Option<Vec<String>>,
    removed: bool,
    refused_before_us: Option<i64>,
}

/// A join token as it is stored: nothing of it that could be presented.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredToken {
    spoke_id: String,
    digest: [u8; 32],
    expires_us: i64,
    /// A digest of the public key that it was used for.
    used_by: Option<[u8; 32]>,
}

impl Scope {
    /// Whether a tenant is in it.
    pub fn holds(&self, tenant: &Name) -> bool {
        match self {
            Self::All => true,
            Self::Tenants(tenants) => tenants.contains(tenant),
        }
    }

    /// Its tenants by name; `None`: every tenant.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        match self {
            Self::All => None,
            Self::Tenants(tenants) => Some(tenants.iter().map(Name::to_string).collect()),
        }
    }

    /// Nothing at all.
    pub const fn none() -> Self {
        Self::Tenants(BTreeSet::new())
    }
}

impl Admission {
    /// Why a certificate is turned away, if it is. `None` for the certificate: the stream needs none.
    pub(crate) fn refuses(&self, certificate: Option<&Certified>) -> Option<&'static str> {
        if self.removed {
            return Some("it was removed from the fleet: make a join token for it to admit it anew");
        }
        let older = |at: Timestamp| certificate.is_some_and(|shown| shown.not_before < at);
        let refused = self.refused_before.is_some_and(older);
        refused.then_some("its certificate is from before it was removed from the fleet: it needs a new one")
    }
}

impl std::fmt::Debug for Admissions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admissions").field("default_scope", &self.default_scope).finish_non_exhaustive()
    }
}

impl Admissions {
    pub(crate) fn new(store: Arc<dyn StateStore>, clock: Arc<dyn Clock>, default_scope: Scope) -> Self {
        Self { store, clock, default_scope, changes: watch::Sender::new(0) }
    }

    /// Tells when any admission may have changed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How an enforcement point is admitted now.
    pub(crate) async fn read(self: &Arc<Self>, id: &str) -> Result<Admission, StoreError> {
        let (this, id) = (Arc::clone(self), id.to_owned());
        blocking(&*self.store, move || this.of(&id)).await
    }

    /// The same. Blocks.
    pub(crate) fn of(&self, id: &str) -> Result<Admission, StoreError> {
        Ok(self.held(self.store.item(ADMISSIONS, id)?.as_ref()))
    }

    /// Every admission that is not the default, by id. Blocks.
    pub(crate) fn all(&self) -> Result<Vec<(String, Admission)>, StoreError> {
        let items = self.store.items(ADMISSIONS)?;
        Ok(items.into_iter().map(|item| (item.key.clone(), self.held(Some(&item)))).collect())
    }

    /// Gives an enforcement point a scope, and admits it again if it was removed. Blocks.
    pub(crate) fn set_scope(&self, id: &Name, scope: &Scope) -> Result<Admission, AdmissionError> {
        self.change(id, |admission| Admission { scope: scope.clone(), removed: false, ..admission })
    }

    /// Turns an enforcement point away: its certificates of today for good, others until it is
    /// admitted anew. Its join tokens are withdrawn. Blocks.
    pub(crate) fn remove(&self, id: &Name) -> Result<Admission, AdmissionError> {
        // A certificate counts in whole seconds.
        let now = self.clock.now().wall.as_seconds().saturating_add(1);
        let removed = self.change(id, |admission| Admission {
            scope: Scope::none(),
            removed: true,
            refused_before: admission.refused_before.max(Some(Timestamp::from_seconds(now))),
            ..admission
        })?;
        for item in self.store.items(TOKENS)? {
            if read_token(&item).is_none_or(|token| token.spoke_id == id.as_str()) {
                self.forget(&item)?;
            }
        }
        Ok(removed)
    }

    /// A new join token, good for `lifetime`. With a scope, the enforcement point is given it now. Blocks.
    pub(crate) fn mint(
        &self,
        authority: &CertificateAuthority,
        id: &Name,
        scope: Option<&Scope>,
        lifetime: Duration,
    ) -> Result<MintedToken, AdmissionError> {
        if self.store.items(TOKENS)?.len() >= TOKENS_MAX {
            return Err(AdmissionError::TooManyTokens);
        }
        let admission = match scope {
            Some(scope) => self.set_scope(id, scope)?,
            // Whoever was removed comes back with nothing, until it is given a scope.
            None if self.of(id.as_str())?.removed => self.set_scope(id, &Scope::none())?,
            None => self.of(id.as_str())?,
        };
        let token = JoinToken::mint(authority.cluster(), authority.digest(), id.clone());
        let token = token.ok_or(AdmissionError::NoRandom)?;
        let expires = self.clock.now().wall.after(lifetime);
        let stored = StoredToken {
            spoke_id: id.to_string(),
            digest: token.digest(),
            expires_us: expires.as_micros(),
            used_by: None,
        };
        self.store.put_item(TOKENS, &token.number(), &encode(&stored), None)?;
        Ok(MintedToken { token, expires, admission })
    }

    /// Takes a join token for the key with this digest: once, and again for the same key, whose
    /// answer may have been lost. Blocks.
    pub(crate) fn redeem(&self, token: &JoinToken, key: [u8; 32]) -> Result<Admission, RedeemError> {
        loop {
            let item = self.store.item(TOKENS, &token.number())?.ok_or(RedeemError::Unknown)?;
            let held = read_token(&item).ok_or(RedeemError::Unknown)?;
            let same = bool::from(held.digest.ct_eq(&token.digest()));
            if !same || held.spoke_id != token.spoke_id().as_str() {
                return Err(RedeemError::Unknown);
            }
            let expires = Timestamp::from_micros(held.expires_us);
            if self.clock.now().wall > expires {
                return Err(RedeemError::Expired(Time(expires).to_string()));
            }
            match held.used_by {
                Some(first) if first != key => return Err(RedeemError::Used),
                Some(_) => break,
                None => {}
            }
            let used = StoredToken { used_by: Some(key), ..held };
            match self.store.put_item(TOKENS, &item.key, &encode(&used), Some(item.version)) {
                Ok(_) => break,
                // Somebody was faster: look again by whom it was used.
                Err(StoreError::Item(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let admission = self.of(token.spoke_id().as_str())?;
        if admission.removed { Err(RedeemError::Removed) } else { Ok(admission) }
    }

    /// Forgets join tokens that expired some time ago. Blocks.
    pub(crate) fn sweep(&self) -> Result<(), StoreError> {
        let now = self.clock.now().wall;
        for item in self.store.items(TOKENS)? {
            let over =
                |token: StoredToken| now > Timestamp::from_micros(token.expires_us).after(KEPT_AFTER_EXPIRY);
            if read_token(&item).is_none_or(over) {
                self.forget(&item)?;
            }
        }
        Ok(())
    }

    /// Looks now and then whether another hub changed an admission. Ends at once where there is none.
    pub(crate) async fn follow(&self) {
        let mut seen = None;
        while self.store.is_shared() {
            tokio::time::sleep(LOOK_EVERY).await;
            let store = Arc::clone(&self.store);
            match blocking(&*self.store, move || store.items(ADMISSIONS)).await {
                Ok(items) => {
                    let versions: Vec<_> = items.into_iter().map(|item| (item.key, item.version)).collect();
                    // At the first look, too: streams may have come before it.
                    if seen.replace(versions.clone()) != Some(versions) {
                        self.changed();
                    }
                }
                Err(error) => tracing::warn!(%error, "admissions cannot be read"),
            }
        }
    }

    fn change(
        &self,
        id: &Name,
        change: impl Fn(Admission) -> Admission,
    ) -> Result<Admission, AdmissionError> {
        for _ in 0..TRIES {
            let item = self.store.item(ADMISSIONS, id.as_str())?;
            let before = self.held(item.as_ref());
            let next = change(before.clone());
            if item.is_some() && next == before {
                return Ok(before);
            }
            let stored = StoredAdmission {
                tenants: next.scope.names(),
                removed: next.removed,
                refused_before_us: next.refused_before.map(Timestamp::as_micros),
            };
            let expected = item.as_ref().map(|item| item.version);
            match self.store.put_item(ADMISSIONS, id.as_str(), &encode(&stored), expected) {
                Ok(version) => {
                    self.changed();
                    return Ok(Admission { version: scope_version(version), ..next });
                }
                Err(StoreError::Item(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AdmissionError::Contended)
    }

    fn held(&self, item: Option<&Item>) -> Admission {
        let Some(item) = item else {
            let scope = self.default_scope.clone();
            return Admission { scope, version: 1, removed: false, refused_before: None };
        };
        let version = scope_version(item.version);
        let read = serde_json::from_slice::<StoredAdmission>(&item.value).ok();
        let scope = |tenants: &Option<Vec<String>>| match tenants {
            None => Some(Scope::All),
            Some(names) => {
                names.iter().map(|name| Name::parse(name).ok()).collect::<Option<_>>().map(Scope::Tenants)
            }
        };
        match read.and_then(|stored| Some((scope(&stored.tenants)?, stored))) {
            Some((scope, stored)) => Admission {
                scope,
                version,
                removed: stored.removed,
                refused_before: stored.refused_before_us.map(Timestamp::from_micros),
            },
            // What cannot be read admits nobody.
            None => {
                tracing::error!(
                    spoke = item.key,
                    "an admission cannot be read: the enforcement point is turned away"
                );
                Admission { scope: Scope::none(), version, removed: true, refused_before: None }
            }
        }
    }

    fn forget(&self, item: &Item) -> Result<(), StoreError> {
        match self.store.remove_item(TOKENS, &item.key, item.version) {
            // Used or forgotten in between: it is read again the next time.
            Ok(()) | Err(StoreError::Item(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Withdraws every join token. Blocks.
pub(super) fn withdraw_tokens(store: &dyn StateStore) -> Result<(), StoreError> {
    for item in store.items(TOKENS)? {
        store.remove_item(TOKENS, &item.key, item.version)?;
    }
    Ok(())
}

/// 1 is the default's.
const fn scope_version(item_version: u64) -> u64 {
    item_version.saturating_add(1)
}

fn encode<T: Serialize>(stored: &T) -> Vec<u8> {
    serde_json::to_vec(stored).unwrap_or_default()
}

fn read_token(item: &Item) -> Option<StoredToken> {
    serde_json::from_slice(&item.value).ok()
}

/// Most tenants of one scope.
pub(crate) const SCOPE_MAX: usize = TENANTS_MAX;
const ADMISSIONS: &str = "admission";
const TOKENS: &str = "join-token";
const TOKENS_MAX: usize = 4096;
/// How long it can still be told that a token expired, or was used.
const KEPT_AFTER_EXPIRY: Duration = Duration::from_secs(3600);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TRIES: u32 = 16;
