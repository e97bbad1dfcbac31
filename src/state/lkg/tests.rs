use super::*;
use crate::core::identity::{
    Batch, Change, IdentityStatus, IdentityType, KillBatch, Owner, Record, RecordKind, RevocationTarget,
};
use crate::core::policy::Staleness;
use crate::core::time::{Anchor, BootInstant, Now, Timestamp};
use crate::wire::signed;
use std::sync::Arc;
use std::time::Duration;

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

fn delta(from: u64, to: u64, before: &[u8; 32], status: IdentityStatus) -> (proto::Signed, Batch) {
    let change = Change {
        kind: RecordKind::Identity,
        name: name("ledger"),
        generation: u32::try_from(to).unwrap(),
        revision: to,
        record: Some(identity(status)),
        dropped: false,
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
    (sign(proto::SignedKind::Delta, &delta), batch)
}

fn key() -> aws_lc_rs::signature::Ed25519KeyPair {
    aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap()
}

fn sign(kind: proto::SignedKind, message: &impl prost::Message) -> proto::Signed {
    let public = signed::public(&key());
    signed::sign(&key(), public.key_id, kind, Bytes::from(message.encode_to_vec()))
}

fn revocation(revision: u64, previous: u64) -> (proto::Signed, KillBatch) {
    let change = Change {
        kind: RecordKind::Revocation,
        name: name(&format!("r{revision}")),
        generation: 1,
        revision,
        record: Some(Record::Revocation(Arc::new(crate::core::identity::Revocation {
            target: RevocationTarget::Identity { identity: name("ledger"), generation: 9 },
            reason: "test".into(),
            requested_by: "test".into(),
            at: Timestamp::default(),
        }))),
        dropped: false,
    };
    let urgent = proto::Urgent {
        cell: "demo".into(),
        epoch: bytes::Bytes::from_static(&[1; 16]),
        previous,
        revision,
        changes: vec![wire::encode_change(&change)],
        ..Default::default()
    };
    let signed = sign(proto::SignedKind::Urgent, &urgent);
    let kills = wire::open_urgent(&signed, &[signed::public(&key())]).unwrap();
    (signed, kills)
}

/// A folder with a base at revision 1 and one delta to revision 2, and the state it stands for.
fn written(folder: &Path) -> Snapshot {
    let (mut lkg, loaded) = LastKnownGood::open(folder, BOOT, Keyer::new(1)).unwrap();
    lkg.pin(Bytes::from_static(&[7; 16]), vec![signed::public(&key())]).unwrap();
    let (_, first) = delta(0, 1, &[0; 32], IdentityStatus::Active);
    let state = loaded.snapshot.apply(&first).unwrap();
    lkg.rewrite(&name("demo"), &state).unwrap();
    let (raw, second) = delta(1, 2, &first.history_hash, IdentityStatus::Suspended);
    lkg.append(&name("demo"), &raw).unwrap();
    let state = state.apply(&second).unwrap();
    let lease = lease();
    lkg.write_lease(&lease, &state).unwrap();
    state
}

fn lease() -> Lease {
    let anchor = Anchor { ahead_us: 1, lead_us: -2, offset_us: 3, offset_max_us: 4, steps: 5 };
    let wall_at = Timestamp::from_micros(6);
    let fresh_at = Some(BootInstant::from_micros(77));
    Lease { fresh_at, wall_at, anchor, hub_time_us: 5, deny_after_max: MINUTE }
}

fn reopened(folder: &Path, boot: &str) -> Loaded {
    LastKnownGood::open(folder, boot, Keyer::new(2)).unwrap().1
}

#[test]
fn a_restart_begins_where_the_last_run_stood() {
    let folder = tempfile::tempdir().unwrap();
    let state = written(folder.path());
    let loaded = reopened(folder.path(), BOOT);
    assert!(loaded.refused.is_empty());
    assert_eq!(loaded.snapshot.position(), state.position());
    assert_eq!(loaded.snapshot.export(&name("demo")), state.export(&name("demo")));
    assert_eq!((loaded.lease, loaded.anchor), (lease(), Some(lease().anchor)));
    assert_eq!(reopened(folder.path(), "boot-2").anchor, None, "and so do its clocks");
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
    let (lkg, _) = LastKnownGood::open(folder.path(), BOOT, Keyer::new(1)).unwrap();
    lkg.write_lease(&Lease::default(), &state).unwrap();
    let loaded = reopened(folder.path(), BOOT);
    assert_eq!(loaded.snapshot.position().revision, 2);
    assert_eq!(loaded.lease.fresh_at, None, "else a machine that has just started would be fresh by it");
}

#[test]
fn a_lease_is_not_lengthened_by_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    let held = reopened(folder.path(), BOOT).lease;
    let at = |after: Duration| Now {
        boot: BootInstant::from_micros(77 + u64::try_from(after.as_micros()).unwrap()),
        wall: held.wall_at.after(after),
    };
    // Routes that may be longer now have what was granted; shorter ones their own.
    for (deny_after, ends) in [(MINUTE / 2, MINUTE / 2), (MINUTE, MINUTE), (MINUTE * 2, MINUTE)] {
        let limits = Staleness { deny_after: Some(deny_after), ..Staleness::default() };
        assert!(!held.freshness(at(ends), &limits).stale, "{deny_after:?}");
        assert!(held.freshness(at(ends + Duration::from_micros(1)), &limits).stale, "{deny_after:?}");
    }
}

