//! Revocations alone, on a stream of their own: nothing of the order stands before them.
//!
//! A stream is a cursor over the same log. Whoever comes late is told what still denies, in the
//! order it was committed in; nothing here is acknowledged, the ordered stream does that.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::Shared;
use super::admit::Admitted;
use super::hello::Holding;
use super::plan::unavailable;
use crate::core::id::Name;
use crate::core::identity::Change;
use crate::hub::mirror::Mirror;
use crate::hub::peer::Peer;
use crate::wire::state::encode_change;
use crate::wire::state_proto as proto;

type Outbound = mpsc::Sender<Result<proto::Signed, Status>>;

/// Reads what an enforcement point has in force already.
pub(super) fn greet(shared: &Shared, hello: &proto::UrgentHello) -> Result<BTreeMap<Name, u64>, Status> {
    let identity = shared.feed.store().identity();
    if hello.cluster_id[..] != identity.cluster_id {
        return Err(Status::failed_precondition("the state held is another cluster's"));
    }
    if hello.have.len() > crate::hub::authority::TENANTS_MAX {
        return Err(Status::invalid_argument("more cells than a hello may name"));
    }
    let held = hello.have.iter().map(Holding::read).collect::<Result<Vec<_>, _>>()?;
    let ours = held.into_iter().filter(|held| held.epoch == identity.epoch);
    Ok(ours.map(|held| (held.cell, held.kill_revision.max(held.revision))).collect())
}

/// Sends what denies and is not in force there yet, then whatever comes, until the other side goes.
pub(super) async fn run(
    shared: Arc<Shared>,
    peer: Peer,
    admitted: Admitted,
    have: BTreeMap<Name, u64>,
    outbound: Outbound,
) {
    let end = tokio::select! {
        biased;
        () = shared.shutdown.cancelled() => Err(Status::unavailable("the hub is stopping")),
        end = send_all(&shared, &peer, admitted, have, &outbound) => end,
    };
    if let Err(status) = end {
        tracing::debug!(code = ?status.code(), detail = status.message(), "an urgent stream was ended");
        // Nobody may be left to tell.
        outbound.try_send(Err(status)).ok();
    }
}

async fn send_all(
    shared: &Shared,
    peer: &Peer,
    mut admitted: Admitted,
    have: BTreeMap<Name, u64>,
    outbound: &Outbound,
) -> Result<(), Status> {
    let mut heads = shared.feed.subscribe();
    let mut rescoped = shared.admissions.subscribe();
    // Nothing that changed before this is missed.
    admitted = shared.admit(peer, &admitted.spoke_id).await?;
    let mirror = shared.feed.mirrored();
    for (cell, known) in have.into_iter().filter(|(cell, _)| admitted.admission.scope.holds(cell)) {
        for urgent in missed(&mirror, &cell, known) {
            pass(shared, outbound, shared.feed.key().sign(proto::SignedKind::Urgent, &urgent)).await?;
        }
    }
    let mut cursor = mirror.head();
    drop(mirror);
    loop {
        let head = *heads.borrow_and_update();
        while cursor < head {
            let batch = shared.feed.read(cursor).await.map_err(|e| unavailable(&e))?;
            let Some(last) = batch.last().map(|entry| entry.revision) else {
                return Err(Status::unavailable("the hub's change log ends before its head"));
            };
            shared.still_certified(peer)?;
            let in_scope = batch.iter().filter(|entry| admitted.admission.scope.holds(&entry.tenant));
            for urgent in in_scope.filter_map(|entry| entry.urgent.clone()) {
                pass(shared, outbound, urgent).await?;
            }
            cursor = last;
        }
        tokio::select! {
            biased;
            moved = heads.changed() => moved.map_err(|_| Status::unavailable("the hub is stopping"))?,
            _ = rescoped.changed() => admitted = shared.admit(peer, &admitted.spoke_id).await?,
            () = outbound.closed() => return Ok(()),
        }
    }
}

async fn pass(shared: &Shared, outbound: &Outbound, urgent: proto::Signed) -> Result<(), Status> {
    match tokio::time::timeout(shared.settings.send_timeout, outbound.send(Ok(urgent))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled("the enforcement point went away")),
        Err(_) => Err(Status::deadline_exceeded("the enforcement point does not read")),
    }
}

/// What denies in a cell and was committed after `known`, as messages that follow on from there.
fn missed(mirror: &Mirror, cell: &Name, known: u64) -> Vec<proto::Urgent> {
    if mirror.kill_revision(cell) <= known {
        return Vec::new();
    }
    let mut changes = mirror.state().denying(cell, known);
    changes.retain(Change::denies);
    changes.sort_by_key(|change| change.revision);
    let mut previous = known;
    let mut messages = Vec::new();
    let mut rest = changes.as_slice();
    while let Some(first) = rest.first() {
        let (now, later) = rest.split_at(fitting(rest));
        let revision = now.last().map_or(first.revision, |last| last.revision);
        messages.push(proto::Urgent {
            cell: cell.to_string(),
            epoch: Bytes::copy_from_slice(mirror.epoch().as_bytes()),
            previous,
            revision,
            changes: now.iter().map(encode_change).collect(),
            ..Default::default()
        });
        previous = revision;
        rest = later;
    }
    messages
}

/// How many changes go into one message: never a part of one commit's.
fn fitting(changes: &[Change]) -> usize {
    let mut bytes = 0;
    let mut whole = 0;
    for (at, change) in changes.iter().enumerate() {
        bytes += encode_change(change).encoded_len();
        let ends = changes.get(at + 1).is_none_or(|next| next.revision != change.revision);
        if bytes > MESSAGE_BYTES && whole > 0 {
            break;
        }
        if ends {
            whole = at + 1;
        }
    }
    whole.max(1)
}

/// About how many bytes one message holds.
const MESSAGE_BYTES: usize = 64 * 1024;
