//! What is over is let go of, and nobody's access comes back by it.

use std::time::Duration;

use portreeve::core::id::Name;
use portreeve::core::identity::{Keyer, Snapshot};
use portreeve::hub::{HubSettings, RetentionSettings};
use portreeve::wire::state_proto::PlanKind;
use portreeve::wire::state_proto::hub_message::Message as Down;
use serde_json::{Value, json};

use super::lab::{HandClock, Lab, demo, document, resource_spec, settings};
use super::stream::{MINUTE, Spoke, hello};

const HOUR: Duration = Duration::from_secs(3600);

fn looking_often(directory: &std::path::Path, log: Duration) -> HubSettings {
    let retention = RetentionSettings { log, look_every: Duration::from_millis(5), ..Default::default() };
    HubSettings { retention, ..settings(directory) }
}

async fn revise(lab: &Lab, environment: &str) -> u64 {
    let mut spec = resource_spec();
    spec["environment"] = json!(environment);
    lab.apply(&[document("resource", "orders", spec)]).await["tenants"][0]["revision"].as_u64().unwrap()
}

/// How a stream goes on that shows this position of the tenant.
async fn plan(lab: &Lab, of: &Spoke, revision: u64, hash: [u8; 32]) -> Option<PlanKind> {
    let mut position = of.positions().pop().unwrap();
    position.revision = revision;
    position.history_hash = bytes::Bytes::copy_from_slice(&hash);
    let mut back = Spoke::connect(lab, proto_hello(vec![position])).await;
    back.welcome().await.pop().map(|(_, kind)| kind)
}

fn proto_hello(have: Vec<portreeve::wire::state_proto::CellPosition>) -> portreeve::wire::state_proto::Hello {
    portreeve::wire::state_proto::Hello { have, ..hello("back", 2, MINUTE) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_trimmed_behind_its_window_and_streams_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::start_with(looking_often(directory.path(), 2 * HOUR), HandClock::new()).await;
    lab.apply(&demo()).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let (_, first) = spoke.cells["demo"];
    revise(&lab, "staging").await;
    spoke.beat(1).await;
    let (_, second) = spoke.cells["demo"];
    assert_eq!(plan(&lab, &spoke, 1, first).await, Some(PlanKind::Resume));
    lab.clock.pass(2 * HOUR + Duration::from_micros(1));
    lab.until_status(|status| status["log_begins"] == json!(3)).await;
    // Whoever stands where the tenant does has missed nothing, whatever became of the log.
    assert_eq!(plan(&lab, &spoke, 2, second).await, Some(PlanKind::Resume));
    assert_eq!(plan(&lab, &spoke, 1, first).await, Some(PlanKind::Repair));
    assert_eq!(revise(&lab, "prod").await, 3);
    spoke.beat(2).await;
    assert_eq!(spoke.cells["demo"].0, 3, "an open stream went on");
    let (_, third) = spoke.cells["demo"];
    assert_eq!(plan(&lab, &spoke, 3, third).await, Some(PlanKind::Resume));
    assert_eq!(plan(&lab, &spoke, 2, second).await, Some(PlanKind::Repair));
    let mut fresh = Spoke::connect(&lab, hello("fresh", 1, MINUTE)).await;
    assert_eq!(fresh.welcome().await, [("demo".to_owned(), PlanKind::Snapshot)]);
    fresh.beat(1).await;
    assert_eq!(fresh.cells["demo"], (3, third));
    lab.stop().await;
    // The witness is content with a store whose log begins later.
    let lab = Lab::start_with(looking_often(directory.path(), 2 * HOUR), HandClock::new()).await;
    lab.until_status(|status| status["serving"] == json!(true)).await;
    lab.stop().await;
}

/// A stream that is to begin before the log does: what is no longer in memory is not in the store either.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_falls_behind_the_log_is_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::start_with(looking_often(directory.path(), 2 * HOUR), HandClock::new()).await;
    lab.apply(&demo()).await;
    // The first snapshot is made, and kept.
    Spoke::connect(&lab, hello("first", 1, MINUTE)).await.welcome().await;
    let mut last = 0;
    for turn in 0..BIG_COMMITS {
        let cedar = format!("permit (principal, action, resource); // {turn} {}", "x".repeat(BIG));
        let spec = json!({ "cedar": cedar, "mode": "shadow" });
        last =
            lab.apply(&[document("policy", "big", spec)]).await["tenants"][0]["revision"].as_u64().unwrap();
    }
    lab.clock.pass(2 * HOUR + Duration::from_micros(1));
    lab.until_status(|status| status["log_begins"] == json!(last + 1)).await;
    let mut late = Spoke::connect(&lab, hello("late", 1, MINUTE)).await;
    assert_eq!(late.welcome().await, [("demo".to_owned(), PlanKind::Snapshot)]);
    assert_eq!(late.cells["demo"].0, 1, "the snapshot that was kept");
    let Down::Plan(plan) = late.next().await.unwrap() else { panic!("no plan") };
    assert_eq!((plan.kind(), &*plan.cell), (PlanKind::Repair, "demo"));
    lab.stop().await;
}

