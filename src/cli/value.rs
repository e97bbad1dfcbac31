//! Values as they are written on a command line, and files that commands read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::failure::Failure;
use crate::core::id::Name;

/// Largest file a command reads, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why a value on the command line is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ValueError {
    /// No span of time.
    #[error("expected a whole number with ms, s, m, h or d, such as `5m`")]
    Span,
    /// No point in time.
    #[error("expected an RFC 3339 time or a date, such as `2027-05-01T12:00:00Z` or `2027-05-01`")]
    When,
    /// Not of the form `left=right`.
    #[error("expected {0}, with `=` between the two")]
    Pair(&'static str),
    /// The name in a pair is none.
    #[error(transparent)]
    Name(#[from] crate::core::id::NameError),
    /// Nobody may lift this.
    #[error("expected a reason that may be lifted: {}", liftable())]
    Lifts,
}

/// A span of time, as written and as counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    text: String,
    length: Duration,
}

impl Span {
    /// Parses a whole number with its unit: `ms`, `s`, `m`, `h` or `d`.
    ///
    /// # Errors
    /// [`ValueError::Span`] when `text` is none, or too long to count.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at(digits);
        let count: u64 = count.parse().map_err(|_| ValueError::Span)?;
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(ValueError::Span),
        };
        let length = count.checked_mul(unit_ms).map(Duration::from_millis).ok_or(ValueError::Span)?;
        Ok(Self { text: text.to_owned(), length })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How long.
    pub const fn length(&self) -> Duration {
        self.length
    }
}

/// A point in time; a date means its first instant in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct When(jiff::Timestamp);

impl When {
    /// Parses an RFC 3339 time or a date.
    ///
    /// # Errors
    /// [`ValueError::When`] when `text` is neither.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let has_time = text.contains(['T', 't', ' ']);
        let parsed = if has_time {
            text.parse::<jiff::Timestamp>()
        } else {
            text.parse::<jiff::civil::Date>()
                .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC))
                .map(|zoned| zoned.timestamp())
        };
        parsed.map(Self).map_err(|_| ValueError::When)
    }

    /// Whole seconds since the Unix epoch.
    ///
    /// # Errors
    /// [`ValueError::When`] outside the years that can be written.
    pub fn from_seconds(seconds: i64) -> Result<Self, ValueError> {
        jiff::Timestamp::from_second(seconds).map(Self).map_err(|_| ValueError::When)
    }

    /// Now, to the second.
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        Self(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
    }

    /// So long after this; `None` outside the years that can be written.
    pub fn after(self, span: Duration) -> Option<Self> {
        self.0.checked_add(span).ok().map(Self)
    }

    /// How long after `earlier` this is; `None` when it is not.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        Duration::try_from(self.0.duration_since(earlier.0)).ok()
    }
}

impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A binding, `ISSUER=SUBJECT`; the subject may hold anything, `=` as well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bind {
    /// The issuer record's name.
    pub issuer: Name,
    /// The subject.
    pub subject: String,
}

impl Bind {
    /// Parses `ISSUER=SUBJECT`.
    ///
    /// # Errors
    /// [`ValueError::Pair`] without both; [`ValueError::Name`] when the issuer is no name.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let (issuer, subject) = pair(text, "ISSUER=SUBJECT")?;
        Ok(Self { issuer: Name::parse(issuer)?, subject: subject.to_owned() })
    }
}

/// A label, `KEY=VALUE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

impl Label {
    /// Parses `KEY=VALUE`.
    ///
    /// # Errors
    /// [`ValueError::Pair`] without both.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let (key, value) = pair(text, "KEY=VALUE")?;
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

fn pair<'t>(text: &'t str, form: &'static str) -> Result<(&'t str, &'t str), ValueError> {
    text.split_once('=').filter(|(a, b)| !a.is_empty() && !b.is_empty()).ok_or(ValueError::Pair(form))
}

/// Parses the code of a reason that an exception may lift.
///
/// # Errors
/// [`ValueError::Lifts`] for any other text.
pub fn lifts(text: &str) -> Result<String, ValueError> {
    use crate::core::policy::Reason;
    match Reason::parse(text) {
        Some(reason) if reason.may_be_lifted() => Ok(reason.code().to_owned()),
        _ => Err(ValueError::Lifts),
    }
}

