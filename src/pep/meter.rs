//! Counts the frames of an HTTP/2 connection that cost work and carry nothing.
//!
//! The library under the proxy bounds frames of a head, small `DATA`, resets before a stream was taken
//! up and resets that it sends itself. Here is what it leaves open: resets of streams that were
//! taken up (rapid reset), and floods of `PING`, `SETTINGS`, `PRIORITY`, `WINDOW_UPDATE` and unknown frames.

use std::time::Duration;

use tokio::time::Instant;

use crate::pep::watch::Watch;
use crate::telemetry::metrics::ConnectionEnd;

/// Over which time is counted.
const WINDOW: Duration = Duration::from_secs(30);

/// Control frames that each `HEADERS` or `DATA` frame of ours earns: whoever takes much says much.
const EARNED: i64 = 10;

/// Most earned control frames, as a multiple of what is free.
const SAVED: i64 = 100;

/// Counts the frames of one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    received: Scan,
    sent: Scan,
    limits: FrameLimits,
    since: Instant,
    resets: u32,
    credit: i64,
    last_stream: u32,
}

/// How many frames a connection may receive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLimits {
    /// Resets in 30 s.
    pub(crate) resets: u32,
    /// Control frames in 30 s, beside ten for each frame of an answer.
    pub(crate) control: u32,
}

impl Meter {
    /// Begins with a connection, before its preface.
    pub(crate) fn new(limits: FrameLimits, now: Instant) -> Self {
        let received = Scan { passed: PREFACE_BYTES, ..Scan::default() };
        let credit = i64::from(limits.control);
        Self { received, sent: Scan::default(), limits, since: now, resets: 0, credit, last_stream: 0 }
    }

    /// Counts what came.
    ///
    /// # Errors
    /// Which limit is passed.
    pub(crate) fn received(&mut self, bytes: &[u8], watch: &Watch) -> Result<(), ConnectionEnd> {
        let mut scan = self.received;
        let mut rest = bytes;
        let mut outcome = Ok(());
        while let Some(head) = scan.next(&mut rest) {
            outcome = outcome.and(self.count(head, watch));
        }
        self.received = scan;
        outcome
    }

    fn count(&mut self, head: Head, watch: &Watch) -> Result<(), ConnectionEnd> {
        match head.kind {
            DATA => {}
            HEADERS | CONTINUATION => {
                self.last_stream = self.last_stream.max(head.stream);
                watch.continues(head.flags & END_HEADERS == 0);
            }
            RST_STREAM => {
                self.begin_window();
                self.resets += 1;
                if self.resets > self.limits.resets {
                    return Err(ConnectionEnd::Resets);
                }
            }
            SETTINGS | PING if head.flags & ACK != 0 => {}
            _ => {
                self.begin_window();
                self.credit -= 1;
                if self.credit < 0 {
                    return Err(ConnectionEnd::Control);
                }
            }
        }
        Ok(())
    }

    fn begin_window(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.since) >= WINDOW {
            self.since = now;
            self.resets = 0;
            self.credit = self.credit.max(i64::from(self.limits.control));
        }
    }

    /// Follows what was sent.
    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.sent.next(&mut bytes) {
            if matches!(head.kind, DATA | HEADERS) {
                let most = i64::from(self.limits.control) * SAVED;
                self.credit = (self.credit + EARNED).min(most);
            }
        }
    }

    /// The frame that ends a connection for its flood; `None` while another is half sent.
    ///
    /// # Standard
    /// RFC 9113 §6.8, `ENHANCE_YOUR_CALM`.
    pub(crate) fn goodbye(&self) -> Option<[u8; 17]> {
        if !self.sent.is_between() {
            return None;
        }
        let mut frame = [0; 17];
        let (head, rest) = frame.split_at_mut(HEAD_BYTES);
        head.copy_from_slice(&[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0]);
        let (last, code) = rest.split_at_mut(4);
        last.copy_from_slice(&self.last_stream.to_be_bytes());
        code.copy_from_slice(&11_u32.to_be_bytes());
        Some(frame)
    }
}

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Where a stream of frames stands.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Bytes to pass over before the next head.
    passed: usize,
}

