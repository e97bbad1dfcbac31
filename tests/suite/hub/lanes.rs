//! Both lanes of the state stream over real sockets: what is signed, refused, repaired, overtaken,
//! and what stops a hub whose store was rolled back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portreeve::core::id::{Epoch, Name};
use portreeve::core::identity::{
    Batch, Change, Keyer, KillBatch, Record, RecordKind, Revocation, RevocationTarget, Snapshot,
};
use portreeve::core::time::Timestamp;
use portreeve::hub::Hub;
use portreeve::wire::state::{open_delta, open_manifest, open_urgent};
use portreeve::wire::state_proto as proto;
use portreeve::wire::state_proto::hub_message::Message as Down;
use portreeve::wire::state_proto::repair_part::Part;
use portreeve::wire::state_proto::spoke_message::Message as Up;
use serde_json::json;
use tonic::Code;

use super::lab::{HandClock, Lab, demo, document, identity_spec, patiently, settings};
use super::stream::{MINUTE, Spoke, hello, lab};

fn refusal(from: u64, to: u64) -> proto::Ack {
    let refused = proto::Refusal {
        cell: "demo".into(),
        from_revision: from,
        to_revision: to,
        code: "delta.refused".into(),
        detail: "a test refuses it".into(),
    };
    proto::Ack { refused: vec![refused], ..Default::default() }
}

/// The next plan, whatever comes before it.
async fn plan(spoke: &mut Spoke) -> proto::CellPlan {
    loop {
        if let Down::Plan(plan) = spoke.next().await.unwrap() {
            return plan;
        }
    }
}