fn liftable() -> String {
    use crate::core::policy::Reason;
    let codes: Vec<_> = Reason::ALL.iter().filter(|r| r.may_be_lifted()).map(|r| r.code()).collect();
    codes.join(", ")
}

/// Reads a file whole, as text; `-` is standard input.
///
/// # Errors
/// A [`Failure`] that names the file when it cannot be read, is too large or no UTF-8.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let fault = |why: String| Failure::input(format!("cannot read `{}`: {why}", path.display()));
    let read = |source: &mut dyn Read| -> io::Result<String> {
        let mut text = String::new();
        source.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = if path.as_os_str() == "-" {
        read(&mut io::stdin().lock())
    } else {
        File::open(path).and_then(|mut file| read(&mut file))
    };
    let text = text.map_err(|error| fault(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(fault(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Reads a file that holds one secret: surrounding white space is not part of it.
///
/// # Errors
/// As [`read_text`]; also when nothing is left, or it holds white space or unprintable bytes.
pub fn read_secret(path: &Path) -> Result<zeroize::Zeroizing<String>, Failure> {
    let text = zeroize::Zeroizing::new(read_text(path)?);
    let secret = zeroize::Zeroizing::new(text.trim().to_owned());
    if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        let path = path.display();
        return Err(Failure::input(format!("`{path}` does not hold one token: expected one line of ASCII")));
    }
    Ok(secret)
}

/// Reads a JSON Web Key Set of public keys.
///
/// # Errors
/// A [`Failure`] that names the file when it is none, or holds a private or a secret key.
pub fn read_jwks(path: &Path) -> Result<serde_json::Value, Failure> {
    let text = read_text(path)?;
    let fault = |why: &str| Failure::input(format!("`{}`: {why}", path.display()));
    let jwks: serde_json::Value = serde_json::from_str(&text).map_err(|e| fault(&e.to_string()))?;
    let Some(keys) = jwks.get("keys").and_then(|keys| keys.as_array()) else {
        return Err(fault("no JSON Web Key Set: expected an object with a list `keys`"));
    };
    // `d` is private in RSA, EC and OKP keys, `k` is a symmetric key (RFC 7518 §6).
    if keys.iter().any(|key| key.get("d").is_some() || key.get("k").is_some()) {
        return Err(fault("holds a private or secret key: expected public keys only"));
    }
    Ok(jwks)
}

/// A path made relative to the folder that `beside` lies in.
pub fn relative_to(beside: &Path, path: &Path) -> PathBuf {
    beside.parent().map_or_else(|| path.to_owned(), |folder| folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, ms) in [("500ms", 500), ("0s", 0), ("60s", 60_000), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(Span::parse(text).map(|s| s.length()), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "m", "-1s", "1.5h", "5 m", "5M", "99999999999999999999s", "9999999999999999d"] {
            assert_eq!(Span::parse(bad), Err(ValueError::Span), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("2027-05-01", "2027-05-01T00:00:00Z"),
            ("2027-05-01T12:30:00Z", "2027-05-01T12:30:00Z"),
            ("2027-05-01T12:30:00.25+02:00", "2027-05-01T10:30:00.25Z"),
        ] {
            assert_eq!(When::parse(text).map(|t| t.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["", "tomorrow", "2027-13-01", "2027-05-01T12:30:00", "1795000000"] {
            assert_eq!(When::parse(bad), Err(ValueError::When), "{bad:?}");
        }
    }

    #[test]
    fn pairs() {
        let bind = Bind::parse("main=system:sa=x").expect("a subject may hold `=`");
        assert_eq!((bind.issuer.as_str(), bind.subject.as_str()), ("main", "system:sa=x"));
        for bad in ["main", "=x", "main=", "Main=x"] {
            assert!(Bind::parse(bad).is_err(), "{bad:?}");
        }
        assert!(lifts("hygiene.ownerless").is_ok());
        assert!(lifts("credential.revoked").is_err());
    }
}
