//! Header names: which are ours, which are hop-by-hop, which only a proxy in front may set.
//!
//! Names are compared folded (letters and digits only), because upstreams fold them in
//! their own ways: `X_Portreeve_Identity` becomes our header behind a CGI-like server.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::core::policy::Reason;

/// The decision's id, to the upstream and to the caller.
pub(crate) const DECISION: HeaderName = HeaderName::from_static("x-portreeve-decision");
/// The caller's identity, to the upstream.
pub(crate) const IDENTITY: HeaderName = HeaderName::from_static("x-portreeve-identity");
/// The tenant, to the upstream.
pub(crate) const TENANT: HeaderName = HeaderName::from_static("x-portreeve-tenant");
/// Broken hygiene rules that only warn, to the upstream.
pub(crate) const WARNING: HeaderName = HeaderName::from_static("x-portreeve-warning");
/// A signed assertion of the caller's identity, to the upstream.
pub(crate) const ASSERTION: HeaderName = HeaderName::from_static("x-portreeve-assertion");
/// Why a request was refused, to the caller.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-portreeve-reason");

/// A nonce for the caller's next proof of possession (RFC 9449 §8.1).
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Every header in our name.
pub(crate) static OWN: [HeaderName; 6] = [IDENTITY, TENANT, DECISION, WARNING, ASSERTION, REASON];
const OWN_PREFIX: &str = "x-portreeve-";

/// Folded names whose other spellings some upstream might take for them.
static ALIASED: [(&str, HeaderName); 5] = [
    ("dpop", HeaderName::from_static("dpop")),
    ("authorization", header::AUTHORIZATION),
    ("host", header::HOST),
    ("contentlength", header::CONTENT_LENGTH),
    ("transferencoding", header::TRANSFER_ENCODING),
];

/// Folded names, and beginnings of names, that only a trusted proxy in front may set; `proxy` is to a program
/// behind CGI where its own requests go.
const CLAIMED: [&str; 5] = ["forwarded", "xrealip", "clientcert", "clientcertchain", "proxy"];
const CLAIMED_PREFIXES: [&str; 3] = ["xforwarded", "xsslclient", "sslclient"];

/// Folded names, and a beginning of names, by which some upstreams take a request for another.
const OVERRIDING: [&str; 4] = ["xrewriteurl", "xhttpmethod", "xhttpmethodoverride", "xmethodoverride"];
const OVERRIDING_PREFIX: &str = "xoriginal";

/// Names that concern one connection only (RFC 9110 §7.6.1), `TE` apart.
static HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("proxy-authentication-info"),
];

/// Names that count in a head only.
static NOT_TRAILING: [HeaderName; 14] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::CACHE_CONTROL,
    header::AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    header::SET_COOKIE,
    header::COOKIE,
    header::HOST,
    header::LOCATION,
    header::VARY,
    header::TE,
    header::TRAILER,
];

/// What is to be done about a header a caller sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Goes on.
    Ordinary,
    /// One of ours, exactly spelled: removed.
    Own,
    /// Says what only a proxy in front may say: removed.
    Claimed,
    /// Names another method or target than the one that is judged: removed.
    Overriding,
    /// Could be taken for a name that counts: the request is refused.
    Alias,
}

/// Sorts one header name. `name` is in lower case, as [`HeaderName`] keeps it.
pub(crate) fn standing(name: &str) -> Standing {
    if folds_under(name, "xportreeve") {
        let exact = OWN.iter().any(|own| own.as_str() == name);
        let plain = name.starts_with(OWN_PREFIX) && !OWN.iter().any(|own| fold_eq(name, own.as_str()));
        let canonical = plain && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        return if exact || canonical { Standing::Own } else { Standing::Alias };
    }
    if ALIASED.iter().any(|(folded, exact)| exact.as_str() != name && folds_to(name, folded)) {
        return Standing::Alias;
    }
    if OVERRIDING.iter().any(|folded| folds_to(name, folded)) || folds_under(name, OVERRIDING_PREFIX) {
        return Standing::Overriding;
    }
    let claimed = CLAIMED.iter().any(|folded| folds_to(name, folded))
        || CLAIMED_PREFIXES.iter().any(|prefix| folds_under(name, prefix));
    if claimed { Standing::Claimed } else { Standing::Ordinary }
}

/// Removes what a caller may not say, and refuses what could be taken for it, or for `guarded`.
///
/// # Errors
/// [`Reason::RequestAmbiguous`] for aliases, and for a `Connection` that names a header that counts.
pub(crate) fn screen_request(headers: &mut HeaderMap, guarded: Option<&HeaderName>) -> Result<(), Reason> {
    let mut removed = Vec::new();
    for name in headers.keys() {
        if guarded.is_some_and(|guarded| name != guarded && fold_eq(name.as_str(), guarded.as_str())) {
            return Err(Reason::RequestAmbiguous);
        }
        match standing(name.as_str()) {
            Standing::Ordinary => {}
            Standing::Own | Standing::Claimed | Standing::Overriding => removed.push(name.clone()),
            Standing::Alias => return Err(Reason::RequestAmbiguous),
        }
    }
    for value in headers.get_all(header::CONNECTION) {
        let text = value.to_str().map_err(|_| Reason::RequestAmbiguous)?;
        if text.split(',').any(|name| is_protected_nomination(name.trim(), guarded)) {
            return Err(Reason::RequestAmbiguous);
        }
    }
    for name in removed {
        headers.remove(name);
    }
    Ok(())
}

