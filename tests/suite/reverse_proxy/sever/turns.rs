//! What turns an open exchange, and what does not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use portreeve::core::credential::{MintedKey, api_key_fingerprint};
use portreeve::core::evidence::{
    EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot, Withdrawal,
};
use portreeve::core::id::DecisionId;
use portreeve::core::identity::{
    Binding, Credential, CredentialKind, CredentialStatus, Exception, Hygiene, Identity, IdentityStatus,
    Lease, Owner, PolicyMode, Record, RevocationTarget,
};
use portreeve::core::policy::{PathPattern, Reason, RouteRules, ServiceRef, Staleness, Verdict};
use portreeve::pep::{Carriers, Route};

use super::{open, revocation, streaming, whole};
use crate::support::clock::ManualClock;
use crate::support::evidence::{Entry, MemoryLog};
use crate::support::front::{Gate, Parts, routes_and};
use crate::support::issuer::TestIssuer;
use crate::support::world::{TENANT, World, block_on_io, identity, name, orders, policy, rules};

/// `ledger` of issuer `main` reads orders; `audit` of issuer `second` reads stock.
struct Pair {
    gate: Gate,
    second: TestIssuer,
    _upstream: crate::support::upstream::Upstream,
}

impl Pair {
    fn new() -> Self {
        let upstream = streaming();
        let gate = Gate::with(upstream.address(), |settings, _| {
            let stock = Route {
                host: Some("stock.test".into()),
                path: Some(PathPattern::parse("/orders/**").unwrap()),
                methods: Vec::new(),
                service: Some(ServiceRef { tenant: name(TENANT), resource: name("stock") }),
                rules: Arc::new(RouteRules {
                    staleness: Staleness {
                        deny_after: Some(Duration::from_secs(100)),
                        ..Staleness::default()
                    },
                    ..rules()
                }),
            };
            settings.routes = routes_and(vec![stock], |_| {});
        });
        let second = TestIssuer::new("https://second.test", "key-2", second_algorithm());
        gate.change(vec![
            ("second", 1, Record::Issuer(Arc::new(second.record()))),
            ("stock", 1, Record::Resource(Arc::new(orders()))),
            ("audit", 1, Record::Identity(Arc::new(audit()))),
        ]);
        Self { gate, second, _upstream: upstream }
    }

    /// A stream of each.
    fn open(&self) -> [crate::support::caller::Caller; 2] {
        let ledger = open(&self.gate, "ledger");
        let mut claims = self.gate.world.claims("audit");
        claims["iss"] = self.second.iss().into();
        let token = self.second.sign(&self.second.header(), &claims);
        let mut audit = self.gate.caller();
        audit.write(
            format!("GET /orders/1 HTTP/1.1\r\nHost: stock.test\r\nAuthorization: Bearer {token}\r\n\r\n")
                .as_bytes(),
        );
        audit.skip_to("hello\r\n");
        [ledger, audit]
    }
}

fn second_algorithm() -> portreeve::core::credential::Algorithm {
    portreeve::core::credential::Algorithm::EdDsa
}

fn audit() -> Identity {
    Identity {
        bindings: vec![Binding { issuer: name("second"), subject: "audit".into() }],
        ..identity("audit")
    }
}

fn changed(change: impl FnOnce(&mut Identity)) -> Record {
    let mut value = identity("ledger");
    change(&mut value);
    Record::Identity(Arc::new(value))
}

fn key_of(gate: &Gate, status: CredentialStatus) -> Record {
    let entries = gate.world.log.entries();
    let Some(Entry::Decided(first)) = entries.first() else { panic!("{entries:?}") };
    Record::Credential(Arc::new(Credential {
        kind: CredentialKind::SigningKey,
        identity: None,
        fingerprint: *first.basis().verified.as_ref().unwrap().key_thumbprint(),
        digest: None,
        issued: None,
        rotate_by: None,
        expires: None,
        status,
        source: None,
    }))
}

fn severed(gate: &Gate) -> Vec<Reason> {
    let reason = |entry: Entry| match entry {
        Entry::Severed(_, reason) => Some(reason),
        _ => None,
    };
    gate.world.log.entries().into_iter().filter_map(reason).collect()
}

type Row = (&'static str, fn(&Gate) -> (&'static str, Record), Reason, u64);

