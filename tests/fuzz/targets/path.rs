//! Paths: what is accepted is read alike by a second reader, and once read, read again as the same.

use portreeve::core::policy::CanonicalPath;

pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = CanonicalPath::parse(text).ok().map(|path| path.to_string());
    assert_eq!(read, plainer(text), "{text:?}");
    if let Some(read) = read {
        assert_eq!(CanonicalPath::parse(&read).map(|path| path.to_string()), Ok(read));
    }
}

/// Segments first, each letter apart, no care for speed.
pub(crate) fn plainer(raw: &str) -> Option<String> {
    let segments: Vec<&str> = raw.strip_prefix('/')?.split('/').collect();
    let (last, others) = segments.split_last()?;
    if raw.len() > 8192 || others.iter().any(|segment| segment.is_empty()) {
        return None;
    }
    let mut seen = String::new();
    for segment in others.iter().chain([last]) {
        let letters = letters(segment.as_bytes())?;
        let text = String::from_utf8(letters.iter().map(|(_, byte)| *byte).collect()).ok()?;
        if text == "." || text == ".." || text.contains(|c: char| c < ' ' || "/\\;?#%\u{7f}".contains(c)) {
            return None;
        }
        seen.push('/');
        for (escaped, byte) in letters {
            let itself = byte.is_ascii_alphanumeric() || b"-._~:@!$&'()*,=".contains(&byte);
            if escaped && !itself {
                seen.push_str(&format!("%{byte:02X}"));
            } else {
                seen.push(char::from(byte));
            }
        }
    }
    Some(seen)
}

/// The bytes that a segment means, and whether each was escaped.
fn letters(segment: &[u8]) -> Option<Vec<(bool, u8)>> {
    let mut letters = Vec::new();
    let mut rest = segment;
    while let Some((first, more)) = rest.split_first() {
        if *first == b'%' {
            let (pair, more) = more.split_at_checked(2)?;
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            letters.push((true, u8::try_from(digit(0)? * 16 + digit(1)?).ok()?));
            rest = more;
        } else if first.is_ascii_graphic() && !b"\"<>".contains(first) {
            letters.push((false, *first));
            rest = more;
        } else {
            return None;
        }
    }
    Some(letters)
}
