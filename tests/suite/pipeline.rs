//! The decision path: each step's refusals beside its allows.

use std::sync::Arc;
use std::time::Duration;

use portreeve::core::evidence::EvidenceMode;
use portreeve::core::id::Epoch;
use portreeve::core::identity::{
    Batch, Binding, Change, Credential, CredentialKind, CredentialStatus, Exception, Hygiene, HygieneMode,
    HygieneRule, Identity, IdentityStatus, Issuer, Keyer, KillBatch, Lease, Owner, PolicyMode, Record,
    RecordKind, Revocation, RevocationTarget, Snapshot, TokenProfile,
};
use portreeve::core::policy::{
    DEFAULT_POLICY, Effect, Presentation, Reason, RouteRules, ServiceRef, Staleness,
};
use portreeve::core::time::{Clock as _, Timestamp};
use serde_json::json;

use crate::support::clock::ManualClock;
use crate::support::evidence::Entry;
use crate::support::world::{TENANT, World, facts, identity, name, policy, rules};

const START: Timestamp = ManualClock::START;

fn later(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

fn revocation(target: RevocationTarget) -> Record {
    Record::Revocation(Arc::new(Revocation {
        target,
        reason: "test".into(),
        requested_by: "admin".into(),
        at: START,
    }))
}

#[test]
fn a_key_is_blocked_ahead_of_the_order_also_by_a_record_that_is_new() {
    for own in [false, true] {
        let world = World::new();
        assert_eq!(world.read_orders("ledger"), None);
        let mut fingerprint = *world.log.last_verdict().basis().verified.as_ref().unwrap().key_thumbprint();
        fingerprint[0] ^= u8::from(!own);
        let held = world.state.load();
        let cell = held.cell(&name(TENANT)).unwrap().clone();
        let record = Record::Credential(Arc::new(Credential {
            kind: CredentialKind::SigningKey,
            identity: None,
            fingerprint,
            digest: None,
            issued: None,
            rotate_by: None,
            expires: None,
            status: CredentialStatus::Revoked,
            source: None,
        }));
        let change = Change {
            kind: RecordKind::Credential,
            name: name("leaked"),
            generation: 1,
            revision: cell.revision + 1,
            record: Some(record),
            dropped: false,
        };
        let kills = KillBatch {
            cell: cell.cell.clone(),
            epoch: cell.epoch,
            previous: cell.kill_revision,
            revision: cell.revision + 1,
            changes: vec![change.clone()],
        };
        let next = held.kill(&kills).unwrap();
        assert_eq!(next.beside(&cell.cell), std::slice::from_ref(&change), "told of once");
        drop(held);
        world.state.publish(next);
        let refused = own.then_some(Reason::CredentialRevoked);
        assert_eq!(world.read_orders("ledger"), refused, "ahead, own {own}");
        // The order brings it, and nothing is left beside the table.
        world.put(vec![("leaked", 1, change.record.unwrap())]);
        assert_eq!(world.read_orders("ledger"), refused, "in order, own {own}");
        assert_eq!(world.state.load().beside(&cell.cell), []);
    }
}

#[test]
fn routes_and_entitlements() {
    let world = World::new();
    let mut reports = identity("reports");
    reports.entitlements.clear();
    world.put_identity("reports", 1, reports);
    let mut lapsed = identity("lapsed");
    lapsed.entitlements[0].expires = Some(START);
    world.put_identity("lapsed", 1, lapsed);
    let mut lasting = identity("lasting");
    lasting.entitlements[0].expires = Some(START.after(Duration::from_micros(1)));
    world.put_identity("lasting", 1, lasting);
    let rows = [
        ("ledger", "GET", "/orders/1", None),
        ("ledger", "HEAD", "/orders/1", None),
        ("ledger", "POST", "/orders", Some(Reason::PolicyDenied)),
        ("ledger", "DELETE", "/orders/1", Some(Reason::PolicyDenied)),
        ("ledger", "get", "/orders/1", Some(Reason::PolicyDenied)),
        ("ledger", "GET", "/admin", Some(Reason::PolicyDenied)),
        ("reports", "GET", "/orders/1", Some(Reason::PolicyDenied)),
        ("lapsed", "GET", "/orders/1", Some(Reason::PolicyDenied)),
        ("lasting", "GET", "/orders/1", None),
        ("nobody", "GET", "/orders/1", Some(Reason::IdentityUnknown)),
    ];
    for (subject, method, path, expected) in rows {
        let token = world.token(&world.claims(subject));
        let decided = world.decide(&world.exchange(Some(&token), method, path));
        assert_eq!(decided, expected, "{subject} {method} {path}");
        assert_eq!(world.log.last_verdict().reason(), expected, "{subject} {method} {path}: on record");
    }
    assert_eq!(world.log.held(), 0, "every slot was given back");
}

#[test]
fn no_credential_or_none_that_is_one() {
    let world = World::new();
    let nothing = world.exchange(None, "GET", "/orders/1");
    assert_eq!(world.decide(&nothing), Some(Reason::CredentialMissing));
    let mut malformed = world.exchange(None, "GET", "/orders/1");
    malformed.presentation = Presentation::Malformed;
    assert_eq!(world.decide(&malformed), Some(Reason::CredentialMalformed));
}

#[test]
fn anonymous_is_stated_and_recorded() {
    let world = World::new();
    let mut exchange = world.exchange(None, "GET", "/healthz");
    exchange.service = None;
    assert_eq!(world.decide(&exchange), Some(Reason::PolicyDenied), "no service is not anonymous");
    exchange.rules = Arc::new(RouteRules { anonymous: true, ..rules() });
    assert_eq!(world.decide(&exchange), None);
    assert_eq!(world.log.last_verdict().effect(), Effect::Allow);
    let mut named = world.exchange(None, "GET", "/orders/1");
    named.rules = Arc::new(RouteRules { anonymous: true, ..rules() });
    assert_eq!(world.decide(&named), Some(Reason::CredentialMissing), "a service is never anonymous");
}

#[test]
fn standing_of_an_identity() {
    let with = |change: fn(&mut Identity)| {
        let mut value = identity("ledger");
        change(&mut value);
        value
    };
    let rows = [
        (with(|_| {}), None),
        (with(|i| i.status = IdentityStatus::Pending), Some(Reason::IdentitySuspended)),
        (with(|i| i.status = IdentityStatus::Suspended), Some(Reason::IdentitySuspended)),
        (with(|i| i.status = IdentityStatus::Retired), Some(Reason::IdentityRetired)),
        (with(|i| i.end = Some(START)), Some(Reason::IdentityExpired)),
        (with(|i| i.end = Some(later(1))), None),
        // The token is issued at START; with 30 s of leeway a cut 30 s before is the last that lets it pass.
        (with(|i| i.not_before = Some(START.before(Duration::from_secs(30)))), None),
        (
            with(|i| i.not_before = Some(START.before(Duration::from_secs(29)))),
            Some(Reason::CredentialRevoked),
        ),
        (with(|i| i.bindings.clear()), Some(Reason::IdentityUnknown)),
    ];
    for (at, (value, expected)) in rows.into_iter().enumerate() {
        let world = World::new();
        world.put_identity("ledger", 1, value);
        assert_eq!(world.read_orders("ledger"), expected, "row {at}");
    }
}

#[test]
fn every_shape_of_revocation_beats_a_remembered_token() {
    let digest = |token: &str| {
        let input = token.rsplit_once('.').unwrap().0;
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, input.as_bytes()).as_ref().try_into().unwrap()
    };
    let expires = later(300);
    type Target = fn(&World, [u8; 32], Timestamp) -> RevocationTarget;
    let rows: [(Target, Option<Reason>); 7] = [
        (
            |_, _, expires| RevocationTarget::TokenId {
                issuer: name("main"),
                jti: "ledger-1".into(),
                expires,
            },
            Some(Reason::CredentialRevoked),
        ),
        (
            |_, _, expires| RevocationTarget::TokenId { issuer: name("main"), jti: "other".into(), expires },
            None,
        ),
        (
            |_, digest, expires| RevocationTarget::TokenDigest { digest, expires },
            Some(Reason::CredentialRevoked),
        ),
        (
            |_, _, _| RevocationTarget::IssuedBefore { identity: name("ledger"), not_before: START },
            Some(Reason::CredentialRevoked),
        ),
        (
            |_, _, _| RevocationTarget::IssuedBefore {
                identity: name("ledger"),
                not_before: START.before(Duration::from_secs(30)),
            },
            None,
        ),
        (
            |_, _, _| RevocationTarget::Identity { identity: name("ledger"), generation: 1 },
            Some(Reason::IdentityRevoked),
        ),
        (|_, _, _| RevocationTarget::Identity { identity: name("other"), generation: 9 }, None),
    ];
    for (at, (target, expected)) in rows.into_iter().enumerate() {
        let world = World::new();
        let token = world.token(&world.claims("ledger"));
        let exchange = world.exchange(Some(&token), "GET", "/orders/1");
        assert_eq!(world.decide(&exchange), None, "row {at}: before");
        world.put(vec![("r1", 1, revocation(target(&world, digest(&token), expires)))]);
        assert_eq!(world.decide(&exchange), expected, "row {at}: after");
    }
}