/// What is changed; why it turns; how many are judged again.
const ROWS: [Row; 12] = [
    ("revoked", |_| ("r1", whole("ledger")), Reason::IdentityRevoked, 1),
    (
        "suspended",
        |_| ("ledger", changed(|it| it.status = IdentityStatus::Suspended)),
        Reason::IdentitySuspended,
        1,
    ),
    ("unbound", |_| ("ledger", changed(|it| it.bindings.clear())), Reason::IdentityUnknown, 1),
    // Another identity claims the same subject: it is nobody's.
    ("claimed", |_| ("thief", changed(|_| {})), Reason::IdentityUnknown, 1),
    ("entitlement", |_| ("ledger", changed(|it| it.entitlements.clear())), Reason::PolicyDenied, 1),
    (
        "token",
        |_| {
            let (issuer, jti) = (name("main"), "ledger-1".into());
            let expires = ManualClock::START.after(Duration::from_secs(300));
            ("r1", revocation(RevocationTarget::TokenId { issuer, jti, expires }))
        },
        Reason::CredentialRevoked,
        1,
    ),
    (
        "issued before",
        |_| {
            let not_before = ManualClock::START.after(Duration::from_secs(1));
            ("r1", revocation(RevocationTarget::IssuedBefore { identity: name("ledger"), not_before }))
        },
        Reason::CredentialRevoked,
        1,
    ),
    ("key", |gate| ("k1", key_of(gate, CredentialStatus::Revoked)), Reason::CredentialRevoked, 1),
    (
        "issuer",
        |_| ("main", Record::Issuer(Arc::new(TestIssuer::es256().record()))),
        Reason::CredentialUnverified,
        1,
    ),
    (
        "resource",
        |_| {
            let mut resource = orders();
            resource.routes.clear();
            ("orders", Record::Resource(Arc::new(resource)))
        },
        Reason::PolicyDenied,
        1,
    ),
    (
        "environment",
        |_| {
            let mut resource = orders();
            resource.environment = "test".into();
            ("orders", Record::Resource(Arc::new(resource)))
        },
        Reason::HygieneEnvironment,
        1,
    ),
    // A policy is read by everybody: both are judged, one turns.
    (
        "policy",
        |_| {
            let cedar = r#"forbid(principal == Portreeve::Identity::"ledger", action, resource);"#;
            ("extra", policy(cedar, PolicyMode::Enforce, Hygiene::default()))
        },
        Reason::PolicyDenied,
        2,
    ),
];

#[test]
fn a_change_ends_what_it_turns_and_leaves_the_others() {
    // Found new in its list, and, after some rounds, by its index.
    for rounds in [0, 3] {
        for (what, change, reason, judged) in ROWS {
            let pair = Pair::new();
            let gate = &pair.gate;
            let [mut ledger, mut audit] = pair.open();
            (0..rounds).for_each(|_| gate.exchanges.look());
            assert_eq!((gate.exchanges.open(), gate.judged_again()), (2, 0), "{what}: none without a change");
            gate.change(vec![("stranger", 1, Record::Identity(Arc::new(identity("stranger"))))]);
            gate.exchanges.look();
            assert_eq!(gate.judged_again(), 0, "{what}: none by a change that touches neither");
            let (record, value) = change(gate);
            let denies = matches!(&value, Record::Revocation(_))
                || matches!(&value, Record::Identity(it) if it.status != IdentityStatus::Active)
                || matches!(&value, Record::Credential(_));
            let ended = gate.change(vec![(record, 1, value)]);
            assert_eq!(ended, u64::from(denies), "{what}: what denies is ended when this returns");
            gate.exchanges.look();
            assert_eq!(gate.judged_again(), judged, "{what}");
            assert!(ledger.ends(), "{what}");
            assert_eq!(severed(gate), [reason], "{what}: on record");
            assert_eq!(gate.exchanges.take_ended(), ended, "{what}: what its acknowledgement says");
            pair._upstream.wait_closed();
            assert!(audit.is_open(), "{what}: the other goes on");
        }
    }
}

#[test]
fn what_was_ended_is_linked_to_its_decision() {
    let pair = Pair::new();
    let [mut ledger, _audit] = pair.open();
    let decided = pair.gate.world.log.entries().len();
    pair.gate.change(vec![("r1", 1, whole("ledger"))]);
    assert!(ledger.ends());
    let entries = pair.gate.world.log.entries();
    let [Entry::Severed(id, Reason::IdentityRevoked)] = &entries[decided..] else { panic!("{entries:?}") };
    assert_eq!(id.to_string().rsplit('-').next(), Some("0"), "the first decision of the log");
}

