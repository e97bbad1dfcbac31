//! Records of the evidence log: written from borrowed core types, read back as generated ones.
//!
//! Writing happens on the request thread, so it is by hand: into one reused buffer, without
//! building a message first. The tests read every field back with the generated types, which
//! keeps the two from drifting apart. Reading is off the request path and uses `prost`.
//!
//! Text that strangers or other systems choose is cut at [`TEXT_BYTES_MAX`] bytes, lists at
//! [`LIST_ITEMS_MAX`] items, so one record is always under [`RECORD_BYTES_MAX`]. What is not
//! declared in the proto file cannot be written: no function here takes a header or a credential.

mod json;
mod put;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;

use crate::core::evidence::{EvidenceMode, ExchangeFacts, Severance, Withdrawal};
use crate::core::id::{DecisionId, LogId, Name, Place, Position};
use crate::core::policy::{Basis, Effect, Reason, ShadowOutcome, Verdict};
use crate::core::time::{Now, Timestamp};
use crate::wire::evidence_proto as proto;
use put::{bytes, flag, message, number, peer, signed, text, trace};

pub use json::{json_line, missing_line, undecodable_line};

/// Longest text in a record, in bytes; longer is cut at a character.
pub const TEXT_BYTES_MAX: usize = 256;

/// Most items of one list in a record.
pub const LIST_ITEMS_MAX: usize = 32;

/// Longest record, in bytes. The caps above keep every record below it.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 - 16;

/// Most groups of one [`RolledUp`] that carry a resource and a route.
pub const ROLLED_UP_GROUPS_MAX: usize = 40;

/// Writes a decision.
pub fn decision(out: &mut Vec<u8>, now: Now, mode: EvidenceMode, facts: &ExchangeFacts, verdict: &Verdict) {
    let basis = verdict.basis();
    let mut actors = basis.principal.iter().flat_map(|principal| principal.actors()).map(Name::as_str);
    let fields = DecisionFields {
        effect: verdict.effect(),
        reason: verdict.reason_code(),
        warnings: verdict.warnings(),
        facts,
        mode,
        basis,
        identity: basis.principal.as_ref().map(|principal| IdentityFields {
            name: principal.name().as_str(),
            generation: principal.generation(),
            owner: principal.owner().unwrap_or_default(),
        }),
        credential: basis.verified.as_deref().map(|verified| CredentialFields {
            kind: verified.kind().as_str(),
            fingerprint: verified.fingerprint(),
            issuer: verified.issuer().map_or("", Name::as_str),
            key_id: verified.key_id(),
            expires_us: verified.expires_at().map_or(0, Timestamp::as_micros),
            token_id: verified.token_id().map_or("", |id| id),
        }),
    };
    record(out, now, 3, |out| fields.put(out, &mut actors));
}

/// Writes that an allow was taken back. One that has no sequence number is named by number 0.
pub fn withdrawn(out: &mut Vec<u8>, withdrawal: &Withdrawal) {
    record(out, withdrawal.now, 4, |out| {
        number(out, 1, sequence(&withdrawal.decision));
        text(out, 2, withdrawal.reason.code());
        number(out, 3, withdrawal.revision);
    });
}

/// Writes that an open exchange was ended. A decision without a sequence number is named by number 0.
pub fn severed(out: &mut Vec<u8>, severance: &Severance) {
    record(out, severance.now, 11, |out| {
        number(out, 1, sequence(&severance.decision));
        text(out, 2, severance.reason.code());
        number(out, 3, severance.revision);
        number(out, 4, u64::try_from(severance.open_for.as_micros()).unwrap_or(u64::MAX));
    });
}

const fn sequence(decision: &DecisionId) -> u64 {
    match decision.place {
        Place::Recorded(sequence) => sequence,
        Place::RolledUp(_) | Place::Lost(_) => 0,
    }
}

/// Writes that a request went away before its verdict.
pub fn abandoned(out: &mut Vec<u8>, now: Now, facts: &ExchangeFacts) {
    record(out, now, 5, |out| {
        text(out, 1, &facts.listener);
        text(out, 2, facts.door.as_str());
    });
}

/// Refusals that were counted instead of recorded one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolledUp {
    /// The first one's place number.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// When the first was made, microseconds since the Unix epoch.
    pub from_us: i64,
    /// When the last was made.
    pub to_us: i64,
    /// How many of each kind; the counts add up to `count`.
    pub groups: Vec<RolledUpGroup>,
}