async fn edited(lab: &Lab, ticket: &str) {
    let mut spec = identity_spec("ledger");
    spec["ticket"] = json!(ticket);
    lab.apply(&[document("identity", "ledger", spec)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_is_signed_and_says_what_the_table_comes_to() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    edited(&lab, "OPS-1").await;
    let Down::Batch(signed) = spoke.next().await.unwrap() else { panic!("no batch") };
    let delta = open_delta(&signed, &spoke.keys).unwrap();
    assert_eq!(delta.state_digest.len(), 32);
    spoke.apply(&delta);
    let forged = proto::Signed { signature: Bytes::from(vec![0; 64]), ..signed.clone() };
    assert!(open_delta(&forged, &spoke.keys).is_err());
    let critical = proto::Delta { critical_features: vec![7], ..delta };
    assert!(portreeve::wire::state::all_known("delta", &critical.critical_features).is_err());
    let beat = spoke.beat(1).await;
    let head = portreeve::wire::signed::verify(&beat.head.unwrap(), &spoke.keys, proto::SignedKind::Head);
    assert!(head.is_ok());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_is_answered_with_a_repair() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let held = spoke.state.clone().unwrap();
    let at = spoke.cells["demo"].0;
    edited(&lab, "OPS-2").await;
    spoke.send_ack(refusal(at, at + 1)).await;
    assert_eq!(plan(&mut spoke).await.kind(), proto::PlanKind::Repair);

    let cell = Name::parse("demo").unwrap();
    let ask =
        |buckets: Vec<Bytes>| proto::RepairRequest { cell: "demo".into(), buckets, ..Default::default() };
    let digests = held.bucket_digests(&cell).iter().map(|d| Bytes::copy_from_slice(d)).collect();
    let parts = spoke.repair(ask(digests)).await.unwrap();
    let Some(Part::Manifest(signed)) = &parts[0] else { panic!("no manifest first") };
    let manifest = open_manifest(signed, &spoke.keys).unwrap();
    // One identity changed: one bucket, and only what lies in it.
    assert_eq!((manifest.buckets.len(), manifest.revision), (1, at + 1));
    let whole = spoke.repair(ask(Vec::new())).await.unwrap();
    let Some(Part::Manifest(signed)) = &whole[0] else { panic!("no manifest first") };
    let all = open_manifest(signed, &spoke.keys).unwrap();
    assert_eq!(all.buckets.len(), 1024);
    assert!(all.records > manifest.records);

    let short = ask(vec![Bytes::from(vec![0; 32]); 1023]);
    assert_eq!(spoke.repair(short).await.unwrap_err().code(), Code::InvalidArgument);
    let unknown = proto::RepairRequest { cell: "nowhere".into(), ..Default::default() };
    assert_eq!(spoke.repair(unknown).await.unwrap_err().code(), Code::NotFound);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_differs_is_seen_at_its_acknowledgement() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let sound =
        |digest: Vec<u8>| proto::CellPosition { state_digest: digest.into(), ..spoke.positions().remove(0) };
    let cell = Name::parse("demo").unwrap();
    let right = spoke.state.as_ref().unwrap().cell(&cell).unwrap().state_digest.as_bytes().to_vec();
    let (right, wrong) = (sound(right), sound(vec![1; 32]));
    spoke.send_ack(proto::Ack { in_force: vec![right.clone()], ..Default::default() }).await;
    // Nothing but the answer comes of a sound one.
    assert_eq!(spoke.beat(1).await.echo_nonce, 1);
    spoke.send_ack(proto::Ack { in_force: vec![wrong.clone()], ..Default::default() }).await;
    assert_eq!(plan(&mut spoke).await.kind(), proto::PlanKind::Repair);
    // At a hello, too.
    let again = proto::Hello { have: vec![wrong], ..hello("edge", 2, MINUTE) };
    let plans = Spoke::connect(&lab, again).await.welcome().await;
    assert_eq!(plans, [("demo".to_owned(), proto::PlanKind::Repair)]);
    let again = proto::Hello { have: vec![right], ..hello("edge", 3, MINUTE) };
    let plans = Spoke::connect(&lab, again).await.welcome().await;
    assert_eq!(plans, [("demo".to_owned(), proto::PlanKind::Resume)]);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_are_signed_and_in_ones_own_name() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let other = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let forged = portreeve::wire::signed::sign_ack(&other, Bytes::new());
    spoke.send(Up::SignedAck(forged)).await;
    assert_eq!(spoke.end().await.code(), Code::Unauthenticated);
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    spoke.name.0 = "another".into();
    spoke.send_ack(proto::Ack::default()).await;
    assert_eq!(spoke.end().await.code(), Code::InvalidArgument);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_come_alone_and_whoever_is_late_is_told_what_still_denies() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let mut urgent = spoke.urgent(spoke.positions()).await;
    // An edit does not come; a revocation does.
    edited(&lab, "OPS-3").await;
    lab.revoke("ledger").await;
    let came = urgent.message().await.unwrap().unwrap();
    let kills = open_urgent(&came, &spoke.keys).unwrap();
    assert_eq!(kills.changes.len(), 1);
    assert!(kills.changes[0].denies());
    assert!(kills.previous < kills.revision);
    let killed = spoke.state.as_ref().unwrap().kill(&kills).unwrap();
    assert_eq!(killed.cell(&kills.cell).unwrap().kill_revision, kills.revision);

    let late =
        open_urgent(&spoke.urgent(spoke.positions()).await.message().await.unwrap().unwrap(), &spoke.keys);
    assert_eq!(late.unwrap().changes, kills.changes);
    // Acknowledged ahead of the order, it counts for the receipt.
    spoke.beat(1).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_several_refuse_freezes_its_cell_until_the_next() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut first = Spoke::connect(&lab, hello("a", 1, MINUTE)).await;
    first.welcome().await;
    let mut second = Spoke::connect(&lab, hello("b", 2, MINUTE)).await;
    second.welcome().await;
    let at = first.cells["demo"].0;
    edited(&lab, "OPS-4").await;
    first.send_ack(refusal(at, at + 1)).await;
    assert_eq!(plan(&mut first).await.kind(), proto::PlanKind::Repair);
    second.send_ack(refusal(at, at + 1)).await;
    lab.until_status(|status| status["frozen"][0]["before"] == json!(at)).await;
    // The head offered is the one before; a revocation still comes, on this connection too.
    let mut third = Spoke::connect(&lab, hello("c", 3, MINUTE)).await;
    third.welcome().await;
    let beat = third.beat(1).await;
    assert_eq!(beat.heads[0].revision, at);
    // The next commit ends it, and takes everyone past what was refused.
    edited(&lab, "OPS-5").await;
    lab.until_status(|status| status["frozen"] == json!([])).await;
    assert_eq!(
        plan(&mut second).await.kind(),
        proto::PlanKind::Repair,
        "it refused, and was not taken past it"
    );
    assert_eq!(plan(&mut third).await.kind(), proto::PlanKind::Repair, "it was never sent what is held back");
    lab.stop().await;
}

/// Puts the store of one directory in place of another's, its write-ahead log included.
fn copy_store(from: &Path, to: &Path) {
    for name in ["hub.db", "hub.db-wal", "hub.db-shm"] {
        std::fs::remove_file(to.join(name)).ok();
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_store_was_put_back_stops_on_proof_alone() {
    let (directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let kept = tempfile::tempdir().unwrap();
    lab.stop().await;
    copy_store(directory.path(), kept.path());
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    edited(&lab, "OPS-6").await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let head = spoke.beat(1).await.head;
    let have = spoke.positions();
    lab.stop().await;
    copy_store(kept.path(), directory.path());
    // The witness went back with the store, as where both lie on one volume.
    std::fs::remove_file(directory.path().join("hub.witness")).unwrap();

    let lab = Lab::start(directory.path(), HandClock::new()).await;
    // A claim refuses the one who makes it, a proof stops the hub.
    let claim = proto::Hello { have: have.clone(), ..hello("liar", 2, MINUTE) };
    let mut liar = Spoke::connect(&lab, claim).await;
    liar.welcome().await;
    assert_eq!(liar.end().await.code(), Code::FailedPrecondition);
    let mut other = Spoke::connect(&lab, hello("other", 3, MINUTE)).await;
    other.welcome().await;
    assert_eq!(other.beat(1).await.echo_nonce, 1);
    let proof = proto::Hello { have, head, ..hello("edge", 4, MINUTE) };
    assert_eq!(Spoke::connect(&lab, proof).await.end().await.code(), Code::FailedPrecondition);
    assert_eq!(other.end().await.code(), Code::FailedPrecondition);
    lab.until_status(|status| status["serving"] == json!(false)).await;
    // It takes no changes either, and what was proven outlives it.
    let body = json!({ "target": { "identity": "ledger" }, "reason": "test" });
    let (status, refused) = lab.ask("POST", "/v1/tenants/demo/revocations", Some(body)).await;
    assert_eq!((status, refused["detail"].to_string().contains("hub restore")), (503, true), "{refused}");
    lab.stop().await;
    let again = patiently(|| Hub::open(settings(directory.path()), HandClock::new()));
    let again = again.unwrap_err().to_string();
    assert!(again.contains("portreeve hub restore"), "{again}");
}

/// A store that lost the commit goes on to the same revision without it.
#[test]
fn a_revocation_ahead_of_the_order_stays_when_the_order_does_not_bring_it() {
    let (cell, epoch) = (Name::parse("demo").unwrap(), Epoch::from_bytes([1; 16]));
    let identity = Name::parse("ledger").unwrap();
    let revocation = |revision| Change {
        kind: RecordKind::Revocation,
        name: Name::parse(&format!("r{revision}")).unwrap(),
        generation: 1,
        revision,
        record: Some(Record::Revocation(Arc::new(Revocation {
            target: RevocationTarget::Identity { identity: identity.clone(), generation: 1 },
            reason: "test".into(),
            requested_by: "admin".into(),
            at: Timestamp::from_seconds(1),
        }))),
        dropped: false,
    };
    let batch = |from_revision, to_revision, changes| Batch {
        cell: cell.clone(),
        epoch,
        from_revision,
        to_revision,
        history_hash: [0; 32],
        state_digest: None,
        changes,
    };
    let ahead =
        KillBatch { cell: cell.clone(), epoch, previous: 1, revision: 2, changes: vec![revocation(2)] };
    let held = Snapshot::empty(Keyer::new(1)).apply(&batch(0, 1, Vec::new())).unwrap().kill(&ahead).unwrap();
    assert_eq!((held.beside(&cell).len(), held.carried(&cell).len()), (1, 0));
    for (lost, carried) in [(true, 1), (false, 0)] {
        let changes = if lost { Vec::new() } else { vec![revocation(2)] };
        let next = held.apply(&batch(1, 2, changes)).unwrap();
        assert_eq!((next.beside(&cell).len(), next.carried(&cell).len()), (carried, carried), "lost: {lost}");
    }
}

#[tokio::test]
async fn a_repair_of_everything_is_a_snapshot() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, Duration::from_secs(60))).await;
    spoke.welcome().await;
    let parts =
        spoke.repair(proto::RepairRequest { cell: "demo".into(), ..Default::default() }).await.unwrap();
    let records: usize = parts
        .iter()
        .map(|part| if let Some(Part::Changes(chunk)) = part { chunk.changes.len() } else { 0 })
        .sum();
    let state = Snapshot::empty(Keyer::new(1));
    assert!(state.is_absent());
    assert_eq!(records, spoke.records);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_outlives_the_hub_and_the_member() {
    let (directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    spoke.acknowledge().await;
    let revoked = lab.revoke("ledger").await;
    let revision = revoked["revision"].as_u64().unwrap();
    spoke.beat(1).await;
    spoke.acknowledge().await;
    let path = format!("/v1/revisions/{revision}/receipts");
    lab.until_answer(&path, |receipt| receipt["members"][0]["signed"].is_object()).await;
    lab.stop().await;

    // The hub starts anew, and the enforcement point never comes back.
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    let (_, receipt) = lab.ask("GET", &path, None).await;
    assert_eq!(
        (&receipt["state"], &receipt["members"][0]["state"]),
        (&json!("EFFECTIVE"), &json!("in_force"))
    );
    assert_eq!(receipt["guarantee"], "holds");
    let signed = &receipt["members"][0]["signed"];
    let bytes = |field: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signed[field].as_str().unwrap()).unwrap()
    };
    let checked =
        portreeve::wire::signed::check_receipt(&bytes("ack"), &bytes("signature"), &bytes("key")).unwrap();
    assert_eq!(checked.spoke_id, "edge");
    assert!(checked.covers >= revision);
    lab.stop().await;
}