#[test]
fn a_revoked_identity_returns_only_under_a_new_generation() {
    let world = World::new();
    let target = RevocationTarget::Identity { identity: name("ledger"), generation: 3 };
    let at = START.before(Duration::from_secs(3600));
    let Record::Revocation(made) = revocation(target) else { panic!("a revocation") };
    let made = Revocation { at, ..made.as_ref().clone() };
    world.put(vec![("r1", 1, Record::Revocation(Arc::new(made)))]);
    let (revoked, reinstated) = (Some(Reason::IdentityRevoked), Some(at));
    for (generation, not_before, expected) in [
        (1, None, revoked),
        (3, reinstated, revoked),
        // Begun by a suspension that ended, not by a reinstatement.
        (4, None, revoked),
        (4, Some(at.before(Duration::from_micros(1))), revoked),
        (4, reinstated, None),
    ] {
        world.put_identity("ledger", generation, Identity { not_before, ..identity("ledger") });
        assert_eq!(world.read_orders("ledger"), expected, "generation {generation}, {not_before:?}");
    }
}

#[test]
fn the_signing_key_can_be_revoked_and_overdue() {
    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    assert_eq!(world.decide(&exchange), None);
    let verified = world.log.last_verdict();
    let fingerprint = *verified.basis().verified.as_ref().unwrap().key_thumbprint();
    let key = |status, rotate_by, expires| {
        Record::Credential(Arc::new(Credential {
            kind: CredentialKind::SigningKey,
            identity: None,
            fingerprint,
            digest: None,
            issued: None,
            rotate_by,
            expires,
            status,
            source: None,
        }))
    };
    let active = CredentialStatus::Active;
    let rows = [
        (key(active, None, None), None, &[][..]),
        (key(active, Some(later(1)), None), None, &[][..]),
        (key(active, Some(START), None), None, &[Reason::HygieneRotationOverdue][..]),
        (key(active, None, Some(later(1))), None, &[][..]),
        (key(active, None, Some(START)), Some(Reason::CredentialExpired), &[][..]),
        (key(CredentialStatus::Revoked, None, None), Some(Reason::CredentialRevoked), &[][..]),
    ];
    for (at, (record, expected, warnings)) in rows.into_iter().enumerate() {
        world.put(vec![("key-1", 1, record)]);
        assert_eq!(world.decide(&exchange), expected, "row {at}");
        assert_eq!(world.log.last_verdict().warnings(), warnings, "row {at}");
    }
    for (owner, expected) in [("ledger", None), ("other", Some(Reason::CredentialUnverified))] {
        let Record::Credential(of_none) = key(active, None, None) else { unreachable!() };
        let owned = Credential { identity: Some(name(owner)), ..Credential::clone(&of_none) };
        world.put(vec![("key-1", 1, Record::Credential(Arc::new(owned)))]);
        assert_eq!(world.decide(&exchange), expected, "the key belongs to {owner}");
    }
    world.put(vec![("key-1", 1, key(active, None, None))]);
    assert_eq!(world.decide(&exchange), None);
    world.put(vec![("r1", 1, revocation(RevocationTarget::Credential(name("key-1"))))]);
    assert_eq!(world.decide(&exchange), Some(Reason::CredentialRevoked));
}