/// What is known and denied of `ledger`.
fn denials(state: &Snapshot) -> usize {
    state.beside(&name("demo")).len()
}

#[test]
fn a_revocation_ahead_of_the_order_survives_a_restart_however_it_was_kept() {
    for rewritten in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let state = written(folder.path());
        let (mut lkg, loaded) = LastKnownGood::open(folder.path(), BOOT, Keyer::new(1)).unwrap();
        let (raw, kills) = revocation(9, 2);
        let state = loaded.snapshot.kill(&kills).map(|next| (next, state)).unwrap().0;
        if rewritten {
            lkg.rewrite(&name("demo"), &state).unwrap();
        } else {
            lkg.append_urgent(&name("demo"), &raw).unwrap();
        }
        lkg.write_lease(&Lease::default(), &state).unwrap();
        let again = reopened(folder.path(), BOOT).snapshot;
        let held = again.cell(&name("demo")).unwrap();
        assert_eq!((denials(&again), held.kill_revision, held.revision), (1, 9, 2), "rewritten: {rewritten}");
        // A file without it is older than what was in force.
        let path = folder.path().join("demo.lkg");
        written(tempfile::tempdir_in(folder.path()).unwrap().path());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let loaded = reopened(folder.path(), BOOT);
        assert!(loaded.snapshot.is_absent() && loaded.refused.len() == 1, "rewritten: {rewritten}");
    }
}

#[test]
fn what_was_signed_by_another_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    assert!(!reopened(folder.path(), BOOT).snapshot.is_absent());
    let (mut lkg, _) = LastKnownGood::open(folder.path(), BOOT, Keyer::new(1)).unwrap();
    let other = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[4; 32]).unwrap();
    lkg.pin(Bytes::from_static(&[7; 16]), vec![signed::public(&other)]).unwrap();
    let loaded = reopened(folder.path(), BOOT);
    assert!(loaded.snapshot.is_absent() && loaded.refused.len() == 1);
    assert!(loaded.refused[0].to_string().contains("not trusted"), "{}", loaded.refused[0]);
}

#[test]
fn state_whose_cluster_is_not_known_is_neither_used_nor_touched() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    let (cluster, state) = (folder.path().join("cluster"), folder.path().join("demo.lkg"));
    let (pinned, kept) = (fs::read(&cluster).unwrap(), fs::read(&state).unwrap());
    let refused = || {
        let error = LastKnownGood::open(folder.path(), BOOT, Keyer::new(1)).unwrap_err();
        assert!(matches!(&error, LkgError::Pin { path, .. } if *path == cluster), "{error}");
        error.to_string()
    };
    let mut flipped = pinned.clone();
    for at in [0, flipped.len() / 2, flipped.len() - 1] {
        flipped[at] ^= 1;
        fs::write(&cluster, &flipped).unwrap();
        assert!(refused().contains("it is damaged"), "byte {at}");
        flipped[at] ^= 1;
    }
    fs::remove_file(&cluster).unwrap();
    assert!(refused().contains("it is gone"));
    assert_eq!(fs::read(&state).unwrap(), kept);
    // Put back, it goes on; with nothing at all, it begins anew.
    fs::write(&cluster, &pinned).unwrap();
    assert!(!reopened(folder.path(), BOOT).snapshot.is_absent());
    fs::remove_file(&cluster).unwrap();
    fs::remove_file(&state).unwrap();
    assert!(reopened(folder.path(), BOOT).snapshot.is_absent());
}