/// One kind of refusal and how many there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledUpGroup {
    /// The listener; empty in the groups that hold what had no group of its own.
    pub listener: Arc<str>,
    /// The resource, if one was reached.
    pub resource: Option<Name>,
    /// The route's path template, if one was reached.
    pub route: Option<Arc<str>>,
    /// The reason.
    pub reason: Reason,
    /// How many.
    pub count: u64,
}

/// Writes a roll-up.
pub fn rolled_up(out: &mut Vec<u8>, now: Now, rolled: &RolledUp) {
    record(out, now, 6, |out| {
        number(out, 1, rolled.first);
        number(out, 2, rolled.count);
        signed(out, 3, rolled.from_us);
        signed(out, 4, rolled.to_us);
        for group in &rolled.groups {
            message(out, 5, |out| {
                text(out, 1, &group.listener);
                text(out, 2, group.resource.as_ref().map_or("", Name::as_str));
                text(out, 3, group.route.as_deref().unwrap_or(""));
                text(out, 4, group.reason.code());
                number(out, 5, group.count);
            });
        }
    });
}

/// Records that are missing, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// How many.
    pub count: u64,
    /// Why: `no_room`, `notes`, `unclean_end`.
    pub cause: &'static str,
    /// Whether `count` is only the most that can be missing.
    pub upper_bound: bool,
    /// The log they are missing from.
    pub log: LogId,
}

/// Writes a loss.
pub fn loss(out: &mut Vec<u8>, now: Now, loss: &Loss) {
    record(out, now, 7, |out| {
        number(out, 1, loss.count);
        text(out, 2, loss.cause);
        flag(out, 3, loss.upper_bound);
        bytes(out, 4, &loss.log.to_bytes());
    });
}

/// The first record of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    /// Whose log it is.
    pub spoke_id: &'a str,
    /// This process start.
    pub incarnation: &'a [u8; 16],
    /// The log before it, if any.
    pub predecessor: Option<LogId>,
    /// How far that one's sequence numbers reach.
    pub predecessor_size: u64,
    /// Whether it ended in a close.
    pub predecessor_closed: bool,
    /// Bytes after its last whole block that are no block.
    pub torn_bytes: u64,
    /// The program's version.
    pub build: &'a str,
}

/// Writes the first record of a log.
pub fn log_open(out: &mut Vec<u8>, now: Now, opening: &Opening<'_>) {
    record(out, now, 8, |out| {
        text(out, 1, opening.spoke_id);
        bytes(out, 2, opening.incarnation);
        if let Some(log) = opening.predecessor {
            bytes(out, 3, &log.to_bytes());
        }
        number(out, 4, opening.predecessor_size);
        flag(out, 5, opening.predecessor_closed);
        number(out, 6, opening.torn_bytes);
        text(out, 7, opening.build);
    });
}

/// The last record of a log that ended in order. `decisions = records + rolled_up + lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closing {
    /// Decisions made.
    pub decisions: u64,
    /// Of these, recorded one by one.
    pub records: u64,
    /// Of these, counted in roll-ups.
    pub rolled_up: u64,
    /// Of these, lost.
    pub lost: u64,
}

/// Writes the last record of a log.
pub fn log_close(out: &mut Vec<u8>, now: Now, closing: &Closing) {
    record(out, now, 9, |out| {
        number(out, 1, closing.decisions);
        number(out, 2, closing.records);
        number(out, 3, closing.rolled_up);
        number(out, 4, closing.lost);
    });
}

/// Writes that a change came into force. At most [`LIST_ITEMS_MAX`] revocations; the caller splits.
pub fn in_force(
    out: &mut Vec<u8>,
    now: Now,
    cell: &str,
    position: Position,
    revocations: &[Arc<str>],
    [purged, ended_streams]: [u64; 2],
) {
    record(out, now, 10, |out| {
        text(out, 1, cell);
        bytes(out, 2, position.epoch.as_bytes());
        number(out, 3, position.revision);
        for revocation in revocations.iter().take(LIST_ITEMS_MAX) {
            put::item(out, 4, revocation);
        }
        number(out, 5, purged);
        number(out, 6, ended_streams);
    });
}

/// Reads one record back.
///
/// # Errors
/// What `prost` says when `bytes` is no record.
pub fn decode(bytes: &[u8]) -> Result<proto::Record, prost::DecodeError> {
    proto::Record::decode(bytes)
}