#[test]
fn the_tokens_of_a_pod_end_with_it() {
    let world = World::new();
    let mut record = world.issuer.record();
    record.profile = TokenProfile::Kubernetes;
    let record = Issuer::new(
        record.iss,
        record.profile,
        record.algorithms,
        record.audiences,
        record.max_lifetime_s,
        record.jwks,
    );
    world.put(vec![("main", 1, Record::Issuer(Arc::new(record)))]);
    world.put_identity("ledger", 1, identity("0e1f"));
    let of_pod = |pod: &str| {
        let mut claims = world.claims("system:serviceaccount:pay:ledger");
        claims["kubernetes.io"] = json!({
            "namespace": "pay", "serviceaccount": { "name": "ledger", "uid": "0e1f" },
            "pod": { "name": pod, "uid": pod },
        });
        world.decide(&world.exchange(Some(&world.token(&claims)), "GET", "/orders/1"))
    };
    assert_eq!((of_pod("a"), of_pod("b")), (None, None));
    let target = RevocationTarget::TokenId { issuer: name("main"), jti: "a".into(), expires: later(600) };
    world.put(vec![("r1", 1, revocation(target))]);
    assert_eq!((of_pod("a"), of_pod("b")), (Some(Reason::CredentialRevoked), None), "T34");
}

