//! The state stream over a real channel: plans, deltas, heartbeats, acknowledgements, receipts.

use std::collections::HashMap;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bytes::{Bytes, BytesMut};
use portreeve::core::id::Name;
use portreeve::core::identity::{Batch, Keyer, Snapshot, bucket_of};
use portreeve::hub::MESSAGE_BYTES_MAX;
use portreeve::wire::signed::sign_ack;
use portreeve::wire::state::{decode_change, decode_delta, epoch, open_delta, open_manifest, state_digest};
use portreeve::wire::state_proto as proto;
use portreeve::wire::state_proto::hub_message::Message as Down;
use portreeve::wire::state_proto::repair_part::Part;
use portreeve::wire::state_proto::spoke_message::Message as Up;
use portreeve::wire::state_proto::state_sync_client::StateSyncClient;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::lab::{HandClock, Lab, demo, document, identity_spec, resource_spec};
use crate::support::PATIENCE;

/// An enforcement point's side of one stream.
pub(super) struct Spoke {
    up: mpsc::Sender<proto::SpokeMessage>,
    down: Streaming<proto::HubMessage>,
    client: StateSyncClient<Channel>,
    /// Positions applied: revision and history hash.
    pub(super) cells: HashMap<String, (u64, [u8; 32])>,
    epoch: Bytes,
    cluster_id: Bytes,
    pub(super) records: usize,
    pub(super) keys: Vec<proto::SigningKey>,
    /// Who acknowledges.
    pub(super) name: (String, Bytes),
    /// The state an enforcement point would decide by; none where the test makes up a position.
    pub(super) state: Option<Snapshot>,
}

pub(super) fn hello(id: &str, incarnation: u8, deny_after: Duration) -> proto::Hello {
    proto::Hello {
        spoke_id: id.into(),
        incarnation: Bytes::from(vec![incarnation; 16]),
        schema: 1,
        build: "test".into(),
        deny_after_max_us: deny_after.as_micros().try_into().unwrap(),
        receipt_key: Bytes::copy_from_slice(receipt_key().public_key().as_ref()),
        ..Default::default()
    }
}

/// The key of every incarnation of these tests.
fn receipt_key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap()
}

impl Spoke {
    pub(super) async fn connect(lab: &Lab, hello: proto::Hello) -> Self {
        let channel = Channel::from_shared(format!("http://{}", lab.stream)).unwrap();
        let mut client = StateSyncClient::new(channel.connect().await.unwrap())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (up, messages) = mpsc::channel(16);
        let name = (hello.spoke_id.clone(), hello.incarnation.clone());
        up.send(proto::SpokeMessage { message: Some(Up::Hello(hello)) }).await.unwrap();
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        let down = client.sync(messages).await.unwrap().into_inner();
        let (cells, records, state) = (HashMap::new(), 0, Some(Snapshot::empty(Keyer::new(7))));
        let (epoch, cluster_id, keys) = (Bytes::new(), Bytes::new(), Vec::new());
        Self { up, down, client, cells, epoch, cluster_id, records, keys, name, state }
    }