fn record(out: &mut Vec<u8>, now: Now, body: u32, write: impl FnOnce(&mut Vec<u8>)) {
    signed(out, 1, now.wall.as_micros());
    number(out, 2, now.boot.as_micros());
    message(out, body, write);
}

/// Everything a decision record says, borrowed, in a form that tests can fill without a token.
struct DecisionFields<'a> {
    effect: Effect,
    reason: &'a str,
    warnings: &'a [Reason],
    facts: &'a ExchangeFacts,
    mode: EvidenceMode,
    basis: &'a Basis,
    identity: Option<IdentityFields<'a>>,
    credential: Option<CredentialFields<'a>>,
}

struct IdentityFields<'a> {
    name: &'a str,
    generation: u32,
    owner: &'a str,
}

struct CredentialFields<'a> {
    kind: &'a str,
    fingerprint: &'a [u8; 16],
    issuer: &'a str,
    key_id: &'a str,
    expires_us: i64,
    token_id: &'a str,
}

impl DecisionFields<'_> {
    /// Field order is that of the proto file: equal decisions give equal bytes.
    fn put(&self, out: &mut Vec<u8>, actors: &mut dyn Iterator<Item = &str>) {
        text(out, 1, self.effect.as_str());
        text(out, 2, self.reason);
        self.warnings.iter().take(LIST_ITEMS_MAX).for_each(|it| put::item(out, 3, it.code()));
        self.put_request(out);
        if let Some(identity) = &self.identity {
            text(out, 10, identity.name);
            number(out, 11, u64::from(identity.generation));
            text(out, 12, identity.owner);
        }
        actors.take(LIST_ITEMS_MAX).for_each(|actor| put::item(out, 13, actor));
        if let Some(credential) = &self.credential {
            text(out, 14, credential.kind);
            bytes(out, 15, credential.fingerprint);
            text(out, 16, credential.issuer);
            text(out, 17, credential.key_id);
            signed(out, 18, credential.expires_us);
        }
        self.put_basis(out);
        self.put_policy(out);
        text(out, 29, self.mode.as_str());
        trace(out, 30, &self.facts.trace_id);
        peer(out, 31, self.facts.peer.as_ref().map(IpAddr::to_canonical));
        flag(out, 32, self.basis.verification_cached);
        self.basis.shadow.iter().take(LIST_ITEMS_MAX).for_each(|it| put_shadow(out, it));
        number(out, 35, self.basis.lease_hub_us);
        text(out, 36, self.credential.as_ref().map_or("", |credential| credential.token_id));
        trace(out, 37, &self.facts.span_id);
    }

    fn put_request(&self, out: &mut Vec<u8>) {
        text(out, 4, &self.facts.listener);
        text(out, 5, self.facts.door.as_str());
        text(out, 6, self.basis.tenant.as_ref().map_or("", Name::as_str));
        text(out, 7, self.basis.resource.as_ref().map_or("", Name::as_str));
        text(out, 8, self.basis.route.as_deref().unwrap_or(""));
        text(out, 9, &self.facts.method);
    }

    fn put_basis(&self, out: &mut Vec<u8>) {
        let position = self.basis.position;
        if !position.epoch.is_none() {
            bytes(out, 19, position.epoch.as_bytes());
        }
        number(out, 20, position.revision);
        let age = self.basis.state_age;
        number(out, 21, age.map_or(0, |age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX)));
        flag(out, 22, age.is_some());
        flag(out, 23, self.basis.state_warn);
    }

    fn put_policy(&self, out: &mut Vec<u8>) {
        if let Some(digest) = &self.basis.policy_digest {
            bytes(out, 24, digest);
        }
        if let Some(answer) = &self.basis.answer {
            answer.determining.iter().take(LIST_ITEMS_MAX).for_each(|it| put::item(out, 25, it));
            answer.errors.iter().take(LIST_ITEMS_MAX).for_each(|it| put::item(out, 26, it));
        }
        let exceptions = self.basis.exceptions.iter().take(LIST_ITEMS_MAX);
        exceptions.for_each(|it| put::item(out, 27, it.as_str()));
        self.basis.lifted.iter().take(LIST_ITEMS_MAX).for_each(|it| put::item(out, 28, it.code()));
    }
}

fn put_shadow(out: &mut Vec<u8>, outcome: &ShadowOutcome) {
    let effect = if outcome.permits { Effect::Allow } else { Effect::Deny };
    message(out, 34, |out| {
        text(out, 1, outcome.set.as_str());
        text(out, 2, effect.as_str());
    });
}
