//! What the store held when: the state that every allow must be accounted for by.

use std::collections::BTreeMap;
use std::sync::Arc;

use portreeve::core::id::Name;
use portreeve::core::identity::{Change, IdentityStatus, Record, RevocationTarget, Snapshot};

use super::host::Us;

/// How far an issuer's clock is forgiven, in microseconds.
pub(crate) const SKEW_US: i64 = 2_000_000;

/// A credential, as far as the truth is concerned.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Token {
    pub(crate) tenant: Name,
    pub(crate) identity: Name,
    pub(crate) issued_us: i64,
    pub(crate) jti: String,
}

/// One fact that denies, as a batch brought it into force.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kill {
    /// Of an identity that is not active, up to a generation.
    Identity { tenant: Name, identity: Name, generation: u32 },
    /// Of an identity that was revoked: up to a generation, and until what was issued by then is cut off.
    Revoked { tenant: Name, identity: Name, generation: u32, at_us: i64 },
    /// Of what an identity was issued before a time.
    Before { tenant: Name, identity: Name, cut_us: i64 },
    /// Of one token.
    Token { tenant: Name, jti: String },
}

impl Kill {
    /// What of a change denies for good, or up to a generation.
    pub(crate) fn of(tenant: &Name, change: &Change) -> Vec<Self> {
        let tenant = tenant.clone();
        match &change.record {
            Some(Record::Revocation(revocation)) => match &revocation.target {
                RevocationTarget::Identity { identity, generation } => {
                    let (identity, generation) = (identity.clone(), *generation);
                    vec![Self::Revoked { tenant, identity, generation, at_us: revocation.at.as_micros() }]
                }
                RevocationTarget::IssuedBefore { identity, not_before } => {
                    let cut_us = not_before.as_micros();
                    vec![Self::Before { tenant, identity: identity.clone(), cut_us }]
                }
                RevocationTarget::TokenId { jti, .. } => vec![Self::Token { tenant, jti: jti.to_string() }],
                _ => Vec::new(),
            },
            Some(Record::Identity(identity)) => {
                let mut kills = Vec::new();
                if identity.status != IdentityStatus::Active {
                    kills.push(Self::Identity {
                        tenant: tenant.clone(),
                        identity: change.name.clone(),
                        generation: change.generation,
                    });
                }
                if let Some(cut) = identity.not_before {
                    let cut_us = cut.as_micros();
                    kills.push(Self::Before { tenant, identity: change.name.clone(), cut_us });
                }
                kills
            }
            _ => Vec::new(),
        }
    }

    /// Whether a change puts a suspended identity back. A revocation stays on record.
    pub(crate) fn is_lifted_by(&self, cell: &Name, change: &Change) -> bool {
        let Some(Record::Identity(now)) = &change.record else { return false };
        now.status == IdentityStatus::Active
            && matches!(self, Self::Identity { tenant, identity, generation }
                if tenant == cell && *identity == change.name && change.generation > *generation)
    }

    /// Whether a state holds the identity active, put back since.
    pub(crate) fn is_lifted_in(&self, state: &Snapshot) -> bool {
        let Self::Identity { tenant, identity, generation } = self else { return false };
        let Some(held) = state.identity(tenant, identity) else { return false };
        held.generation > *generation
            && held.value.is_some_and(|value| value.status == IdentityStatus::Active)
    }

    /// Whose identity or token it is.
    pub(crate) const fn tenant(&self) -> &Name {
        match self {
            Self::Identity { tenant, .. }
            | Self::Revoked { tenant, .. }
            | Self::Before { tenant, .. }
            | Self::Token { tenant, .. } => tenant,
        }
    }

