//! Refusals: what a caller is told, and what not.
//!
//! All 401s look the same, whatever the credential lacks; only what a signed proof lacks is told. Texts are fixed per status.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::core::credential::Algorithm;
use crate::core::evidence::Denied;
use crate::core::id::DecisionId;
use crate::core::policy::{Reason, ReasonClass};
use crate::pep::body::Body;
use crate::pep::headers;

/// An answer that is not an upstream's: status, headers and a problem document (RFC 9457).
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: String,
}

impl Refusal {
    /// The answer to a refused request; `proofs`: where signed proofs of possession are taken.
    ///
    /// # Standard
    /// RFC 6750 §3 and RFC 9449 §7.1 for `WWW-Authenticate`: one line for both, since a gateway may keep
    /// only one. What a proof lacks is the only challenge of its answer: clients look for it alone.
    pub(crate) fn of(denied: Denied, proofs: bool) -> Self {
        Self::severed(denied.id(), denied.reason(), proofs)
    }

    /// The answer to an allowed request that was ended, on record, before it was answered.
    pub(crate) fn severed(id: DecisionId, reason: Reason, proofs: bool) -> Self {
        let told = (reason.class() != ReasonClass::Credential).then_some(reason);
        let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut refusal = Self::new(status, id, told);
        if let Some(error) = proof_error(reason) {
            let challenge = format!("DPoP error=\"{error}\", algs=\"{}\"", algorithms());
            refusal.headers.push((header::WWW_AUTHENTICATE, headers::value(challenge)));
            return refusal;
        }
        let challenge = match reason {
            Reason::CredentialMissing => Some(r#"Bearer realm="portreeve""#),
            Reason::PolicyDenied => Some(r#"Bearer error="insufficient_scope""#),
            _ if reason.class() == ReasonClass::Credential => {
                Some(r#"Bearer realm="portreeve", error="invalid_token""#)
            }
            _ => None,
        };
        if let Some(challenge) = challenge {
            let value = match reason {
                _ if !proofs || reason.class() != ReasonClass::Credential => {
                    HeaderValue::from_static(challenge)
                }
                Reason::CredentialMissing => {
                    headers::value(format!("{challenge}, DPoP algs=\"{}\"", algorithms()))
                }
                _ => headers::value(format!(
                    "{challenge}, DPoP error=\"invalid_token\", algs=\"{}\"",
                    algorithms()
                )),
            };
            refusal.headers.push((header::WWW_AUTHENTICATE, value));
        }
        refusal
    }

    /// The same, with a nonce for the caller's next proof. It is not to be stored anyway.
    pub(crate) fn offering(mut self, nonce: Option<String>) -> Self {
        self.headers.extend(nonce.map(|nonce| (headers::DPOP_NONCE, headers::value(nonce))));
        self
    }

    /// The answer to an allowed request that an upstream failed, or to a fault.
    pub(crate) fn failed(status: StatusCode, id: DecisionId) -> Self {
        Self::new(status, id, None)
    }

    fn new(status: StatusCode, id: DecisionId, reason: Option<Reason>) -> Self {
        let decision = id.to_string();
        let title = status.canonical_reason().unwrap_or("Error");
        let mut body = format!(
            r#"{{"type":"about:blank","title":"{title}","status":{},"decision":"{decision}""#,
            status.as_u16()
        );
        let mut headers = vec![
            (header::CONTENT_TYPE, const { HeaderValue::from_static("application/problem+json") }),
            (header::CACHE_CONTROL, const { HeaderValue::from_static("no-store") }),
            (headers::DECISION, headers::value(decision)),
        ];
        if let Some(reason) = reason {
            body.push_str(&format!(r#","reason":"{reason}""#));
            headers.push((headers::REASON, HeaderValue::from_static(reason.code())));
        }
        body.push('}');
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.push((header::RETRY_AFTER, const { HeaderValue::from_static("1") }));
        }
        Self { status, headers, body }
    }

    /// The status.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers.
    pub(crate) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The body's text.
    pub(crate) fn into_body(self) -> String {
        self.body
    }

    /// As an HTTP answer; `bodiless` for a HEAD request.
    pub(crate) fn into_response(self, bodiless: bool) -> Response<Body> {
        let body = if bodiless { Body::empty() } else { Body::text(self.body) };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// Tells the caller of an allowed request a nonce for its next proof, in an answer that is then kept nowhere.
///
/// # Standard
/// RFC 9449 §8.2.
pub(crate) fn offer_nonce(answer: &mut HeaderMap, nonce: Option<String>) {
    let Some(nonce) = nonce else { return };
    answer.insert(headers::DPOP_NONCE, headers::value(nonce));
    answer.insert(header::CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
}

/// What a challenge says of a signed proof that does not count (RFC 9449 §7.1, §9). The identity has not been
/// looked up by then: nothing is told of it.
const fn proof_error(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::CredentialProof => Some("invalid_dpop_proof"),
        Reason::CredentialNonce => Some("use_dpop_nonce"),
        _ => None,
    }
}

/// The algorithms of proofs, as a challenge names them.
fn algorithms() -> String {
    Algorithm::ALL.map(Algorithm::as_str).join(" ")
}

/// The trailers that end a call which is allowed no more.
///
/// # Standard
/// gRPC status codes: 16 `UNAUTHENTICATED`, 7 `PERMISSION_DENIED`, 14 `UNAVAILABLE`, 13 `INTERNAL`,
/// 8 `RESOURCE_EXHAUSTED`.
pub(crate) fn grpc_status(reason: Reason) -> HeaderMap {
    let status = match reason.status() {
        401 => "16",
        503 => "14",
        500 => "13",
        408 | 413 | 414 | 431 => "8",
        _ => "7",
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static("the call is allowed no more"));
    trailers
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::evidence::{Decision, EvidenceMode, Pending};
    use crate::core::policy::Verdict;
    use crate::pep::testing;

    fn refusal(reason: Reason) -> Refusal {
        refusal_of(reason, false)
    }

    fn refusal_of(reason: Reason, proofs: bool) -> Refusal {
        let log = testing::log();
        let pending = Pending::reserve(&log, EvidenceMode::default(), testing::facts()).unwrap();
        let committed = pending.commit(Verdict::refuse(reason, Default::default()), Arc::from(""));
        let decision = futures_util::FutureExt::now_or_never(committed);
        let Some(Decision::Deny(denied)) = decision else { panic!("{reason} is no refusal") };
        Refusal::of(denied, proofs)
    }

    #[test]
    fn proofs_are_asked_for_where_they_are_taken() {
        for reason in Reason::ALL {
            let asked = |proofs| {
                let refusal = refusal_of(*reason, proofs);
                header(&refusal, &header::WWW_AUTHENTICATE).is_some_and(|line| line.contains("DPoP"))
            };
            let of_proof = matches!(reason, Reason::CredentialProof | Reason::CredentialNonce);
            assert_eq!((asked(true), asked(false)), (reason.status() == 401, of_proof), "{reason}");
        }
    }

    fn header(refusal: &Refusal, name: &HeaderName) -> Option<String> {
        let mut found = refusal.headers.iter().filter(|(held, _)| held == name);
        let value = found.next().map(|(_, value)| value.to_str().unwrap().to_owned());
        assert!(found.next().is_none(), "{name} twice");
        value
    }

    #[test]
    fn each_reason_has_its_answer() {
        for reason in Reason::ALL {
            let refusal = refusal(*reason);
            let status = refusal.status().as_u16();
            assert_eq!(status, reason.status(), "{reason}");
            let told = (status != 401).then(|| reason.code().to_owned());
            assert_eq!(header(&refusal, &headers::REASON), told, "{reason}");
            assert!(header(&refusal, &headers::DECISION).is_some(), "{reason}");
            assert_eq!(header(&refusal, &header::CACHE_CONTROL).as_deref(), Some("no-store"));
            let wait = header(&refusal, &header::RETRY_AFTER);
            assert_eq!(wait.as_deref(), (status == 503).then_some("1"), "{reason}");
            let challenge = header(&refusal, &header::WWW_AUTHENTICATE);
            let expected = match reason {
                Reason::CredentialMissing => Some(r#"Bearer realm="portreeve""#),
                Reason::PolicyDenied => Some(r#"Bearer error="insufficient_scope""#),
                Reason::CredentialProof => Some(r#"DPoP error="invalid_dpop_proof""#),
                Reason::CredentialNonce => Some(r#"DPoP error="use_dpop_nonce""#),
                _ if status == 401 => Some(r#"Bearer realm="portreeve", error="invalid_token""#),
                _ => None,
            };
            let challenge = challenge.map(|line| {
                let (said, algorithms) = line.split_once(", algs=").unwrap_or((&line, ""));
                let of_proof = matches!(reason, Reason::CredentialProof | Reason::CredentialNonce);
                assert_eq!(algorithms.is_empty(), !of_proof, "{reason}");
                said.to_owned()
            });
            assert_eq!(challenge.as_deref(), expected, "{reason}");
            assert_eq!(header(&refusal, &headers::DPOP_NONCE), None, "{reason}");
            let refusal = refusal.offering(Some("n-1".to_owned()));
            assert_eq!(header(&refusal, &headers::DPOP_NONCE).as_deref(), Some("n-1"), "{reason}");
            let body: serde_json::Value = serde_json::from_str(&refusal.into_body()).unwrap();
            assert_eq!(body["status"], status, "{reason}");
            assert_eq!(body.get("reason").is_some(), status != 401, "{reason}");
        }
    }

    #[test]
    fn unauthorized_answers_are_equal_to_the_byte() {
        let answers = Reason::ALL.iter().filter(|reason| reason.status() == 401).map(|reason| {
            let id = refusal(*reason);
            let decision = header(&id, &headers::DECISION).unwrap();
            id.into_body().replace(&decision, "")
        });
        let distinct: std::collections::BTreeSet<String> = answers.collect();
        assert_eq!(distinct.len(), 1, "{distinct:?}");
    }
}
