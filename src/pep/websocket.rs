//! WebSocket: how one is asked for, answered, framed and closed.
//!
//! # Standard
//! RFC 6455 (over HTTP/1.1), RFC 8441 (extended CONNECT over HTTP/2). Over both it is judged as the
//! `GET` that it is over HTTP/1.1. Whatever else asks to upgrade is forwarded without that wish.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use crate::core::policy::Reason;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// A caller's wish for a WebSocket.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The caller's key; `None` over HTTP/2, which has none.
    key: Option<HeaderValue>,
    /// The caller's side, once it has been answered.
    upgrade: OnUpgrade,
}

/// What an upstream was asked, and how it must answer.
#[derive(Debug)]
pub(crate) struct Asked(HeaderValue);

impl Offer {
    /// Takes the wish from a request, which is a `GET` afterwards. `None`: it has none that is well formed.
    pub(crate) fn take<B>(request: &mut Request<B>) -> Option<Self> {
        if request.version() == Version::HTTP_2 {
            let protocol = request.extensions().get::<Protocol>()?;
            if request.method() != Method::CONNECT || protocol.as_str() != "websocket" {
                return None;
            }
            request.extensions_mut().remove::<Protocol>();
            *request.method_mut() = Method::GET;
            return Some(Self { key: None, upgrade: hyper::upgrade::on(request) });
        }
        let headers = request.headers();
        let bodiless = !headers.contains_key(header::TRANSFER_ENCODING)
            && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
        let asked = request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && bodiless
            && the_one(headers, header::UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket")
            && names_upgrade(headers)
            && the_one(headers, header::SEC_WEBSOCKET_VERSION)? == VERSION;
        let key = the_one(headers, header::SEC_WEBSOCKET_KEY)?.clone();
        let sound = STANDARD.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16);
        (asked && sound).then(|| Self { key: Some(key), upgrade: hyper::upgrade::on(request) })
    }

    /// Writes the wish into the head of a request to an HTTP/1.1 upstream; `None`: no random bytes.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) -> Option<Asked> {
        let key = match &self.key {
            Some(key) => key.clone(),
            None => {
                let mut nonce = [0; 16];
                aws_lc_rs::rand::fill(&mut nonce).ok()?;
                HeaderValue::try_from(STANDARD.encode(nonce)).ok()?
            }
        };
        let asked = Asked(accept(&key)?);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, WEBSOCKET);
        headers.insert(header::SEC_WEBSOCKET_VERSION, VERSION);
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
        Some(asked)
    }

    /// Makes an upstream's `101`, stripped of what concerns its connection, the answer to the caller.
    pub(crate) fn answer(self, asked: Asked, headers: &mut HeaderMap) -> (StatusCode, OnUpgrade) {
        if self.key.is_none() {
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            return (StatusCode::OK, self.upgrade);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, WEBSOCKET);
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, asked.0);
        (StatusCode::SWITCHING_PROTOCOLS, self.upgrade)
    }

    /// Whether another answer than a switch would be taken for one.
    pub(crate) fn mistakes(&self, status: StatusCode) -> bool {
        self.key.is_none() && status.is_success()
    }
}

impl Asked {
    /// Whether an upstream's head switches as it was asked to.
    pub(crate) fn is_answered(&self, headers: &HeaderMap) -> bool {
        let protocol = the_one(headers, header::UPGRADE);
        protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && names_upgrade(headers)
            && the_one(headers, header::SEC_WEBSOCKET_ACCEPT) == Some(&self.0)
    }
}

/// The one value of a header; `None`, too, when there are several.
fn the_one(headers: &HeaderMap, name: header::HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let options =
        headers.get_all(header::CONNECTION).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let text = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    HeaderValue::try_from(STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))).ok()
}

/// Where a stream of frames stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frames {
    head: [u8; HEAD_MAX],
    have: usize,
    left: u64,
    closed: bool,
}

const HEAD_MAX: usize = 14;
const CLOSE: u8 = 8;

