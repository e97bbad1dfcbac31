//! What an issuer says of many tokens: a list of small values (Token Status List, draft 20).

use std::fmt;
use std::sync::Arc;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use crate::core::id::Name;
use crate::core::time::Timestamp;

/// Largest list, inflated, in bytes: 8 million values of one bit.
pub const VALUES_BYTES_MAX: usize = 1 << 20;

/// Largest list as it is kept and sent, in bytes.
pub const PACKED_BYTES_MAX: usize = 384 * 1024;

/// How many bits a value has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusBits {
    /// 0 and 1.
    One,
    /// 0 to 3.
    Two,
    /// 0 to 15.
    Four,
    /// 0 to 255.
    Eight,
}

impl StatusBits {
    /// The number.
    pub const fn count(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// From the number; `None` for all but 1, 2, 4 and 8.
    pub const fn of(count: u64) -> Option<Self> {
        match count {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            4 => Some(Self::Four),
            8 => Some(Self::Eight),
            _ => None,
        }
    }
}

/// Why packed values cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InflateError {
    /// More than [`PACKED_BYTES_MAX`].
    #[error("the compressed list is longer than {PACKED_BYTES_MAX} bytes")]
    PackedSize,
    /// More than [`VALUES_BYTES_MAX`].
    #[error("the list is longer than {VALUES_BYTES_MAX} bytes")]
    Size,
    /// No whole zlib stream, or something behind it.
    #[error("the list is not compressed as it must be")]
    Malformed,
    /// No value at all.
    #[error("the list is empty")]
    Empty,
}

/// A status list, held and ready to be read. Written by the hub alone.
#[derive(Clone, PartialEq, Eq)]
pub struct StatusList {
    /// The issuer record's name.
    pub issuer: Name,
    /// Its URI, as tokens name it.
    pub uri: Arc<str>,
    /// How many bits a value has.
    pub bits: StatusBits,
    /// When its issuer made it.
    pub issued: Timestamp,
    /// The first instant at which it counts no more.
    pub valid_until: Timestamp,
    /// RFC 7638 thumbprint of the key that signed it.
    pub signed_by: [u8; 32],
    packed: Arc<[u8]>,
    values: Arc<[u8]>,
}

impl fmt::Debug for StatusList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusList")
            .field("issuer", &self.issuer)
            .field("uri", &self.uri)
            .field("entries", &self.entries())
            .field("valid_until", &self.valid_until)
            .finish_non_exhaustive()
    }
}

impl StatusList {
    /// One without values: it was withdrawn, and its place may be taken again.
    pub fn withdrawn(issuer: Name, uri: Arc<str>) -> Self {
        let (never, none) = (Timestamp::from_micros(0), Arc::<[u8]>::from(Vec::new()));
        Self {
            issuer,
            uri,
            bits: StatusBits::One,
            issued: never,
            valid_until: never,
            signed_by: [0; 32],
            packed: Arc::clone(&none),
            values: none,
        }
    }

    /// The same with values, compressed as zlib (RFC 1950).
    ///
    /// # Errors
    /// [`InflateError`] when they cannot be read, or are too many.
    pub fn with_values(self, packed: Arc<[u8]>) -> Result<Self, InflateError> {
        let values = inflate(&packed)?.into();
        Ok(Self { packed, values, ..self })
    }

    /// Whether there are no values.
    pub fn is_withdrawn(&self) -> bool {
        self.values.is_empty()
    }

    /// The values as they are sent.
    pub const fn packed(&self) -> &Arc<[u8]> {
        &self.packed
    }

    /// The values as they are read.
    pub const fn values(&self) -> &Arc<[u8]> {
        &self.values
    }

    /// How many values there are.
    pub fn entries(&self) -> u64 {
        self.values.len() as u64 * 8 / u64::from(self.bits.count())
    }

    /// The value at `index`; `None` past the end.
    ///
    /// # Standard
    /// Token Status List §4.1: within a byte the lowest bits come first.
    pub fn value(&self, index: u64) -> Option<u8> {
        let bits = self.bits.count();
        let per_byte = u64::from(8 / bits);
        let byte = *self.values.get(usize::try_from(index / per_byte).ok()?)?;
        let shift = u8::try_from(index % per_byte).ok()? * bits;
        Some((byte >> shift) & (u8::MAX >> (8 - bits)))
    }

    /// Whether both say the same of every token.
    pub fn says_the_same(&self, other: &Self) -> bool {
        (self.bits, &self.values) == (other.bits, &other.values)
    }
}

fn inflate(packed: &[u8]) -> Result<Vec<u8>, InflateError> {
    const FLAGS: u32 = inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER
        | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
        | inflate_flags::TINFL_FLAG_COMPUTE_ADLER32;
    if packed.len() > PACKED_BYTES_MAX {
        return Err(InflateError::PackedSize);
    }
    let mut state = Box::new(DecompressorOxide::new());
    let mut values = vec![0; FIRST_BYTES.min(VALUES_BYTES_MAX)];
    let (mut read, mut written) = (0, 0);
    loop {
        let rest = packed.get(read..).unwrap_or_default();
        let (status, taken, made) = decompress(&mut state, rest, &mut values, written, FLAGS);
        read += taken;
        written += made;
        match status {
            TINFLStatus::Done if read < packed.len() => return Err(InflateError::Malformed),
            TINFLStatus::Done if written == 0 => return Err(InflateError::Empty),
            TINFLStatus::Done => {
                values.truncate(written);
                return Ok(values);
            }
            TINFLStatus::HasMoreOutput if values.len() >= VALUES_BYTES_MAX => return Err(InflateError::Size),
            TINFLStatus::HasMoreOutput => values.resize((values.len() * 4).min(VALUES_BYTES_MAX), 0),
            _ => return Err(InflateError::Malformed),
        }
    }
}