#[test]
fn an_exception_holds_a_stream_open_while_it_lasts() {
    let exception = |expires: u64| {
        Record::Exception(Arc::new(Exception {
            identities: vec![name("ledger")],
            resources: Vec::new(),
            lifts: vec!["hygiene.environment".into()],
            reason: "migration".into(),
            ticket: None,
            owner: Owner::default(),
            approver: Owner::default(),
            expires: ManualClock::START.after(Duration::from_secs(expires)),
        }))
    };
    for (what, until, ended) in [("ends", 60, 60), ("is cut short", 900, 0)] {
        let pair = Pair::new();
        let gate = &pair.gate;
        gate.change(vec![
            ("x1", 1, exception(until)),
            ("ledger", 1, changed(|it| it.environment = "dev".into())),
        ]);
        let [mut ledger, mut audit] = pair.open();
        (0..3).for_each(|_| gate.exchanges.look());
        assert_eq!(gate.exchanges.open(), 2, "{what}");
        if ended == 0 {
            gate.change(vec![("x1", 1, exception(0))]);
        } else {
            gate.world.clock.advance(Duration::from_secs(ended) - Duration::from_micros(1));
            gate.exchanges.look();
            assert_eq!(gate.judged_again(), 0, "{what}: not a moment too early");
            gate.world.clock.advance(Duration::from_micros(1));
        }
        gate.exchanges.look();
        assert!(ledger.ends(), "{what}");
        assert_eq!(severed(gate), [Reason::HygieneEnvironment], "{what}");
        assert!(audit.is_open(), "{what}");
    }
}

#[test]
fn what_it_relied_on_ends_and_so_does_it() {
    let at = |seconds| Some(ManualClock::START.after(Duration::from_secs(seconds)));
    type Change = fn(&mut Identity, Option<portreeve::core::time::Timestamp>);
    let rows: [(&str, Change, u64, Reason); 3] = [
        ("identity", |it, end| it.end = end, 50, Reason::IdentityExpired),
        ("entitlement", |it, end| it.entitlements[0].expires = end, 50, Reason::PolicyDenied),
        // The token: five minutes, and the route's 30 s of leeway.
        ("token", |_, _| {}, 330, Reason::CredentialExpired),
    ];
    for (what, change, seconds, reason) in rows {
        let pair = Pair::new();
        let gate = &pair.gate;
        gate.change(vec![("ledger", 1, changed(|it| change(it, at(seconds))))]);
        let [mut ledger, _audit] = pair.open();
        (0..3).for_each(|_| gate.exchanges.look());
        gate.world.clock.advance(Duration::from_secs(seconds) - Duration::from_micros(1));
        gate.world.refresh();
        gate.exchanges.look();
        assert!(ledger.is_open(), "{what}: until then it holds");
        assert_eq!(severed(gate), [], "{what}");
        gate.world.clock.advance(Duration::from_micros(1));
        gate.exchanges.look();
        assert!(ledger.ends(), "{what}");
        assert_eq!(severed(gate).first(), Some(&reason), "{what}");
    }
}

/// Routes differ in how old the state may be: `stock` 100 s, `orders` 300 s.
#[test]
fn a_lapsed_lease_ends_the_streams_of_its_routes() {
    let pair = Pair::new();
    let gate = &pair.gate;
    let [mut ledger, mut audit] = pair.open();
    (0..3).for_each(|_| gate.exchanges.look());
    gate.world.clock.advance(Duration::from_secs(100));
    gate.exchanges.look();
    assert_eq!((severed(gate), gate.judged_again()), (vec![], 0), "at the limit");
    gate.world.clock.advance(Duration::from_micros(1));
    gate.exchanges.look();
    assert!(audit.ends());
    assert!(ledger.is_open());
    assert_eq!(severed(gate), [Reason::StateStale]);
    gate.world.state.set_lease(Lease::default());
    gate.exchanges.look();
    assert!(ledger.ends(), "an age that cannot be told is too old");
}

