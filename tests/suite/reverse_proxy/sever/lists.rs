//! A status list ends the streams whose value turned, and touches no others.

use std::sync::Arc;
use std::time::Duration;

use portreeve::core::identity::{Record, StatusBits, StatusList};
use portreeve::core::policy::Reason;
use serde_json::json;

use super::streaming;
use crate::conformance::status::{URI, list, list_name, list_until, listing};
use crate::support::caller::Caller;
use crate::support::evidence::Entry;
use crate::support::front::Gate;

/// A gate whose issuer has a list of eight values, and a stream of each of the first four.
struct Listed {
    gate: Gate,
    streams: Vec<Caller>,
    _upstream: crate::support::upstream::Upstream,
}

impl Listed {
    fn new(rounds: usize) -> Self {
        let upstream = streaming();
        let gate = Gate::with(upstream.address(), |_, _| {});
        gate.change(vec![
            ("main", 1, Record::Issuer(Arc::new(listing(&gate.world.issuer)))),
            (&list_name(URI), 1, list(URI, StatusBits::One, &[0])),
        ]);
        let streams = (0..4).map(|index| open(&gate, index)).collect();
        (0..rounds).for_each(|_| gate.exchanges.look());
        Self { gate, streams, _upstream: upstream }
    }

    fn severed(&self) -> Vec<Reason> {
        let reason = |entry: Entry| match entry {
            Entry::Severed(_, reason) => Some(reason),
            _ => None,
        };
        self.gate.world.log.entries().into_iter().filter_map(reason).collect()
    }
}

fn open(gate: &Gate, index: u64) -> Caller {
    let mut claims = gate.world.claims("ledger");
    claims["jti"] = json!(format!("token-{index}"));
    claims["status"] = json!({ "status_list": { "idx": index, "uri": URI } });
    let token = gate.world.token(&claims);
    let mut caller = gate.caller();
    caller.write(
        format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nAuthorization: Bearer {token}\r\n\r\n")
            .as_bytes(),
    );
    caller.skip_to("hello\r\n");
    caller
}

#[test]
fn only_those_whose_value_turned_are_judged_and_ended() {
    for rounds in [0, 3] {
        let mut listed = Listed::new(rounds);
        let gate = &listed.gate;
        // Another list, and the same list with other values elsewhere.
        let other = "https://issuer.test/lists/2";
        assert_eq!(gate.change(vec![(&list_name(other), 1, list(other, StatusBits::One, &[0xff]))]), 0);
        assert_eq!(gate.change(vec![(&list_name(URI), 1, list(URI, StatusBits::One, &[0b1111_0000]))]), 0);
        gate.exchanges.look();
        assert_eq!(gate.judged_again(), 0, "none without another value");
        let ended = gate.change(vec![(&list_name(URI), 1, list(URI, StatusBits::One, &[0b0000_0101]))]);
        assert_eq!(ended, 2, "before its acknowledgement");
        assert_eq!(gate.judged_again(), 2, "the others are not touched");
        assert_eq!(gate.exchanges.take_ended(), 2);
        assert_eq!(listed.severed(), [Reason::StatusInvalid; 2]);
        let over: Vec<_> = [0, 2].map(|index| listed.streams[index].ends()).into();
        let open: Vec<_> = [1, 3].map(|index| listed.streams[index].is_open()).into();
        assert_eq!((over, open), (vec![true; 2], vec![true; 2]));
    }
}

#[test]
fn a_list_that_is_gone_ends_all_of_its_streams() {
    for by_its_issuer in [false, true] {
        let mut listed = Listed::new(3);
        let gone = StatusList::withdrawn(crate::support::world::name("main"), URI.into());
        let ended = match by_its_issuer {
            false => {
                let change = (&*list_name(URI), 1, Record::StatusList(Arc::new(gone)));
                listed.gate.change(vec![change])
            }
            // A change that does not deny by itself: judged by the next look.
            true => {
                let issuer = Record::Issuer(Arc::new(listed.gate.world.issuer.record()));
                listed.gate.change(vec![("main", 1, issuer)])
            }
        };
        assert_eq!(ended, if by_its_issuer { 0 } else { 4 });
        listed.gate.exchanges.look();
        let reason = if by_its_issuer { Reason::StatusUnlisted } else { Reason::StatusMissing };
        assert_eq!(listed.severed(), [reason; 4]);
        assert!(listed.streams.iter_mut().all(Caller::ends));
    }
}

#[test]
fn a_list_whose_time_is_over_ends_its_streams_and_a_newer_one_keeps_them() {
    let lasting = |seconds| list_until(URI, StatusBits::One, &[0], seconds);
    for renewed in [false, true] {
        let mut listed = Listed::new(0);
        let gate = &listed.gate;
        assert_eq!(gate.change(vec![(&list_name(URI), 1, lasting(60))]), 0);
        assert_eq!(gate.judged_again(), 4, "it counts for a shorter time: until when is judged anew");
        (0..3).for_each(|_| gate.exchanges.look());
        if renewed {
            gate.change(vec![(&list_name(URI), 1, lasting(120))]);
        }
        gate.world.clock.advance(Duration::from_secs(60) - Duration::from_micros(1));
        gate.world.refresh();
        gate.exchanges.look();
        assert_eq!((listed.severed(), gate.judged_again()), (vec![], 4));
        gate.world.clock.advance(Duration::from_micros(1));
        gate.exchanges.look();
        assert_eq!(gate.judged_again(), 8);
        if renewed {
            assert_eq!(listed.severed(), []);
            assert!(listed.streams.iter_mut().all(Caller::is_open));
        } else {
            assert_eq!(listed.severed(), [Reason::StatusStale; 4]);
            assert!(listed.streams.iter_mut().all(Caller::ends));
        }
    }
}
