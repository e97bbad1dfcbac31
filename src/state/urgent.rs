//! The connection for revocations alone: what it brings is in force at once, ahead of the order.
//!
//! Losing it costs speed and nothing else: everything it carries comes in order, too. It is
//! opened to the hub that the ordered stream is open to, and acknowledged there.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, watch};

use crate::core::identity::ApplyError;
use crate::state::applier::Applier;
use crate::state::client::{Backoff, ClientSettings};
use crate::state::session::{SessionError, in_time, positions};
use crate::state::status::StateStatus;
use crate::wire::state as wire;
use crate::wire::state_proto as proto;
use proto::state_sync_client::StateSyncClient;

/// Largest message taken, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// How long it waits after revocations that another must come before.
const GAP_WAIT: Duration = Duration::from_millis(100);

/// The other tasks that this one speaks with.
pub(super) struct Lane<'a> {
    pub(super) settings: &'a ClientSettings,
    pub(super) applier: &'a Mutex<Applier>,
    pub(super) status: &'a StateStatus,
    /// The hub of the ordered stream, while that is open.
    pub(super) hub: watch::Receiver<Option<String>>,
    /// Counts what came into force here, for the ordered stream to acknowledge.
    pub(super) came: &'a watch::Sender<u64>,
}

impl Lane<'_> {
    /// Keeps the connection open while the ordered stream is. Never ends.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(self.settings.jitter.rotate_left(32));
        loop {
            let Ok(hub) = self.hub.wait_for(Option::is_some).await.map(|hub| hub.clone().unwrap_or_default())
            else {
                return std::future::pending().await;
            };
            let ended = self.follow(&hub).await;
            let was_open = self.status.urgent_connected();
            self.status.urgent(false);
            if let Err(error) = ended {
                tracing::warn!(%hub, %error, "no connection for revocations; they come in order");
            }
            tokio::time::sleep(backoff.after(was_open, false)).await;
        }
    }

    /// Takes what comes, until the ordered stream goes elsewhere, or away.
    ///
    /// INVARIANT: only waiting is given up, never a message that is being taken: what has been published
    /// must also be told of and kept.
    async fn follow(&self, hub: &str) -> Result<(), SessionError> {
        let mut now = self.hub.clone();
        let left = async move {
            // Nobody to tell of it: the client is going away, and this with it.
            now.wait_for(|now| now.as_deref() != Some(hub)).await.ok();
        };
        tokio::pin!(left);
        let mut messages = tokio::select! {
            biased;
            () = &mut left => return Ok(()),
            opened = self.open(hub) => opened?,
        };
        self.status.urgent(true);
        loop {
            let message = tokio::select! {
                biased;
                () = &mut left => return Ok(()),
                message = messages.message() => message?,
            };
            match message {
                Some(signed) => self.take(&signed).await?,
                None => return Ok(()),
            }
        }
    }

    async fn open(&self, hub: &str) -> Result<tonic::Streaming<proto::Signed>, SessionError> {
        let channel = self.settings.dial.dial(hub).await.map_err(SessionError::Transport)?;
        let mut client = StateSyncClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let hello = {
            let applier = self.applier.lock().await;
            proto::UrgentHello {
                cluster_id: applier.lkg().cluster_id().clone(),
                spoke_id: self.settings.spoke_id.clone(),
                incarnation: Bytes::copy_from_slice(&self.settings.incarnation),
                have: positions(&applier, |_| true),
            }
        };
        Ok(in_time(client.urgent(hello)).await?.into_inner())
    }

    async fn take(&self, signed: &proto::Signed) -> Result<(), SessionError> {
        let mut applier = self.applier.lock().await;
        let kills = wire::open_urgent(signed, applier.lkg().keys())?;
        match applier.kill(&kills, signed).await {
            Ok(()) => {
                drop(applier);
                self.came.send_modify(|count| *count += 1);
                Ok(())
            }
            // The order is about to bring the cell, or what is missing; a new hello asks for all of it.
            Err(error @ (ApplyError::Gap { .. } | ApplyError::KillGap { .. } | ApplyError::Epoch { .. })) => {
                drop(applier);
                tokio::time::sleep(GAP_WAIT).await;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}
