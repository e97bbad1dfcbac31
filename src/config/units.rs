//! Durations and sizes, as written.

use std::time::Duration;

/// Splits a whole number from its unit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

/// What a duration looks like.
pub(super) const DURATION_FORM: &str = "a duration such as `500ms`, `10s`, `5m`, `1h` or `30d`";

/// What a size looks like.
pub(super) const SIZE_FORM: &str = "a size such as `8KiB`, `64MiB`, `4GiB` or a number of bytes";

/// Reads `500ms`, `10s`, `5m`, `1h`, `30d`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let unit_ms = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?.1;
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// Writes a duration of whole milliseconds as [`parse_duration`] reads it.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let fits = |unit_ms: u64| ms >= u128::from(unit_ms) && ms.is_multiple_of(u128::from(unit_ms));
    match DURATION_UNITS.iter().rev().find(|(_, unit_ms)| fits(*unit_ms)) {
        Some((name, unit_ms)) => format!("{}{name}", ms / u128::from(*unit_ms)),
        None => "0s".to_owned(),
    }
}

/// Reads `8KiB`, `64MiB`, `4GiB`, `1TiB`, or plain bytes.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let unit_bytes = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?.1;
    number.checked_mul(unit_bytes)
}

/// Writes a size as [`parse_size`] reads it.
pub(super) fn show_size(bytes: u64) -> String {
    let fits = |unit_bytes: u64| bytes >= unit_bytes && bytes.is_multiple_of(unit_bytes);
    match SIZE_UNITS.iter().rev().find(|(_, unit_bytes)| fits(*unit_bytes)) {
        Some((name, unit_bytes)) => format!("{}{name}", bytes / unit_bytes),
        None => "0".to_owned(),
    }
}

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 5] =
    [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let rows = [
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("30d", 2_592_000_000),
        ];
        for (text, ms) in rows {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
        for bad in [
            "",
            "10",
            "s",
            "10 s",
            "1.5s",
            "-1s",
            "10S",
            "5min",
            "never",
            "1w",
            "18446744073709551616ms",
            "18446744073709551615d",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        let rows = [
            ("0", 0),
            ("1023", 1023),
            ("8KiB", 8192),
            ("64MiB", 1 << 26),
            ("4GiB", 1 << 32),
            ("1TiB", 1 << 40),
        ];
        for (text, bytes) in rows {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        for bad in ["", "8KB", "8kib", "8 KiB", "1.5MiB", "-1", "0x10", "KiB", "16777216TiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