impl Scan {
    /// The next head in `bytes`, which are consumed up to its end; `None`: they have no other.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let over = self.passed.min(bytes.len());
        self.passed -= over;
        *bytes = bytes.split_at(over).1;
        let taken = (HEAD_BYTES - self.have).min(bytes.len());
        let (new, rest) = bytes.split_at(taken);
        for (place, byte) in self.head.iter_mut().skip(self.have).zip(new) {
            *place = *byte;
        }
        self.have += taken;
        *bytes = rest;
        if self.have < HEAD_BYTES {
            return None;
        }
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.have = 0;
        self.passed = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Head { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff })
    }

    /// Whether the next byte begins a frame.
    const fn is_between(&self) -> bool {
        self.have == 0 && self.passed == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::evidence::Door;
    use crate::pep::watch::Waits;
    use crate::telemetry::metrics::Metrics;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + usize::from(length), 7);
        frame
    }

    fn watch() -> Arc<Watch> {
        let wait = Duration::from_secs(10);
        let waits = Waits { head: wait, idle: wait, send: wait };
        Watch::new(Instant::now(), waits, &Metrics::new().listener("inbound", Door::Proxy))
    }

    fn meter() -> Meter {
        let mut meter = Meter::new(FrameLimits { resets: 3, control: 4 }, Instant::now());
        meter.received(&[b'x'; PREFACE_BYTES], &watch()).unwrap();
        meter
    }

    #[tokio::test(start_paused = true)]
    async fn the_bounds_are_exact_and_begin_anew() {
        let watch = watch();
        for (kind, most, end) in [
            (RST_STREAM, 3, ConnectionEnd::Resets),
            (PING, 4, ConnectionEnd::Control),
            (2, 4, ConnectionEnd::Control),
        ] {
            let mut meter = meter();
            for _ in 0..2 {
                for at in 0..most {
                    assert_eq!(meter.received(&frame(kind, 0, 8), &watch), Ok(()), "{kind} {at}");
                }
                let mut full = Meter { ..meter };
                assert_eq!(full.received(&frame(kind, 0, 8), &watch), Err(end), "{kind}");
                assert_eq!(meter.received(&frame(DATA, 0, 100), &watch), Ok(()), "data is no control frame");
                tokio::time::advance(WINDOW).await;
            }
        }
        let mut meter = meter();
        for _ in 0..100 {
            assert_eq!(meter.received(&frame(PING, ACK, 8), &watch), Ok(()), "an answer to ours");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_much_may_say_much() {
        let watch = watch();
        let mut meter = meter();
        meter.sent(&frame(DATA, 0, 200));
        meter.sent(&frame(PING, 0, 8));
        for _ in 0..14 {
            assert_eq!(meter.received(&frame(8, 0, 4), &watch), Ok(()));
        }
        assert_eq!(meter.received(&frame(8, 0, 4), &watch), Err(ConnectionEnd::Control));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_followed_however_they_are_cut() {
        let watch = watch();
        let stream = [frame(HEADERS, 0, 40), frame(RST_STREAM, 0, 4), frame(DATA, 1, 0)].concat().repeat(3);
        for piece in [1, 5, 9, 50, stream.len()] {
            let mut meter = meter();
            for part in stream.chunks(piece) {
                assert_eq!(meter.received(part, &watch), Ok(()), "by {piece}");
            }
            assert_eq!(meter.resets, 3, "by {piece}");
            assert!(meter.received.is_between());
        }
        let mut meter = meter();
        meter.sent(&frame(DATA, 0, 9)[..12]);
        assert_eq!(meter.goodbye(), None);
        meter.sent(&frame(DATA, 0, 9)[12..]);
        assert_eq!(meter.goodbye().unwrap()[3], GOAWAY);
    }
}
