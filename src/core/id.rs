//! Identifiers, parsed once and carried as types.

use std::fmt;
use std::sync::Arc;

/// The name of a tenant or of a record: unique within its tenant and kind, never reused.
///
/// 1 to 128 bytes of `a-z`, `0-9`, `.`, `_`, `-`; first and last are a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// [`NameError`] when `text` is empty, too long, or has a byte outside the alphabet.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = |b: u8| edge(b) || matches!(b, b'.' | b'_' | b'-');
        let bytes = text.as_bytes();
        let whole = (1..=NAME_BYTES_MAX).contains(&bytes.len());
        let ends = bytes.first().copied().is_some_and(edge) && bytes.last().copied().is_some_and(edge);
        if whole && ends && bytes.iter().copied().all(inner) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(NameError { text: text.chars().take(NAME_BYTES_MAX).collect() })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A text that is no [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "malformed name `{}`: expected 1 to 128 of a-z, 0-9, `.`, `_`, `-`, with a letter or digit at both ends",
    text.escape_debug()
)]
pub struct NameError {
    text: String,
}

/// One lineage of the hub's store: minted when a store is created, restored or forked.
///
/// Eight bytes of counter, big-endian, then eight random bytes: ordered and unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch([u8; 16]);

impl Epoch {
    /// Takes the sixteen bytes as stored.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The sixteen bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether this is the zero epoch, which no store ever has.
    pub fn is_none(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A state version: how far a lineage of state has been applied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position {
    /// The lineage.
    pub epoch: Epoch,
    /// Gap-free, in commit order; 0 before the first commit.
    pub revision: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.revision, self.epoch)
    }
}

/// The identity of one evidence log: one process start of one enforcement point.
///
/// A ULID: 48 bits of milliseconds, 80 random bits; shown in Crockford base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId(u128);

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl LogId {
    /// Joins a wall-clock millisecond count and random bits.
    pub const fn new(unix_ms: u64, random: u128) -> Self {
        Self(((unix_ms as u128 & 0xffff_ffff_ffff) << 80) | (random & ((1 << 80) - 1)))
    }

    /// Takes the sixteen big-endian bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The sixteen big-endian bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Parses the 26 characters that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 26 || text.as_bytes().first().is_none_or(|b| *b > b'7') {
            return None;
        }
        text.bytes()
            .try_fold(0u128, |sum, byte| {
                let digit = CROCKFORD.iter().position(|c| *c == byte)?;
                Some((sum << 5) | digit as u128)
            })
            .map(Self)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: each answer names its decision, twice.
        let mut text = [b'0'; 26];
        let mut rest = self.0;
        for letter in text.iter_mut().rev() {
            let digit = usize::try_from(rest & 31).unwrap_or(0);
            *letter = CROCKFORD.get(digit).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of one decision everywhere: answer headers, evidence, sinks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DecisionId {
    /// The log that holds it.
    pub log: LogId,
    /// Its place there.
    pub place: Place,
}

/// Where in a log a decision is found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// A record of its own, by sequence number.
    Recorded(u64),
    /// Counted in the roll-up whose range holds this number.
    RolledUp(u64),
    /// Counted as lost: no room was left and the route's mode allowed going on.
    Lost(u64),
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Recorded(n) => write!(f, "{}-{n}", self.log),
            Place::RolledUp(n) => write!(f, "{}-r{n}", self.log),
            Place::Lost(n) => write!(f, "{}-x{n}", self.log),
        }
    }
}

impl DecisionId {
    /// Parses what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (log, place) = text.split_once('-')?;
        let place = match place.strip_prefix('r') {
            Some(n) => Place::RolledUp(n.parse().ok()?),
            None => match place.strip_prefix('x') {
                Some(n) => Place::Lost(n.parse().ok()?),
                None => Place::Recorded(place.parse().ok()?),
            },
        };
        Some(Self { log: LogId::parse(log)?, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_their_bounds() {
        for good in ["a", "a.b", "orders-1", &"x".repeat(128)] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", ".", "a b", "ä", "a/b", "a\n", &"x".repeat(129)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn identifiers_read_back_what_they_write() {
        let log = LogId::new(1_795_000_000_000, u128::MAX);
        assert_eq!(LogId::parse(&log.to_string()), Some(log));
        for place in [Place::Recorded(0), Place::RolledUp(7), Place::Lost(u64::MAX)] {
            let id = DecisionId { log, place };
            assert_eq!(DecisionId::parse(&id.to_string()), Some(id));
        }
        assert_eq!(LogId::parse("8ZZZZZZZZZZZZZZZZZZZZZZZZZ"), None);
        assert_eq!(DecisionId::parse("x-1"), None);
    }

    #[test]
    fn epochs_are_ordered_by_their_counter() {
        let mut later = [0; 16];
        later[7] = 2;
        let mut earlier = [0xff; 16];
        earlier[..8].copy_from_slice(&1u64.to_be_bytes());
        assert!(Epoch::from_bytes(earlier) < Epoch::from_bytes(later));
    }
}
