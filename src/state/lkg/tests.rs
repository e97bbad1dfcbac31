use super::*;
use crate::core::identity::{Change, IdentityStatus, IdentityType, Owner, Record, RecordKind};
use std::sync::Arc;

const BOOT: &str = "boot-1";
const MINUTE: Duration = Duration::from_secs(60);

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn identity(status: IdentityStatus) -> Record {
    Record::Identity(Arc::new(crate::core::identity::Identity {
        kind: IdentityType::Workload,
        environment: "prod".into(),
        status,
        owner: Owner::default(),
        ticket: None,
        end: None,
        review_due: None,
        third_party: false,
        risk: None,
        labels: BTreeMap::new(),
        entitlements: Vec::new(),
        bindings: Vec::new(),
        not_before: None,
    }))
}

fn delta(from: u64, to: u64, before: &[u8; 32], status: IdentityStatus) -> (proto::Delta, Batch) {
    let change = Change {
        kind: RecordKind::Identity,
        name: name("ledger"),
        generation: u32::try_from(to).unwrap(),
        revision: to,
        record: Some(identity(status)),
    };
    let body = wire::encode_body(&[change]);
    let delta = proto::Delta {
        cell: "demo".into(),
        epoch: bytes::Bytes::from_static(&[1; 16]),
        from_revision: from,
        to_revision: to,
        codec: 0,
        history_hash: bytes::Bytes::copy_from_slice(&wire::history_hash(before, to, &body)),
        body,
        hub_time_us: 0,
        ..Default::default()
    };
    let batch = wire::decode_delta(&delta, before).unwrap();
    (delta, batch)
}

/// A folder with a base at revision 1 and one delta to revision 2, and the state it stands for.
fn written(folder: &Path) -> Snapshot {
    let (mut lkg, loaded) = LastKnownGood::open(folder, BOOT, MINUTE, Keyer::new(1)).unwrap();
    let (_, first) = delta(0, 1, &[0; 32], IdentityStatus::Active);
    let state = loaded.snapshot.apply(&first).unwrap();
    lkg.rewrite(&name("demo"), &state).unwrap();
    let (raw, second) = delta(1, 2, &first.history_hash, IdentityStatus::Suspended);
    lkg.append(&name("demo"), &raw.encode_to_vec()).unwrap();
    let state = state.apply(&second).unwrap();
    let lease = Lease { fresh_at: Some(BootInstant::from_micros(77)), hub_time_us: 5 };
    lkg.write_lease(&lease, &state).unwrap();
    state
}

fn reopened(folder: &Path, boot: &str) -> Loaded {
    LastKnownGood::open(folder, boot, MINUTE, Keyer::new(2)).unwrap().1
}

#[test]
fn a_restart_begins_where_the_last_run_stood() {
    let folder = tempfile::tempdir().unwrap();
    let state = written(folder.path());
    let loaded = reopened(folder.path(), BOOT);
    assert!(loaded.refused.is_empty());
    assert_eq!(loaded.snapshot.position(), state.position());
    assert_eq!(loaded.snapshot.export(&name("demo")), state.export(&name("demo")));
    assert_eq!(loaded.lease.fresh_at, Some(BootInstant::from_micros(77)));
    assert_eq!(reopened(folder.path(), "boot-2").lease, Lease::default(), "a lease dies with its boot");
    assert_eq!(reopened(folder.path(), "").lease, Lease::default(), "an unknown boot is no boot");
}

#[test]
fn damage_at_any_byte_is_never_half_applied() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    let path = folder.path().join("demo.lkg");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&path, &bad).unwrap();
        let loaded = reopened(folder.path(), BOOT);
        assert!(loaded.snapshot.is_absent(), "byte {at}");
        assert_eq!(loaded.refused.len(), 1, "byte {at}");
        assert_eq!(loaded.lease, Lease::default(), "byte {at}");
    }
}

#[test]
fn a_file_cut_short_is_behind_what_was_in_force_and_refused() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    let path = folder.path().join("demo.lkg");
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        let loaded = reopened(folder.path(), BOOT);
        assert!(loaded.snapshot.is_absent() && loaded.refused.len() == 1, "cut at {length}");
    }
    // Without the lease nobody can tell, and the torn last write is simply not there.
    fs::remove_file(folder.path().join("lease")).unwrap();
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    let loaded = reopened(folder.path(), BOOT);
    assert_eq!(loaded.snapshot.position().revision, 1);
    assert_eq!(loaded.lease, Lease::default());
    // What was cut off does not come back: the next delta follows the cut.
    assert!(fs::metadata(&path).unwrap().len() < good.len() as u64 - 1);
}

#[test]
fn a_lease_that_nobody_granted_stays_none() {
    let folder = tempfile::tempdir().unwrap();
    let state = written(folder.path());
    let (lkg, _) = LastKnownGood::open(folder.path(), BOOT, MINUTE, Keyer::new(1)).unwrap();
    lkg.write_lease(&Lease::default(), &state).unwrap();
    let loaded = reopened(folder.path(), BOOT);
    assert_eq!(loaded.snapshot.position().revision, 2);
    assert_eq!(loaded.lease.fresh_at, None, "else a machine that has just started would be fresh by it");
}

#[test]
fn a_lease_is_not_lengthened_by_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    for (deny_after_max, stands) in [(MINUTE / 2, true), (MINUTE, true), (MINUTE * 2, false)] {
        let (_, loaded) = LastKnownGood::open(folder.path(), BOOT, deny_after_max, Keyer::new(2)).unwrap();
        assert_eq!(loaded.snapshot.position().revision, 2);
        assert_eq!(loaded.lease.fresh_at.is_some(), stands, "{deny_after_max:?}");
    }
}