const BIG: usize = 200 * 1024;
const BIG_COMMITS: u64 = 100;

async fn named(lab: &Lab, kind: &str) -> Vec<String> {
    let (_, page) = lab.ask("GET", &format!("/v1/tenants/demo/{kind}"), None).await;
    page["items"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

async fn revoke(lab: &Lab, target: Value) -> String {
    let body = json!({ "target": target, "reason": "test" });
    let (status, made) = lab.ask("POST", "/v1/tenants/demo/revocations", Some(body)).await;
    assert_eq!(status, 201, "{made:#}");
    made["name"].as_str().unwrap().to_owned()
}

fn time(lab: &Lab, later: Duration) -> String {
    use portreeve::core::time::Clock as _;
    let us = lab.clock.now().wall.after(later).as_micros();
    jiff::Timestamp::from_microsecond(us).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_denies_nothing_any_more_is_let_go_of_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let open = || looking_often(directory.path(), HOUR);
    let clock = HandClock::new();
    let lab = Lab::start_with(open(), clock.clone()).await;
    let mut documents = demo();
    documents.push(document("resource", "old", resource_spec()));
    let mut cluster = documents.iter().find(|it| it["kind"] == "issuer").unwrap().clone();
    cluster["name"] = json!("cluster");
    (cluster["spec"]["iss"], cluster["spec"]["profile"]) =
        (json!("https://cluster.example"), json!("kubernetes"));
    documents.push(cluster);
    lab.apply(&documents).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    // Goes: a token that ends, a revocation that was lifted, what a later cut covers, a removed record.
    let token = |jti: &str, later| json!({ "issuer": "main", "jti": jti, "expires": time(&lab, later) });
    let ended = revoke(&lab, token("t1", HOUR / 2)).await;
    let digest = json!({ "token_digest": "A".repeat(43), "expires": time(&lab, HOUR / 2) });
    let ended_too = revoke(&lab, digest).await;
    let cut =
        revoke(&lab, json!({ "identity": "ledger", "issued_before": time(&lab, Duration::ZERO) })).await;
    let lifted = revoke(&lab, json!({ "identity": "ledger" })).await;
    let back = json!({ "status": "active", "reason": "x", "lifts": [lifted] });
    assert_eq!(lab.ask("POST", "/v1/tenants/demo/identity/ledger/status", Some(back)).await.0, 200);
    assert_eq!(lab.ask("DELETE", "/v1/tenants/demo/resource/old", None).await.0, 200);
    // Stays: a token that lives, an identity that is revoked, and a cut that only the revocation knows.
    let lives = revoke(&lab, token("t2", 30 * 24 * HOUR)).await;
    // It may be that of a pod, which has new tokens for as long as it lives.
    let pod = json!({ "issuer": "cluster", "jti": "pod-uid", "expires": time(&lab, HOUR / 2) });
    let pod = revoke(&lab, pod).await;
    let whole = revoke(&lab, json!({ "identity": "batch" })).await;
    let before = revoke(&lab, json!({ "identity": "batch", "issued_before": time(&lab, HOUR) })).await;
    let all = [&ended, &ended_too, &cut, &lifted, &lives, &pod, &whole, &before].map(String::clone);
    spoke.beat(1).await;
    // The log goes; a token of one hour may live for longer, by a slow clock and an old lease.
    let (lifetime, past_end, lease) = (HOUR, HOUR + Duration::from_secs(600), MINUTE + MINUTE / 2000);
    lab.clock.pass(lifetime + past_end + lease);
    lab.until_status(|status| status["log_begins"] == json!(12)).await;
    for _ in 0..50 {
        let mut held = named(&lab, "revocation").await;
        held.sort_by_key(|name| name[1..].parse::<u64>().unwrap());
        assert_eq!(held, all, "let go of too early");
    }
    lab.clock.pass(Duration::from_micros(1));
    lab.until_answer("/v1/tenants/demo/revocation", |page| page["items"].as_array().unwrap().len() == 4)
        .await;
    let mut kept = named(&lab, "revocation").await;
    kept.sort_by_key(|name| name[1..].parse::<u64>().unwrap());
    assert_eq!(kept, [lives.clone(), pod.clone(), whole.clone(), before.clone()]);
    // A revocation is told of from its record, where the log is silent; of what was dropped, the receipts.
    let again = lab
        .ask(
            "POST",
            "/v1/tenants/demo/revocations",
            Some(json!({ "target": { "identity": "batch" }, "reason": "x" })),
        )
        .await;
    assert_eq!((again.0, &again.1["name"], &again.1["state"]), (200, &json!(whole), &json!("EFFECTIVE")));
    let (status, receipt) = lab.ask("GET", &format!("/v1/revisions/{}/receipts", &whole[1..]), None).await;
    assert_eq!(
        (status, &receipt["state"], receipt["committed_at"].is_string()),
        (200, &json!("EFFECTIVE"), true)
    );
    let (status, nothing) = lab.ask("GET", "/v1/revisions/1/receipts", None).await;
    assert_eq!(status, 422, "{nothing:#}");
    assert!(nothing["detail"].as_str().unwrap().starts_with("the change log begins"), "{nothing:#}");
    // It came as a change like any other; whoever was there and whoever comes hold the same.
    spoke.beat(2).await;
    let digest = |spoke: &Spoke| spoke.state.as_ref().unwrap().cells()[0].state_digest;
    let mut late = Spoke::connect(&lab, hello("late", 1, MINUTE)).await;
    late.welcome().await;
    late.beat(1).await;
    assert_eq!((digest(&spoke), spoke.cells["demo"]), (digest(&late), late.cells["demo"]));
    let state = spoke.state.clone().unwrap();
    let of = |name: &str| Name::parse(name).unwrap();
    assert_eq!(state.stats().revocations, 4);
    assert!(state.resource(&of("demo"), &of("old")).is_none(), "not even a tombstone");
    assert_eq!(state.identity(&of("demo"), &of("ledger")).unwrap().generation, 2);
    // The name is never used again, nor after a restart.
    let again = json!({ "documents": [document("resource", "old", resource_spec())] });
    let refused = lab.ask("POST", "/v1/apply", Some(again.clone())).await;
    assert_eq!(refused.0, 409, "{:#}", refused.1);
    assert!(refused.1.to_string().contains("names are never reused"), "{:#}", refused.1);
    lab.stop().await;
    let lab = Lab::start_with(open(), clock).await;
    assert_eq!(lab.ask("POST", "/v1/apply?dry_run=true", Some(again)).await, refused);
    let mut anew = Spoke::connect(&lab, hello("anew", 1, MINUTE)).await;
    anew.state = Some(Snapshot::empty(Keyer::new(3)));
    anew.welcome().await;
    anew.beat(1).await;
    assert_eq!(digest(&anew), digest(&late));
    lab.stop().await;
}
