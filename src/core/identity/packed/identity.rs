//! Identities, packed.

use std::sync::Arc;

use super::form::{List, Sink, Source, items};
use super::{Head, Stamp, Texts, View, pack};
use crate::core::id::Name;
use crate::core::identity::record::{
    Binding, Entitlement, Identity, IdentityStatus, IdentityType, Owner, RiskLevel,
};
use crate::core::time::Timestamp;

/// An [`Identity`] read in place.
#[derive(Clone, Copy, Debug)]
pub struct IdentityView<'a> {
    /// What kind of machine.
    pub kind: IdentityType,
    /// Where it runs, such as `prod`.
    pub environment: &'a str,
    /// Where it is in its life.
    pub status: IdentityStatus,
    /// Who answers for it.
    pub owner: OwnerView<'a>,
    /// The ticket or sponsor it was made for.
    pub ticket: Option<&'a str>,
    /// The first instant at which it may no longer act.
    pub end: Option<Timestamp>,
    /// When its rights are to be reviewed.
    pub review_due: Option<Timestamp>,
    /// Whether someone outside the organisation runs it.
    pub third_party: bool,
    /// How much harm it could do.
    pub risk: Option<RiskLevel>,
    /// Free marks, by key.
    pub labels: List<'a, (&'a str, &'a str)>,
    /// What it may do.
    pub entitlements: List<'a, EntitlementView<'a>>,
    /// Who asserts it, and under which name.
    pub bindings: List<'a, BindingView<'a>>,
    /// Credentials issued before this are refused.
    pub not_before: Option<Timestamp>,
}

/// An [`Owner`] read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerView<'a> {
    /// A team.
    pub team: Option<&'a str>,
    /// A person.
    pub person: Option<&'a str>,
    /// How to reach them.
    pub contact: Option<&'a str>,
}

/// An [`Entitlement`] read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntitlementView<'a> {
    /// What is granted, such as `orders:read`.
    pub name: &'a str,
    /// Why or whence: a ticket, a platform.
    pub source: Option<&'a str>,
    /// Since when.
    pub granted: Option<Timestamp>,
    /// The first instant at which it no longer holds.
    pub expires: Option<Timestamp>,
}

/// A [`Binding`] read in place. Its subject is in two parts: many share the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BindingView<'a> {
    /// The issuer record's name.
    pub issuer: &'a str,
    pub(in crate::core::identity) subject: [&'a str; 2],
}

impl<'a> OwnerView<'a> {
    /// The team, or else the person, or else `None`: an owner without either is none.
    pub fn name(&self) -> Option<&'a str> {
        self.team.or(self.person)
    }

    fn record(&self) -> Owner {
        let text = |part: Option<&str>| part.map(Arc::from);
        Owner { team: text(self.team), person: text(self.person), contact: text(self.contact) }
    }
}

impl BindingView<'_> {
    /// Whether it is this subject of this issuer.
    pub fn is_of(&self, issuer: &str, subject: &str) -> bool {
        let [first, rest] = self.subject;
        self.issuer == issuer && subject.strip_prefix(first) == Some(rest)
    }

    /// The binding as a record of its own; `None`: its issuer is no name.
    pub fn record(&self) -> Option<Binding> {
        Some(Binding { issuer: Name::parse(self.issuer).ok()?, subject: Arc::from(self.subject.concat()) })
    }
}

impl IdentityView<'_> {
    /// The identity as a record of its own; `None`: it is damaged.
    pub fn record(&self) -> Option<Identity> {
        let text = |part: Option<&str>| part.map(Arc::from);
        let entitlement = |held: EntitlementView<'_>| Entitlement {
            name: Arc::from(held.name),
            source: text(held.source),
            granted: held.granted,
            expires: held.expires,
        };
        Some(Identity {
            kind: self.kind,
            environment: Arc::from(self.environment),
            status: self.status,
            owner: self.owner.record(),
            ticket: text(self.ticket),
            end: self.end,
            review_due: self.review_due,
            third_party: self.third_party,
            risk: self.risk,
            labels: self.labels.iter().map(|(key, value)| (Arc::from(key), Arc::from(value))).collect(),
            entitlements: self.entitlements.iter().map(entitlement).collect(),
            bindings: self.bindings.iter().map(|binding| binding.record()).collect::<Option<_>>()?,
            not_before: self.not_before,
        })
    }
}

