//! Identities and credentials as the table holds them: bytes, read in place.
//!
//! There may be a million of them, so each is one row of [`super::rows::Rows`] without an allocation
//! of its own, and texts that many records share are held once ([`Texts`]). A decision reads a view:
//! the same fields as the record's, borrowed. A row that cannot be read whole is no record, and what
//! cannot be read is refused.
//!
//! INVARIANT: packed form and numbers of shared texts are this process's own. They are never written,
//! sent or digested; a digest takes the fields as the view reads them, texts in full.

mod credential;
mod form;
mod identity;
mod texts;

pub use credential::CredentialView;
pub(super) use credential::pack_credential;
pub use form::List;
pub(super) use identity::pack_identity;
pub use identity::{BindingView, EntitlementView, IdentityView, OwnerView};
pub(super) use texts::Texts;

use form::{Sink, Source};

use crate::core::id::Name;

/// A record as held, read in place: its value with its name, generation and revision.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a, V> {
    pub(super) tenant: &'a str,
    /// The record's name.
    pub name: &'a str,
    /// Its generation.
    pub generation: u32,
    /// The revision of its last change.
    pub revision: u64,
    /// Its value; `None`: a tombstone, kept so that an older value cannot return.
    pub value: Option<V>,
}

/// What stands before a record's value.
pub(super) struct Head<'a> {
    pub(super) tenant: &'a Name,
    pub(super) name: &'a Name,
}

/// Whose record a change is, and which of its values.
pub(super) struct Stamp {
    pub(super) generation: u32,
    pub(super) revision: u64,
}

/// A value that can be read in place.
pub(super) trait View<'a>: Sized {
    fn read(source: &mut Source<'a>) -> Option<Self>;
}

/// The head of a record's row, and how many bytes that is.
pub(super) fn pack_head(head: &Head<'_>, texts: &mut Texts) -> Vec<u8> {
    let mut sink = Sink::new(texts, head.name);
    sink.shared(head.tenant.as_str());
    sink.literal(head.name.as_str());
    sink.finish()
}

/// A whole row and the length of its head; `value` writes what the record holds, if it is not a tombstone.
fn pack(
    head: &Head<'_>,
    stamp: &Stamp,
    texts: &mut Texts,
    value: Option<impl FnOnce(&mut Sink<'_>)>,
) -> (Vec<u8>, usize) {
    let mut sink = Sink::new(texts, head.name);
    sink.shared(head.tenant.as_str());
    sink.literal(head.name.as_str());
    let length = sink.len();
    sink.number(u64::from(stamp.generation));
    sink.number(stamp.revision);
    sink.number(u64::from(value.is_some()));
    if let Some(value) = value {
        value(&mut sink);
    }
    (sink.finish(), length)
}

/// Whose row it is: tenant and name; `None`: it is damaged.
pub(super) fn head<'a>(row: &'a [u8], texts: &'a Texts) -> Option<(&'a str, &'a str)> {
    let mut source = Source::new(row, texts);
    Some((source.text()?, source.text()?))
}

/// Reads a row; `None`: it is damaged.
pub(super) fn read<'a, V: View<'a>>(row: &'a [u8], texts: &'a Texts) -> Option<Row<'a, V>> {
    let mut source = Source::new(row, texts);
    let tenant = source.text()?;
    let name = source.text()?;
    source.name_is(name);
    let generation = u32::try_from(source.number()?).ok()?;
    let revision = source.number()?;
    let value = match source.number()? {
        0 => None,
        1 => Some(V::read(&mut source)?),
        _ => return None,
    };
    source.is_at_end().then_some(Row { tenant, name, generation, revision, value })
}

impl<V> Row<'_, V> {
    /// Whether it is the record of this tenant and name.
    pub(super) fn is_of(&self, tenant: &Name, name: &str) -> bool {
        self.tenant == tenant.as_str() && self.name == name
    }
}

#[cfg(test)]
mod tests;
