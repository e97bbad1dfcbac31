//! A reader of requests without any leniency: what it does not find plain, it does not find.

/// A request: its line and its body.
pub(super) type Found = (String, String);

/// A line that ends in CRLF and holds no other of the two, nor a NUL.
fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (text, rest) = bytes.split_at(end);
    *bytes = &rest[2..];
    let plain = !text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    std::str::from_utf8(text).ok().filter(|_| plain)
}

fn body<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (body, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(body)
}

/// The next request, if there is a whole one that can be read in one way.
pub(super) fn request(bytes: &mut &[u8]) -> Option<Found> {
    let mut first = line(bytes)?;
    while first.is_empty() {
        first = line(bytes)?;
    }
    let [_, target, "HTTP/1.1"] = first.split(' ').collect::<Vec<_>>()[..] else { return None };
    if !target.starts_with('/') {
        return None;
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    loop {
        let text = line(bytes)?;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':')?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.trim().parse::<usize>().ok()?),
            "transfer-encoding" => codings.push(value.trim()),
            "host" => hosts += 1,
            _ => {}
        }
    }
    let whole = match (&codings[..], &lengths[..]) {
        ([], []) => Vec::new(),
        ([], [length]) => body(bytes, *length)?.to_vec(),
        (["chunked"], []) => chunks(bytes)?,
        _ => return None,
    };
    (hosts == 1).then_some((first.to_owned(), String::from_utf8(whole).ok()?))
}

fn chunks(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let size = line(bytes)?;
        let digits = size.split_once(';').map_or(size, |(digits, _)| digits);
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
