//! What the core asks of a decision log.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::core::id::DecisionId;
use crate::core::policy::{Reason, Verdict};
use crate::core::time::Now;

/// Which kind of front door a request came through.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Door {
    /// The reverse proxy.
    Proxy,
    /// Envoy's external authorization, over gRPC.
    ExtAuthz,
}

impl Door {
    /// The door's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::ExtAuthz => "ext_authz",
        }
    }
}

/// How safe a record must be before the decision has its effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum EvidenceMode {
    /// On stable storage: survives a crash of the host.
    Require,
    /// With the kernel: survives a crash of the process.
    #[default]
    ProcessSafe,
    /// Queued: survives nothing; when there is no room the decision goes on and is counted as lost.
    BestEffort,
}

impl EvidenceMode {
    /// The mode's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::ProcessSafe => "process_safe",
            Self::BestEffort => "best_effort",
        }
    }
}

/// What a front door knows of a request, whatever becomes of it.
#[derive(Clone, Debug)]
pub struct ExchangeFacts {
    /// The listener it came in by.
    pub listener: Arc<str>,
    /// The kind of front door.
    pub door: Door,
    /// The method, as sent; empty when it could not be read.
    pub method: Arc<str>,
    /// The other side's address.
    pub peer: Option<IpAddr>,
    /// W3C trace id; all zero: none.
    pub trace_id: [u8; 16],
    /// Our span in that trace; all zero: none.
    pub span_id: [u8; 8],
}

/// A promise of room for one record. Given back by appending with it, or by [`EvidenceLog::abandoned`].
#[derive(Debug)]
#[must_use]
pub struct Slot(());

impl Slot {
    /// Made by a log when it sets the room aside.
    pub const fn new() -> Self {
        Self(())
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

/// The answer to a reservation.
#[derive(Debug)]
pub enum Reserved {
    /// There is room.
    Held(Slot),
    /// There is none; a `best_effort` decision goes on and is counted as lost.
    Lossy,
    /// There is none: refuse.
    Exhausted,
}

/// Whether a record is as safe as its mode asks.
pub enum Settlement {
    /// It is.
    Settled,
    /// It will not be.
    Failed,
    /// Not yet: `true` once it is, `false` when it will not be.
    Waiting(Pin<Box<dyn Future<Output = bool> + Send>>),
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settled => "Settled",
            Self::Failed => "Failed",
            Self::Waiting(_) => "Waiting",
        })
    }
}

/// An allow taken back before its effect.
#[derive(Clone, Debug)]
pub struct Withdrawal {
    /// The decision that is withdrawn.
    pub decision: DecisionId,
    /// Why.
    pub reason: Reason,
    /// The state that said so.
    pub revision: u64,
    /// When.
    pub now: Now,
}

/// An open exchange ended because its allow no longer holds.
#[derive(Clone, Debug)]
pub struct Severance {
    /// The decision that had allowed it.
    pub decision: DecisionId,
    /// Why it is allowed no more.
    pub reason: Reason,
    /// The state that said so.
    pub revision: u64,
    /// How long after its decision it was ended.
    pub open_for: Duration,
    /// When.
    pub now: Now,
}

/// An append-only decision log. None of its methods waits.
///
/// INVARIANT: each `Held` slot ends in exactly one of `decided` and `abandoned`, and
/// `decisions = records + rolled_up + lost` holds over the log's life.
pub trait EvidenceLog: Send + Sync {
    /// Sets room for one record aside.
    fn reserve(&self, mode: EvidenceMode) -> Reserved;

    /// Appends a decision. `None` instead of a slot: counted as lost, but for a refusal of a
    /// resolved identity, which is recorded while there is any room at all.
    ///
    /// The sequence number is fixed before this returns.
    fn decided(
        &self,
        slot: Option<Slot>,
        mode: EvidenceMode,
        facts: &ExchangeFacts,
        verdict: &Verdict,
    ) -> (DecisionId, Settlement);

    /// Appends that a request went away before its verdict. Called from `Drop`: must be quick.
    fn abandoned(&self, slot: Option<Slot>, facts: &ExchangeFacts);

    /// Appends that an allow was taken back.
    fn withdrawn(&self, withdrawal: &Withdrawal);

    /// Appends that an open exchange was ended.
    fn severed(&self, severance: &Severance);
}
