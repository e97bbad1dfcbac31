//! What is packed comes back, and each field of it counts.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::core::id::Epoch;
use crate::core::identity::StateDigest;
use crate::core::identity::record::{
    Batch, Binding, Change, Credential, CredentialKind, CredentialStatus, Entitlement, Identity,
    IdentityStatus, IdentityType, Owner, Record, RiskLevel,
};
use crate::core::identity::snapshot::{Keyer, Snapshot};
use crate::core::time::Timestamp;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn text() -> impl Strategy<Value = Arc<str>> {
    prop_oneof!["[a-z]{1,3}", ".{0,12}", Just("x".repeat(300))].prop_map(Arc::from)
}

fn subject() -> impl Strategy<Value = Arc<str>> {
    prop_oneof!["[a-z:/]{1,9}", Just("ns:sa/own".to_owned()), Just("own".to_owned()), ".{1,40}"]
        .prop_map(Arc::from)
}

fn time() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of(prop_oneof![
        any::<i64>().prop_map(Timestamp::from_micros),
        (0i64..4_000_000_000).prop_map(Timestamp::from_seconds)
    ])
}

fn owner() -> impl Strategy<Value = Owner> {
    let part = || prop::option::of(text());
    (part(), part(), part()).prop_map(|(team, person, contact)| Owner { team, person, contact })
}

fn entitlement() -> impl Strategy<Value = Entitlement> {
    (text(), prop::option::of(text()), time(), time())
        .prop_map(|(name, source, granted, expires)| Entitlement { name, source, granted, expires })
}

fn identity() -> impl Strategy<Value = Identity> {
    let first = (
        prop::sample::select(&IdentityType::ALL[..]),
        prop::sample::select(&IdentityStatus::ALL[..]),
        prop::option::of(prop::sample::select(&RiskLevel::ALL[..])),
        text(),
        owner(),
        prop::option::of(text()),
        any::<bool>(),
    );
    let lists = (
        prop::collection::btree_map(text(), text(), 0..3),
        prop::collection::vec(entitlement(), 0..4),
        prop::collection::vec(subject(), 0..3),
    );
    (first, lists, time(), time(), time()).prop_map(|(first, lists, end, review_due, not_before)| {
        let (kind, status, risk, environment, owner, ticket, third_party) = first;
        let (labels, entitlements, subjects) = lists;
        let bindings = subjects.into_iter().map(|subject| Binding { issuer: name("corp"), subject });
        Identity {
            kind,
            environment,
            status,
            owner,
            ticket,
            end,
            review_due,
            third_party,
            risk,
            labels,
            entitlements,
            bindings: bindings.collect(),
            not_before,
        }
    })
}

fn packed(texts: &mut Texts, value: Option<&Identity>) -> Vec<u8> {
    let head = Head { tenant: &name("demo"), name: &name("own") };
    pack_identity(&head, &Stamp { generation: 7, revision: u64::MAX }, texts, value).0
}

