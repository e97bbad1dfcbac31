//! What processes on one shared store tell each other of their members.
//!
//! Each process writes rows of its own only, so nobody undoes what another wrote. What is told is
//! numbered in the order it became visible; a reader asks for what came after the last number it saw.

use std::time::Duration;

use super::StoredMember;
use crate::core::id::Name;
use crate::core::time::Timestamp;

/// One process that serves from a shared store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Random for each start of the process.
    pub id: [u8; 16],
    /// Rises with every heartbeat of it: while it stands still, the process answers nobody.
    pub beats: u64,
}

/// How a stream of a member stands at one process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerStream {
    /// It is open.
    Live,
    /// It ended.
    Left,
    /// It was open when a newer one of the same incarnation came: there may be two processes.
    Fenced,
    /// The member was let go: it said goodbye, or lapsed.
    Gone,
}

/// A member, as one process knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerMember {
    /// Who it is and what it was granted.
    pub member: StoredMember,
    /// How its last stream there stands.
    pub stream: PeerStream,
    /// Rises with every stream that joins, over all processes.
    pub joined: u64,
    /// Where this stands in what its process told.
    pub told: u64,
    /// The tenants it may hold; `None`: any.
    pub holds: Option<Vec<Name>>,
    /// How far it has each cell in force.
    pub in_force: Vec<PeerInForce>,
}

/// How far a member has one cell in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInForce {
    /// The tenant.
    pub cell: Name,
    /// All changes up to here.
    pub revision: u64,
    /// All revocations up to here.
    pub kill_revision: u64,
    /// Since when.
    pub at: Timestamp,
    /// Cached verifications purged.
    pub purged: u64,
    /// Streams ended.
    pub ended_streams: u64,
}

/// How long a process may be without a heartbeat before its streams count as ended, as those of a
/// hub that was restarted do.
pub const PEER_SILENT_AFTER: Duration = Duration::from_secs(4);
