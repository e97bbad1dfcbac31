//! Credentials, packed.

use std::sync::Arc;

use super::form::{Sink, Source};
use super::identity::{at_place, place_in};
use super::{Head, Stamp, Texts, View, pack};
use crate::core::id::Name;
use crate::core::identity::record::{Credential, CredentialKind, CredentialStatus};
use crate::core::time::Timestamp;

/// A [`Credential`] read in place.
#[derive(Clone, Copy, Debug)]
pub struct CredentialView<'a> {
    /// What kind.
    pub kind: CredentialKind,
    /// The one identity it belongs to, if it belongs to one.
    pub identity: Option<&'a str>,
    /// What it is recognised by.
    pub fingerprint: &'a [u8; 32],
    /// SHA-256 of a secret that is presented whole.
    pub digest: Option<&'a [u8; 32]>,
    /// When it was made.
    pub issued: Option<Timestamp>,
    /// When it is to be replaced.
    pub rotate_by: Option<Timestamp>,
    /// The first instant at which it no longer works.
    pub expires: Option<Timestamp>,
    /// Whether it may be used.
    pub status: CredentialStatus,
    /// The platform it came from.
    pub source: Option<&'a str>,
}

impl CredentialView<'_> {
    /// The credential as a record of its own; `None`: it is damaged.
    pub fn record(&self) -> Option<Credential> {
        Some(Credential {
            kind: self.kind,
            identity: self.identity.map(Name::parse).transpose().ok()?,
            fingerprint: *self.fingerprint,
            digest: self.digest.copied(),
            issued: self.issued,
            rotate_by: self.rotate_by,
            expires: self.expires,
            status: self.status,
            source: self.source.map(Arc::from),
        })
    }
}

/// A credential's row and the length of its head.
pub(in crate::core::identity) fn pack_credential(
    head: &Head<'_>,
    stamp: &Stamp,
    texts: &mut Texts,
    value: Option<&Credential>,
) -> (Vec<u8>, usize) {
    pack(head, stamp, texts, value.map(|value| |sink: &mut Sink<'_>| write(value, sink)))
}

const IDENTITY: u64 = 1;
const ISSUED: u64 = 2;
const ROTATE_BY: u64 = 4;
const EXPIRES: u64 = 8;
const SOURCE: u64 = 16;
const DIGEST: u64 = 32;

fn write(value: &Credential, sink: &mut Sink<'_>) {
    let Credential { kind, identity, fingerprint, digest, issued, rotate_by, expires, status, source } =
        value;
    let bit = |present: bool, bit: u64| if present { bit } else { 0 };
    sink.number(
        bit(identity.is_some(), IDENTITY)
            | bit(issued.is_some(), ISSUED)
            | bit(rotate_by.is_some(), ROTATE_BY)
            | bit(expires.is_some(), EXPIRES)
            | bit(source.is_some(), SOURCE)
            | bit(digest.is_some(), DIGEST),
    );
    sink.number(place_in(&CredentialKind::ALL, kind));
    sink.number(place_in(&CredentialStatus::ALL, status));
    sink.raw(fingerprint);
    digest.iter().for_each(|digest| sink.raw(digest));
    identity.iter().for_each(|identity| sink.literal_or_name(identity.as_str()));
    [issued, rotate_by, expires].into_iter().flatten().for_each(|at| sink.time(*at));
    source.iter().for_each(|source| sink.shared(source));
}

impl<'a> View<'a> for CredentialView<'a> {
    fn read(source: &mut Source<'a>) -> Option<Self> {
        let bits = source.number()?;
        let has = |bit| bits & bit != 0;
        Some(Self {
            kind: at_place(&CredentialKind::ALL, source.number()?)?,
            status: at_place(&CredentialStatus::ALL, source.number()?)?,
            fingerprint: source.raw(32)?.first_chunk()?,
            digest: source.option(has(DIGEST), |source| source.raw(32)?.first_chunk())?,
            identity: source.option(has(IDENTITY), Source::text)?,
            issued: source.option(has(ISSUED), Source::time)?,
            rotate_by: source.option(has(ROTATE_BY), Source::time)?,
            expires: source.option(has(EXPIRES), Source::time)?,
            source: source.option(has(SOURCE), Source::text)?,
        })
    }
}