#[test]
fn every_party_of_a_delegation_must_stand() {
    let world = World::new();
    world.put_identity("agent", 1, identity("agent"));
    let mut claims = world.claims("ledger");
    claims["act"] = json!({ "sub": "agent" });
    let token = world.token(&claims);
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    assert_eq!(world.decide(&exchange), None);
    let mut suspended = identity("agent");
    suspended.status = IdentityStatus::Suspended;
    world.put_identity("agent", 2, suspended);
    assert_eq!(world.decide(&exchange), Some(Reason::IdentitySuspended));
    claims["act"] = json!({ "sub": "stranger" });
    let token = world.token(&claims);
    assert_eq!(
        world.decide(&world.exchange(Some(&token), "GET", "/orders/1")),
        Some(Reason::IdentityUnknown)
    );
}

#[test]
fn a_subject_belongs_to_its_issuer_and_moves_with_its_record() {
    let world = World::new();
    let mut other = identity("ledger");
    other.bindings = vec![Binding { issuer: name("elsewhere"), subject: "ledger".into() }];
    world.put_identity("ledger", 1, other);
    assert_eq!(world.read_orders("ledger"), Some(Reason::IdentityUnknown));
    world.put_identity("successor", 1, identity("ledger"));
    assert_eq!(world.read_orders("ledger"), None);
    let basis = world.log.last_verdict().basis().clone();
    assert_eq!(basis.principal.unwrap().name(), &name("successor"));
}

#[test]
fn hygiene_warns_denies_and_is_lifted() {
    let rule = HygieneRule::new;
    let ownerless = |ownerless| Hygiene { ownerless, ..Hygiene::default() };
    let dated = |from| ownerless(HygieneRule { mode: HygieneMode::Warn, deny_from: Some(from) });
    let warned = &[Reason::HygieneOwnerless][..];
    let rows = [
        (ownerless(rule(HygieneMode::Off)), None, &[][..]),
        (ownerless(rule(HygieneMode::Warn)), None, warned),
        (ownerless(rule(HygieneMode::Deny)), Some(Reason::HygieneOwnerless), &[][..]),
        (dated(later(1)), None, warned),
        (dated(START), Some(Reason::HygieneOwnerless), &[][..]),
    ];
    for (at, (hygiene, expected, warnings)) in rows.into_iter().enumerate() {
        let world = World::new();
        let mut batch = identity("batch");
        batch.owner = Owner::default();
        world.put_identity("batch", 1, batch);
        world.put(vec![("default", 1, policy(DEFAULT_POLICY, PolicyMode::Enforce, hygiene))]);
        assert_eq!(world.read_orders("batch"), expected, "row {at}");
        assert_eq!(world.log.last_verdict().warnings(), warnings, "row {at}");
    }
}

