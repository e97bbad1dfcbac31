//! SPIFFE IDs (SPIFFE-ID §2), parsed without leniency.

/// A SPIFFE ID: a trust domain and, of a workload, a path in it.
///
/// # Standard
/// SPIFFE-ID §2.1 to §2.4. Stricter: a trust domain in upper case is refused, not lowered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpiffeId<'a> {
    whole: &'a str,
    /// Bytes of the scheme and the trust domain.
    domain_end: usize,
}

impl<'a> SpiffeId<'a> {
    /// Parses an ID of at most 2,048 bytes.
    pub fn parse(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix(SCHEME).filter(|_| text.len() <= ID_BYTES_MAX)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        let named = (1..=DOMAIN_BYTES_MAX).contains(&domain.len()) && domain.bytes().all(known);
        let sound = named && path.is_none_or(|path| path.split('/').all(is_segment));
        sound.then_some(Self { whole: text, domain_end: SCHEME.len() + domain.len() })
    }

    /// The trust domain's own ID: `spiffe://` and its name.
    pub fn domain(self) -> &'a str {
        self.whole.get(..self.domain_end).unwrap_or_default()
    }

    /// Whether it names a workload, not the trust domain itself.
    pub const fn has_path(self) -> bool {
        self.whole.len() > self.domain_end
    }

    /// The whole ID.
    pub const fn as_str(self) -> &'a str {
        self.whole
    }
}

fn is_segment(segment: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(known)
}

const SCHEME: &str = "spiffe://";
const ID_BYTES_MAX: usize = 2048;
const DOMAIN_BYTES_MAX: usize = 255;
