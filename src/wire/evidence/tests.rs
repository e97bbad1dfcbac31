use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::core::evidence::Door;
use crate::core::id::{DecisionId, Epoch};
use crate::core::policy::Answer;
use crate::core::time::{BootInstant, Timestamp};

fn now() -> Now {
    let wall = Timestamp::from_micros(1_795_000_000_123_456);
    Now { wall, boot: BootInstant::from_micros(77) }
}

fn log() -> LogId {
    LogId::new(1_795_000_000_000, 1 << 70)
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn facts() -> ExchangeFacts {
    ExchangeFacts {
        listener: "main".into(),
        door: Door::ExtAuthz,
        method: "GET".into(),
        peer: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        trace_id: [0xab; 16],
        span_id: [0xcd; 8],
    }
}

fn basis() -> Basis {
    Basis {
        until: None,
        credential: None,
        now: now(),
        position: Position { epoch: Epoch::from_bytes([1; 16]), revision: 4711 },
        root: 0,
        state_age: Some(Duration::from_micros(1500)),
        lease_hub_us: 1_795_000_000_100_000,
        state_warn: true,
        tenant: Some(name("acme")),
        resource: Some(name("orders")),
        route: Some("/orders/{id}".into()),
        verified: None,
        verification_cached: true,
        offer_nonce: false,
        principal: None,
        answer: Some(Arc::new(Answer {
            permits: true,
            determining: vec!["base/orders-read".into()],
            errors: vec!["base/broken".into()],
        })),
        policy_digest: Some([2; 32]),
        exceptions: vec![name("exc-1")],
        lifted: vec![Reason::HygieneOwnerless],
        shadow: vec![ShadowOutcome { set: name("next"), permits: false }],
    }
}

/// A decision with every field set.
fn whole(facts: &ExchangeFacts, basis: &Basis, long: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let fields = DecisionFields {
        effect: Effect::Allow,
        reason: "allowed",
        warnings: &[Reason::HygieneReviewLapsed],
        facts,
        mode: EvidenceMode::Require,
        basis,
        identity: Some(IdentityFields { name: "checkout", generation: 3, owner: "team-pay" }),
        credential: Some(CredentialFields {
            kind: "jwt",
            fingerprint: &[3; 16],
            issuer: "corp-idp",
            key_id: "key-1",
            expires_us: 1_795_000_300_000_000,
            token_id: long,
        }),
    };
    let mut actors = ["planner", "runner"].into_iter();
    record(&mut out, now(), 3, |out| fields.put(out, &mut actors));
    out
}

fn expected() -> proto::Decision {
    proto::Decision {
        effect: "allow".into(),
        reason: "allowed".into(),
        warnings: vec!["hygiene.review_lapsed".into()],
        listener: "main".into(),
        door: "ext_authz".into(),
        tenant: "acme".into(),
        resource: "orders".into(),
        route: "/orders/{id}".into(),
        method: "GET".into(),
        identity: "checkout".into(),
        generation: 3,
        owner: "team-pay".into(),
        on_behalf_of: vec!["planner".into(), "runner".into()],
        credential_kind: "jwt".into(),
        credential_fingerprint: vec![3; 16].into(),
        issuer: "corp-idp".into(),
        key_id: "key-1".into(),
        credential_expires_us: 1_795_000_300_000_000,
        epoch: vec![1; 16].into(),
        revision: 4711,
        state_age_us: 1500,
        state_age_known: true,
        state_warn: true,
        policy_digest: vec![2; 32].into(),
        policies: vec!["base/orders-read".into()],
        policy_errors: vec!["base/broken".into()],
        exceptions: vec!["exc-1".into()],
        lifted: vec!["hygiene.ownerless".into()],
        evidence_mode: "require".into(),
        trace_id: "ab".repeat(16),
        peer: "192.0.2.7".into(),
        verification_cached: true,
        // No part of the core measures it yet.
        decide_ns: 0,
        shadow: vec![proto::ShadowOutcome {
            policy_set: "next".into(),
            effect: "deny".into(),
            policy_digest: Vec::new().into(),
        }],
        lease_hub_us: 1_795_000_000_100_000,
        token_id: "jti-1".into(),
        span_id: "cd".repeat(8),
    }
}

fn wrap(body: proto::record::Body) -> proto::Record {
    proto::Record { at_us: 1_795_000_000_123_456, boot_us: 77, body: Some(body) }
}

#[test]
fn a_decision_is_what_the_generated_types_would_write() {
    let bytes = whole(&facts(), &basis(), "jti-1");
    let record = wrap(proto::record::Body::Decision(expected()));
    assert_eq!(decode(&bytes).unwrap(), record);
    assert_eq!(bytes, record.encode_to_vec(), "and byte for byte");
}

#[test]
fn an_empty_decision_too() {
    let mut facts = facts();
    (facts.method, facts.peer) = ("".into(), None);
    (facts.trace_id, facts.span_id) = ([0; 16], [0; 8]);
    let mut bytes = Vec::new();
    let verdict = Verdict::refuse(Reason::CredentialMissing, Basis::default());
    decision(&mut bytes, now(), EvidenceMode::BestEffort, &facts, &verdict);
    let record = wrap(proto::record::Body::Decision(proto::Decision {
        effect: "deny".into(),
        reason: "credential.missing".into(),
        listener: "main".into(),
        door: "ext_authz".into(),
        evidence_mode: "best_effort".into(),
        ..Default::default()
    }));
    assert_eq!(bytes, record.encode_to_vec());
}

/// One of each kind but decisions: as written by hand, and as the generated types hold it.
fn others() -> Vec<(Vec<u8>, proto::Record)> {
    use proto::record::Body;
    let mut all = Vec::new();
    let mut add = |write: &dyn Fn(&mut Vec<u8>), body| {
        let mut out = Vec::new();
        write(&mut out);
        all.push((out, wrap(body)));
    };
    let id = DecisionId { log: log(), place: Place::Recorded(17) };
    let taken_back = Withdrawal { decision: id, reason: Reason::IdentityRevoked, revision: 4712, now: now() };
    add(
        &|out| withdrawn(out, &taken_back),
        Body::Withdrawn(proto::Withdrawn { decision: 17, reason: "identity.revoked".into(), revision: 4712 }),
    );
    add(
        &|out| abandoned(out, now(), &facts()),
        Body::Abandoned(proto::Abandoned { listener: "main".into(), door: "ext_authz".into() }),
    );
    let group = RolledUpGroup {
        listener: "main".into(),
        resource: Some(name("orders")),
        route: Some("/orders/{id}".into()),
        reason: Reason::CredentialMissing,
        count: 900,
    };
    let rolled = RolledUp { first: 1, count: 900, from_us: -1, to_us: 5, groups: vec![group] };
    add(
        &|out| rolled_up(out, now(), &rolled),
        Body::RolledUp(proto::RolledUp {
            first: 1,
            count: 900,
            from_us: -1,
            to_us: 5,
            groups: vec![proto::RolledUpGroup {
                listener: "main".into(),
                resource: "orders".into(),
                route: "/orders/{id}".into(),
                reason: "credential.missing".into(),
                count: 900,
            }],
        }),
    );
    let missing = Loss { count: 8, cause: "unclean_end", upper_bound: true, log: log() };
    add(
        &|out| loss(out, now(), &missing),
        Body::Loss(proto::Loss {
            count: 8,
            cause: "unclean_end".into(),
            upper_bound: true,
            log_id: log().to_bytes().to_vec().into(),
        }),
    );
    let opening = Opening {
        spoke_id: "edge-1",
        incarnation: &[9; 16],
        predecessor: Some(log()),
        predecessor_size: 812,
        predecessor_closed: true,
        torn_bytes: 40,
        build: "0.1.0",
    };
    add(
        &|out| log_open(out, now(), &opening),
        Body::LogOpen(proto::LogOpen {
            spoke_id: "edge-1".into(),
            incarnation: vec![9; 16].into(),
            predecessor: log().to_bytes().to_vec().into(),
            predecessor_size: 812,
            predecessor_closed: true,
            torn_bytes: 40,
            build: "0.1.0".into(),
        }),
    );
    let closing = Closing { decisions: 10, records: 7, rolled_up: 2, lost: 1 };
    add(
        &|out| log_close(out, now(), &closing),
        Body::LogClose(proto::LogClose { decisions: 10, records: 7, rolled_up: 2, lost: 1 }),
    );
    let revocations: [Arc<str>; 1] = ["rev-9".into()];
    add(
        &|out| in_force(out, now(), "acme", basis().position, &revocations, [12, 3]),
        Body::InForce(proto::InForce {
            cell: "acme".into(),
            epoch: vec![1; 16].into(),
            revision: 4711,
            revocations: vec!["rev-9".into()],
            purged: 12,
            ended_streams: 3,
        }),
    );
    let ended = Severance {
        decision: id,
        reason: Reason::IdentityRevoked,
        revision: 4712,
        open_for: Duration::from_micros(99),
        now: now(),
    };
    add(
        &|out| severed(out, &ended),
        Body::Severed(proto::Severed {
            decision: 17,
            reason: "identity.revoked".into(),
            revision: 4712,
            open_us: 99,
        }),
    );
    all
}

#[test]
fn so_are_all_other_kinds() {
    for (bytes, record) in others() {
        assert_eq!(decode(&bytes).unwrap(), record);
        assert_eq!(bytes, record.encode_to_vec(), "and byte for byte: {record:?}");
    }
}

#[test]
fn text_is_cut_at_a_character() {
    for (text, kept) in [
        ("x".repeat(256), "x".repeat(256)),
        ("x".repeat(257), "x".repeat(256)),
        (format!("{}é", "x".repeat(255)), "x".repeat(255)),
        ("é".repeat(200), "é".repeat(128)),
    ] {
        let record = decode(&whole(&facts(), &basis(), &text)).unwrap();
        let Some(proto::record::Body::Decision(decision)) = record.body else { panic!() };
        assert_eq!(decision.token_id, kept);
    }
}

#[test]
fn the_longest_records_stay_below_the_cap() {
    let long: Arc<str> = "é".repeat(4000).into();
    let long_name = name(&"n".repeat(128));
    let mut basis = basis();
    basis.route = Some(Arc::clone(&long));
    basis.exceptions = vec![long_name.clone(); 1000];
    basis.lifted = vec![Reason::HygieneRotationOverdue; 1000];
    basis.shadow = vec![ShadowOutcome { set: long_name.clone(), permits: true }; 1000];
    let texts = vec![Arc::clone(&long); 1000];
    basis.answer = Some(Arc::new(Answer { permits: true, determining: texts.clone(), errors: texts }));
    let mut facts = facts();
    (facts.listener, facts.method) = (Arc::clone(&long), Arc::clone(&long));
    assert!(whole(&facts, &basis, &long).len() < RECORD_BYTES_MAX);

    let reasons = Reason::ALL.iter().cycle().take(ROLLED_UP_GROUPS_MAX + Reason::ALL.len());
    let groups = reasons.map(|reason| RolledUpGroup {
        listener: Arc::clone(&long),
        resource: Some(long_name.clone()),
        route: Some(Arc::clone(&long)),
        reason: *reason,
        count: u64::MAX,
    });
    let rolled = RolledUp { groups: groups.collect(), ..RolledUp::default() };
    let mut out = Vec::new();
    rolled_up(&mut out, now(), &rolled);
    assert!(out.len() < RECORD_BYTES_MAX, "{}", out.len());
}

#[test]
fn a_line_is_one_line_whatever_it_holds() {
    let nasty = "a\r\n\u{1b}[31m\u{9b}\u{7f}\u{2028}\u{2029}\"\\é";
    let record = decode(&whole(&facts(), &basis(), nasty)).unwrap();
    let line = json_line(&record, log(), 5);
    let body = line.strip_suffix('\n').unwrap();
    assert!(!body.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')));
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(value["token_id"], nasty);
}

/// The examples in docs/evidence.md, in order, are exactly what is written.
#[test]
fn the_documentation_shows_what_is_written() {
    let mut records = vec![decode(&whole(&facts(), &basis(), "jti-1")).unwrap()];
    records.extend(others().into_iter().map(|(_, record)| record));
    let mut lines: Vec<_> = (17..).zip(&records).map(|(n, it)| json_line(it, log(), n)).collect();
    lines.push(missing_line(log(), 30, Some(34)));
    lines.push(undecodable_line(log(), 35, 12));
    let page = include_str!("../../../docs/evidence.md");
    let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let shown: Vec<_> = blocks.collect();
    assert_eq!(lines.concat(), shown.concat(), "docs/evidence.md is out of step");
}