/// Room made at first; most lists are small.
const FIRST_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use miniz_oxide::deflate::compress_to_vec_zlib;
    use proptest::prelude::*;

    use super::*;

    fn list(bits: StatusBits, values: &[u8]) -> Result<StatusList, InflateError> {
        let uri = Arc::from("https://issuer.test/lists/1");
        let none = StatusList::withdrawn(Name::parse("main").unwrap(), uri);
        StatusList { bits, ..none }.with_values(compress_to_vec_zlib(values, 9).into())
    }

    #[test]
    fn lowest_bits_come_first_and_nothing_lies_past_the_end() {
        let of = |bits, values: &[u8]| {
            let list = list(bits, values).unwrap();
            assert_eq!(list.value(list.entries()), None);
            assert_eq!(list.value(u64::MAX), None);
            (0..list.entries()).map(|index| list.value(index).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of(StatusBits::One, &[0b1011_1001]), [1, 0, 0, 1, 1, 1, 0, 1]);
        assert_eq!(of(StatusBits::Two, &[0b1100_1001, 0b0100_0100]), [1, 2, 0, 3, 0, 1, 0, 1]);
        assert_eq!(of(StatusBits::Four, &[0xc9]), [9, 12]);
        assert_eq!(of(StatusBits::Eight, &[0xc9, 7]), [0xc9, 7]);
    }

    #[test]
    fn sizes_at_their_bounds() {
        let zeros = |bytes| list(StatusBits::One, &vec![0; bytes]).map(|list| list.entries());
        assert_eq!(zeros(1), Ok(8));
        assert_eq!(zeros(FIRST_BYTES), Ok(8 * FIRST_BYTES as u64));
        assert_eq!(zeros(FIRST_BYTES + 1), Ok(8 * (FIRST_BYTES as u64 + 1)));
        assert_eq!(zeros(VALUES_BYTES_MAX), Ok(8 << 20));
        assert_eq!(zeros(VALUES_BYTES_MAX + 1), Err(InflateError::Size));
        assert_eq!(zeros(1 << 28), Err(InflateError::Size), "a bomb");
        assert_eq!(zeros(0), Err(InflateError::Empty));
    }

    #[test]
    fn only_one_whole_stream_is_taken() {
        let good = compress_to_vec_zlib(b"values", 9);
        let none = || StatusList::withdrawn(Name::parse("main").unwrap(), Arc::from("u"));
        let take = |packed: &[u8]| none().with_values(packed.into()).map(|list| list.values().to_vec());
        assert_eq!(take(&good), Ok(b"values".to_vec()));
        let changed = |at: usize| {
            let mut changed = good.clone();
            changed[at] ^= 1;
            changed
        };
        for (what, packed) in [
            ("nothing", vec![]),
            ("cut off", good[..good.len() - 1].to_vec()),
            ("something behind it", [&good[..], &[0]].concat()),
            ("another checksum", changed(good.len() - 1)),
            ("another header", changed(0)),
            ("no header", good[2..].to_vec()),
        ] {
            assert_eq!(take(&packed), Err(InflateError::Malformed), "{what}");
        }
        assert_eq!(take(&vec![0; PACKED_BYTES_MAX + 1]), Err(InflateError::PackedSize));
    }

    #[test]
    fn a_list_that_was_withdrawn_says_nothing() {
        let none = StatusList::withdrawn(Name::parse("main").unwrap(), Arc::from("u"));
        assert!(none.is_withdrawn() && none.value(0).is_none() && none.entries() == 0);
        assert!(!list(StatusBits::One, &[0]).unwrap().is_withdrawn());
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read_and_every_value_is_where_it_was_put(
            values in prop::collection::vec(any::<u8>(), 1..200), size in 0usize..4,
        ) {
            let bits = [StatusBits::One, StatusBits::Two, StatusBits::Four, StatusBits::Eight][size];
            let count = u32::from(bits.count());
            let mut bytes = vec![0u8; (values.len() * count as usize).div_ceil(8)];
            let kept = |value: u8| u32::from(value) % (1 << count);
            for (index, value) in values.iter().enumerate() {
                for bit in (0..count).filter(|bit| (kept(*value) >> bit) & 1 == 1) {
                    let at = index * count as usize + bit as usize;
                    bytes[at / 8] |= 1 << (at % 8);
                }
            }
            let list = list(bits, &bytes).unwrap();
            for (index, value) in values.iter().enumerate() {
                prop_assert_eq!(list.value(index as u64).map(u32::from), Some(kept(*value)));
            }
        }

        #[test]
        fn noise_is_refused_without_panic(bytes: Vec<u8>) {
            let none = StatusList::withdrawn(Name::parse("main").unwrap(), Arc::from("u"));
            drop(none.with_values(bytes.into()));
        }
    }
}