#[test]
fn environments_must_match() {
    let world = World::new();
    let mut dev = identity("dev");
    dev.environment = "dev".into();
    world.put_identity("dev", 1, dev);
    assert_eq!(world.read_orders("dev"), Some(Reason::HygieneEnvironment));
    assert_eq!(world.read_orders("ledger"), None);
}

#[test]
fn an_exception_lifts_what_it_names_and_nothing_else() {
    let exception = |lifts: &[&str], identities: &[&str], resources: &[&str], expires| {
        Record::Exception(Arc::new(Exception {
            identities: identities.iter().map(|n| name(n)).collect(),
            resources: resources.iter().map(|n| name(n)).collect(),
            lifts: lifts.iter().map(|l| Arc::from(*l)).collect(),
            reason: "hand-over".into(),
            ticket: None,
            owner: Owner::default(),
            approver: Owner::default(),
            expires,
        }))
    };
    let environment = ["hygiene.environment"];
    let denied = Some(Reason::HygieneEnvironment);
    let rows = [
        (exception(&environment, &["dev"], &[], later(1)), None),
        (exception(&environment, &["dev"], &["orders"], later(1)), None),
        (exception(&environment, &["dev"], &["other"], later(1)), denied),
        (exception(&environment, &["ledger"], &[], later(1)), denied),
        (exception(&environment, &["dev"], &[], START), denied),
        (exception(&["policy.denied"], &["dev"], &[], later(1)), denied),
    ];
    for (at, (record, expected)) in rows.into_iter().enumerate() {
        let world = World::new();
        let mut dev = identity("dev");
        dev.environment = "dev".into();
        world.put_identity("dev", 1, dev);
        world.put(vec![("x1", 1, record)]);
        assert_eq!(world.read_orders("dev"), expected, "row {at}");
        let exceptions = world.log.last_verdict().basis().exceptions.len();
        assert_eq!(exceptions, usize::from(expected.is_none()), "row {at}: named in the record");
    }
    let world = World::new();
    let all = ["policy.denied", "identity.revoked", "state.stale", "credential.revoked"];
    world.put(vec![("x1", 1, exception(&all, &["ledger"], &[], later(900)))]);
    let token = world.token(&world.claims("ledger"));
    assert_eq!(world.decide(&world.exchange(Some(&token), "POST", "/orders")), None, "a denial is lifted");
    let target = RevocationTarget::Identity { identity: name("ledger"), generation: 1 };
    world.put(vec![("r1", 1, revocation(target))]);
    assert_eq!(world.read_orders("ledger"), Some(Reason::IdentityRevoked), "a revocation never is");
}

#[test]
fn policies_forbid_fail_and_shadow() {
    let permit = "permit(principal, action, resource);";
    let forbid = r#"forbid(principal, action, resource) when { context.method == "GET" };"#;
    let overflow = "forbid(principal, action, resource) when { 9223372036854775807 + 1 == 1 };";
    let enforced = |cedar: &str| policy(cedar, PolicyMode::Enforce, Hygiene::default());
    let rows = [
        (enforced(permit), None),
        (enforced(forbid), Some(Reason::PolicyDenied)),
        (enforced(overflow), Some(Reason::PolicyError)),
        (policy(forbid, PolicyMode::Shadow, Hygiene::default()), None),
    ];
    for (at, (record, expected)) in rows.into_iter().enumerate() {
        let world = World::new();
        world.put(vec![("extra", 1, record)]);
        assert_eq!(world.read_orders("ledger"), expected, "row {at}");
        let shadow = world.log.last_verdict().basis().shadow.clone();
        assert_eq!(shadow.iter().any(|s| !s.permits), at == 3, "row {at}: shadows report only");
    }
}

