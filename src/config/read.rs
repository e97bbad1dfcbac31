//! From nodes to the raw types: a serde deserializer that knows key paths and places.
//!
//! Keys decide what their scalars are. An enum with content is read from a mapping by
//! its key `kind`. Unknown keys are collected, so that one run names them all; any
//! other fault ends the reading.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use crate::config::error::{Problem, Told, listed, nearest, quoted};
use crate::config::key::Key;
use crate::config::tree::{Entry, Node, Place, Value};

/// The key that says which kind of thing a mapping is.
const KIND: &str = "kind";

/// Reads `node` as a `T`. The value may be there although there are problems.
pub(super) fn read<'de, T: de::Deserialize<'de>>(file: &str, node: &'de Node) -> (Option<T>, Vec<Problem>) {
    let unknown = RefCell::new(Vec::new());
    let reader = Reader { node, at: Trail { outer: None, step: Step::Root }, unknown: &unknown, kinds: &[] };
    let outcome = T::deserialize(reader);
    let mut faults = unknown.into_inner();
    let value = match outcome {
        Ok(value) => Some(value),
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    (value, faults.into_iter().map(|fault| fault.problem(file, node)).collect())
}

/// The key path, as it lies on the stack.
#[derive(Clone, Copy)]
struct Trail<'a> {
    outer: Option<&'a Self>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Item(usize),
}

impl Trail<'_> {
    fn key(&self) -> Key {
        let outer = self.outer.map_or_else(Key::root, Trail::key);
        match self.step {
            Step::Root => outer,
            Step::Field(name) => outer.field(name),
            Step::Item(index) => outer.item(index),
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'de, 'a> {
    node: &'de Node,
    at: Trail<'a>,
    unknown: &'a RefCell<Vec<Fault>>,
    /// Not empty when the key `kind` has been read already: the kinds there are.
    kinds: &'static [&'static str],
}

impl Reader<'_, '_> {
    /// Says where, if that is not known yet.
    fn placed<T>(&self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        outcome.map_err(|fault| fault.at(self.node.place, self.at.key(), || self.node.describe()))
    }

    fn mismatch<T>(&self, expected: impl Into<String>) -> Result<T, Fault> {
        self.placed(Err(Fault::new(What::Expected(expected.into()))))
    }

    fn plain(&self) -> Option<&str> {
        match &self.node.value {
            Value::Scalar(scalar) if scalar.plain => Some(scalar.text.trim()),
            _ => None,
        }
    }

    /// The keys of `fields` that can be written here.
    fn accepted(&self, fields: &'static [&'static str]) -> Vec<&'static str> {
        let kind = if self.kinds.is_empty() { None } else { Some(KIND) };
        kind.into_iter().chain(fields.iter().copied()).collect()
    }
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Null => self.mismatch("a value"),
            Value::Scalar(_) => self.deserialize_str(visitor),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.plain() {
            Some("true") => self.placed(visitor.visit_bool(true)),
            Some("false") => self.placed(visitor.visit_bool(false)),
            _ => self.mismatch("`true` or `false`, without quotes"),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match self.plain().filter(digits).and_then(|text| text.parse().ok()) {
            Some(number) => self.placed(visitor.visit_u64(number)),
            None => self.mismatch("a whole number in decimal digits, without quotes"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar(scalar) => self.placed(visitor.visit_borrowed_str(&scalar.text)),
            _ => self.mismatch("a text"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::List(items) => self.placed(visitor.visit_seq(Items { reader: &self, items, next: 0 })),
            _ => self.mismatch("a list"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Map(entries) => {
                self.placed(visitor.visit_map(Entries { reader: &self, fields: None, entries, value: None }))
            }
            _ => self.mismatch("a mapping"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Map(entries) => self.placed(visitor.visit_map(Entries {
                reader: &self,
                fields: Some(fields),
                entries,
                value: None,
            })),
            _ => self.mismatch(format!("a mapping with keys among {}", listed(self.accepted(fields)))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar(scalar) => {
                self.placed(visitor.visit_enum(BorrowedStrDeserializer::<Fault>::new(&scalar.text)))
            }
            Value::Map(entries) => match entries.iter().find(|entry| entry.key == KIND) {
                Some(entry) => visitor.visit_enum(Tagged { content: self, kind: &entry.value, variants }),
                None => self.placed(Err(Fault::new(What::MissingKind(variants)))),
            },
            _ => self.mismatch(format!("one of {}", listed(variants.iter().copied()))),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf
        unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'de, 'a> {
    reader: &'a Reader<'de, 'a>,
    items: &'de [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let at = Trail { outer: Some(&self.reader.at), step: Step::Item(self.next) };
        self.next += 1;
        seed.deserialize(Reader { node, at, unknown: self.reader.unknown, kinds: &[] }).map(Some)
    }
}

struct Entries<'de, 'a> {
    reader: &'a Reader<'de, 'a>,
    /// The keys there may be; `None`: any.
    fields: Option<&'static [&'static str]>,
    entries: &'de [Entry],
    value: Option<&'de Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'de, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        while let Some((entry, rest)) = self.entries.split_first() {
            self.entries = rest;
            if !self.reader.kinds.is_empty() && entry.key == KIND {
                continue;
            }
            if let Some(fields) = self.fields.filter(|fields| !fields.contains(&entry.key.as_str())) {
                let fault = Fault::new(What::Unknown(entry.key.clone(), self.reader.accepted(fields)));
                let key = self.reader.at.key().field(&entry.key);
                let fault = fault.at(entry.key_place, key, || "an unknown key".to_owned());
                self.reader.unknown.borrow_mut().push(fault);
                continue;
            }
            self.value = Some(entry);
            let key: StrDeserializer<'_, Fault> = entry.key.as_str().into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(entry) = self.value.take() else {
            return Err(de::Error::custom("a key before its value"));
        };
        let at = Trail { outer: Some(&self.reader.at), step: Step::Field(&entry.key) };
        seed.deserialize(Reader { node: &entry.value, at, unknown: self.reader.unknown, kinds: &[] })
    }
}

/// A mapping whose key `kind` says what it is.
struct Tagged<'de, 'a> {
    content: Reader<'de, 'a>,
    kind: &'de Node,
    variants: &'static [&'static str],
}

impl<'de, 'a> de::EnumAccess<'de> for Tagged<'de, 'a> {
    type Error = Fault;
    type Variant = Reader<'de, 'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Reader<'de, 'a>), Fault> {
        let at = Trail { outer: Some(&self.content.at), step: Step::Field(KIND) };
        let kind = Reader { node: self.kind, at, unknown: self.content.unknown, kinds: &[] };
        let value = seed.deserialize(kind)?;
        Ok((value, Reader { kinds: self.variants, ..self.content }))
    }
}

impl<'de> de::VariantAccess<'de> for Reader<'de, '_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        self.mismatch("a text")
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        self.mismatch("a mapping")
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_struct("", fields, visitor)
    }
}