    pub(super) async fn send(&self, message: Up) {
        self.up.send(proto::SpokeMessage { message: Some(message) }).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> Result<Down, Status> {
        let next = tokio::time::timeout(PATIENCE, self.down.message()).await;
        match next.expect("an answer in time")? {
            Some(message) => Ok(message.message.unwrap()),
            None => Err(Status::cancelled("the stream ended")),
        }
    }

    /// Takes the welcome and follows its plans.
    pub(super) async fn welcome(&mut self) -> Vec<(String, proto::PlanKind)> {
        let Down::Welcome(welcome) = self.next().await.unwrap() else { panic!("no welcome") };
        (self.epoch, self.cluster_id) = (welcome.epoch, welcome.cluster_id);
        self.keys = welcome.signing_keys;
        let mut kinds = Vec::new();
        for plan in welcome.plans {
            kinds.push((plan.cell.clone(), plan.kind()));
            if let Some(manifest) = plan.signed_manifest {
                self.fetch(&open_manifest(&manifest, &self.keys).unwrap()).await;
            }
        }
        kinds
    }

    async fn fetch(&mut self, manifest: &proto::Manifest) {
        let mut changes = Vec::new();
        for chunk in &manifest.chunks {
            let request = proto::ChunkRequest { cell: manifest.cell.clone(), hash: chunk.hash.clone() };
            let mut parts = self.client.get_chunk(request).await.unwrap().into_inner();
            let mut bytes = BytesMut::new();
            while let Some(part) = parts.message().await.unwrap() {
                bytes.extend_from_slice(&part.data);
            }
            assert_eq!(bytes.len() as u64, chunk.length);
            assert!(bytes.len() <= 1024 * 1024);
            assert_eq!(blake3::hash(&bytes).as_bytes()[..], chunk.hash);
            let chunk = proto::Chunk::decode(bytes.freeze()).unwrap();
            changes.extend(chunk.changes.iter().map(|change| decode_change(change).unwrap()));
        }
        assert_eq!(changes.len() as u64, manifest.records);
        assert!(changes.is_sorted_by_key(|change| bucket_of(change.kind, &change.name)));
        self.records += changes.len();
        let hash = <[u8; 32]>::try_from(&manifest.history_hash[..]).unwrap();
        let batch = Batch {
            cell: Name::parse(&manifest.cell).unwrap(),
            epoch: epoch(&manifest.epoch).unwrap(),
            from_revision: 0,
            to_revision: manifest.revision,
            history_hash: hash,
            state_digest: state_digest(&manifest.state_digest).unwrap(),
            changes,
        };
        self.state = self.state.as_ref().map(|state| state.replace_cell(&batch).unwrap());
        self.cells.insert(manifest.cell.clone(), (manifest.revision, hash));
    }

    /// Applies a delta as an enforcement point would, refusing what does not follow.
    pub(super) fn apply(&mut self, delta: &proto::Delta) {
        let (at, hash) = self.cells.entry(delta.cell.clone()).or_insert((0, [0; 32]));
        assert_eq!(delta.from_revision, *at, "a gap in cell {}", delta.cell);
        let batch = decode_delta(delta, hash).unwrap();
        (*at, *hash) = (batch.to_revision, batch.history_hash);
        self.state = self.state.as_ref().map(|state| state.apply(&batch).unwrap());
    }

    /// Applies what comes until a heartbeat answers `nonce`, and checks that it names nothing
    /// that has not come.
    pub(super) async fn beat(&mut self, nonce: u64) -> proto::Beat {
        self.send(Up::Ping(proto::Ping { nonce, ..Default::default() })).await;
        loop {
            match self.next().await.unwrap() {
                Down::Batch(signed) => self.apply(&open_delta(&signed, &self.keys).unwrap()),
                Down::Beat(beat) => {
                    for head in &beat.heads {
                        let applied = self.cells.get(&head.cell).map_or(0, |(at, _)| *at);
                        assert!(head.revision <= applied, "a head ahead of its deltas: {head:?}");
                    }
                    if beat.echo_nonce == nonce {
                        return beat;
                    }
                }
                Down::Plan(plan) => {
                    assert_eq!((plan.kind(), plan.from_revision), (proto::PlanKind::Resume, 0));
                    self.cells.insert(plan.cell, (0, [0; 32]));
                }
                other => panic!("not asked for: {other:?}"),
            }
        }
    }

    pub(super) fn positions(&self) -> Vec<proto::CellPosition> {
        let position = |(cell, (revision, hash)): (&String, &(u64, [u8; 32]))| proto::CellPosition {
            cell: cell.clone(),
            epoch: self.epoch.clone(),
            revision: *revision,
            history_hash: Bytes::copy_from_slice(hash),
            ..Default::default()
        };
        self.cells.iter().map(position).collect()
    }

    /// The parts of a repair.
    pub(super) async fn repair(
        &mut self,
        request: proto::RepairRequest,
    ) -> Result<Vec<Option<Part>>, Status> {
        let mut parts = self.client.repair(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(part) = parts.message().await? {
            all.push(part.part);
        }
        Ok(all)
    }

    /// The stream of revocations alone.
    pub(super) async fn urgent(&mut self, have: Vec<proto::CellPosition>) -> Streaming<proto::Signed> {
        let hello = proto::UrgentHello {
            cluster_id: self.cluster_id.clone(),
            spoke_id: self.name.0.clone(),
            incarnation: self.name.1.clone(),
            have,
        };
        self.client.urgent(hello).await.unwrap().into_inner()
    }

    pub(super) async fn acknowledge(&self) {
        let ack = proto::Ack {
            in_force: self.positions(),
            purged_verifications: 3,
            ended_streams: 2,
            ..Default::default()
        };
        self.send_ack(ack).await;
    }

    pub(super) async fn send_ack(&self, ack: proto::Ack) {
        let (spoke_id, incarnation) = self.name.clone();
        let ack = proto::Ack { spoke_id, incarnation, ..ack };
        let signed = sign_ack(&receipt_key(), Bytes::from(ack.encode_to_vec()));
        self.send(Up::SignedAck(signed)).await;
    }

    pub(super) async fn end(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

pub(super) const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_streamed_is_what_decisions_read() {
    let (_directory, lab) = lab().await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    assert_eq!(spoke.welcome().await, []);
    lab.apply(&demo()).await;
    lab.revoke("ledger").await;
    let status = json!({ "status": "suspended", "reason": "x" });
    lab.ask("POST", "/v1/tenants/demo/identity/ledger/status", Some(status)).await;
    let status = json!({ "status": "active", "reason": "x", "lifts": ["r2"] });
    assert_eq!(lab.ask("POST", "/v1/tenants/demo/identity/ledger/status", Some(status)).await.0, 200);
    lab.ask("DELETE", "/v1/tenants/demo/resource/orders", None).await;
    spoke.beat(1).await;
    let mut late = Spoke::connect(&lab, hello("late", 1, MINUTE)).await;
    late.welcome().await;
    for state in [spoke.state.unwrap(), late.state.unwrap()] {
        let (demo, ledger) = (Name::parse("demo").unwrap(), Name::parse("ledger").unwrap());
        assert_eq!(state.identity(&demo, &ledger).unwrap().generation, 3);
        assert!(state.resource(&demo, &Name::parse("orders").unwrap()).unwrap().value.is_none());
        assert_eq!((state.position().revision, state.stats().revocations), (5, 1));
    }
    lab.stop().await;
}

pub(super) async fn lab() -> (tempfile::TempDir, Lab) {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    (directory, lab)
}

async fn receipt(lab: &Lab, revocation: &Value) -> Value {
    let path = format!("/v1/tenants/demo/revocations/{}/receipts", revocation["name"].as_str().unwrap());
    let (status, body) = lab.ask("GET", &path, None).await;
    assert_eq!(status, 200, "{body:#}");
    body
}

/// Waits until the hub sees that the stream has ended.
async fn gone(lab: &Lab) {
    let looks = async {
        // Each question is answered by the hub itself: asking again is all the waiting there is.
        while lab.ask("GET", "/v1/status", None).await.1["members_connected"] != 0 {}
    };
    tokio::time::timeout(PATIENCE, looks).await.expect("the hub sees that the stream has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_spoke_takes_a_snapshot_and_then_deltas() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    assert_eq!(spoke.welcome().await, [("demo".to_owned(), proto::PlanKind::Snapshot)]);
    assert_eq!(spoke.records, 5);
    let beat = spoke.beat(7).await;
    assert_eq!((beat.head_revision, beat.heads.len()), (1, 1));
    lab.apply(&[document("resource", "more", resource_spec())]).await;
    let beat = spoke.beat(8).await;
    assert_eq!((beat.head_revision, spoke.cells["demo"].0), (2, 2));
    assert!(spoke.beat(9).await.heads.is_empty(), "nothing new to name");
    // A cell made after the welcome is announced before its first delta.
    let mut other = document("resource", "x", resource_spec());
    other["tenant"] = json!("other");
    lab.apply(&[other]).await;
    spoke.beat(10).await;
    assert_eq!(spoke.cells["other"].0, 3);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_resumes_where_it_stood() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let have = spoke.positions();
    drop(spoke);
    for place in 0..3 {
        lab.apply(&[document("resource", &format!("n{place}"), resource_spec())]).await;
    }
    let mut again =
        Spoke::connect(&lab, proto::Hello { have: have.clone(), ..hello("edge", 2, MINUTE) }).await;
    let hash = <[u8; 32]>::try_from(&have[0].history_hash[..]).unwrap();
    again.cells.insert("demo".to_owned(), (have[0].revision, hash));
    again.state = None;
    assert_eq!(again.welcome().await, [("demo".to_owned(), proto::PlanKind::Resume)]);
    again.beat(1).await;
    assert_eq!((again.cells["demo"].0, again.records), (4, 0));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_is_refused_and_never_made_fresh() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let held = spoke.positions().remove(0);
    let newer = Bytes::from([vec![0, 0, 0, 0, 0, 0, 0, 2], vec![0; 8]].concat());
    let older = Bytes::from([vec![0; 8], vec![1; 8]].concat());
    let rows = [
        (
            proto::CellPosition { history_hash: Bytes::from(vec![9; 32]), ..held.clone() },
            proto::PlanKind::Forked,
        ),
        (proto::CellPosition { revision: held.revision + 1, ..held.clone() }, proto::PlanKind::HubBehind),
        (proto::CellPosition { cell: "gone".into(), ..held.clone() }, proto::PlanKind::HubBehind),
        (proto::CellPosition { epoch: newer, ..held.clone() }, proto::PlanKind::HubBehind),
        (proto::CellPosition { epoch: older, ..held.clone() }, proto::PlanKind::Repair),
    ];
    for (place, (position, expected)) in (2..).zip(rows) {
        let cell = position.cell.clone();
        let hello = proto::Hello { have: vec![position], ..hello("edge", place, MINUTE) };
        let mut spoke = Spoke::connect(&lab, hello).await;
        let plans = spoke.welcome().await;
        assert!(plans.contains(&(cell, expected)), "{plans:?}");
        if expected != proto::PlanKind::Repair {
            assert_eq!(spoke.end().await.code(), Code::FailedPrecondition);
        }
    }
    let stranger = proto::Hello { cluster_id: Bytes::from(vec![7; 16]), ..hello("edge", 9, MINUTE) };
    assert_eq!(Spoke::connect(&lab, stranger).await.end().await.code(), Code::FailedPrecondition);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_at_their_bounds() {
    let (_directory, lab) = lab().await;
    let good = || hello("edge", 1, MINUTE);
    let rows = [
        proto::Hello { spoke_id: String::new(), ..good() },
        proto::Hello { spoke_id: "x".repeat(254), ..good() },
        proto::Hello { spoke_id: "a\nb".into(), ..good() },
        proto::Hello { incarnation: Bytes::from(vec![1; 15]), ..good() },
        proto::Hello { waived: vec!["r".into(); 1025], ..good() },
        proto::Hello { deny_after_max_us: u64::MAX, ..good() },
        proto::Hello { have: vec![proto::CellPosition::default()], ..good() },
        proto::Hello { receipt_key: Bytes::from(vec![1; 31]), ..good() },
    ];
    for hello in rows {
        let status = Spoke::connect(&lab, hello.clone()).await.end().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{hello:?}");
    }
    let spoke = Spoke::connect(&lab, good()).await;
    spoke.send(Up::Hello(good())).await;
    assert_eq!(spoke.end().await.code(), Code::InvalidArgument);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_makes_a_receipt() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    spoke.beat(1).await;
    spoke.acknowledge().await;
    let revoked = lab.revoke("ledger").await;
    assert_eq!((revoked["state"].as_str(), revoked["name"].as_str()), (Some("PENDING"), Some("r2")));
    assert_eq!(revoked["effective_since"], Value::Null);
    assert_eq!(revoked["committed_at"], "2026-06-21T00:00:01Z");
    // 60 s, 500 ppm of drift, and 1 s to end streams.
    assert_eq!(revoked["effective_by"], "2026-06-21T00:01:02.03Z");
    spoke.beat(2).await;
    assert_eq!(receipt(&lab, &revoked).await["members"][0]["state"], "pending");
    lab.clock.pass(Duration::from_millis(10));
    spoke.acknowledge().await;
    let path = "/v1/revisions/2/receipts?wait_ms=5000&seen=0";
    let (_, done) = lab.ask("GET", path, None).await;
    assert_eq!(done["state"], "EFFECTIVE", "{done:#}");
    assert_eq!(done["effective_since"], "2026-06-21T00:00:01.01Z");
    let member = &done["members"][0];
    assert_eq!(member["state"], "in_force");
    assert_eq!(member["incarnation"], "01010101010101010101010101010101");
    assert_eq!((member["purged"].as_u64(), member["ended_streams"].as_u64()), (Some(3), Some(2)));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_sent_cannot_be_acknowledged() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    for lie in 0..3 {
        let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
        spoke.welcome().await;
        let mut position = spoke.positions().remove(0);
        match lie {
            0 => position.revision = 99,
            1 => position.history_hash = Bytes::from(vec![9; 32]),
            _ => position.cell = "none".into(),
        }
        spoke.send_ack(proto::Ack { in_force: vec![position], ..Default::default() }).await;
        assert_eq!(spoke.end().await.code(), Code::FailedPrecondition, "{lie}");
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_out_of_reach_is_pending_until_its_lease_is_over() {
    let (directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    lab.clock.pass(Duration::from_secs(5));
    spoke.beat(1).await;
    drop(spoke);
    gone(&lab).await;
    lab.clock.pass(Duration::from_secs(20));
    let revoked = lab.revoke("ledger").await;
    assert_eq!(revoked["members"][0]["state"], "pending");
    // The last ping was answered 20 s ago: the lease is over 60.03 s after it.
    lab.clock.pass(Duration::from_millis(40_030));
    assert_eq!(receipt(&lab, &revoked).await["state"], "PENDING");
    lab.clock.pass(Duration::from_micros(1));
    let lapsed = receipt(&lab, &revoked).await;
    assert_eq!((&lapsed["state"], &lapsed["members"][0]["state"]), (&json!("EFFECTIVE"), &json!("lapsed")));
    assert_eq!(lapsed["effective_since"], "2026-06-21T00:01:06.03Z");
    // A hub that starts again has forgotten nobody, and takes nobody for lapsed that might not be.
    let clock = lab.clock.clone();
    lab.stop().await;
    let lab = Lab::start(directory.path(), clock).await;
    let again = receipt(&lab, &revoked).await;
    assert_eq!(again["members"][0]["state"], "pending", "{again:#}");
    assert_eq!(again["committed_at"], revoked["committed_at"]);
    lab.clock.pass(Duration::from_millis(60_031));
    assert_eq!(receipt(&lab, &revoked).await["state"], "EFFECTIVE");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_member_that_does_not_apply_lapses_too() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    spoke.beat(1).await;
    let revoked = lab.revoke("ledger").await;
    lab.clock.pass(Duration::from_secs(30));
    // Answered with the revision named: this renews nothing for older state.
    spoke.beat(2).await;
    lab.clock.pass(Duration::from_millis(30_031));
    assert_eq!(receipt(&lab, &revoked).await["members"][0]["state"], "lapsed");
    spoke.acknowledge().await;
    let path = "/v1/revisions/2/receipts?wait_ms=5000&seen=9";
    let mut state = json!(null);
    for _ in 0..100 {
        state = lab.ask("GET", path, None).await.1["members"][0]["state"].clone();
        if state == "in_force" {
            break;
        }
    }
    assert_eq!(state, "in_force");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_that_never_deny_are_waived_and_goodbye_ends_membership() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let waived = vec!["inbound//static/**".to_owned()];
    let mut spoke = Spoke::connect(&lab, proto::Hello { waived, ..hello("edge", 1, Duration::ZERO) }).await;
    spoke.welcome().await;
    spoke.beat(1).await;
    let revoked = lab.revoke("ledger").await;
    assert_eq!(revoked["effective_by"], Value::Null);
    assert_eq!(revoked["members"][0]["waived_routes"], json!(["inbound//static/**"]));
    assert_eq!(revoked["state"], "PENDING");
    spoke.send(Up::Goodbye(proto::Goodbye { reason: "drained".into() })).await;
    gone(&lab).await;
    let alone = receipt(&lab, &revoked).await;
    assert_eq!((&alone["state"], &alone["members"]), (&json!("EFFECTIVE"), &json!([])));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_of_one_incarnation_fences_the_older() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut older = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    older.welcome().await;
    let mut clone = Spoke::connect(&lab, hello("edge", 2, MINUTE)).await;
    clone.welcome().await;
    clone.beat(1).await;
    let mut newer = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    newer.welcome().await;
    newer.beat(1).await;
    assert_eq!(older.end().await.code(), Code::Aborted);
    clone.beat(2).await;
    let (_, fleet) = lab.ask("GET", "/v1/fleet", None).await;
    assert_eq!(fleet["members"].as_array().unwrap().len(), 2);
    assert_eq!(fleet["members"][0]["deny_after_max_ms"], 60_000);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_never_run_ahead_of_deltas() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let writes = async {
        for place in 0..60 {
            let identity = format!("n{place}");
            lab.apply(&[document("identity", &identity, identity_spec(&identity))]).await;
        }
    };
    let pings = async {
        for nonce in 0..200 {
            // `beat` fails on a head that its deltas have not reached.
            let beat = spoke.beat(nonce).await;
            let highest = spoke.cells.values().map(|(at, _)| *at).max().unwrap();
            assert!(beat.head_revision <= highest);
        }
        spoke
    };
    let ((), mut spoke) = tokio::join!(writes, pings);
    assert_eq!(spoke.beat(999).await.head_revision, 61);
    assert_eq!(spoke.cells["demo"].0, 61);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_cell_comes_in_chunks() {
    let (_directory, lab) = lab().await;
    let mut documents = demo();
    let cedar = format!("// {}\npermit(principal, action, resource);", "x".repeat(200_000));
    for place in 0..12 {
        let spec = json!({ "cedar": cedar, "mode": "shadow" });
        documents.push(document("policy", &format!("p{place}"), spec));
    }
    lab.apply(&documents).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    assert_eq!(spoke.records, 17);
    let request = proto::ChunkRequest { cell: "demo".into(), hash: Bytes::from(vec![1; 32]) };
    assert_eq!(spoke.client.get_chunk(request).await.unwrap_err().code(), Code::NotFound);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_does_not_speak_for_a_copy_that_was_fenced() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut older = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    older.welcome().await;
    older.beat(1).await;
    // The same memory twice, as a copied machine has it.
    let mut newer = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    newer.welcome().await;
    newer.beat(1).await;
    assert_eq!(older.end().await.code(), Code::Aborted);
    let revoked = lab.revoke("ledger").await;
    newer.beat(2).await;
    newer.acknowledge().await;
    newer.beat(3).await;
    let held = receipt(&lab, &revoked).await;
    assert_eq!((&held["state"], &held["members"][0]["state"]), (&json!("PENDING"), &json!("pending")));
    // The copy's lease is over 60.03 s after its last ping.
    lab.clock.pass(Duration::from_micros(60_030_001));
    let over = receipt(&lab, &revoked).await;
    assert_eq!((&over["state"], &over["members"][0]["state"]), (&json!("EFFECTIVE"), &json!("in_force")));
    assert_eq!(over["effective_since"], "2026-06-21T00:01:01.03Z");
    lab.stop().await;
}