/// An identity's row and the length of its head.
pub(in crate::core::identity) fn pack_identity(
    head: &Head<'_>,
    stamp: &Stamp,
    texts: &mut Texts,
    value: Option<&Identity>,
) -> (Vec<u8>, usize) {
    pack(head, stamp, texts, value.map(|value| |sink: &mut Sink<'_>| write(value, sink)))
}

/// The order of the presence bits, and of what they are about.
const TEAM: u64 = 1;
const PERSON: u64 = 2;
const CONTACT: u64 = 4;
const TICKET: u64 = 8;
const END: u64 = 16;
const REVIEW_DUE: u64 = 32;
const NOT_BEFORE: u64 = 64;
const THIRD_PARTY: u64 = 128;

fn write(value: &Identity, sink: &mut Sink<'_>) {
    let Identity {
        kind,
        environment,
        status,
        owner: Owner { team, person, contact },
        ticket,
        end,
        review_due,
        third_party,
        risk,
        labels,
        entitlements,
        bindings,
        not_before,
    } = value;
    let bit = |present: bool, bit: u64| if present { bit } else { 0 };
    sink.number(
        bit(team.is_some(), TEAM)
            | bit(person.is_some(), PERSON)
            | bit(contact.is_some(), CONTACT)
            | bit(ticket.is_some(), TICKET)
            | bit(end.is_some(), END)
            | bit(review_due.is_some(), REVIEW_DUE)
            | bit(not_before.is_some(), NOT_BEFORE)
            | bit(*third_party, THIRD_PARTY),
    );
    sink.number(place_in(&IdentityType::ALL, kind));
    sink.number(place_in(&IdentityStatus::ALL, status));
    sink.number(risk.map_or(0, |risk| 1 + place_in(&RiskLevel::ALL, &risk)));
    sink.shared(environment);
    [team, person, contact].into_iter().flatten().for_each(|text| sink.shared(text));
    ticket.iter().for_each(|ticket| sink.literal(ticket));
    [end, review_due, not_before].into_iter().flatten().for_each(|at| sink.time(*at));
    sink.number(labels.len() as u64);
    labels.iter().flat_map(|(key, value)| [key, value]).for_each(|text| sink.shared(text));
    sink.number(entitlements.len() as u64);
    for Entitlement { name, source, granted, expires } in entitlements {
        sink.shared(name);
        sink.number(bit(source.is_some(), 1) | bit(granted.is_some(), 2) | bit(expires.is_some(), 4));
        source.iter().for_each(|source| sink.shared(source));
        [granted, expires].into_iter().flatten().for_each(|at| sink.time(*at));
    }
    sink.number(bindings.len() as u64);
    for Binding { issuer, subject } in bindings {
        let (first, rest) = halves(subject);
        sink.shared(issuer.as_str());
        sink.shared(first);
        sink.literal_or_name(rest);
    }
}

/// A subject cut behind its last separator: what many have in common, and what is its own.
fn halves(subject: &str) -> (&str, &str) {
    let cut = subject.rfind([':', '/']).map_or(0, |at| at + 1);
    subject.split_at_checked(cut).unwrap_or(("", subject))
}

impl<'a> View<'a> for IdentityView<'a> {
    fn read(source: &mut Source<'a>) -> Option<Self> {
        let bits = source.number()?;
        let has = |bit| bits & bit != 0;
        let kind = at_place(&IdentityType::ALL, source.number()?)?;
        let status = at_place(&IdentityStatus::ALL, source.number()?)?;
        let risk = match source.number()? {
            0 => None,
            place => Some(at_place(&RiskLevel::ALL, place - 1)?),
        };
        Some(Self {
            kind,
            status,
            risk,
            third_party: has(THIRD_PARTY),
            environment: source.text()?,
            owner: OwnerView {
                team: source.option(has(TEAM), Source::text)?,
                person: source.option(has(PERSON), Source::text)?,
                contact: source.option(has(CONTACT), Source::text)?,
            },
            ticket: source.option(has(TICKET), Source::text)?,
            end: source.option(has(END), Source::time)?,
            review_due: source.option(has(REVIEW_DUE), Source::time)?,
            not_before: source.option(has(NOT_BEFORE), Source::time)?,
            labels: source.list()?,
            entitlements: source.list()?,
            bindings: source.list()?,
        })
    }
}

impl<'a> View<'a> for (&'a str, &'a str) {
    fn read(source: &mut Source<'a>) -> Option<Self> {
        Some((source.text()?, source.text()?))
    }
}

impl<'a> View<'a> for EntitlementView<'a> {
    fn read(source: &mut Source<'a>) -> Option<Self> {
        let name = source.text()?;
        let bits = source.number()?;
        Some(Self {
            name,
            source: source.option(bits & 1 != 0, Source::text)?,
            granted: source.option(bits & 2 != 0, Source::time)?,
            expires: source.option(bits & 4 != 0, Source::time)?,
        })
    }
}

impl<'a> View<'a> for BindingView<'a> {
    fn read(source: &mut Source<'a>) -> Option<Self> {
        Some(Self { issuer: source.text()?, subject: [source.text()?, source.text()?] })
    }
}

impl<'a> List<'a, (&'a str, &'a str)> {
    /// The pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        items(self)
    }
}

impl<'a> List<'a, EntitlementView<'a>> {
    /// The entitlements, in order.
    pub fn iter(&self) -> impl Iterator<Item = EntitlementView<'a>> + use<'a> {
        items(self)
    }
}

impl<'a> List<'a, BindingView<'a>> {
    /// The bindings, in order.
    pub fn iter(&self) -> impl Iterator<Item = BindingView<'a>> + use<'a> {
        items(self)
    }
}

pub(super) fn place_in<T: PartialEq>(all: &[T], value: &T) -> u64 {
    all.iter().position(|held| held == value).map_or(u64::MAX, |place| place as u64)
}

pub(super) fn at_place<T: Copy>(all: &[T], place: u64) -> Option<T> {
    all.get(usize::try_from(place).ok()?).copied()
}