/// Whether a `Connection` option would have a header dropped that counts.
fn is_protected_nomination(name: &str, guarded: Option<&HeaderName>) -> bool {
    let lower = name.to_ascii_lowercase();
    let counts = ["authorization", "dpop", "host", "cookie", "contentlength"];
    guarded.is_some_and(|guarded| fold_eq(&lower, guarded.as_str()))
        || folds_under(&lower, "xportreeve")
        || counts.iter().any(|folded| folds_to(&lower, folded))
}

/// Removes what concerns the connection alone, and what `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let values = headers.get_all(header::CONNECTION).iter();
        let names = values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        let nominated: Vec<_> =
            names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Removes every header that folds to one of ours, however spelled: an upstream cannot speak for us.
pub(crate) fn strip_own(headers: &mut HeaderMap) {
    let is_own = |name: &&HeaderName| folds_under(name.as_str(), "xportreeve");
    let removed: Vec<_> = headers.keys().filter(is_own).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

/// Removes from trailers what must not stand there: what speaks for us, and what says how an answer is framed,
/// read or kept (RFC 9110 §6.5.1). The status and metadata of a call pass.
pub(crate) fn screen_trailers(trailers: &mut HeaderMap) {
    strip_own(trailers);
    strip_hop_by_hop(trailers);
    for name in &NOT_TRAILING {
        trailers.remove(name);
    }
}

/// Removes every header that folds to `named`, however spelled.
pub(crate) fn strip_named(headers: &mut HeaderMap, named: &HeaderName) {
    let is_named = |name: &&HeaderName| fold_eq(name.as_str(), named.as_str());
    let removed: Vec<_> = headers.keys().filter(is_named).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

/// A header value of text that consists of visible ASCII; anything else gives an empty value.
pub(crate) fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(const { HeaderValue::from_static("") })
}

/// Whether `name`, folded, is `folded`.
fn folds_to(name: &str, folded: &str) -> bool {
    letters(name).eq(folded.bytes())
}

/// Whether `name`, folded, begins with `folded`.
fn folds_under(name: &str, folded: &str) -> bool {
    let mut given = letters(name);
    folded.bytes().all(|wanted| given.next() == Some(wanted))
}

fn fold_eq(one: &str, other: &str) -> bool {
    letters(one).eq(letters(other))
}

fn letters(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().filter(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_what_they_fold_to() {
        let rows = [
            ("accept", Standing::Ordinary),
            ("x-request-id", Standing::Ordinary),
            ("traceparent", Standing::Ordinary),
            ("x-portreeve-identity", Standing::Own),
            ("x-portreeve-later", Standing::Own),
            ("x_portreeve_identity", Standing::Alias),
            ("x.portreeve.identity", Standing::Alias),
            ("x-portreeve_identity", Standing::Alias),
            ("x-portreeve-iden-tity", Standing::Alias),
            ("xportreeveidentity", Standing::Alias),
            ("_x-portreeve-identity", Standing::Alias),
            ("x-portreeve-later_", Standing::Alias),
            ("authorization", Standing::Ordinary),
            ("author_ization", Standing::Alias),
            ("content_length", Standing::Alias),
            ("transfer_encoding", Standing::Alias),
            ("x-forwarded-for", Standing::Claimed),
            ("x_forwarded_proto", Standing::Claimed),
            ("x.forwarded.host", Standing::Claimed),
            ("x-forwarded-client-cert", Standing::Claimed),
            ("forwarded", Standing::Claimed),
            ("ssl-client-verify", Standing::Claimed),
            ("ssl_client_subject_dn", Standing::Claimed),
            ("x-ssl-client-cert", Standing::Claimed),
            ("ssl-server", Standing::Ordinary),
            ("proxy", Standing::Claimed),
            ("proxy-", Standing::Claimed),
            ("proxy-status", Standing::Ordinary),
            ("x-original-url", Standing::Overriding),
            ("x_rewrite_url", Standing::Overriding),
            ("x-http-method-override", Standing::Overriding),
            ("x-http_method", Standing::Overriding),
            ("x-http-methods", Standing::Ordinary),
        ];
        for (name, expected) in rows {
            assert_eq!(standing(name), expected, "{name}");
        }
    }

    #[test]
    fn connection_may_not_name_what_counts() {
        let rows = [
            ("keep-alive", true),
            ("close, te", true),
            ("x-trace", true),
            ("Authorization", false),
            ("close, host", false),
            ("x-portreeve-decision", false),
            ("X_Portreeve_Decision", false),
            ("cookie", false),
            ("Content-Length", false),
        ];
        for (value, accepted) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static(value));
            assert_eq!(screen_request(&mut headers, None).is_ok(), accepted, "{value}");
        }
    }

    #[test]
    fn a_guarded_header_has_no_alias() {
        let key = HeaderName::from_static("x-api-key");
        let rows = [
            ("x-api-key", "", true),
            ("x_api_key", "", false),
            ("x.api-key", "", false),
            ("xapikey", "", false),
            ("x-api-keys", "", true),
            ("connection", "x-api-key", false),
            ("connection", "X_Api_Key", false),
        ];
        for (name, value, accepted) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(screen_request(&mut headers, Some(&key)).is_ok(), accepted, "{name}: {value}");
            if name != "connection" {
                assert!(screen_request(&mut headers, None).is_ok(), "{name}: {value}");
            }
        }
    }

    #[test]
    fn trailers_say_nothing_of_a_head() {
        let mut trailers = HeaderMap::new();
        let lines = ["grpc-status", "x-trace", "content-length", "transfer-encoding", "set-cookie", "host"];
        for name in lines.into_iter().chain(["x_portreeve_identity"]) {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        screen_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["grpc-status", "x-trace"]);
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-one, close"),
            ("connection", "x-two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("upgrade", "h2c"),
            ("keep-alive", "5"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-three"]);
    }
}
