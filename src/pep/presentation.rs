//! Where credentials are looked for, and what is found there.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::core::credential::Presented;
use crate::core::policy::{Presentation, Reason};

/// The headers in which credentials are looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carriers {
    authorization: bool,
    api_key: Option<HeaderName>,
}

impl Default for Carriers {
    fn default() -> Self {
        Self { authorization: true, api_key: None }
    }
}

impl Carriers {
    /// `authorization`, and a header for API keys; `None`: that is no header's name.
    pub fn new(authorization: bool, api_key_header: Option<&str>) -> Option<Self> {
        let name = |text: &str| HeaderName::from_bytes(text.as_bytes());
        Some(Self { authorization, api_key: api_key_header.map(name).transpose().ok()? })
    }

    /// The header for API keys.
    pub(crate) const fn api_key(&self) -> Option<&HeaderName> {
        self.api_key.as_ref()
    }

    /// Every header that may hold a credential: not for upstreams to see. `authorization` is one even
    /// where it is not looked into.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        [&header::AUTHORIZATION, &DPOP].into_iter().chain(&self.api_key)
    }

    /// Finds the one credential of a request.
    ///
    /// # Errors
    /// [`Reason::RequestCredentials`] when there are two, in one header or in several.
    pub(crate) fn find(&self, headers: &HeaderMap, comma: Comma) -> Result<Presentation, Reason> {
        let token = self.authorization.then_some(&header::AUTHORIZATION);
        let token = line(headers, token, comma)?;
        let key = line(headers, self.api_key(), comma)?;
        match (token, key) {
            (None, None) => Ok(Presentation::Nothing),
            (Some(_), Some(_)) => Err(Reason::RequestCredentials),
            (Some(line), None) => token_of(line.as_bytes(), headers, comma),
            (None, Some(line)) => Ok(Presentation::One(Presented::key(line.as_bytes()))),
        }
    }
}

/// What a comma in a credential means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comma {
    /// No credential has one.
    Malformed,
    /// Two lines were joined.
    Duplicate,
}

/// The one line of a header.
fn line<'h>(
    headers: &'h HeaderMap,
    name: Option<&HeaderName>,
    comma: Comma,
) -> Result<Option<&'h HeaderValue>, Reason> {
    let Some(name) = name else { return Ok(None) };
    let mut lines = headers.get_all(name).iter();
    let line = lines.next();
    let joined = line.is_some_and(|line| comma == Comma::Duplicate && line.as_bytes().contains(&b','));
    if joined || lines.next().is_some() { Err(Reason::RequestCredentials) } else { Ok(line) }
}

/// # Errors
/// [`Reason::RequestCredentials`] when a token comes with two proofs.
///
/// # Standard
/// RFC 6750 §2.1, RFC 9449 §7.1; the scheme in any case, then one space, then a `token68`.
fn token_of(line: &[u8], headers: &HeaderMap, comma: Comma) -> Result<Presentation, Reason> {
    let after = |scheme: &[u8]| {
        let (given, token) = line.split_at_checked(scheme.len())?;
        (given.eq_ignore_ascii_case(scheme) && is_token68(token)).then_some(token)
    };
    if let Some(token) = after(b"Bearer ") {
        return Ok(Presentation::One(Presented::bearer(token)));
    }
    let Some(token) = after(b"DPoP ") else { return Ok(Presentation::Malformed) };
    let proof = self::line(headers, Some(&DPOP), comma)?;
    Ok(Presentation::One(Presented::dpop(token, proof.map(HeaderValue::as_bytes))))
}

static DPOP: HeaderName = HeaderName::from_static("dpop");

fn is_token68(token: &[u8]) -> bool {
    let padding = token.iter().rev().take_while(|b| **b == b'=').count();
    let (text, _) = token.split_at(token.len() - padding);
    // Without a branch for each byte: a token has hundreds.
    let all = text.iter().fold(true, |all, b| all & TOKEN68.get(usize::from(*b)).copied().unwrap_or(false));
    !text.is_empty() && all
}

/// The bytes of a `token68` but for its padding (RFC 9110 §11.2).
static TOKEN68: [bool; 256] = {
    let mut known = [false; 256];
    let mut b = 0u8;
    // None above is ASCII.
    while b < 128 {
        known[b as usize] = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
        b += 1;
    }
    known
};
