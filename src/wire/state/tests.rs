use super::*;
use crate::core::policy::PathPattern;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn at(us: i64) -> Option<Timestamp> {
    Some(Timestamp::from_micros(us))
}

fn owner() -> core::Owner {
    core::Owner { team: Some("payments".into()), person: None, contact: Some("p@example.com".into()) }
}

fn records() -> Vec<Record> {
    let identity = core::Identity {
        kind: core::IdentityType::Agent,
        environment: "prod".into(),
        status: core::IdentityStatus::Suspended,
        owner: owner(),
        ticket: Some("T-1".into()),
        end: at(1),
        review_due: at(2),
        third_party: true,
        risk: Some(core::RiskLevel::High),
        labels: BTreeMap::from([("a".into(), "b".into())]),
        entitlements: vec![core::Entitlement {
            name: "orders:read".into(),
            source: Some("T-2".into()),
            granted: at(3),
            expires: at(4),
        }],
        bindings: vec![core::Binding { issuer: name("main"), subject: "ledger".into() }],
        not_before: at(5),
    };
    let credential = core::Credential {
        kind: core::CredentialKind::ApiKey,
        identity: Some(name("ledger")),
        fingerprint: [7; 32],
        digest: Some([8; 32]),
        issued: at(1),
        rotate_by: at(2),
        expires: at(3),
        status: core::CredentialStatus::Revoked,
        source: Some("vault".into()),
    };
    let exception = core::Exception {
        identities: vec![name("batch")],
        resources: vec![name("orders")],
        lifts: vec!["hygiene.ownerless".into()],
        reason: "hand-over".into(),
        ticket: Some("T-3".into()),
        owner: owner(),
        approver: owner(),
        expires: Timestamp::from_micros(9),
    };
    let resource = core::Resource {
        environment: "prod".into(),
        owner: owner(),
        routes: vec![core::ResourceRoute {
            methods: vec!["GET".into()],
            path: PathPattern::parse("/orders/**").unwrap(),
            requires: Some("orders:read".into()),
        }],
    };
    let policy = core::PolicySet {
        cedar: "permit(principal, action, resource);".into(),
        mode: core::PolicyMode::Shadow,
        hygiene: core::Hygiene::default(),
    };
    let mut all = vec![
        Record::Identity(Arc::new(identity)),
        Record::Credential(Arc::new(credential)),
        Record::Exception(Arc::new(exception)),
        Record::Resource(Arc::new(resource)),
        Record::PolicySet(Arc::new(policy)),
    ];
    let sources = [
        core::KeySource::Given,
        core::KeySource::Url("https://idp.example/jwks".into()),
        core::KeySource::Discovery,
    ];
    all.extend(sources.map(|source| {
        let algorithms = vec![crate::core::credential::Algorithm::Es256];
        let jwks = Arc::from(crate::core::credential::NO_KEYS);
        let issuer = core::Issuer::new(
            "https://idp.example".into(),
            core::TokenProfile::Generic,
            algorithms,
            vec!["orders".into()],
            60,
            jwks,
        );
        let until = source.is_fetched().then(|| Timestamp::from_seconds(9));
        Record::Issuer(Arc::new(issuer.with_source(source).with_keys_until(until)))
    }));
    let listing = all.iter().rev().find_map(|record| match record {
        Record::Issuer(issuer) => Some(core::Issuer::clone(issuer)),
        _ => None,
    });
    all.extend(core::SubjectMember::ALL.map(|subject| {
        let issuer = core::Issuer::new(
            "https://opaque.example".into(),
            core::TokenProfile::Generic,
            Vec::new(),
            vec!["orders".into()],
            60,
            Arc::from(Vec::new()),
        );
        let endpoint = "https://opaque.example/introspect".into();
        let introspection = core::Introspection { endpoint, subject, token_prefix: "op_".into() };
        Record::Issuer(Arc::new(issuer.with_introspection(Some(Arc::new(introspection)))))
    }));
    let lists = core::StatusLists { uris: vec!["https://idp.example/lists/".into()], max_age_s: 3600 };
    all.push(Record::Issuer(Arc::new(listing.unwrap().with_status_lists(lists))));
    let none = core::StatusList::withdrawn(name("main"), "https://idp.example/lists/1".into());
    let mut list = none.clone();
    list.bits = core::StatusBits::Four;
    list.issued = Timestamp::from_micros(5);
    list.valid_until = Timestamp::from_micros(6);
    list.signed_by = [4; 32];
    let packed = miniz_oxide::deflate::compress_to_vec_zlib(&[0x21, 0x43], 6);
    let list = list.with_values(packed.into()).unwrap();
    all.extend([Record::StatusList(Arc::new(none)), Record::StatusList(Arc::new(list))]);
    let expires = Timestamp::from_micros(8);
    let targets = [
        core::RevocationTarget::TokenId { issuer: name("main"), jti: "j".into(), expires },
        core::RevocationTarget::TokenDigest { digest: [3; 32], expires },
        core::RevocationTarget::Credential(name("key")),
        core::RevocationTarget::IssuedBefore { identity: name("ledger"), not_before: expires },
        core::RevocationTarget::Identity { identity: name("ledger"), generation: 4 },
    ];
    all.extend(targets.map(|target| {
        Record::Revocation(Arc::new(core::Revocation {
            target,
            reason: "test".into(),
            requested_by: "admin".into(),
            at: Timestamp::from_micros(6),
        }))
    }));
    all
}

#[test]
fn every_kind_of_record_survives_the_wire() {
    for (revision, record) in (1..).zip(records()) {
        let change = Change {
            kind: record.kind(),
            name: name("x"),
            generation: 2,
            revision,
            record: Some(record),
            dropped: false,
        };
        assert_eq!(decode_change(&encode_change(&change)), Ok(change));
    }
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    let good = encode_change(&Change {
        kind: RecordKind::Resource,
        name: name("x"),
        generation: 1,
        revision: 1,
        record: None,
        dropped: false,
    });
    assert!(decode_change(&good).is_ok());
    let kind = proto::Change { kind: 99, ..good.clone() };
    assert_eq!(
        decode_change(&kind).unwrap_err().to_string(),
        "change: record kind 99 is unknown to this build"
    );
    let operation = proto::Change { operation: 0, ..good.clone() };
    assert!(decode_change(&operation).is_err());
    let named = proto::Change { name: "X".into(), ..good };
    assert!(decode_change(&named).unwrap_err().to_string().contains("malformed name `X`"));
    let empty = decode_record(RecordKind::Identity, &[]).unwrap_err();
    assert_eq!(empty.to_string(), "type: value 0 is unknown to this build");
}

#[test]
fn a_delta_must_follow_the_history_held() {
    let before = [1; 32];
    let body = encode_body(&[]);
    let mut delta = proto::Delta {
        cell: "demo".into(),
        epoch: Bytes::from_static(&[1; 16]),
        from_revision: 4,
        to_revision: 5,
        codec: 0,
        history_hash: Bytes::copy_from_slice(&history_hash(&before, 5, &body)),
        body,
        hub_time_us: 0,
        ..Default::default()
    };
    assert!(decode_delta(&delta, &before).is_ok());
    assert!(decode_delta(&delta, &[2; 32]).is_err());
    delta.codec = 1;
    assert!(decode_delta(&delta, &before).is_err());
}