#[test]
fn conditions_on_time_are_asked_again_every_minute() {
    for (conditional, judged) in [(false, 0), (true, 2)] {
        let pair = Pair::new();
        let gate = &pair.gate;
        if conditional {
            let cedar = r#"forbid(principal == Portreeve::Identity::"ledger", action, resource)
                when { context.now >= datetime("2026-11-22T12:01:30Z") };"#;
            gate.change(vec![("extra", 1, policy(cedar, PolicyMode::Enforce, Hygiene::default()))]);
        }
        let [mut ledger, mut audit] = pair.open();
        (0..3).for_each(|_| gate.exchanges.look());
        gate.world.clock.advance(Duration::from_secs(60));
        gate.exchanges.look();
        assert_eq!(gate.judged_again(), judged);
        assert!(ledger.is_open(), "not yet");
        gate.world.clock.advance(Duration::from_secs(35));
        gate.exchanges.look();
        assert!(ledger.is_open(), "within the minute");
        gate.world.clock.advance(Duration::from_secs(25));
        gate.world.refresh();
        gate.exchanges.look();
        assert_eq!(gate.judged_again(), judged * 2);
        assert!(if conditional { ledger.ends() } else { ledger.is_open() });
        assert!(audit.is_open());
    }
}

#[test]
fn a_cell_that_is_gone_ends_everything_of_it() {
    let pair = Pair::new();
    let gate = &pair.gate;
    let [mut ledger, mut audit] = pair.open();
    assert_eq!(gate.exchanges.replaced(&name("other")), 0);
    assert_eq!(
        (gate.exchanges.replaced(&name(TENANT)), gate.judged_again()),
        (0, 2),
        "put in place as it was"
    );
    let next = gate.world.state.load().without_cell(&name(TENANT));
    gate.world.state.publish(next);
    assert_eq!(gate.exchanges.replaced(&name(TENANT)), 2);
    assert!(ledger.ends() && audit.ends());
    assert_eq!(severed(gate), [Reason::StateAbsent; 2]);
}

/// The state moves after a decision and before its exchange is listed: no writer can find it, so it looks itself.
#[test]
fn a_state_that_moves_before_it_is_listed_is_not_missed() {
    let world = World::new();
    let moves = Arc::new(MovesOnce { log: Arc::clone(&world.log), then: Mutex::default() });
    let log = Arc::clone(&moves) as Arc<dyn EvidenceLog>;
    let parts = Parts { log, ..Parts::of(&world) };
    let upstream = streaming();
    let gate = Arc::new(Gate::over(world, parts, upstream.address(), |_, _| {}));
    let writer = Arc::clone(&gate);
    let (told, ended) = std::sync::mpsc::sync_channel(1);
    *moves.then.lock().unwrap() = Some(Box::new(move || {
        told.send(writer.change(vec![("r1", 1, whole("ledger"))])).unwrap();
    }));
    let answer = gate.order(&mut gate.caller(), "");
    assert_eq!(ended.recv().unwrap(), 0, "nobody was listed");
    assert_eq!((answer.status, upstream.is_untouched()), (401, true));
    let entries = gate.world.log.entries();
    assert!(matches!(entries.last(), Some(Entry::Withdrawn(Reason::IdentityRevoked))), "{entries:?}");
}

type Then = Box<dyn FnOnce() + Send>;

/// A log that lets something happen with the first decision, before anybody hears of it.
struct MovesOnce {
    log: Arc<MemoryLog>,
    then: Mutex<Option<Then>>,
}

impl EvidenceLog for MovesOnce {
    fn reserve(&self, mode: EvidenceMode) -> Reserved {
        self.log.reserve(mode)
    }

    fn decided(
        &self,
        slot: Option<Slot>,
        mode: EvidenceMode,
        facts: &ExchangeFacts,
        verdict: &Verdict,
    ) -> (DecisionId, Settlement) {
        let decided = self.log.decided(slot, mode, facts, verdict);
        let then = self.then.lock().unwrap().take();
        then.into_iter().for_each(|then| then());
        decided
    }

    fn abandoned(&self, slot: Option<Slot>, facts: &ExchangeFacts) {
        self.log.abandoned(slot, facts);
    }

    fn withdrawn(&self, withdrawal: &Withdrawal) {
        self.log.withdrawn(withdrawal);
    }

    fn severed(&self, severance: &Severance) {
        self.log.severed(severance);
    }
}

