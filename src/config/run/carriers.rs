//! Where credentials are looked for, as run.

use std::sync::Arc;

use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::proxy as raw;
use crate::config::run::check::Check;

/// Where credentials are looked for; at least one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carriers {
    /// The `authorization` header.
    pub authorization: bool,
    /// The header that holds API keys, in lower case.
    pub api_key_header: Option<Arc<str>>,
}

pub(super) fn carriers(check: &mut Check<'_>, key: &Key, raw: &[raw::Carrier]) -> Option<Carriers> {
    let before = check.problems.len();
    let mut found = Carriers { authorization: false, api_key_header: None };
    if raw.is_empty() {
        check.refuse(
            key,
            "an empty list",
            "at least one carrier",
            "write `[authorization]`, or remove the key",
        );
    }
    for (index, raw) in raw.iter().enumerate() {
        let twice = match raw {
            raw::Carrier::Authorization => std::mem::replace(&mut found.authorization, true),
            raw::Carrier::ApiKey(raw) => {
                header(check, &key.item(index).field("header"), &raw.header);
                found.api_key_header.replace(Arc::from(raw.header.as_str())).is_some()
            }
        };
        if twice {
            check.refuse(
                &key.item(index),
                "the same kind of carrier a second time",
                "each kind once",
                "remove one of the two",
            );
        }
    }
    (check.problems.len() == before).then_some(found)
}

/// A header of the operator's own: none that HTTP or this proxy gives a meaning.
pub(super) fn header(check: &mut Check<'_>, key: &Key, name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let named = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain);
    let taken = TAKEN.contains(&name) || TAKEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if !named || taken {
        let expected = "a header of your own, in lower case, such as `x-api-key`";
        let remedy = if taken { "choose a name that has no other meaning" } else { "write that" };
        check.refuse(key, quoted(name), expected, remedy);
    }
    named && !taken
}

const NAME_BYTES_MAX: usize = 64;
const TAKEN: [&str; 12] = [
    "authorization",
    "connection",
    "cookie",
    "date",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "te",
    "trailer",
    "upgrade",
    "x-real-ip",
];
const TAKEN_PREFIXES: [&str; 9] = [
    "accept",
    "client-cert",
    "content-",
    "keep-alive",
    "proxy-",
    "transfer-",
    "x-forwarded",
    "x-original",
    "x-portreeve",
];
