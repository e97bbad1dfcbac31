//! Reading JSON so that each error names its path.
//!
//! serde reports a line, not a path. The value is therefore written with one member or
//! element a line, which makes a line's path known, and read from that text.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Faults;

/// Reads `value`; `at` is its own path.
///
/// # Errors
/// The first thing that does not fit, with its path.
pub fn from_value<T: DeserializeOwned>(value: &Value, at: &str) -> Result<T, Faults> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Faults::one(at, e))?;
    serde_json::from_str(&text).map_err(|error| {
        let whole = error.to_string();
        let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
        Faults::one(&join(at, &path_of_line(&text, error.line())), message)
    })
}

fn join(at: &str, path: &str) -> String {
    match (at, path) {
        (at, "") => at.to_owned(),
        ("", path) => path.to_owned(),
        (at, path) => format!("{at}.{path}"),
    }
}

/// One level of nesting: an object's current key, or an array's current index.
enum Level {
    Key(String),
    Index(usize),
}

/// The path of the element that stands in `line` (from 1) of pretty-printed JSON.
fn path_of_line(text: &str, line: usize) -> String {
    let mut levels: Vec<Level> = Vec::new();
    for current in text.lines().take(line).map(str::trim) {
        if current.starts_with(['}', ']']) {
            levels.pop();
            continue;
        }
        match levels.last_mut() {
            Some(Level::Key(key)) => *key = key_of(current),
            Some(Level::Index(index)) => *index = index.wrapping_add(1),
            None => {}
        }
        // A line that opens a level; its elements begin on the next.
        if current.ends_with('{') {
            levels.push(Level::Key(String::new()));
        } else if current.ends_with('[') {
            levels.push(Level::Index(usize::MAX));
        }
    }
    show(&levels)
}

fn key_of(line: &str) -> String {
    let mut keys = serde_json::Deserializer::from_str(line).into_iter::<String>();
    keys.next().and_then(Result::ok).unwrap_or_default()
}

fn show(levels: &[Level]) -> String {
    let mut path = String::new();
    for level in levels {
        match level {
            Level::Key(key) if key.is_empty() => {}
            Level::Key(key) if path.is_empty() => path.push_str(key),
            Level::Key(key) => {
                path.push('.');
                path.push_str(key);
            }
            Level::Index(usize::MAX) => {}
            Level::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only read")]
        list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only read")]
        path: String,
        #[expect(dead_code, reason = "only read")]
        count: Option<u8>,
    }

    #[test]
    fn errors_name_their_path() {
        let rows = [
            (json!({ "list": [{ "path": "{" }, { "path": "]", "cont": 1 }] }), "spec.list[1].cont"),
            (json!({ "list": [{ "path": "a" }, { "path": 1 }] }), "spec.list[1].path"),
            (json!({ "list": [{ "path": "a", "count": 300 }] }), "spec.list[0].count"),
            (json!({ "list": [{}] }), "spec.list[0]"),
            (json!({ "list": [[], {}] }), "spec.list[0]"),
            (json!({ "list": {} }), "spec.list"),
            (json!({}), "spec"),
            (json!(1), "spec"),
        ];
        for (value, path) in rows {
            let faults = from_value::<Outer>(&value, "spec").unwrap_err();
            assert_eq!(faults.list()[0].path, path, "{value}: {faults}");
            assert!(!faults.list()[0].message.contains(" at line "));
        }
    }
}
