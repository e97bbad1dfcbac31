//! Texts that many records share, each held once.

use std::fmt;
use std::sync::Arc;

use crate::core::identity::snapshot::Keyer;
use crate::core::identity::table::Table;

/// Most texts that are shared. What comes later is held in its record: it costs memory, nothing else.
const TEXTS_MAX: usize = 1 << 16;
/// Longest text that is shared, in bytes. With the bound above, 16 MiB at most.
const TEXT_BYTES_MAX: usize = 192;
/// Texts that are copied together when one is added.
const PART: usize = 256;

/// The texts, numbered in the order they came. Cloning them copies pointers.
///
/// Only ever added to, so that a number means the same in every state of a process. Texts no longer
/// used stay until a restart; the bound above is what they can take.
#[derive(Clone)]
pub(in crate::core::identity) struct Texts {
    keyer: Keyer,
    parts: Arc<Vec<Arc<Vec<Arc<str>>>>>,
    numbers: Table<u16>,
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Texts").field("len", &self.numbers.len()).finish_non_exhaustive()
    }
}

impl Texts {
    pub(in crate::core::identity) fn new(keyer: Keyer) -> Self {
        Self { keyer, parts: Arc::default(), numbers: Table::default() }
    }

    /// The text with this number.
    pub(super) fn text(&self, number: usize) -> Option<&str> {
        self.parts.get(number / PART)?.get(number % PART).map(|text| &**text)
    }

    /// The number of a text, which is given one if there is room.
    pub(super) fn number(&mut self, text: &str) -> Option<u16> {
        let key = self.keyer.text_key(text);
        match self.numbers.at(key) {
            Some(number) if self.text(usize::from(*number)) == Some(text) => return Some(*number),
            // Two texts of one hash, or one that was damaged: the later is not shared.
            Some(_) => return None,
            None => {}
        }
        let next = self.numbers.len();
        let number = u16::try_from(next).ok().filter(|_| next < TEXTS_MAX && text.len() <= TEXT_BYTES_MAX)?;
        let parts = Arc::make_mut(&mut self.parts);
        if next.is_multiple_of(PART) {
            parts.push(Arc::new(Vec::new()));
        }
        Arc::make_mut(parts.last_mut()?).push(Arc::from(text));
        self.numbers.edit(vec![(key, Some(number))]);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shared_until_there_is_no_more_room() {
        let mut texts = Texts::new(Keyer::new(1));
        let number = |texts: &mut Texts, n: usize| texts.number(&format!("text {n}")).map(usize::from);
        for n in 0..TEXTS_MAX {
            assert_eq!(number(&mut texts, n), Some(n));
        }
        let held = texts.clone();
        assert_eq!(number(&mut texts, TEXTS_MAX), None, "one too many");
        assert_eq!(number(&mut texts, 7), Some(7), "what is shared stays so");
        assert_eq!(held.text(TEXTS_MAX - 1), Some("text 65535"));
        assert_eq!(held.text(TEXTS_MAX), None);
        let mut texts = Texts::new(Keyer::new(1));
        assert_eq!(texts.number(&"x".repeat(TEXT_BYTES_MAX + 1)), None);
        assert_eq!(texts.number(&"x".repeat(TEXT_BYTES_MAX)), Some(0));
    }
}
