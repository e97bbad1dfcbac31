//! Someone on the network who says what is not so.

use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bytes::Bytes;
use portreeve::state::Dial as _;
use portreeve::wire::signed::sign_ack;
use portreeve::wire::state_proto as proto;
use portreeve::wire::state_proto::hub_message::Message as Down;
use portreeve::wire::state_proto::spoke_message::Message as Up;
use portreeve::wire::state_proto::state_sync_client::StateSyncClient;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::host::{Host, HostClock};
use super::net::{HostId, SimDial};
use super::world::World;

/// A machine of theirs.
#[derive(Debug)]
pub(crate) struct Liar {
    place: HostId,
    pub(crate) host: Host,
}

impl Liar {
    pub(crate) const fn new(place: HostId, clock: Arc<HostClock>) -> Self {
        Self { place, host: Host::new(clock) }
    }
}

impl World {
    /// Claims a future without proof; then what was never sent; then another's word.
    pub(crate) fn lie(&mut self) -> bool {
        self.step(self.liar.place);
        if self.liar.host.is_up() {
            return false;
        }
        let epoch = self.hubs[self.primary].disk.head().epoch;
        let revision = self.hubs[self.primary].disk.head().revision + self.random.between(1, 1000);
        let of = self.random.place(self.edges.len());
        let name = self.edges[of].name.clone();
        let incarnation = self.edges[of].running.as_ref().map_or([0; 16], |running| running.incarnation);
        let dial = SimDial { net: self.net.clone(), from: self.liar.place };
        let hub = format!("http://hub-{}", self.primary);
        let future = proto::CellPosition {
            cell: "alpha".into(),
            epoch: Bytes::copy_from_slice(epoch.as_bytes()),
            revision,
            history_hash: Bytes::from(vec![3; 32]),
            kill_revision: revision,
            ..Default::default()
        };
        let runtime = self.liar.host.start();
        runtime.spawn(async move {
            let Ok(channel) = dial.dial(&hub).await else { return };
            let mut client = StateSyncClient::new(channel);
            let hello = |have| proto::Hello {
                spoke_id: "liar".into(),
                incarnation: Bytes::from(vec![0xee; 16]),
                schema: 1,
                deny_after_max_us: 1_000_000,
                receipt_key: Bytes::copy_from_slice(key().public_key().as_ref()),
                have,
                ..Default::default()
            };
            say(&mut client, hello(vec![future.clone()]), Vec::new()).await;
            let never = proto::Ack {
                in_force: vec![future.clone()],
                spoke_id: "liar".into(),
                incarnation: Bytes::from(vec![0xee; 16]),
                ..Default::default()
            };
            say(&mut client, hello(Vec::new()), vec![never]).await;
            let others = proto::Ack {
                in_force: vec![future],
                spoke_id: name,
                incarnation: Bytes::copy_from_slice(&incarnation),
                ..Default::default()
            };
            say(&mut client, hello(Vec::new()), vec![others]).await;
        });
        true
    }
}

fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[13; 32]).unwrap()
}

/// Opens a stream, says it all, and listens to the end.
async fn say(
    client: &mut StateSyncClient<tonic::transport::Channel>,
    hello: proto::Hello,
    acks: Vec<proto::Ack>,
) {
    let (up, messages) = mpsc::channel(8);
    let send = |message| proto::SpokeMessage { message: Some(message) };
    up.send(send(Up::Hello(hello))).await.ok();
    let Ok(answers) = client.sync(ReceiverStream::new(messages)).await else { return };
    let mut answers = answers.into_inner();
    while let Ok(Some(answer)) = answers.message().await {
        if matches!(answer.message, Some(Down::Welcome(_))) {
            for ack in &acks {
                let signed = sign_ack(&key(), Bytes::from(ack.encode_to_vec()));
                up.send(send(Up::SignedAck(signed))).await.ok();
            }
        }
    }
}
