//! The first message: who comes, and what it holds.

use std::time::Duration;

use tonic::Status;

use crate::core::id::{Epoch, Name};
use crate::core::identity::StateDigest;
use crate::hub::authority::TENANTS_MAX;
use crate::hub::roster::{MemberKey, Terms};
use crate::hub::store::StoreIdentity;
use crate::wire::state::{epoch, hash32, state_digest};
use crate::wire::state_proto as proto;

/// A hello that was read.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) key: MemberKey,
    pub(super) terms: Terms,
    pub(super) have: Vec<Holding>,
    /// Acknowledgements are signed by its other half.
    pub(super) receipt_key: [u8; 32],
    /// The newest head of this hub's that it has seen.
    pub(super) head: Option<proto::Signed>,
}

/// A position that an enforcement point holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holding {
    pub(super) cell: Name,
    pub(super) epoch: Epoch,
    pub(super) revision: u64,
    pub(super) history_hash: [u8; 32],
    /// Of its table; `None`: not told.
    pub(super) state_digest: Option<StateDigest>,
    /// Up to here every revocation is in force.
    pub(super) kill_revision: u64,
}

impl Holding {
    /// Reads a position.
    pub(super) fn read(position: &proto::CellPosition) -> Result<Self, Status> {
        let bad = |e: &dyn std::fmt::Display| Status::invalid_argument(format!("position: {e}"));
        let history_hash = match &position.history_hash[..] {
            // Before the first batch there is nothing to hash.
            [] if position.revision == 0 => [0; 32],
            bytes => hash32("history_hash", bytes).map_err(|e| bad(&e))?,
        };
        Ok(Self {
            cell: Name::parse(&position.cell).map_err(|e| bad(&e))?,
            epoch: epoch(&position.epoch).map_err(|e| bad(&e))?,
            revision: position.revision,
            history_hash,
            state_digest: state_digest(&position.state_digest).map_err(|e| bad(&e))?,
            kill_revision: position.kill_revision,
        })
    }
}

/// Reads a hello.
pub(super) fn read(message: proto::SpokeMessage, store: &StoreIdentity) -> Result<Greeting, Status> {
    let Some(proto::spoke_message::Message::Hello(hello)) = message.message else {
        return Err(Status::invalid_argument("the first message is no hello"));
    };
    if !hello.cluster_id.is_empty() && hello.cluster_id[..] != store.cluster_id {
        return Err(Status::failed_precondition(
            "the state held is another cluster's: give the enforcement point an empty data_dir, or its own hub",
        ));
    }
    if hello.schema == 0 {
        return Err(Status::failed_precondition("schema 0: this hub sends records of schema 1"));
    }
    let incarnation = <[u8; 16]>::try_from(&hello.incarnation[..])
        .map_err(|_| Status::invalid_argument("incarnation: expected 16 bytes"))?;
    bounded("spoke_id", &hello.spoke_id, 1, ID_BYTES_MAX)?;
    bounded("build", &hello.build, 0, ID_BYTES_MAX)?;
    if hello.waived.len() > WAIVED_MAX || hello.have.len() > TENANTS_MAX {
        return Err(Status::invalid_argument("more routes or cells than a hello may name"));
    }
    hello.waived.iter().try_for_each(|route| bounded("waived", route, 1, ROUTE_BYTES_MAX))?;
    let deny_after_max = term(hello.deny_after_max_us)?;
    let receipt_key =
        hash32("receipt_key", &hello.receipt_key).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let have = hello.have.iter().map(Holding::read).collect::<Result<_, _>>()?;
    Ok(Greeting {
        key: MemberKey { spoke_id: hello.spoke_id, incarnation },
        terms: Terms { deny_after_max, waived: hello.waived, build: hello.build },
        have,
        receipt_key,
        head: hello.head,
    })
}

/// Reads the longest finite `deny_after` that is asked for; `None`: none.
pub(super) fn term(us: u64) -> Result<Option<Duration>, Status> {
    let term = Duration::from_micros(us);
    if term > DENY_AFTER_MAX {
        return Err(Status::invalid_argument("deny_after_max_us: expected at most 30 days"));
    }
    Ok((us > 0).then_some(term))
}

fn bounded(what: &str, text: &str, min: usize, max: usize) -> Result<(), Status> {
    if (min..=max).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{what}: expected {min} to {max} bytes without control characters")))
}

const ID_BYTES_MAX: usize = 253;
const ROUTE_BYTES_MAX: usize = 512;
const WAIVED_MAX: usize = 1024;
const DENY_AFTER_MAX: Duration = Duration::from_secs(30 * 86_400);
