//! Times and spans as people write them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use crate::core::time::Timestamp;

/// A time: RFC 3339, or a date, which is its first instant in UTC. Shown as RFC 3339 in UTC.
///
/// # Standard
/// RFC 3339 §5.6, an offset or `Z` required.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2027-05-01T00:00:00Z")]
pub struct Time(pub Timestamp);

impl Time {
    /// Reads a time or a date; `None` when it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let read = match text.parse::<jiff::Timestamp>() {
            Ok(time) => time,
            Err(_) => date(text)?,
        };
        Some(Self(Timestamp::from_micros(read.as_microsecond())))
    }
}

fn date(text: &str) -> Option<jiff::Timestamp> {
    // A date alone: `2027-05-01`. A time without an offset is refused, not guessed.
    if text.len() != 10 {
        return None;
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    date.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0.as_micros()) {
            Ok(time) => std::fmt::Display::fmt(&time, f),
            // Beyond the years that RFC 3339 can write.
            Err(_) if self.0.as_micros() < 0 => f.write_str("0000-01-01T00:00:00Z"),
            Err(_) => f.write_str("9999-12-31T23:59:59Z"),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A visitor, so that the error knows its place in the text.
        deserializer.deserialize_str(TimeVisitor)
    }
}

struct TimeVisitor;

impl de::Visitor<'_> for TimeVisitor {
    type Value = Time;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a time in RFC 3339 such as `2027-05-01T00:00:00Z`, or a date")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
        Time::parse(text).ok_or_else(|| {
            E::custom(format_args!(
                "`{}` is no time: expected RFC 3339 such as `2027-05-01T00:00:00Z`, or a date",
                text.escape_debug()
            ))
        })
    }
}

/// Reads a span such as `90s`, `15m`, `1h`, `7d`; `None` when it is none.
pub(super) fn parse_span(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// Writes a span in its largest whole unit.
pub(super) fn show_span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let whole = units.into_iter().find(|(size, _)| seconds >= *size && seconds.is_multiple_of(*size));
    whole.map_or_else(|| format!("{seconds}s"), |(size, unit)| format!("{}{unit}", seconds / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_dates() {
        let show = |text: &str| Time::parse(text).map(|t| t.to_string());
        assert_eq!(show("2027-05-01"), Some("2027-05-01T00:00:00Z".to_owned()));
        assert_eq!(show("2027-05-01T02:00:00.5+02:00"), Some("2027-05-01T00:00:00.5Z".to_owned()));
        for bad in ["", "2027-05-01T02:00:00", "2027-13-01", "20270501", "tomorrow", "1"] {
            assert_eq!(show(bad), None, "{bad}");
        }
    }

    #[test]
    fn spans_read_what_they_write() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(parse_span(text), Some(Duration::from_secs(seconds)), "{text}");
            assert_eq!(show_span(seconds), text);
        }
        for bad in ["", "1", "h", "1w", "-1s", "1.5h", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
    }
}
