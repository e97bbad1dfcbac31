//! `http://host:port` or `https://host:port`: servers, as the configuration names them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// An HTTP server: host and port, nothing else.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    host: Arc<str>,
    /// The host where it is an address; brackets are no part of it.
    address: Option<IpAddr>,
    port: u16,
    secure: bool,
}

impl Endpoint {
    /// Reads `http://host:port`, with or without a last `/`.
    fn parse(text: &str) -> Option<Self> {
        Self::parse_rest(text.strip_prefix("http://")?, false)
    }

    /// Reads the same, or `https://host:port`.
    pub(super) fn parse_either(text: &str) -> Option<Self> {
        match text.strip_prefix("https://") {
            Some(rest) => Self::parse_rest(rest, true),
            None => Self::parse(text),
        }
    }

    fn parse_rest(rest: &str, secure: bool) -> Option<Self> {
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority.rsplit_once(':')?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0)?;
        if let Some(inner) = host.strip_prefix('[') {
            let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            let host = Arc::from(address.to_string());
            return Some(Self { host, address: Some(address.into()), port, secure });
        }
        let host = host.to_ascii_lowercase();
        if !is_host_name(&host) {
            return None;
        }
        let address = host.parse::<Ipv4Addr>().ok().map(IpAddr::from);
        // A last label of digits only is an address to some readers and a name to others.
        let numeric = host.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
        if numeric && address.is_none() {
            return None;
        }
        Some(Self { host: Arc::from(host), address, port, secure })
    }

    /// The host: a name in lower case, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 1 to 65535.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether it speaks TLS.
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// `host:port`, with brackets where they belong.
    pub fn authority(&self) -> String {
        match self.address {
            Some(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether the host is `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        self.address.map_or(&*self.host == "localhost", |address| address.to_canonical().is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// Whether `host` is a DNS name or IPv4 address in lower case.
///
/// # Standard
/// RFC 1123 §2.1, with `_` accepted as container platforms use it.
pub(in crate::config) fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let edges = !label.starts_with('-') && !label.ends_with('-');
        (1..=63).contains(&label.len()) && edges && label.bytes().all(inner)
    };
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let rows = [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://127.9.9.9:1/", "127.9.9.9:1", true),
            ("http://[::1]:65535", "[::1]:65535", true),
            ("http://[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80", true),
            ("http://LOCALHOST:80", "localhost:80", true),
            ("http://app.example:80", "app.example:80", false),
            ("http://localhost.example:80", "localhost.example:80", false),
            ("http://10.0.0.1:80", "10.0.0.1:80", false),
        ];
        for (text, authority, loopback) in rows {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!(
                (endpoint.authority().as_str(), endpoint.is_loopback()),
                (authority, loopback),
                "{text}"
            );
            assert_eq!(endpoint.to_string(), format!("http://{authority}"));
            let secure = Endpoint::parse_either(&text.replace("http:", "https:")).expect(text);
            assert_eq!(secure.to_string(), format!("https://{authority}"));
            assert!(secure.is_secure() && !endpoint.is_secure());
        }
        for bad in [
            "",
            "http://",
            "app:80",
            "https://app:80",
            "http://app",
            "http://app:0",
            "http://app:65536",
            "http://app:+1",
            "http://:80",
            "http://app:80/x",
            "http://app:80?x",
            "http://app:80#x",
            "http://u@app:80",
            "http://u:p@app:80",
            "http://a b:80",
            "http://[::1:80",
            "http://::1:80",
            "http://[127.0.0.1]:80",
            "http://127.1:80",
            "http://1:80",
            "http://-a:80",
            "http://a..b:80",
            "HTTP://app:80",
            "http://app:80//",
        ] {
            assert_eq!(Endpoint::parse(bad), None, "{bad}");
        }
    }
}