/// Nothing is open a second after the lease has lapsed, a change came, or a token ended: the thread sees to it.
#[test]
fn the_thread_ends_what_is_due_within_a_second() {
    type Act = fn(&Gate);
    let rows: [(&str, Act, Reason); 3] = [
        ("lapse", |gate| gate.world.clock.advance(Duration::from_secs(301)), Reason::StateStale),
        (
            "token",
            |gate| {
                gate.world.clock.advance(Duration::from_secs(330));
                gate.world.refresh();
            },
            Reason::CredentialExpired,
        ),
        (
            "change",
            |gate| assert_eq!(gate.change(vec![("ledger", 1, changed(|it| it.entitlements.clear()))]), 0),
            Reason::PolicyDenied,
        ),
    ];
    for (what, act, reason) in rows {
        let upstream = streaming();
        let gate = Gate::new(upstream.address());
        let stop = tokio_util::sync::CancellationToken::new();
        let (exchanges, until) = (Arc::clone(&gate.exchanges), stop.clone());
        let thread = std::thread::spawn(move || block_on_io(exchanges.keep(until)));
        let mut ledger = open(&gate, "ledger");
        let begun = std::time::Instant::now();
        act(&gate);
        assert!(ledger.ends(), "{what}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{what}: {:?}", begun.elapsed());
        stop.cancel();
        thread.join().unwrap();
        assert_eq!(severed(&gate).first(), Some(&reason), "{what}");
    }
}

/// An API key is verified by its record alone: found by its id, listed by the record's name.
#[test]
fn an_api_key_whose_record_changes_ends_its_streams() {
    type Change = fn(&mut Credential);
    let minted = MintedKey::new(&zeroize::Zeroizing::new([7; 40]));
    let record = |change: Change| {
        let mut record = Credential {
            kind: CredentialKind::ApiKey,
            identity: Some(name("ledger")),
            fingerprint: api_key_fingerprint(&minted.id).unwrap(),
            digest: Some(minted.digest),
            issued: Some(ManualClock::START),
            rotate_by: None,
            expires: Some(ManualClock::START.after(Duration::from_secs(60))),
            status: CredentialStatus::Active,
            source: None,
        };
        change(&mut record);
        Record::Credential(Arc::new(record))
    };
    let rows: [(Change, u64, Reason); 4] = [
        (|it| it.status = CredentialStatus::Revoked, 0, Reason::CredentialRevoked),
        (|it| it.digest = Some([1; 32]), 0, Reason::CredentialUnverified),
        // Its place is another key's from now on.
        (|it| it.fingerprint = [1; 32], 0, Reason::CredentialUnverified),
        (|_| {}, 60, Reason::CredentialExpired),
    ];
    for (at, (change, seconds, reason)) in rows.into_iter().enumerate() {
        let upstream = streaming();
        let gate = Gate::with(upstream.address(), |settings, _| {
            settings.carriers = Carriers::new(true, Some("x-api-key")).unwrap();
        });
        gate.change(vec![("key", 1, record(|_| {}))]);
        let mut keyed = gate.caller();
        let text =
            format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nX-Api-Key: {}\r\n\r\n", *minted.text);
        keyed.write(text.as_bytes());
        keyed.skip_to("hello\r\n");
        let mut other = open(&gate, "ledger");
        (0..3).for_each(|_| gate.exchanges.look());
        gate.change(vec![("key", 1, record(change))]);
        gate.world.clock.advance(Duration::from_secs(seconds));
        gate.exchanges.look();
        assert!(keyed.ends(), "row {at}");
        assert_eq!(severed(&gate), [reason], "row {at}");
        assert!(other.is_open(), "row {at}: a token of the same identity");
    }
}

#[test]
fn what_is_marked_twice_is_judged_once() {
    let pair = Pair::new();
    let gate = &pair.gate;
    let [_ledger, _audit] = pair.open();
    for owner in ["a", "b", "c"] {
        let mut resource = orders();
        resource.owner.team = Some(owner.into());
        gate.change(vec![("orders", 1, Record::Resource(Arc::new(resource)))]);
    }
    gate.exchanges.look();
    assert_eq!((gate.judged_again(), gate.exchanges.open()), (1, 2));
    gate.change(vec![("orders", 1, Record::Resource(Arc::new(orders())))]);
    gate.exchanges.look();
    assert_eq!((gate.judged_again(), gate.exchanges.open()), (2, 2), "and again when it is marked again");
}
