//! Discovery by OpenID Connect, or by RFC 8414: where an issuer's keys are.

use serde::Deserialize;

use crate::outbound::{Target, TargetError};

/// What is read of a discovery document; a member that is there twice is refused.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

/// Why there is no address of keys.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// It is no such document.
    #[error("the discovery document cannot be read: {0}")]
    Unreadable(String),
    /// Its `issuer` is not the one that was asked for.
    #[error("the discovery document is of `{0}`, not of this issuer")]
    AnotherIssuer(String),
    /// Its `jwks_uri` cannot be asked.
    #[error("`jwks_uri` of the discovery document {0}")]
    KeysAddress(TargetError),
}

/// Where the discovery document of `iss` is.
///
/// # Errors
/// Why there can be none.
///
/// # Standard
/// OpenID Connect Discovery 1.0 §4.1: a slash at the end is removed first.
pub fn discovery_address(iss: &str) -> Result<Target, TargetError> {
    Target::parse(iss)?.refuse_query()?;
    Target::parse(&format!("{}/.well-known/openid-configuration", iss.strip_suffix('/').unwrap_or(iss)))
}

/// Where the metadata of `iss` is, for an authorization server that is no OpenID provider.
///
/// # Errors
/// Why there can be none.
///
/// # Standard
/// RFC 8414 §3.1: a slash at the end is removed first, and the path follows the well-known one.
pub(super) fn metadata_address(iss: &str) -> Result<Target, TargetError> {
    Target::parse(iss)?.refuse_query()?;
    let iss = iss.strip_suffix('/').unwrap_or(iss);
    let authority = iss.find("://").map_or(0, |at| at + "://".len());
    let end = iss[authority..].find('/').map_or(iss.len(), |at| authority + at);
    let (origin, path) = iss.split_at(end);
    Target::parse(&format!("{origin}/.well-known/oauth-authorization-server{path}"))
}

/// Where the document says that the keys of `iss` are.
///
/// # Standard
/// OpenID Connect Discovery 1.0 §4.3 and RFC 8414 §3.3: `issuer` is exactly the one asked for.
pub(super) fn keys_address(document: &[u8], iss: &str) -> Result<Target, DiscoveryError> {
    let document: Document =
        serde_json::from_slice(document).map_err(|e| DiscoveryError::Unreadable(e.to_string()))?;
    if document.issuer != iss {
        let found = document.issuer.escape_debug().take(200).collect();
        return Err(DiscoveryError::AnotherIssuer(found));
    }
    Target::parse(&document.jwks_uri).map_err(DiscoveryError::KeysAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_lies_below_the_issuer_and_metadata_before_its_path() {
        for (iss, below, before) in [
            ("https://idp.example", "", ""),
            ("https://idp.example/", "", ""),
            ("https://idp.example:8443/a/b", "/a/b", "/a/b"),
            ("https://idp.example/a/", "/a", "/a"),
        ] {
            let origin =
                if iss.contains(":8443") { "https://idp.example:8443" } else { "https://idp.example" };
            let expected = format!("{origin}{below}/.well-known/openid-configuration");
            assert_eq!(discovery_address(iss).unwrap().to_string(), expected, "{iss}");
            let expected = format!("{origin}/.well-known/oauth-authorization-server{before}");
            assert_eq!(metadata_address(iss).unwrap().to_string(), expected, "{iss}");
        }
        for iss in
            ["http://idp.example", "idp", "spiffe://td", "https://idp.example/?a=b", "https://u@idp.example"]
        {
            assert!(discovery_address(iss).is_err() && metadata_address(iss).is_err(), "{iss}");
        }
    }

    #[test]
    fn the_issuer_is_exactly_the_one_asked_for() {
        let document =
            |issuer: &str, keys: &str| format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}","x":[1]}}"#);
        let iss = "https://idp.example";
        let keys = "https://keys.example/jwks";
        let found = keys_address(document(iss, keys).as_bytes(), iss).unwrap();
        assert_eq!(found.to_string(), keys);
        for other in
            ["https://idp.example/", "https://IDP.example", "https://idp.exampl", "", "https://evil.example"]
        {
            let refused = keys_address(document(other, keys).as_bytes(), iss);
            assert!(matches!(refused, Err(DiscoveryError::AnotherIssuer(_))), "{other}");
        }
        for bad in ["http://idp.example/jwks", "/jwks", "https://a@idp.example/jwks", "file:///x"] {
            let refused = keys_address(document(iss, bad).as_bytes(), iss);
            assert!(matches!(refused, Err(DiscoveryError::KeysAddress(_))), "{bad}");
        }
        for bad in [
            "{}",
            "[]",
            r#"{"issuer":"https://idp.example"}"#,
            r#"{"issuer":"https://idp.example","issuer":"https://idp.example","jwks_uri":"https://a.example"}"#,
        ] {
            assert!(matches!(keys_address(bad.as_bytes(), iss), Err(DiscoveryError::Unreadable(_))), "{bad}");
        }
    }
}
