//! Which tenants an enforcement point holds: told, withdrawn, acknowledged; and receipts meanwhile.

use std::time::Duration;

use portreeve::wire::state_proto as proto;
use portreeve::wire::state_proto::hub_message::Message as Down;
use serde_json::{Value, json};
use tonic::Code;

use super::lab::{Lab, demo, document, resource_spec};
use super::stream::{MINUTE, Spoke, hello, lab};

/// The tenants `demo` and `other`, one record each at least.
async fn two_tenants(lab: &Lab) {
    lab.apply(&demo()).await;
    lab.apply(&[of_other("resource", "x", resource_spec())]).await;
}

fn of_other(kind: &str, name: &str, spec: Value) -> Value {
    let mut document = document(kind, name, spec);
    document["tenant"] = json!("other");
    document
}

/// An enforcement point that holds `demo` under a lease.
async fn holder(lab: &Lab) -> Spoke {
    scope(lab, "edge", &["demo"]).await;
    let mut spoke = Spoke::connect(lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    spoke.beat(1).await;
    spoke
}

/// Nobody is waited for, nor listed.
async fn concerns_nobody(lab: &Lab, revision: u64) {
    let receipt = receipt(lab, revision).await;
    assert_eq!((&receipt["state"], &receipt["members"]), (&json!("EFFECTIVE"), &json!([])));
}

async fn scope(lab: &Lab, id: &str, tenants: &[&str]) -> u64 {
    let path = format!("/v1/fleet/{id}/scope");
    let (status, body) = lab.ask("PUT", &path, Some(json!({ "tenants": tenants }))).await;
    assert_eq!((status, &body["scope"]), (200, &json!(tenants)), "{body:#}");
    body["scope_version"].as_u64().unwrap()
}

async fn receipt(lab: &Lab, revision: u64) -> Value {
    let (status, body) = lab.ask("GET", &format!("/v1/revisions/{revision}/receipts"), None).await;
    assert_eq!(status, 200, "{body:#}");
    body
}

async fn next_plan(spoke: &mut Spoke) -> proto::CellPlan {
    match spoke.next().await.unwrap() {
        Down::Plan(plan) => plan,
        other => panic!("no plan: {other:?}"),
    }
}

fn in_force(spoke: &Spoke, scope_version: u64) -> proto::Ack {
    proto::Ack { in_force: spoke.positions(), scope_version, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_tenants_of_its_scope_are_told() {
    let (_directory, lab) = lab().await;
    two_tenants(&lab).await;
    let version = scope(&lab, "edge", &["demo"]).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    assert_eq!(spoke.welcome().await, [("demo".to_owned(), proto::PlanKind::Snapshot)]);
    let mut urgent = spoke.urgent(spoke.positions()).await;
    // Neither by a delta, nor by a head, nor alone, nor by a repair.
    let mut more = of_other("identity", "ledger", super::lab::identity_spec("ledger"));
    more["spec"]["bindings"] = json!([]);
    lab.apply(&[more]).await;
    let kill = json!({ "target": { "identity": "ledger" }, "reason": "test" });
    assert_eq!(lab.ask("POST", "/v1/tenants/other/revocations", Some(kill)).await.0, 201);
    let beat = spoke.beat(1).await;
    assert_eq!((beat.heads.len(), beat.scope_version), (1, version));
    assert_eq!(beat.heads[0].cell, "demo");
    assert!(!spoke.cells.contains_key("other"));
    lab.revoke("ledger").await;
    let first = urgent.message().await.unwrap().unwrap();
    let first = portreeve::wire::state::open_urgent(&first, &spoke.keys).unwrap();
    assert_eq!(first.cell.as_str(), "demo", "a revocation of another tenant came before it");
    let repair = |cell: &str| proto::RepairRequest {
        cell: cell.into(),
        spoke_id: "edge".into(),
        ..Default::default()
    };
    assert_eq!(spoke.repair(repair("other")).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(spoke.repair(repair("demo")).await.is_ok());
    // Nobody waits for it where it holds nothing.
    let (_, fleet) = lab.ask("GET", "/v1/fleet", None).await;
    assert_eq!(
        (&fleet["members"][0]["scope"], &fleet["admissions"][0]["id"]),
        (&json!(["demo"]), &json!("edge"))
    );
    concerns_nobody(&lab, 4).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_comes_is_brought_in_and_one_that_goes_is_waited_for() {
    let (_directory, lab) = lab().await;
    two_tenants(&lab).await;
    let mut spoke = holder(&lab).await;
    // It comes: to be repaired from nothing, then its deltas follow.
    let version = scope(&lab, "edge", &["demo", "other"]).await;
    let plan = next_plan(&mut spoke).await;
    assert_eq!((plan.kind(), &*plan.cell, plan.scope_version), (proto::PlanKind::Repair, "other", version));
    let asked = proto::RepairRequest { cell: "other".into(), spoke_id: "edge".into(), ..Default::default() };
    let parts = spoke.repair(asked).await.unwrap();
    let Some(proto::repair_part::Part::Manifest(manifest)) = &parts[0] else { panic!("no manifest") };
    let manifest = portreeve::wire::state::open_manifest(manifest, &spoke.keys).unwrap();
    let hash = <[u8; 32]>::try_from(&manifest.history_hash[..]).unwrap();
    spoke.cells.insert("other".to_owned(), (manifest.revision, hash));
    spoke.state = None;
    assert_eq!(spoke.beat(2).await.scope_version, version);
    spoke.send_ack(in_force(&spoke, version)).await;
    lab.apply(&[of_other("resource", "y", resource_spec())]).await;
    spoke.beat(3).await;
    assert_eq!(spoke.cells["other"].0, 3);

    // It goes: until that is acknowledged, receipts of it wait for this member.
    let version = scope(&lab, "edge", &["other"]).await;
    let plan = next_plan(&mut spoke).await;
    assert_eq!((plan.kind(), &*plan.cell, plan.scope_version), (proto::PlanKind::Withdrawn, "demo", version));
    let revision = lab.revoke("ledger").await["revision"].as_u64().unwrap();
    let beat = spoke.beat(4).await;
    assert_eq!((beat.scope_version, beat.heads.len()), (version, 0), "what went is named no more");
    // Under the new version, and with the tenant still in force: it says itself that it is not done.
    spoke.send_ack(in_force(&spoke, version)).await;
    spoke.beat(5).await;
    let waiting = receipt(&lab, revision).await;
    assert_eq!((&waiting["state"], &waiting["members"][0]["state"]), (&json!("PENDING"), &json!("pending")));
    let (_, fleet) = lab.ask("GET", "/v1/fleet", None).await;
    assert_eq!(fleet["members"][0]["withdrawing"], json!(["demo"]));
    spoke.cells.remove("demo");
    // Without it, but under the version before: not either.
    spoke.send_ack(in_force(&spoke, version - 1)).await;
    spoke.beat(6).await;
    assert_eq!(receipt(&lab, revision).await["state"], "PENDING");
    spoke.send_ack(in_force(&spoke, version)).await;
    spoke.beat(7).await;
    concerns_nobody(&lab, revision).await;
    let (_, fleet) = lab.ask("GET", "/v1/fleet", None).await;
    let held = fleet["members"][0]["cells"].as_array().unwrap();
    assert_eq!(held.iter().map(|cell| &cell["tenant"]).collect::<Vec<_>>(), [&json!("other")]);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_withdrawn_out_of_reach_is_not_effective_before_the_lease_is_over() {
    for returns in [false, true] {
        let (_directory, lab) = lab().await;
        two_tenants(&lab).await;
        let spoke = holder(&lab).await;
        spoke.acknowledge().await;
        let have = spoke.positions();
        drop(spoke);
        lab.until_status(|status| status["members_connected"] == 0).await;
        lab.clock.pass(Duration::from_secs(10));
        let version = scope(&lab, "edge", &["other"]).await;
        let revision = lab.revoke("ledger").await["revision"].as_u64().unwrap();
        assert_eq!(receipt(&lab, revision).await["state"], "PENDING");
        let mut again = if returns {
            // The same process comes back holding it: told to drop it, and waited for until it says so.
            let hello = proto::Hello { have: have.clone(), ..hello("edge", 1, MINUTE) };
            let mut again = Spoke::connect(&lab, hello).await;
            let plans = again.welcome().await;
            assert!(plans.contains(&("demo".to_owned(), proto::PlanKind::Withdrawn)), "{plans:?}");
            again.beat(1).await;
            assert_eq!(receipt(&lab, revision).await["state"], "PENDING");
            Some(again)
        } else {
            None
        };
        match &mut again {
            Some(again) => {
                again.send_ack(in_force(again, version)).await;
                again.beat(2).await;
            }
            // Answered last at the beginning: its lease is over 60.03 s after that.
            None => {
                lab.clock.pass(Duration::from_millis(50_030));
                assert_eq!(receipt(&lab, revision).await["state"], "PENDING");
                lab.clock.pass(Duration::from_micros(1));
            }
        }
        assert_eq!(receipt(&lab, revision).await["state"], "EFFECTIVE", "returns: {returns}");
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_hub_takes_nobody_for_done_with_what_it_may_hold() {
    let (directory, lab) = lab().await;
    two_tenants(&lab).await;
    drop(holder(&lab).await);
    lab.until_status(|status| status["members_connected"] == 0).await;
    scope(&lab, "edge", &[]).await;
    let clock = lab.clock.clone();
    lab.stop().await;
    let lab = Lab::start(directory.path(), clock).await;
    let revision = lab.revoke("ledger").await["revision"].as_u64().unwrap();
    assert_eq!(receipt(&lab, revision).await["state"], "PENDING");
    lab.clock.pass(Duration::from_millis(60_031));
    assert_eq!(receipt(&lab, revision).await["members"][0]["state"], "lapsed");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_removed_is_turned_away_until_admitted_anew() {
    let (_directory, lab) = lab().await;
    two_tenants(&lab).await;
    let mut spoke = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    spoke.welcome().await;
    let mut other = Spoke::connect(&lab, hello("other", 2, MINUTE)).await;
    other.welcome().await;
    let (status, removed) = lab.ask("DELETE", "/v1/fleet/edge", None).await;
    assert_eq!((status, &removed["removed"], &removed["scope"]), (200, &json!(true), &json!([])));
    assert_eq!(spoke.end().await.code(), Code::PermissionDenied);
    let again = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await.end().await;
    assert_eq!(again.code(), Code::PermissionDenied);
    assert!(again.message().contains("removed from the fleet"), "{again}");
    other.beat(1).await;
    scope(&lab, "edge", &["demo"]).await;
    let mut back = Spoke::connect(&lab, hello("edge", 1, MINUTE)).await;
    assert_eq!(back.welcome().await.len(), 1);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_that_say_nothing_or_too_much_are_refused() {
    let (_directory, lab) = lab().await;
    let many: Vec<_> = (0..1025).map(|n| format!("t{n}")).collect();
    for body in [
        json!({}),
        json!({ "tenants": ["a"], "all": true }),
        json!({ "tenants": ["A"] }),
        json!({ "tenants": many }),
        json!({ "all": false }),
        json!({ "stranger": 1 }),
    ] {
        let (status, answer) = lab.ask("PUT", "/v1/fleet/edge/scope", Some(body.clone())).await;
        assert_eq!(status, 422, "{body} {answer:#}");
    }
    assert_eq!(lab.ask("PUT", "/v1/fleet/Edge/scope", Some(json!({ "all": true }))).await.0, 422);
    // A stream in clear has nothing to join.
    let (status, answer) = lab.ask("POST", "/v1/join-tokens", Some(json!({ "id": "edge" }))).await;
    assert_eq!(status, 409, "{answer:#}");
    lab.stop().await;
}
