//! Strict JSON (RFC 8259, RFC 8725 §2.6) for what strangers send.
//!
//! Refused beyond what `serde_json` refuses: a member name twice in one object at any
//! depth, nesting over [`DEPTH_MAX`], a top level that is no object. Text without
//! escapes is borrowed from the input.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

/// The members of an object.
pub(super) type Object<'a> = BTreeMap<Cow<'a, str>, Value<'a>>;

/// A value, as far as credentials need one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// `null`: no member that is read may be one.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number from 0.
    Whole(u64),
    /// A number below 0.
    Negative,
    /// Any other finite number.
    Fraction(f64),
    /// A string.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Value<'a>>),
    /// An object.
    Object(Object<'a>),
}

impl Value<'_> {
    /// The text of a string.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Input that is not a strict JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a strict JSON object")]
pub(super) struct JsonError;

/// Parses one object that fills `bytes` but for white space.
///
/// # Errors
/// [`JsonError`] when it is anything else.
pub(super) fn parse_object(bytes: &[u8]) -> Result<Object<'_>, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError)?;
    let mut source = serde_json::Deserializer::from_str(text);
    let value = ValueSeed { depth: 0 }.deserialize(&mut source).map_err(|_| JsonError)?;
    source.end().map_err(|_| JsonError)?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(JsonError),
    }
}

/// Whether `text` is at most `bytes_max` long and free of control characters.
pub(super) fn is_plain(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.chars().any(char::is_control)
}

/// Deepest nesting; the top object counts as one.
const DEPTH_MAX: u32 = 32;

#[derive(Clone, Copy)]
struct ValueSeed {
    depth: u32,
}

impl ValueSeed {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth < DEPTH_MAX {
            Ok(Self { depth: self.depth + 1 })
        } else {
            Err(E::custom("nested too deep"))
        }
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Value::Whole(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(number).map_or(Value::Negative, Value::Whole))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        if !number.is_finite() {
            return Err(E::custom("number out of range"));
        }
        Ok(if number.is_sign_negative() { Value::Negative } else { Value::Fraction(number) })
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Self::Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = source.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Self::Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Object::new();
        while let Some(name) = source.next_key_seed(inner)? {
            let Value::Text(name) = name else {
                return Err(A::Error::custom("a member name is no string"));
            };
            match members.entry(name) {
                Entry::Occupied(_) => return Err(A::Error::custom("a member name twice")),
                Entry::Vacant(place) => {
                    place.insert(source.next_value_seed(inner)?);
                }
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strict_objects_only() {
        for good in ["{}", " {\"a\":1}\n", r#"{"a":{"b":[1,-1,1.5,"x\n",null,true]},"c":{"b":1}}"#] {
            assert!(parse_object(good.as_bytes()).is_ok(), "{good}");
        }
        let bad = [
            "",
            "[]",
            "1",
            "\"a\"",
            "null",
            "{",
            "{}}",
            "{} x",
            "{'a':1}",
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":NaN}"#,
            r#"{"a":1e400}"#,
            r#"{"a":-1e400}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
            r#"{"a":"\ud800"}"#,
            "{\"a\":\"\n\"}",
            "\u{feff}{}",
            "{a:1}",
            "{/**/}",
        ];
        for bad in bad {
            assert!(parse_object(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse_object(b"{\"a\":\"\xff\"}").is_err());
        assert!(parse_object(b"{\"a\":\"\xc0\x80\"}").is_err());
    }

    #[test]
    fn nesting_at_its_bound() {
        let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(parse_object(nested(32).as_bytes()).is_ok());
        assert!(parse_object(nested(33).as_bytes()).is_err());
        let arrays = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse_object(arrays(31).as_bytes()).is_ok());
        assert!(parse_object(arrays(32).as_bytes()).is_err());
        assert!(parse_object(arrays(5_000).as_bytes()).is_err());
    }

    #[test]
    fn numbers_by_kind() {
        let text = br#"{"a":18446744073709551615,"b":18446744073709551616,"c":-1,"d":0.5,"e":-0.0,"f":-0}"#;
        let object = parse_object(text).unwrap();
        let kinds: Vec<_> = object.values().cloned().collect();
        let expected = [
            Value::Whole(u64::MAX),
            Value::Fraction(18_446_744_073_709_551_616.0),
            Value::Negative,
            Value::Fraction(0.5),
            Value::Negative,
            Value::Negative,
        ];
        assert_eq!(kinds, expected);
    }

    /// JSON values of moderate size, without repeated names.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<u64>().prop_map(serde_json::Value::from),
            any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Whether both say the same, as far as [`Value`] keeps it.
    fn agree(ours: &Value<'_>, theirs: &serde_json::Value) -> bool {
        match (ours, theirs) {
            (Value::Null, serde_json::Value::Null) => true,
            (Value::Bool(ours), serde_json::Value::Bool(theirs)) => ours == theirs,
            (Value::Whole(ours), theirs) => theirs.as_u64() == Some(*ours),
            (Value::Negative, theirs) => theirs.as_f64().is_some_and(f64::is_sign_negative),
            (Value::Fraction(ours), theirs) => theirs.as_f64() == Some(*ours),
            (Value::Text(ours), theirs) => theirs.as_str() == Some(ours),
            (Value::Array(ours), serde_json::Value::Array(theirs)) => {
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| agree(a, b))
            }
            (Value::Object(ours), serde_json::Value::Object(theirs)) => {
                ours.len() == theirs.len()
                    && ours.iter().all(|(name, ours)| theirs.get(&**name).is_some_and(|b| agree(ours, b)))
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_the_same(members in prop::collection::btree_map(any::<String>(), value(), 0..6)) {
            let object = serde_json::Value::Object(members.into_iter().collect());
            for text in [object.to_string(), format!(" {object:#}\n")] {
                // Read back, since reading a number may round it.
                let theirs = serde_json::from_str(&text).unwrap();
                let read = parse_object(text.as_bytes()).map(Value::Object);
                prop_assert!(read.is_ok_and(|read| agree(&read, &theirs)), "{}", text);
            }
        }

        #[test]
        fn nothing_is_read_that_serde_json_refuses(bytes in "[{}\\[\\]\",:0-9eE+\\-. a\\\\utrl]{0,40}") {
            if let Ok(read) = parse_object(bytes.as_bytes()) {
                let theirs = serde_json::from_str::<serde_json::Value>(&bytes);
                prop_assert!(theirs.is_ok_and(|theirs| agree(&Value::Object(read), &theirs)), "{}", bytes);
            }
        }

        #[test]
        fn a_name_twice_is_refused_wherever_it_stands(
            name: String, (one, other) in (value(), value()), around in 0usize..5, more in value(),
        ) {
            let name = serde_json::Value::from(name);
            let twice = format!("{{{name}:{one},\"\\u0000 more\":{more},{name}:{other}}}");
            let text = (0..around).fold(twice, |inner, depth| match depth % 2 {
                0 => format!("{{\"a\":{inner}}}"),
                _ => format!("{{\"a\":[{more},{inner}]}}"),
            });
            prop_assert!(parse_object(text.as_bytes()).is_err(), "{}", text);
        }

        #[test]
        fn noise_is_refused_without_panic(bytes: Vec<u8>) {
            drop(parse_object(&bytes));
        }
    }
}
