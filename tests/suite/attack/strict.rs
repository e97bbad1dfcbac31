//! A reader of requests without any leniency: what it does not find plain, it does not find.

use super::recorder::letters;

/// A request: its line and its body.
pub(super) type Found = (String, String);

/// A line that ends in CRLF and holds no other of the two, nor a NUL.
fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (text, rest) = bytes.split_at(end);
    *bytes = &rest[2..];
    let plain = !text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    plain.then_some(text)
}

fn body<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (body, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(body)
}

/// The next request, if there is a whole one that can be read in one way; its line as an upstream gets it, but for
/// the form of its path.
pub(super) fn request(bytes: &mut &[u8]) -> Option<Found> {
    let mut first = line(bytes)?;
    while first.is_empty() {
        first = line(bytes)?;
    }
    let words: Vec<&str> = std::str::from_utf8(first).ok()?.split(' ').collect();
    let [method, target, version @ ("HTTP/1.1" | "HTTP/1.0")] = words[..] else { return None };
    let target = origin(target)?;
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    loop {
        let text = line(bytes)?;
        if text.is_empty() {
            break;
        }
        let colon = text.iter().position(|byte| *byte == b':')?;
        let (name, value) = (letters(&text[..colon]), letters(&text[colon + 1..]));
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || TOKEN.contains(&byte))
        {
            return None;
        }
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(digits(value)?),
            "transfer-encoding" => codings.push(value.to_ascii_lowercase()),
            "host" => hosts += 1,
            _ => {}
        }
    }
    let whole = match (&codings[..], &lengths[..]) {
        ([], []) => Vec::new(),
        ([], [length]) => body(bytes, *length)?.to_vec(),
        ([coding], []) if coding == "chunked" && version == "HTTP/1.1" => chunks(bytes)?,
        _ => return None,
    };
    let named = hosts == 1 || hosts == 0 && version == "HTTP/1.0";
    named.then(|| (format!("{method} {target} HTTP/1.1"), letters(&whole)))
}

/// What a name may hold beside letters and digits (RFC 9110 §5.6.2).
const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~";

/// Path and query of a target, which may name scheme and host.
fn origin(target: &str) -> Option<String> {
    if target.starts_with('/') {
        return Some(target.to_owned());
    }
    let rest = target.get(.."http://".len()).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    let rest = &target[rest?.len()..];
    let (_, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Some(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

fn digits(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn chunks(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let size = letters(line(bytes)?);
        let digits = size.split_once(';').map_or(&*size, |(digits, _)| digits);
        let hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(digits, 16).ok().filter(|_| hex && !size.contains('"'))?;
        if size == 0 {
            while !line(bytes)?.is_empty() {}
            return Some(whole);
        }
        whole.extend(body(bytes, size)?);
        line(bytes).filter(|end| end.is_empty())?;
    }
}