    /// Whether it denies a token of an identity that stands in this generation, under this cut-off.
    pub(crate) fn denies(&self, token: &Token, generation: u32, cut: Option<i64>) -> bool {
        match self {
            Self::Revoked { tenant, identity, generation: up_to, at_us } => {
                *tenant == token.tenant
                    && *identity == token.identity
                    && (generation <= *up_to || cut < Some(*at_us))
            }
            Self::Identity { tenant, identity, generation: up_to } => {
                *tenant == token.tenant && *identity == token.identity && generation <= *up_to
            }
            Self::Before { tenant, identity, cut_us } => {
                *tenant == token.tenant && *identity == token.identity && token.issued_us < cut_us + SKEW_US
            }
            Self::Token { tenant, jti } => *tenant == token.tenant && *jti == token.jti,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct IdentityView {
    pub(crate) generation: u32,
    pub(crate) cut_us: Option<i64>,
    pub(crate) status: IdentityStatus,
    pub(crate) entitled: bool,
}

/// What matters of a store's contents at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) identities: BTreeMap<(Name, Name), IdentityView>,
    /// By the record that says so.
    pub(crate) kills: BTreeMap<(Name, &'static str, Name), Vec<Kill>>,
}

impl View {
    fn with(&self, tenant: &Name, changes: &[Change]) -> Self {
        let mut next = self.clone();
        for change in changes {
            if let Some(Record::Identity(identity)) = &change.record {
                let view = IdentityView {
                    generation: change.generation,
                    cut_us: identity.not_before.map(|cut| cut.as_micros()),
                    status: identity.status,
                    entitled: !identity.entitlements.is_empty(),
                };
                next.identities.insert((tenant.clone(), change.name.clone()), view);
            }
            let key = (tenant.clone(), change.kind.as_str(), change.name.clone());
            next.kills.insert(key, Kill::of(tenant, change));
        }
        next
    }

    /// Whether it denies a token; `kills_only`: by what travels on both lanes.
    pub(crate) fn denies(&self, token: &Token, kills_only: bool) -> bool {
        let Some(held) = self.identities.get(&(token.tenant.clone(), token.identity.clone())) else {
            return true;
        };
        (!kills_only && !held.entitled)
            || held.status != IdentityStatus::Active
            || self.kills.values().flatten().any(|kill| kill.denies(token, held.generation, held.cut_us))
    }

    /// The names of the revocations in force of an identity.
    pub(crate) fn revocations_of(&self, tenant: &Name, identity: &Name) -> Vec<Name> {
        let Some(held) = self.identities.get(&(tenant.clone(), identity.clone())) else {
            return Vec::new();
        };
        let of_it = |kill: &Kill| {
            matches!(kill, Kill::Revoked { tenant: t, identity: i, generation, at_us }
                if t == tenant && i == identity && (held.generation <= *generation || held.cut_us < Some(*at_us)))
        };
        let named = self
            .kills
            .iter()
            .filter(|((_, kind, _), kills)| *kind == "revocation" && kills.iter().any(of_it));
        named.map(|((_, _, name), _)| name.clone()).collect()
    }
}

/// One moment: from then on the store held this.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Us,
    pub(crate) revision: u64,
    /// Whose cell it changed; `None`: all, when the store was put back.
    pub(crate) tenant: Option<Name>,
    /// Whether the commit was one that denies.
    pub(crate) kills: bool,
    pub(crate) view: Arc<View>,
}

/// Every moment, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    moments: Vec<Moment>,
    /// How many times the store has lost commits.
    pub(crate) lineage: u32,
}

impl Truth {
    pub(crate) fn commit(&mut self, at: Us, tenant: &Name, revision: u64, changes: &[Change]) {
        let view = Arc::new(self.now().with(tenant, changes));
        let kills = changes.iter().any(Change::denies);
        self.moments.push(Moment { at, revision, tenant: Some(tenant.clone()), kills, view });
    }

    /// The store was put back to where it stood at this revision.
    pub(crate) fn roll_back(&mut self, at: Us, revision: u64) {
        let then = self.moments.iter().rev().find(|m| m.revision <= revision).map(|m| Arc::clone(&m.view));
        self.lineage += 1;
        let view = then.unwrap_or_default();
        self.moments.push(Moment { at, revision, tenant: None, kills: false, view });
    }

    pub(crate) fn now(&self) -> Arc<View> {
        self.moments.last().map(|moment| Arc::clone(&moment.view)).unwrap_or_default()
    }

    pub(crate) fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// Since when a token is denied without a break, as of now; `None`: it is not.
    pub(crate) fn denied_since(&self, token: &Token, kills_only: bool) -> Option<Us> {
        let denied = self.moments.iter().rev().take_while(|moment| moment.view.denies(token, kills_only));
        denied.last().map(|moment| moment.at)
    }
}
