//! A URL that may be asked: `https`, a host, a port, a path.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use rustls::pki_types::ServerName;

/// An `https` URL without user, password or fragment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    uri: Uri,
    /// In lower case; an address without brackets.
    host: Arc<str>,
    port: u16,
    name: ServerName<'static>,
}

/// Why a URL cannot be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TargetError(&'static str);

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`TargetError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.len() > URL_BYTES_MAX {
            return Err(TargetError("is longer than 2048 bytes"));
        }
        if text.contains('#') {
            return Err(TargetError("has a fragment"));
        }
        let uri: Uri = text.parse().map_err(|_| TargetError("is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(TargetError("is not `https`"));
        }
        let authority = uri.authority().ok_or(TargetError("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(TargetError("has a user or password"));
        }
        let host = authority.host().to_ascii_lowercase();
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(&host);
        let rest = authority.as_str().get(authority.host().len()..).unwrap_or_default();
        let port = match rest.strip_prefix(':') {
            None => 443,
            Some(_) => {
                authority.port_u16().filter(|port| *port > 0).ok_or(TargetError("has no such port"))?
            }
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TargetError("has no usable host"))?;
        Ok(Self { host: Arc::from(host), port, name, uri })
    }

    /// Itself, if it has no query.
    ///
    /// # Errors
    /// [`TargetError`] if it has one.
    pub fn refuse_query(self) -> Result<Self, TargetError> {
        if self.uri.query().is_some() { Err(TargetError("has a query")) } else { Ok(self) }
    }

    /// The host: a name in lower case, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host, where it is an address.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// What the certificate must name.
    pub(super) const fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// What stands in the request's first line.
    pub(super) fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }

    /// What stands in `Host`.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", http::uri::Authority::as_str)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

const URL_BYTES_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_https_urls_are_targets() {
        for (text, host, port, path) in [
            ("https://idp.example/jwks", "idp.example", 443, "/jwks"),
            ("https://IDP.example:8443/a/b?c=d", "idp.example", 8443, "/a/b?c=d"),
            ("https://idp.example", "idp.example", 443, "/"),
            ("https://127.0.0.1:9/x", "127.0.0.1", 9, "/x"),
            ("https://[::1]:9/x", "::1", 9, "/x"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.host(), target.port(), target.path()), (host, port, path), "{text}");
        }
        for text in [
            "http://idp.example/jwks",
            "file:///etc/passwd",
            "//idp.example/jwks",
            "/jwks",
            "",
            "https://",
            "https://user@idp.example/",
            "https://user:word@idp.example/",
            "https://idp.example/#keys",
            "https://idp.example:0/",
            "https://idp.example:/",
            "https://idp.example:65536/",
            "https://idp example/",
            "https://idp.example/\r\nx: y",
            "https://-/",
        ] {
            assert!(Target::parse(text).is_err(), "{text:?}");
        }
        assert!(Target::parse(&format!("https://idp.example/{}", "a".repeat(2048))).is_err());
    }
}
