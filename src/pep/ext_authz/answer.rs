//! Answers to Envoy.
//!
//! A default `CheckResponse` has code 0, which allows. Here an answer comes from a proof
//! or not at all: only a [`Released`] makes code 0, and only a [`Denied`] anything else.

use std::collections::HashMap;

use http::header::{self, HeaderName};
use tonic::Code;

use crate::core::evidence::{Denied, Released};
use crate::pep::ext_authz::ExtAuthzSettings;
use crate::pep::forward::introduction;
use crate::pep::headers;
use crate::pep::respond::Refusal;
use crate::wire::ext_authz::base::header_value_option::HeaderAppendAction;
use crate::wire::ext_authz::base::{HeaderValue, HeaderValueOption};
use crate::wire::ext_authz::check_response::HttpResponse;
use crate::wire::ext_authz::{
    CheckResponse, DeniedHttpResponse, HttpStatus, OkHttpResponse, Status, Struct, Value, value::Kind,
};

/// An answer with a proof behind it.
#[derive(Debug)]
pub(super) struct Answer(CheckResponse);

impl Answer {
    /// Allows. Headers in our name that we do not set are removed, and so are those that `barred`
    /// lists; `target` replaces a target that is not in the form that was judged.
    pub(super) fn allow<'a>(
        released: Released,
        settings: &ExtAuthzSettings,
        barred: impl Iterator<Item = &'a HeaderName>,
        target: Option<String>,
    ) -> Self {
        let (verdict, id) = (released.verdict(), released.id());
        let introduced: Vec<_> = introduction(verdict, id).collect();
        let told: &[_] = if settings.forward.identity_headers { &introduced } else { &[] };
        let is_set = |name: &HeaderName| told.iter().any(|(set, _)| set == name);
        let mut removed: Vec<String> =
            headers::OWN.iter().chain(barred).filter(|name| !is_set(name)).map(ToString::to_string).collect();
        if !settings.forward.pass_credential {
            removed.extend(settings.carriers.names().map(ToString::to_string));
        }
        removed.sort_unstable();
        removed.dedup();
        let target = target.map(|target| overwrite(":path", target));
        let ok = OkHttpResponse {
            headers: told
                .iter()
                .map(|(name, text)| overwrite(name.as_str(), text.clone()))
                .chain(target)
                .collect(),
            headers_to_remove: removed,
            response_headers_to_add: vec![overwrite(headers::DECISION.as_str(), id.to_string())],
        };
        let revision = verdict.basis().position.revision;
        let mut fields: HashMap<String, Value> = introduced
            .iter()
            .filter_map(|(name, text)| Some((metadata_key(name)?.to_owned(), text_value(text))))
            .collect();
        // A double holds every revision up to 2^53 exactly.
        fields.insert("revision".to_owned(), Value { kind: Some(Kind::NumberValue(revision as f64)) });
        Self(CheckResponse {
            status: Some(Status { code: Code::Ok as i32, message: String::new() }),
            http_response: Some(HttpResponse::OkResponse(ok)),
            dynamic_metadata: Some(Struct { fields }),
        })
    }

    /// The same, telling the caller a nonce for its next proof in an answer that is then kept nowhere.
    pub(super) fn offering(mut self, nonce: Option<String>) -> Self {
        if let (Some(nonce), Some(HttpResponse::OkResponse(ok))) = (nonce, &mut self.0.http_response) {
            let lines = [(headers::DPOP_NONCE, nonce), (header::CACHE_CONTROL, "no-store".to_owned())];
            let lines = lines.into_iter().map(|(name, value)| overwrite(name.as_str(), value));
            ok.response_headers_to_add.extend(lines);
        }
        self
    }

    /// Denies, with the answer that the proxy would give; `nonce`: one for the caller's next proof.
    pub(super) fn deny(denied: Denied, settings: &ExtAuthzSettings, nonce: Option<String>) -> Self {
        let decision = denied.id().to_string();
        let refusal = Refusal::of(denied, settings.rules.public_origin.is_some()).offering(nonce);
        let code = if refusal.status() == http::StatusCode::UNAUTHORIZED {
            Code::Unauthenticated
        } else {
            Code::PermissionDenied
        };
        let lines = refusal.headers().iter();
        let headers = lines
            .map(|(name, value)| overwrite(name.as_str(), value.to_str().unwrap_or_default().to_owned()))
            .collect();
        let status = HttpStatus { code: i32::from(refusal.status().as_u16()) };
        let response = DeniedHttpResponse { status: Some(status), headers, body: refusal.into_body() };
        let fields = HashMap::from([("decision".to_owned(), text_value(&decision))]);
        Self(CheckResponse {
            status: Some(Status { code: code as i32, message: String::new() }),
            http_response: Some(HttpResponse::DeniedResponse(response)),
            dynamic_metadata: Some(Struct { fields }),
        })
    }

    /// The message.
    pub(super) fn into_response(self) -> CheckResponse {
        self.0
    }
}

/// Says "replace" in both ways that Envoys know: the default of each is to append.
fn overwrite(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, raw_value: bytes::Bytes::new() }),
        append: Some(false),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
    }
}

fn metadata_key(name: &HeaderName) -> Option<&'static str> {
    [(headers::DECISION, "decision"), (headers::IDENTITY, "identity"), (headers::TENANT, "tenant")]
        .into_iter()
        .find_map(|(held, key)| (held == *name).then_some(key))
}

fn text_value(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}
