//! The packed form: numbers, times, texts, lists.
//!
//! A number is a LEB128 varint. A time is one of whole seconds, zigzag and shifted by one bit, which
//! says whether microseconds follow. A text is a number *n*: even, *n*/2 bytes follow; 1, it is the
//! record's own name; otherwise odd, it is the shared text (*n*-3)/2.

use std::fmt;
use std::marker::PhantomData;

use super::View;
use super::texts::Texts;
use crate::core::id::Name;
use crate::core::time::Timestamp;

const OWN_NAME: u64 = 1;
const SHARED: u64 = 3;
const MICROS: i64 = 1_000_000;

/// Takes fields.
pub(in crate::core::identity) struct Sink<'a> {
    out: Vec<u8>,
    texts: &'a mut Texts,
    name: &'a str,
}

impl<'a> Sink<'a> {
    pub(super) fn new(texts: &'a mut Texts, name: &'a Name) -> Self {
        Self { out: Vec::with_capacity(256), texts, name: name.as_str() }
    }

    pub(super) const fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.out.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
            number >>= 7;
        }
        self.out.push(u8::try_from(number).unwrap_or(0));
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A text of this record alone.
    pub(super) fn literal(&mut self, text: &str) {
        self.number((text.len() as u64) << 1);
        self.raw(text.as_bytes());
    }

    /// A text that other records are likely to have, too.
    pub(super) fn shared(&mut self, text: &str) {
        match self.texts.number(text) {
            Some(number) => self.number((u64::from(number) << 1) + SHARED),
            None => self.literal(text),
        }
    }

    /// A text of this record alone, unless it is the record's name.
    pub(super) fn literal_or_name(&mut self, text: &str) {
        if text == self.name { self.number(OWN_NAME) } else { self.literal(text) }
    }

    pub(super) fn time(&mut self, at: Timestamp) {
        let (seconds, micros) = (at.as_micros().div_euclid(MICROS), at.as_micros().rem_euclid(MICROS));
        let zigzag = ((seconds << 1) ^ (seconds >> 63)).cast_unsigned();
        self.number((zigzag << 1) | u64::from(micros != 0));
        if micros != 0 {
            self.number(micros.cast_unsigned());
        }
    }
}

/// Gives fields back; `None` once something cannot be read.
#[derive(Clone, Copy)]
pub(in crate::core::identity) struct Source<'a> {
    bytes: &'a [u8],
    texts: &'a Texts,
    name: &'a str,
}

impl<'a> Source<'a> {
    pub(super) const fn new(bytes: &'a [u8], texts: &'a Texts) -> Self {
        Self { bytes, texts, name: "" }
    }

    pub(super) const fn name_is(&mut self, name: &'a str) {
        self.name = name;
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn raw(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        match self.number()? {
            OWN_NAME => Some(self.name),
            odd if odd & 1 == 1 => self.texts.text(usize::try_from((odd - SHARED) >> 1).ok()?),
            even => std::str::from_utf8(self.raw(usize::try_from(even >> 1).ok()?)?).ok(),
        }
    }

    pub(super) fn time(&mut self) -> Option<Timestamp> {
        let number = self.number()?;
        let micros = if number & 1 == 1 { self.number()? } else { 0 };
        let zigzag = number >> 1;
        let seconds = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        let whole = seconds.checked_mul(MICROS)?.checked_add(i64::try_from(micros).ok()?)?;
        Some(Timestamp::from_micros(whole))
    }

    /// `read`, if `present`. Outside: it cannot be read; inside: it is absent.
    pub(super) fn option<T>(
        &mut self,
        present: bool,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        if present { read(self).map(Some) } else { Some(None) }
    }

    /// A list, once every item of it has been read.
    pub(super) fn list<T: View<'a>>(&mut self) -> Option<List<'a, T>> {
        let count = usize::try_from(self.number()?).ok()?;
        let list = List { source: *self, count, of: PhantomData };
        for _ in 0..count {
            T::read(self)?;
        }
        Some(list)
    }
}

/// A list read in place. Each item is known to be readable.
#[derive(Clone, Copy)]
pub struct List<'a, T> {
    source: Source<'a>,
    count: usize,
    of: PhantomData<T>,
}

impl<T> List<'_, T> {
    /// How many items there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The items of a list, in order.
pub(super) fn items<'a, T: View<'a>>(list: &List<'a, T>) -> impl Iterator<Item = T> + use<'a, T> {
    let mut source = list.source;
    (0..list.count).map_while(move |_| T::read(&mut source))
}

impl<T> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "List of {}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::identity::snapshot::Keyer;

    proptest! {
        #[test]
        fn reads_back_what_was_written(number in any::<u64>(), micros in any::<i64>(), text in ".{0,9}") {
            let mut texts = Texts::new(Keyer::new(1));
            let name = Name::parse("own").unwrap();
            let mut sink = Sink::new(&mut texts, &name);
            sink.number(number);
            sink.time(Timestamp::from_micros(micros));
            sink.literal(&text);
            sink.shared(&text);
            sink.literal_or_name("own");
            let bytes = sink.finish();
            let mut source = Source::new(&bytes, &texts);
            source.name_is("own");
            prop_assert_eq!(source.number(), Some(number));
            prop_assert_eq!(source.time(), Some(Timestamp::from_micros(micros)));
            prop_assert_eq!(source.text(), Some(&*text));
            prop_assert_eq!(source.text(), Some(&*text));
            prop_assert_eq!(source.text(), Some("own"));
            prop_assert!(source.is_at_end());
        }

        #[test]
        fn anything_at_all_can_be_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let texts = Texts::new(Keyer::new(1));
            let mut source = Source::new(&bytes, &texts);
            while source.text().is_some() || source.time().is_some() {}
            type Pairs<'a> = List<'a, (&'a str, &'a str)>;
            let list: Option<Pairs<'_>> = Source::new(&bytes, &texts).list();
            prop_assert!(list.is_none_or(|list| list.iter().count() == list.len()));
        }
    }
}
