//! From Envoy's attributes to the question put to the pipeline, by the proxy's own rules.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::core::credential::ClientCertificate;
use crate::core::evidence::{Door, ExchangeFacts};
use crate::core::id::Name;
use crate::core::policy::{CanonicalPath, Exchange, Reason, ServiceRef};
use crate::pep::certificate;
use crate::pep::ext_authz::ExtAuthzSettings;
use crate::pep::extract::{self, MethodNames};
use crate::pep::headers::{self, Standing};
use crate::pep::presentation::Comma;
use crate::pep::trace::Trace;
use crate::telemetry::traces::Tracer;
use crate::wire::ext_authz::attribute_context::HttpRequest;
use crate::wire::ext_authz::base::address::Address;
use crate::wire::ext_authz::{AttributeContext, CheckRequest};

/// What Envoy itself writes of the caller, by exact name.
const ENVOYS: [&str; 4] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-client-cert"];

/// A call, its headers read.
pub(super) struct Asked {
    attributes: AttributeContext,
    http: HttpRequest,
    headers: Result<HeaderMap, Reason>,
}

/// Reads a call.
pub(super) fn read(call: CheckRequest) -> Asked {
    let mut attributes = call.attributes.unwrap_or_default();
    let mut http = attributes.request.take().and_then(|request| request.http).unwrap_or_default();
    let headers = header_map(&mut http);
    Asked { attributes, http, headers }
}

impl Asked {
    /// What is known of the request, whatever becomes of it.
    pub(super) fn facts(&self, listener: &Arc<str>, methods: &MethodNames, trace: &Trace) -> ExchangeFacts {
        extract::facts(listener, Door::ExtAuthz, methods.of(&self.http.method), self.peer(), trace)
    }

    /// Its place in a trace, by its own headers.
    pub(super) fn trace(&self, tracer: Option<&Tracer>) -> Trace {
        let none = HeaderMap::new();
        Trace::begin(tracer, self.headers.as_ref().unwrap_or(&none))
    }

    /// The question.
    ///
    /// A missing or malformed service leaves it without one: the pipeline refuses that as `policy.denied`.
    ///
    /// # Errors
    /// `request.ambiguous`, `request.limit` or `request.credentials`.
    pub(super) fn admit(
        &self,
        facts: &ExchangeFacts,
        settings: &ExtAuthzSettings,
    ) -> Result<Exchange, Reason> {
        let headers = self.headers.as_ref().map_err(|reason| *reason)?;
        if http::Method::from_bytes(self.http.method.as_bytes()).is_err() || self.http.method == "CONNECT" {
            return Err(Reason::RequestAmbiguous);
        }
        self.check_host(headers)?;
        headers::screen_request(&mut headers.clone(), settings.carriers.api_key())?;
        let (path, _) = extract::split_target(&self.http.path)?;
        let presentation = settings.carriers.find(headers, Comma::Duplicate)?;
        Ok(Exchange {
            listener: Arc::clone(&facts.listener),
            door: facts.door,
            method: Arc::clone(&facts.method),
            path,
            service: self.service(settings),
            rules: Arc::clone(&settings.rules),
            presentation,
            certificate: self.certificate(settings)?,
            peer: facts.peer,
            trace_id: facts.trace_id,
        })
    }

    /// The target in the form that was judged, when it is not the one Envoy has.
    pub(super) fn judged_target(&self, judged: &CanonicalPath) -> Option<String> {
        let raw = self.http.path.as_str();
        let (path, query) = raw.split_at(raw.find('?').unwrap_or(raw.len()));
        (path != judged.as_str()).then(|| format!("{judged}{query}"))
    }

    /// Headers that the caller sent and that may not go on: those in our name, exactly spelled, those that
    /// name another request, and those that say of the caller what Envoy does not write itself.
    pub(super) fn barred_headers(&self) -> impl Iterator<Item = &HeaderName> {
        let names = self.headers.iter().flat_map(HeaderMap::keys);
        names.filter(|name| match headers::standing(name.as_str()) {
            Standing::Own | Standing::Overriding => true,
            Standing::Claimed => !ENVOYS.contains(&name.as_str()),
            Standing::Ordinary | Standing::Alias => false,
        })
    }

    /// The host is not asked which service it is; it must only be one, and well formed.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Reason> {
        let host = self.http.host.as_bytes();
        let mut lines = headers.get_all(header::HOST).iter();
        let agrees = |line: &HeaderValue| line.as_bytes().eq_ignore_ascii_case(host);
        if lines.next().is_some_and(|line| !agrees(line)) || lines.next().is_some() {
            return Err(Reason::RequestAmbiguous);
        }
        if host.is_empty() { Ok(()) } else { extract::host_name(host).map(drop) }
    }

    /// The certificate that Envoy says the caller showed. Its `principal` is never read: that may be any name.
    fn certificate(&self, settings: &ExtAuthzSettings) -> Result<Option<Arc<ClientCertificate>>, Reason> {
        let shown = self.attributes.source.as_ref().map_or("", |source| &source.certificate);
        if !settings.takes_certificates || shown.is_empty() {
            return Ok(None);
        }
        let der = certificate::from_encoded_pem(shown).ok_or(Reason::RequestAmbiguous)?;
        let read = certificate::parse(&der).ok_or(Reason::RequestAmbiguous)?;
        Ok(Some(Arc::new(ClientCertificate { issuer: settings.client_issuer.clone(), ..read })))
    }

    fn service(&self, settings: &ExtAuthzSettings) -> Option<ServiceRef> {
        let named = self.attributes.context_extensions.get(&*settings.service_key)?;
        let (tenant, resource) = match named.split_once('/') {
            Some((tenant, resource)) => (Name::parse(tenant).ok()?, resource),
            None => (settings.default_tenant.clone()?, named.as_str()),
        };
        Some(ServiceRef { tenant, resource: Name::parse(resource).ok()? })
    }

    fn peer(&self) -> Option<IpAddr> {
        let address = self.attributes.source.as_ref()?.address.as_ref()?.address.as_ref()?;
        match address {
            Address::SocketAddress(socket) => Some(socket.address.parse::<IpAddr>().ok()?.to_canonical()),
            Address::Pipe(_) => None,
        }
    }
}

/// Joins both shapes in which headers come. Pseudo-headers have fields of their own.
fn header_map(http: &mut HttpRequest) -> Result<HeaderMap, Reason> {
    let joined = std::mem::take(&mut http.headers);
    let apart = http.header_map.take().unwrap_or_default().headers;
    let lines = joined.len() + apart.len();
    let mut headers = HeaderMap::try_with_capacity(lines).map_err(|_| Reason::RequestLimit)?;
    for (name, value) in joined {
        append(&mut headers, &name, value.into_bytes())?;
    }
    for line in apart {
        let value = if line.raw_value.is_empty() { line.value.into_bytes() } else { line.raw_value.to_vec() };
        append(&mut headers, &line.key, value)?;
    }
    Ok(headers)
}

fn append(headers: &mut HeaderMap, name: &str, value: Vec<u8>) -> Result<(), Reason> {
    if name.starts_with(':') {
        return Ok(());
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Reason::RequestAmbiguous)?;
    let value = HeaderValue::from_maybe_shared(value).map_err(|_| Reason::RequestAmbiguous)?;
    headers.try_append(name, value).map_err(|_| Reason::RequestLimit)?;
    Ok(())
}