proptest! {
    #[test]
    fn an_identity_comes_back(value in identity(), before in identity()) {
        let mut texts = Texts::new(Keyer::new(1));
        packed(&mut texts, Some(&before));
        let row = packed(&mut texts, Some(&value));
        let held = read::<IdentityView<'_>>(&row, &texts).unwrap();
        prop_assert_eq!((held.tenant, held.name, held.generation, held.revision), ("demo", "own", 7, u64::MAX));
        prop_assert_eq!(held.value.unwrap().record(), Some(value.clone()));
        for (binding, view) in value.bindings.iter().zip(held.value.unwrap().bindings.iter()) {
            prop_assert!(view.is_of("corp", &binding.subject));
            let longer = format!("{}x", binding.subject);
            prop_assert!(!view.is_of("corp", &longer));
            prop_assert!(!view.is_of("other", &binding.subject));
        }
    }

    #[test]
    fn a_row_that_was_cut_is_no_record(value in identity(), at in any::<prop::sample::Index>()) {
        let mut texts = Texts::new(Keyer::new(1));
        let row = packed(&mut texts, Some(&value));
        prop_assert!(read::<IdentityView<'_>>(&row[..at.index(row.len())], &texts).is_none());
        prop_assert!(read::<IdentityView<'_>>(&[&row[..], &[0]].concat(), &texts).is_none());
    }
}

#[test]
fn a_tombstone_comes_back() {
    let mut texts = Texts::new(Keyer::new(1));
    let row = packed(&mut texts, None);
    assert!(read::<IdentityView<'_>>(&row, &texts).unwrap().value.is_none());
}

fn digest(name_text: &str, record: Option<Record>) -> StateDigest {
    let kind = record.as_ref().map_or(crate::core::identity::RecordKind::Identity, Record::kind);
    let change = Change { kind, name: name(name_text), generation: 1, revision: 1, record, dropped: false };
    let batch = Batch {
        cell: name("demo"),
        epoch: Epoch::from_bytes([1; 16]),
        from_revision: 0,
        to_revision: 1,
        history_hash: [0; 32],
        state_digest: None,
        changes: vec![change],
    };
    let state = Snapshot::empty(Keyer::new(3)).apply(&batch).unwrap();
    let held = state.cell(&name("demo")).unwrap().state_digest;
    assert_eq!(state.recompute_digest(&name("demo")), Some(held));
    held
}

/// Every digest differs from every other.
fn all_differ(digests: &[StateDigest]) {
    for (at, digest) in digests.iter().enumerate() {
        let same = digests.iter().position(|other| other == digest);
        assert_eq!(same, Some(at), "rows {at} and {same:?} have one digest");
    }
}

#[test]
fn each_field_of_an_identity_counts() {
    let at = |seconds| Some(Timestamp::from_seconds(seconds));
    let grant = |value: &mut Identity, edit: fn(&mut Entitlement)| edit(&mut value.entitlements[0]);
    let base = Identity {
        kind: IdentityType::Workload,
        environment: "prod".into(),
        status: IdentityStatus::Active,
        owner: Owner::default(),
        ticket: None,
        end: None,
        review_due: None,
        third_party: false,
        risk: None,
        labels: [("k".into(), "v".into())].into(),
        entitlements: vec![Entitlement { name: "read".into(), source: None, granted: None, expires: None }],
        bindings: vec![Binding { issuer: name("corp"), subject: "ns:own".into() }],
        not_before: None,
    };
    type Edit<'a> = Box<dyn Fn(&mut Identity) + 'a>;
    let edits: Vec<Edit<'_>> = vec![
        Box::new(|_| {}),
        Box::new(|v| v.kind = IdentityType::Agent),
        Box::new(|v| v.environment = "dev".into()),
        Box::new(|v| v.status = IdentityStatus::Suspended),
        Box::new(|v| v.owner.team = Some("a".into())),
        Box::new(|v| v.owner.person = Some("a".into())),
        Box::new(|v| v.owner.contact = Some("a".into())),
        Box::new(|v| v.ticket = Some("a".into())),
        Box::new(|v| v.end = at(5)),
        Box::new(|v| v.review_due = at(5)),
        Box::new(|v| v.not_before = at(5)),
        Box::new(|v| v.not_before = Some(Timestamp::from_micros(5_000_001))),
        Box::new(|v| v.third_party = true),
        Box::new(|v| v.risk = Some(RiskLevel::Low)),
        Box::new(|v| v.risk = Some(RiskLevel::High)),
        Box::new(|v| v.labels.clear()),
        Box::new(|v| v.labels = [("k".into(), "w".into())].into()),
        Box::new(|v| v.labels = [("j".into(), "v".into())].into()),
        Box::new(|v| v.entitlements.clear()),
        Box::new(|v| grant(v, |e| e.name = "write".into())),
        Box::new(|v| grant(v, |e| e.source = Some("a".into()))),
        Box::new(|v| grant(v, |e| e.granted = Some(Timestamp::from_seconds(5)))),
        Box::new(|v| grant(v, |e| e.expires = Some(Timestamp::from_seconds(5)))),
        Box::new(|v| v.entitlements.push(v.entitlements[0].clone())),
        Box::new(|v| v.bindings.clear()),
        Box::new(|v| v.bindings[0].issuer = name("other")),
        Box::new(|v| v.bindings[0].subject = "ns/own".into()),
        Box::new(|v| v.bindings[0].subject = "ns:other".into()),
        Box::new(|v| v.bindings[0].subject = "own".into()),
    ];
    let edited = edits.iter().map(|edit| {
        let mut value = base.clone();
        edit(&mut value);
        digest("own", Some(Record::Identity(Arc::new(value))))
    });
    let whole = Record::Identity(Arc::new(base.clone()));
    all_differ(&edited.chain([digest("own2", Some(whole)), digest("own", None)]).collect::<Vec<_>>());
}

#[test]
fn each_field_of_a_credential_counts() {
    let at = Some(Timestamp::from_seconds(5));
    let base = Credential {
        kind: CredentialKind::SigningKey,
        identity: None,
        fingerprint: [1; 32],
        digest: None,
        issued: None,
        rotate_by: None,
        expires: None,
        status: CredentialStatus::Active,
        source: None,
    };
    let rows = [
        base.clone(),
        Credential { identity: Some(name("own")), ..base.clone() },
        Credential { identity: Some(name("other")), ..base.clone() },
        Credential { fingerprint: [2; 32], ..base.clone() },
        Credential { digest: Some([3; 32]), ..base.clone() },
        Credential { digest: Some([4; 32]), ..base.clone() },
        Credential { kind: CredentialKind::ApiKey, ..base.clone() },
        Credential { issued: at, ..base.clone() },
        Credential { rotate_by: at, ..base.clone() },
        Credential { expires: at, ..base.clone() },
        Credential { status: CredentialStatus::Revoked, ..base.clone() },
        Credential { source: Some("vault".into()), ..base.clone() },
    ];
    let head = Head { tenant: &name("demo"), name: &name("own") };
    for value in &rows {
        let mut texts = Texts::new(Keyer::new(1));
        let row = pack_credential(&head, &Stamp { generation: 1, revision: 1 }, &mut texts, Some(value)).0;
        let held = read::<CredentialView<'_>>(&row, &texts).unwrap();
        assert_eq!(held.value.unwrap().record(), Some(value.clone()));
    }
    let digests = rows.map(|value| digest("own", Some(Record::Credential(Arc::new(value)))));
    all_differ(&digests);
}