/// What goes wrong in reading.
#[derive(Debug)]
pub(super) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    what: What,
    at: Option<(Place, Key, String)>,
}

#[derive(Debug)]
enum What {
    Unknown(String, Vec<&'static str>),
    Missing(&'static str),
    MissingKind(&'static [&'static str]),
    Variant(String, &'static [&'static str]),
    Expected(String),
}

impl Fault {
    fn new(what: What) -> Self {
        Self(Box::new(Inner { what, at: None }))
    }

    fn at(mut self, place: Place, key: Key, found: impl FnOnce() -> String) -> Self {
        self.0.at.get_or_insert_with(|| (place, key, found()));
        self
    }

    fn problem(self, file: &str, root: &Node) -> Problem {
        let Inner { what, at } = *self.0;
        let (place, key, found) = at.unwrap_or_else(|| (root.place, Key::root(), root.describe()));
        let (key, told) = match what {
            What::Unknown(name, accepted) => {
                let remedy = match nearest(&name, accepted.iter().copied()) {
                    Some(near) => format!("did you mean {}", quoted(near)),
                    None => "remove it".to_owned(),
                };
                let expected = match accepted.as_slice() {
                    [only] => format!("only {}", quoted(only)),
                    _ => format!("one of {}", listed(accepted)),
                };
                (key, Told::new(found, expected, remedy))
            }
            What::Missing(name) => {
                (key.field(name), Told::new("nothing", "this required key", format!("add {}", example(name))))
            }
            What::MissingKind(kinds) => {
                let expected = format!("one of {}", listed(kinds.iter().copied()));
                (key.field(KIND), Told::new("nothing", expected, "say which kind it is"))
            }
            What::Variant(text, kinds) => {
                let remedy = match nearest(&text, kinds.iter().copied()) {
                    Some(near) => format!("did you mean {}", quoted(near)),
                    None => "write one of them".to_owned(),
                };
                let expected = match kinds {
                    [only] => quoted(only),
                    _ => format!("one of {}", listed(kinds.iter().copied())),
                };
                (key, Told::new(found, expected, remedy))
            }
            What::Expected(expected) => {
                let remedy =
                    if found == "no value" { "give it one, or remove the key" } else { "write that instead" };
                (key, Told::new(found, expected, remedy))
            }
        };
        Problem::new(file, place, key, told)
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.what)
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(expected: T) -> Self {
        Self::new(What::Expected(expected.to_string()))
    }

    fn unknown_field(name: &str, fields: &'static [&'static str]) -> Self {
        Self::new(What::Unknown(name.to_owned(), fields.to_vec()))
    }

    fn unknown_variant(name: &str, variants: &'static [&'static str]) -> Self {
        Self::new(What::Variant(name.to_owned(), variants))
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(What::Missing(name))
    }
}

/// What a required key looks like.
fn example(name: &str) -> String {
    let line = match name {
        "enforcement_point" => "`enforcement_point: { data_dir: /var/lib/portreeve }`",
        "data_dir" => "`data_dir: /var/lib/portreeve`",
        "endpoints" => "`endpoints: [http://127.0.0.1:7410]`",
        "address" => "`address: 127.0.0.1:7400`",
        "audiences" => "`audiences: [NAME]`, the audiences a token must name one of",
        "credentials" => "`credentials: { audiences: [NAME] }`, the audiences a token must name one of",
        "url" => "`url: http://127.0.0.1:8080`",
        "store" => "`store: sqlite:///var/lib/portreeve/hub.db`",
        _ => return format!("it; {} describes it", quoted("portreeve check --schema")),
    };
    line.to_owned()
}