#[test]
fn policies_read_context_and_labels() {
    let rows = [
        (r#"context.path == "/orders/1""#, true),
        (r#"context.route == "/orders/**""#, true),
        (r#"context has sourceIp && context.sourceIp.isLoopback()"#, true),
        (
            r#"context.now >= datetime("2026-11-22T12:00:00Z") && context.now < datetime("2026-11-22T12:00:01Z")"#,
            true,
        ),
        (
            r#"context.credential.issuer == "main" && context.credential has lifetimeSeconds && context.credential.lifetimeSeconds == 300"#,
            true,
        ),
        (r#"principal.hasTag("tier") && principal.getTag("tier") == "gold""#, true),
        (r#"principal has owner && principal.owner == "payments""#, true),
        (r#"context.delegated"#, false),
        (r#"context.method == "POST""#, false),
    ];
    for (condition, holds) in rows {
        let world = World::new();
        let mut value = identity("ledger");
        value.labels.insert("tier".into(), "gold".into());
        world.put_identity("ledger", 1, value);
        let forbid = format!(
            "forbid(principal, action in Portreeve::Action::\"read\", resource) when {{ {condition} }};"
        );
        world.put(vec![("extra", 1, policy(&forbid, PolicyMode::Enforce, Hygiene::default()))]);
        assert_eq!(world.read_orders("ledger"), holds.then_some(Reason::PolicyDenied), "{condition}");
    }
}

#[test]
fn stale_state_denies_at_its_limit_and_not_before() {
    let world = World::new();
    let claims = world.claims("ledger");
    let token = world.token(&claims);
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.decide(&exchange), None);
    assert!(!world.log.last_verdict().basis().state_warn);
    world.clock.advance(Duration::from_micros(1));
    assert_eq!(world.decide(&exchange), None);
    assert!(world.log.last_verdict().basis().state_warn);
    world.clock.advance(Duration::from_secs(290) - Duration::from_micros(1));
    assert_eq!(world.decide(&exchange), None, "at the limit");
    world.clock.advance(Duration::from_micros(1));
    assert_eq!(world.decide(&exchange), Some(Reason::StateStale), "just past it");
    world.refresh();
    assert_eq!(world.decide(&exchange), None);
    world.state.set_lease(Lease::default());
    assert_eq!(world.decide(&exchange), Some(Reason::StateStale), "an unknown age is stale");
}

#[test]
fn a_tenant_is_decided_by_once_a_hub_has_confirmed_it() {
    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    let held = Arc::clone(&world.state.load());
    let came = Snapshot::clone(&held).with_new_unconfirmed(&Snapshot::empty(Keyer::new(1)));
    world.state.publish(came);
    let mut waived = world.exchange(Some(&token), "GET", "/orders/1");
    waived.rules =
        Arc::new(RouteRules { staleness: Staleness { deny_after: None, ..rules().staleness }, ..rules() });
    for exchange in [&exchange, &waived] {
        assert_eq!(world.decide(exchange), Some(Reason::StateAbsent));
    }
    let (confirmed, new) = world.state.load().confirmed().unwrap();
    assert_eq!(new, [name(TENANT)]);
    world.state.publish(confirmed);
    assert_eq!(world.decide(&exchange), None);
    assert!(world.state.load().confirmed().is_none());
}

#[test]
fn the_last_look_takes_an_allow_back() {
    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    let target = RevocationTarget::Identity { identity: name("ledger"), generation: 1 };
    let turned = world.decide_with(&exchange, || drop(world.put(vec![("r1", 1, revocation(target))])));
    assert_eq!(turned, Some(Reason::IdentityRevoked));
    assert!(matches!(world.log.entries().last(), Some(Entry::Withdrawn(Reason::IdentityRevoked))));

    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    let unrelated = world.decide_with(&exchange, || world.put_identity("other", 1, identity("other")));
    assert_eq!(unrelated, None, "a change that touches nothing it read leaves it be");
    let lapsed = world.decide_with(&exchange, || world.clock.advance(Duration::from_secs(301)));
    assert_eq!(lapsed, Some(Reason::StateStale));
    assert!(matches!(world.log.entries().last(), Some(Entry::Withdrawn(Reason::StateStale))));
}

/// Revisions are one sequence over all tenants, and a tenant's change can arrive behind another's.
#[test]
fn the_last_look_sees_what_another_tenants_revision_hides() {
    let world = World::new();
    let ahead = Batch {
        cell: name("other"),
        epoch: Epoch::from_bytes([1; 16]),
        from_revision: 0,
        to_revision: 50,
        history_hash: [0; 32],
        state_digest: None,
        changes: Vec::new(),
    };
    let next = world.state.load().apply(&ahead).unwrap();
    world.state.publish(next);
    let token = world.token(&world.claims("ledger"));
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    assert_eq!(world.decide(&exchange), None);
    assert_eq!(
        world.log.last_verdict().basis().position.revision,
        1,
        "a decision names its own tenant's state"
    );
    let target = RevocationTarget::Identity { identity: name("ledger"), generation: 1 };
    let turned = world.decide_with(&exchange, || drop(world.put(vec![("r1", 1, revocation(target))])));
    assert_eq!(turned, Some(Reason::IdentityRevoked));

    // A snapshot in place of the cell, at the revision it already stood at.
    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    let repaired = world.decide_with(&exchange, || {
        let held = world.state.load();
        let cell = held.cell(&name(TENANT)).unwrap();
        let whole = Batch {
            cell: cell.cell.clone(),
            epoch: cell.epoch,
            from_revision: 0,
            to_revision: cell.revision,
            history_hash: cell.history_hash,
            state_digest: None,
            changes: held.export(&cell.cell).into_iter().filter(|c| c.kind != RecordKind::Identity).collect(),
        };
        let next = held.replace_cell(&whole).unwrap();
        drop(held);
        world.state.publish(next);
    });
    assert_eq!(repaired, Some(Reason::IdentityUnknown));
}

/// Of two changes of one record the index would keep both and the record one: refused whole.
#[test]
fn a_batch_names_each_record_once() {
    let world = World::new();
    let cell = name(TENANT);
    let change = |subject: Option<&str>| Change {
        kind: RecordKind::Identity,
        name: name("ledger"),
        generation: 1,
        revision: 2,
        record: subject.map(|subject| Record::Identity(Arc::new(identity(subject)))),
        dropped: false,
    };
    let batch = |from: u64, changes: Vec<Change>| Batch {
        cell: cell.clone(),
        epoch: Epoch::from_bytes([1; 16]),
        from_revision: from,
        to_revision: 2,
        history_hash: [0; 32],
        state_digest: None,
        changes,
    };
    let held = world.state.load();
    let twice = || vec![change(Some("first")), change(Some("second"))];
    assert!(held.apply(&batch(1, twice())).is_err());
    assert!(held.replace_cell(&batch(0, twice())).is_err());
    assert!(held.apply(&batch(1, vec![change(Some("first")), change(None)])).is_err());
    assert!(held.apply(&batch(1, vec![change(Some("first"))])).is_ok());
}

#[test]
fn evidence_that_cannot_be_kept() {
    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    let mut exchange = world.exchange(Some(&token), "GET", "/orders/1");
    world.log.fail();
    assert_eq!(world.decide(&exchange), Some(Reason::EvidenceUnavailable));
    assert!(matches!(world.log.entries().last(), Some(Entry::Withdrawn(Reason::EvidenceUnavailable))));

    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    world.log.fill();
    for (mode, expected) in [
        (EvidenceMode::Require, Some(Reason::EvidenceUnavailable)),
        (EvidenceMode::ProcessSafe, Some(Reason::EvidenceUnavailable)),
        (EvidenceMode::BestEffort, None),
    ] {
        exchange = world.exchange(Some(&token), "GET", "/orders/1");
        exchange.rules = Arc::new(RouteRules { evidence: mode, ..rules() });
        let before = world.log.lost();
        assert_eq!(world.decide(&exchange), expected, "{mode:?}");
        assert_eq!(world.log.lost(), before + 1, "{mode:?}: counted");
    }
}

#[test]
fn a_request_that_goes_away_is_recorded_as_abandoned() {
    let world = World::new();
    let exchange = world.exchange(None, "GET", "/orders/1");
    drop(world.pipeline.reserve(EvidenceMode::ProcessSafe, facts(&exchange)).unwrap());
    assert!(matches!(world.log.entries().last(), Some(Entry::Abandoned)));
    assert_eq!(world.log.held(), 0);
}

#[test]
fn deciding_twice_gives_the_same_and_explains_why() {
    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    for (method, path) in [("GET", "/orders/1"), ("POST", "/orders")] {
        let exchange = world.exchange(Some(&token), method, path);
        let first = world.decide(&exchange);
        assert_eq!(world.decide(&exchange), first);
        let (verdict, steps) = world.pipeline.explain(&exchange);
        assert_eq!(verdict.reason(), first);
        let names: Vec<_> = steps.iter().map(|step| step.name).collect();
        assert_eq!(
            names,
            ["state", "credential", "identity", "standing", "route", "policy", "freshness"],
            "{method} {path}"
        );
        assert!(steps.iter().all(|step| !step.finding.contains(&token)), "no token in an explanation");
        for notation in ["Some(", "[]", "\""] {
            assert!(steps.iter().all(|step| !step.finding.contains(notation)), "{steps:?}");
        }
    }
    let now = world.clock.now();
    assert_eq!(now.wall, START);
}

#[test]
fn without_state_everything_is_refused() {
    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    world.state.publish(portreeve::core::identity::Snapshot::empty(portreeve::core::identity::Keyer::new(1)));
    let exchange = world.exchange(Some(&token), "GET", "/orders/1");
    assert_eq!(world.decide(&exchange), Some(Reason::StateAbsent));
}

#[test]
fn a_tenant_that_has_not_arrived_is_absent_and_not_unknown() {
    let world = World::new();
    let token = world.token(&world.claims("ledger"));
    let mut exchange = world.exchange(Some(&token), "GET", "/orders/1");
    exchange.service = Some(ServiceRef { tenant: name("elsewhere"), resource: name("orders") });
    assert_eq!(world.decide(&exchange), Some(Reason::StateAbsent));
}

#[test]
fn a_remembered_answer_ends_with_what_it_rested_on() {
    let world = World::new();
    let mut brief = identity("brief");
    brief.entitlements[0].expires = Some(later(60));
    world.put_identity("brief", 1, brief.clone());
    assert_eq!(world.read_orders("brief"), None);
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.read_orders("brief"), Some(Reason::PolicyDenied), "its entitlement ended");

    world.clock.step_wall_back(Duration::from_secs(60));
    assert_eq!(world.read_orders("brief"), None, "it has not ended by this clock");
    world.clock.advance(Duration::from_secs(60));

    brief.entitlements[0].expires = None;
    world.put_identity("brief", 1, brief.clone());
    assert_eq!(world.read_orders("brief"), None, "its record changed");
    brief.entitlements.clear();
    world.put_identity("brief", 1, brief);
    assert_eq!(world.read_orders("brief"), Some(Reason::PolicyDenied), "its record changed again");

    assert_eq!(world.read_orders("ledger"), None);
    let forbid = r#"forbid(principal, action, resource) when { context.path == "/orders/2" };"#;
    world.put(vec![("extra", 1, policy(forbid, PolicyMode::Enforce, Hygiene::default()))]);
    let token = world.token(&world.claims("ledger"));
    for (path, expected) in
        [("/orders/1", None), ("/orders/2", Some(Reason::PolicyDenied)), ("/orders/1", None)]
    {
        assert_eq!(world.decide(&world.exchange(Some(&token), "GET", path)), expected, "{path}");
    }
}