impl Frames {
    /// Goes on by what was sent.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= skipped as u64;
                bytes = bytes.split_at(skipped).1;
                continue;
            }
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *first;
            }
            self.have += 1;
            bytes = rest;
            self.take_head();
        }
    }

    fn take_head(&mut self) {
        let [first, second, rest @ ..] = self.head;
        let [a, b, c, d, e, f, g, h, ..] = rest;
        let (wide, length) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes([a, b]))),
            127 => (8, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            short => (0, u64::from(short)),
        };
        let masked = if second & 0x80 == 0 { 0 } else { 4 };
        if self.have >= 2 && self.have == 2 + wide + masked {
            self.closed |= first & 0x0f == CLOSE;
            (self.have, self.left) = (0, length);
        }
    }

    /// Whether the next byte begins a frame.
    pub(crate) const fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Whether a close was sent.
    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many of `bytes` end the frame that has begun; `None`: they do not.
    pub(crate) fn rest_of_frame(&self, bytes: &[u8]) -> Option<usize> {
        let (mut ahead, mut sent) = (*self, 0_usize);
        while !ahead.is_between() {
            // A payload in one step, a head byte by byte.
            let end = sent.checked_add(usize::try_from(ahead.left.max(1)).ok()?)?;
            ahead.advance(bytes.get(sent..end)?);
            sent = end;
        }
        Some(sent)
    }
}

/// A close frame for an exchange that is allowed no more: 1008, or 1013 when that may pass.
///
/// # Standard
/// RFC 6455 §5.5.1 and §7.4; 1013 is registered with IANA.
pub(crate) const fn close(reason: Reason) -> [u8; 4] {
    let [high, low] = if reason.status() == 503 { 1013_u16 } else { 1008 }.to_be_bytes();
    [0x80 | CLOSE, 2, high, low]
}

/// A close frame of an endpoint that goes away: 1001.
pub(crate) const GOING_AWAY: [u8; 4] = [0x80 | CLOSE, 2, 0x03, 0xe9];

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/chat");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// RFC 6455 §1.3.
    #[test]
    fn the_accept_is_that_of_the_standard() {
        let accepted = accept(&HeaderValue::from_static(KEY)).unwrap();
        assert_eq!(accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_a_whole_wish_is_one() {
        let whole = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        assert!(Offer::take(&mut request(&whole)).is_some());
        for at in 0..whole.len() {
            let mut lines = whole.to_vec();
            let missing = lines.remove(at);
            assert!(Offer::take(&mut request(&lines)).is_none(), "{missing:?}");
            let twice = [whole.to_vec(), vec![missing]].concat();
            let expected = missing.0 == "connection";
            assert_eq!(Offer::take(&mut request(&twice)).is_some(), expected, "{missing:?} twice");
        }
        let others = [
            ("upgrade", "h2c"),
            ("upgrade", "websocket, h2c"),
            ("connection", "close"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", "c2hvcnQ="),
        ];
        for (name, value) in others {
            let lines: Vec<_> =
                whole.iter().map(|(held, text)| (*held, if *held == name { value } else { text })).collect();
            assert!(Offer::take(&mut request(&lines)).is_none(), "{name}: {value}");
        }
        let body = [whole.to_vec(), vec![("content-length", "5")]].concat();
        assert!(Offer::take(&mut request(&body)).is_none(), "a body");
        let mut post = request(&whole);
        *post.method_mut() = Method::POST;
        assert!(Offer::take(&mut post).is_none(), "another method");
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let mut stream = Vec::new();
        let mut ends = vec![0];
        for (head, length) in [
            (vec![0x81, 5], 5),
            (vec![0x82, 126, 1, 0], 256),
            (vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65_536),
            (vec![0x89, 0x80, 1, 2, 3, 4], 0),
            (vec![0x88, 2], 2),
        ] {
            stream.extend(head);
            stream.extend(std::iter::repeat_n(0x88, length));
            ends.push(stream.len());
        }
        for piece in [1, 3, 1000, stream.len()] {
            let mut frames = Frames::default();
            let mut sent = 0;
            for part in stream.chunks(piece) {
                frames.advance(part);
                sent += part.len();
                assert_eq!(frames.is_between(), ends.contains(&sent), "{sent} by {piece}");
                let to_end = ends.iter().find(|end| **end >= sent).map(|end| end - sent);
                assert_eq!(frames.rest_of_frame(&stream[sent..]), to_end, "{sent} by {piece}");
                assert_eq!(frames.is_closed(), sent >= stream.len() - 2, "{sent} by {piece}");
            }
        }
        let mut frames = Frames::default();
        frames.advance(&[0x81, 5, 1]);
        assert_eq!(frames.rest_of_frame(&[2, 3, 4]), None);
    }

    #[test]
    fn a_close_says_whether_it_may_pass() {
        assert_eq!(close(Reason::IdentityRevoked), [0x88, 2, 0x03, 0xf0]);
        assert_eq!(close(Reason::StateStale), [0x88, 2, 0x03, 0xf5]);
    }
}
