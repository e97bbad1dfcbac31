//! Paths: read once, refused when they can be read in two ways, matched in one form.

use std::fmt;
use std::sync::Arc;

/// Longest path, in bytes, before and after canonicalisation.
pub(super) const PATH_BYTES_MAX: usize = 8192;

/// A request path in the one form that is judged and forwarded.
///
/// Begins with `/`; has no empty segment but a last one, no `.` or `..` segment, raw or
/// encoded; no encoded slash, backslash or NUL; no raw backslash, `#`, control or
/// non-ASCII byte; whatever may stand in a segment as itself is decoded, `+` apart; what
/// stays encoded has upper-case digits and decodes to UTF-8.
///
/// # Standard
/// RFC 3986 §6.2.2, stricter: what normalisation would have to guess is refused. §2.2 would
/// keep `%3A` and `:` apart. Upstreams do not: they decode a path before they match it, and
/// `/jobs/1%3Acancel` must meet the rule for `/jobs/1:cancel`. `%2B` stays, since some read a
/// raw `+` as a space.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CanonicalPath(Arc<str>);

impl CanonicalPath {
    /// Reads a path, without its query.
    ///
    /// # Errors
    /// [`PathError`] says what is ambiguous.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        if raw.len() > PATH_BYTES_MAX {
            return Err(PathError::Long);
        }
        let rest = raw.strip_prefix('/').ok_or(PathError::Relative)?;
        let canonical = decode_plain(raw)?;
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment.is_empty() && segments.peek().is_some() {
                return Err(PathError::EmptySegment);
            }
        }
        // Dot segments are looked for after decoding: `%2e` is unreserved.
        if canonical.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(PathError::DotSegment);
        }
        Ok(Self(Arc::from(canonical)))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a path is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathError {
    /// Longer than 8192 bytes.
    #[error("the path is longer than 8192 bytes")]
    Long,
    /// Does not begin with `/`.
    #[error("the path does not begin with `/`")]
    Relative,
    /// `//`.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.` or `..`, raw or encoded.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `%` without two hexadecimal digits.
    #[error("the path has a broken percent-encoding")]
    Encoding,
    /// A byte that some reader would treat as a separator or an end.
    #[error("the path has a character that readers disagree on")]
    Forbidden,
    /// Encoded bytes that are no UTF-8.
    #[error("the path is not UTF-8 once decoded")]
    Text,
}

fn decode_plain(raw: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(raw.len());
    let mut decoded = Vec::new();
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let value = if byte == b'%' {
            let high = bytes.next().and_then(hex).ok_or(PathError::Encoding)?;
            let low = bytes.next().and_then(hex).ok_or(PathError::Encoding)?;
            high << 4 | low
        } else if byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'?' | b';' | b'"' | b'<' | b'>')
        {
            byte
        } else {
            return Err(PathError::Forbidden);
        };
        if byte == b'%' {
            match value {
                b'/' | b'\\' | b'%' | b';' | b'?' | b'#' | 0..=0x1f | 0x7f => {
                    return Err(PathError::Forbidden);
                }
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(value))
                }
                b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b',' | b'=' => {
                    out.push(char::from(value))
                }
                _ => {
                    out.push('%');
                    out.push(digit(value >> 4));
                    out.push(digit(value & 15));
                }
            }
        } else {
            out.push(char::from(byte));
        }
        decoded.push(value);
    }
    std::str::from_utf8(&decoded).map_err(|_| PathError::Text)?;
    Ok(out)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

fn digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).unwrap_or('0').to_ascii_uppercase()
}

/// A path template of a route: literal segments, `*` for one segment, a last `**` for any rest.
///
/// `/orders/**` matches `/orders/1` and `/orders/1/lines` and `/orders/`, not `/orders`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathPattern(Arc<str>);

impl PathPattern {
    /// Reads a template.
    ///
    /// # Errors
    /// [`PatternError`] when it is no canonical path, or has `*` inside a segment, or `**` before the end.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let refuse = |why| Err(PatternError { text: text.to_owned(), why });
        match CanonicalPath::parse(text) {
            Ok(path) if path.as_str() == text => {}
            Ok(_) => return refuse("not in canonical form"),
            Err(error) => return refuse(error.into()),
        }
        let mut segments = text.split('/').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "**" if segments.peek().is_some() => return refuse("`**` stands before the end"),
                "*" | "**" => {}
                other if other.contains('*') => return refuse("`*` stands beside other characters"),
                _ => {}
            }
        }
        Ok(Self(Arc::from(text)))
    }

    /// The template as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` is of this form.
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        let mut given = path.as_str().split('/');
        for wanted in self.0.split('/') {
            match (wanted, given.next()) {
                ("**", Some(_)) => return true,
                ("*", Some(segment)) if !segment.is_empty() => {}
                (literal, Some(segment)) if literal == segment => {}
                _ => return false,
            }
        }
        given.next().is_none()
    }

    /// The template as text.
    pub const fn text(&self) -> &Arc<str> {
        &self.0
    }
}

