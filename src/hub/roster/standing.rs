//! How a member stands to a revision, when several hubs know of it.

use super::receipt::MemberState;
use crate::core::time::{BootInstant, Timestamp};

/// How a member stands to a revision at one hub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It acknowledged there.
    InForce {
        /// When.
        at: Timestamp,
        /// Cached verifications purged.
        purged: u64,
        /// Streams ended.
        ended_streams: u64,
    },
    /// It may act on older state, and what it says elsewhere does not speak for this stream.
    Holding,
    /// It may act on older state, unless it says elsewhere that it does not.
    Left,
    /// Its lease from there is over since then.
    Lapsed(BootInstant),
}

/// What all hubs together say of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Whole {
    pub(super) state: MemberState,
    /// Since when it stands so, if it was acknowledged.
    pub(super) at: Option<Timestamp>,
    /// Since when its leases are over, if that is how it stands.
    pub(super) lapsed: Option<BootInstant>,
    pub(super) purged: u64,
    pub(super) ended_streams: u64,
}

impl Whole {
    pub(super) fn of(standings: impl Iterator<Item = Standing>) -> Self {
        let mut whole =
            Self { state: MemberState::Lapsed, at: None, lapsed: None, purged: 0, ended_streams: 0 };
        let (mut is_held, mut is_left) = (false, false);
        for standing in standings {
            match standing {
                Standing::InForce { at, purged, ended_streams } => {
                    whole.at = whole.at.max(Some(at));
                    whole.purged = whole.purged.max(purged);
                    whole.ended_streams = whole.ended_streams.max(ended_streams);
                }
                Standing::Holding => is_held = true,
                Standing::Left => is_left = true,
                Standing::Lapsed(end) => whole.lapsed = whole.lapsed.max(Some(end)),
            }
        }
        whole.state = match whole.at {
            _ if is_held => MemberState::Pending,
            Some(_) => MemberState::InForce,
            None if is_left => MemberState::Pending,
            None => MemberState::Lapsed,
        };
        if whole.state != MemberState::InForce {
            whole.at = None;
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stream_does_not_speak_for_another_that_is_open() {
        let in_force = Standing::InForce { at: Timestamp::from_seconds(3), purged: 1, ended_streams: 2 };
        let lapsed = Standing::Lapsed(BootInstant::from_micros(1));
        let rows: [(&[Standing], MemberState); 8] = [
            (&[in_force], MemberState::InForce),
            (&[in_force, Standing::Left], MemberState::InForce),
            (&[in_force, lapsed], MemberState::InForce),
            (&[in_force, Standing::Holding], MemberState::Pending),
            (&[Standing::Holding], MemberState::Pending),
            (&[Standing::Left, lapsed], MemberState::Pending),
            (&[lapsed, Standing::Holding], MemberState::Pending),
            (&[lapsed, lapsed], MemberState::Lapsed),
        ];
        for (standings, expected) in rows {
            assert_eq!(Whole::of(standings.iter().copied()).state, expected, "{standings:?}");
        }
    }
}
