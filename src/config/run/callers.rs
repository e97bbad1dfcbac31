//! What listeners know of their callers: certificates, and how they are reached.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::endpoint::is_host_name;
use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::listener as raw;
use crate::config::run::check::Check;

/// Which certificate is a caller's, and whose it may be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CallerCertificates {
    /// The `iss` of the issuer whose certificates callers show.
    pub issuer: Option<Arc<str>>,
    /// Proxies in front that say which certificate they verified.
    pub forwarded: Option<ForwardedCertificate>,
}

/// Proxies in front that say which certificate they verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardedCertificate {
    /// Whether in `client-cert` (RFC 9440); else in Envoy's `x-forwarded-client-cert`.
    pub rfc9440: bool,
    /// Networks they are in, as address and bits; at least one.
    pub peers: Arc<[(IpAddr, u8)]>,
}

/// `asked`: whether anything here can bring a certificate.
pub(super) fn issuer(
    check: &mut Check<'_>,
    key: &Key,
    raw: Option<&String>,
    asked: bool,
) -> Option<Arc<str>> {
    let issuer = raw?;
    if issuer.is_empty() || !asked {
        let found = if issuer.is_empty() {
            "an empty text"
        } else {
            "an issuer of certificates that nobody is asked for"
        };
        let expected = "the `iss` of an issuer record, beside what asks for certificates";
        check.refuse(key, found, expected, "add what asks for them, or remove the key");
    }
    Some(Arc::from(issuer.as_str()))
}

pub(super) fn forwarded(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::ForwardedCertificate,
) -> Option<ForwardedCertificate> {
    let key = key.field("trusted_peers");
    let before = check.problems.len();
    if raw.trusted_peers.is_empty() {
        check.refuse(&key, "an empty list", "at least one network", "add one, or remove the section");
    }
    let mut peers = Vec::new();
    for (index, text) in raw.trusted_peers.iter().enumerate() {
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: Option<IpAddr> = address.parse().ok();
        let most = address.map_or(0, |address| if address.is_ipv4() { 32 } else { 128 });
        let bits = if text.contains('/') { bits.parse().ok() } else { Some(most) };
        match (address, bits.filter(|bits| *bits <= most)) {
            (Some(address), Some(bits)) => peers.push((address, bits)),
            _ => check.refuse(
                &key.item(index),
                quoted(text),
                "an IP address, or a network such as `10.0.0.0/8`",
                "write that",
            ),
        }
    }
    let rfc9440 = raw.header == raw::ForwardedHeader::ClientCert;
    (check.problems.len() == before).then(|| ForwardedCertificate { rfc9440, peers: peers.into() })
}

/// What signed proofs of possession must name.
#[derive(Clone, Debug, Default)]
pub(super) struct Proofs {
    /// Scheme and authority in lower case, without a default port; `None`: not given, no proof is taken.
    pub(super) origin: Option<Arc<str>>,
    /// A nonce.
    pub(super) nonces: bool,
}

/// `None`: refused.
pub(super) fn proofs(
    check: &mut Check<'_>,
    listener: &Key,
    public_url: Option<&String>,
    nonces: bool,
) -> Option<Proofs> {
    let Some(text) = public_url else {
        if nonces {
            let expected = "`public_url` beside it, without which no proof is taken";
            let remedy = "add `public_url`, or remove the key";
            check.refuse(&listener.field("dpop_nonces"), "no `public_url`", expected, remedy);
        }
        return (!nonces).then(Proofs::default);
    };
    let origin = origin(text);
    if origin.is_none() {
        let expected = "scheme and host as callers see them, such as `https://api.example`";
        check.refuse(&listener.field("public_url"), quoted(text), expected, "write that, without a path");
    }
    origin.map(|origin| Proofs { origin: Some(Arc::from(origin)), nonces })
}

fn origin(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let (scheme, rest) = lower.split_once("://")?;
    let default = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let authority = authority.strip_suffix(default).unwrap_or(authority);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let address = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let named = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host),
    };
    let numbered = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    (named && numbered).then(|| format!("{scheme}://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let rows = [
            ("https://API.example", Some("https://api.example")),
            ("https://api.example/", Some("https://api.example")),
            ("HTTPS://api.example:443", Some("https://api.example")),
            ("http://api.example:80/", Some("http://api.example")),
            ("https://api.example:8443", Some("https://api.example:8443")),
            ("https://[::1]:8443", Some("https://[::1]:8443")),
            ("https://[::1]", Some("https://[::1]")),
            ("https://api.example/v1", None),
            ("https://api.example?x", None),
            ("https://u@api.example", None),
            ("https://api.example:0", None),
            ("https://api.example:x", None),
            ("https://", None),
            ("ftp://api.example", None),
            ("api.example", None),
        ];
        for (text, expected) in rows {
            assert_eq!(origin(text).as_deref(), expected, "{text}");
        }
    }
}