/// Why a path template is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed path template `{text}`: {why}; expected a path such as `/orders/*` or `/orders/**`")]
pub struct PatternError {
    text: String,
    why: &'static str,
}

impl From<PathError> for &'static str {
    fn from(error: PathError) -> Self {
        match error {
            PathError::Long => "longer than 8192 bytes",
            PathError::Relative => "does not begin with `/`",
            PathError::EmptySegment => "has an empty segment",
            PathError::DotSegment => "has a dot segment",
            PathError::Encoding => "has a broken percent-encoding",
            PathError::Forbidden => "has a character that readers disagree on",
            PathError::Text => "is not UTF-8 once decoded",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms() {
        let rows = [
            ("/", Ok("/")),
            ("/orders/1", Ok("/orders/1")),
            ("/orders/", Ok("/orders/")),
            ("/%6frders/%7e", Ok("/orders/~")),
            ("/a%20b%c3%a4", Ok("/a%20b%C3%A4")),
            ("/a:b@c!$&'()*+,=", Ok("/a:b@c!$&'()*+,=")),
            ("/a%3ab%40c%21%24%26%27%28%29%2A%2C%3D", Ok("/a:b@c!$&'()*,=")),
            // Some read a raw `+` as a space, so the two stay what they are.
            ("/a%2b", Ok("/a%2B")),
            ("/a%5b%22%7c", Ok("/a%5B%22%7C")),
            ("", Err(PathError::Relative)),
            ("orders", Err(PathError::Relative)),
            ("*", Err(PathError::Relative)),
            ("//admin", Err(PathError::EmptySegment)),
            ("/a//b", Err(PathError::EmptySegment)),
            ("/public/../admin", Err(PathError::DotSegment)),
            ("/public/%2e%2e/admin", Err(PathError::DotSegment)),
            ("/public/.%2E", Err(PathError::DotSegment)),
            ("/./a", Err(PathError::DotSegment)),
            ("/a%2fb", Err(PathError::Forbidden)),
            ("/a%5cb", Err(PathError::Forbidden)),
            ("/a\\b", Err(PathError::Forbidden)),
            ("/a%00", Err(PathError::Forbidden)),
            ("/a%252e", Err(PathError::Forbidden)),
            ("/admin;x", Err(PathError::Forbidden)),
            ("/admin%3bx", Err(PathError::Forbidden)),
            ("/a#b", Err(PathError::Forbidden)),
            ("/a?b", Err(PathError::Forbidden)),
            ("/a%3fb", Err(PathError::Forbidden)),
            ("/ä", Err(PathError::Forbidden)),
            ("/a b", Err(PathError::Forbidden)),
            ("/a\u{7f}", Err(PathError::Forbidden)),
            ("/a%zz", Err(PathError::Encoding)),
            ("/a%2", Err(PathError::Encoding)),
            ("/%c0%af", Err(PathError::Text)),
        ];
        for (raw, expected) in rows {
            assert_eq!(
                CanonicalPath::parse(raw).as_ref().map(CanonicalPath::as_str),
                expected.as_ref().copied(),
                "{raw}"
            );
        }
        assert!(CanonicalPath::parse(&format!("/{}", "a".repeat(PATH_BYTES_MAX - 1))).is_ok());
        assert_eq!(CanonicalPath::parse(&format!("/{}", "a".repeat(PATH_BYTES_MAX))), Err(PathError::Long));
    }

    #[test]
    fn templates_match() {
        let rows = [
            ("/orders/**", "/orders/1", true),
            ("/orders/**", "/orders/1/lines", true),
            ("/orders/**", "/orders/", true),
            ("/orders/**", "/orders", false),
            ("/orders/**", "/ordersx/1", false),
            ("/orders/*", "/orders/1", true),
            ("/orders/*", "/orders/", false),
            ("/orders/*", "/orders/1/2", false),
            ("/orders/*/lines", "/orders/7/lines", true),
            ("/orders", "/orders", true),
            ("/orders", "/orders/", false),
            ("/**", "/", true),
            ("/", "/", true),
            ("/", "/a", false),
        ];
        for (pattern, path, expected) in rows {
            let (pattern, path) = (PathPattern::parse(pattern).unwrap(), CanonicalPath::parse(path).unwrap());
            assert_eq!(pattern.matches(&path), expected, "{pattern:?} {path}");
        }
        for bad in ["orders", "/a*", "/**/b", "/a//b", "/%6f", "/***"] {
            assert!(PathPattern::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn canonicalisation_is_idempotent(raw in "/[a-zA-Z0-9%./~_-]{0,40}") {
            if let Ok(once) = CanonicalPath::parse(&raw) {
                prop_assert_eq!(CanonicalPath::parse(once.as_str()), Ok(once.clone()));
            }
        }
    }
}
