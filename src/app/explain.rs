//! How a request would be decided now, for the admin server.

use std::sync::Arc;

use crate::admin::{ExplainRequest, ExplainStep, Explanation};
use crate::core::credential::Presented;
use crate::core::evidence::Door;
use crate::core::policy::{CanonicalPath, Exchange, Presentation, Reason};
use crate::pep::{CallerCertificates, Routes};
use crate::pipeline::Pipeline;

/// A proxy listener as explanations need it.
pub(super) struct Explained {
    pub(super) listener: Arc<str>,
    pub(super) routes: Routes,
    pub(super) certificates: CallerCertificates,
}

/// Explains `request` on one of `listeners`.
///
/// # Errors
/// What cannot be asked, and what could be.
pub(super) async fn explain(
    pipeline: &Pipeline,
    listeners: &[Explained],
    request: ExplainRequest,
) -> Result<Explanation, String> {
    let known = || listeners.iter().map(|l| &*l.listener).collect::<Vec<_>>().join(", ");
    let chosen = match &request.listener {
        Some(name) => listeners.iter().find(|l| *l.listener == **name),
        None => listeners.first(),
    };
    let chosen = chosen.ok_or_else(|| {
        format!(
            "no proxy listener `{}`; there is: {}",
            request.listener.as_deref().unwrap_or("(first)"),
            known()
        )
    })?;
    let path = request.path.split_once('?').map_or(&*request.path, |(path, _)| path);
    let path = match CanonicalPath::parse(path) {
        Ok(path) => path,
        Err(error) => return Ok(refused(Reason::RequestAmbiguous, "admit", error.to_string())),
    };
    let host = request.host.unwrap_or_default().to_ascii_lowercase();
    let Some(route) = chosen.routes.find(&host, &request.method, &path) else {
        return Ok(refused(Reason::PolicyDenied, "route", "no configured route matches".to_owned()));
    };
    let presentation = match (&request.token, &request.api_key) {
        (Some(_), Some(_)) => {
            return Ok(refused(Reason::RequestCredentials, "admit", "two credentials".to_owned()));
        }
        (Some(token), None) => Presentation::One(Presented::bearer(token.as_bytes())),
        (None, Some(key)) => Presentation::One(Presented::key(key.as_bytes())),
        (None, None) => Presentation::Nothing,
    };
    let shown = request.certificate.as_deref().map(|pem| chosen.certificates.shown(pem));
    let certificate = match shown {
        Some(None) => return Err("`certificate` is not one certificate in PEM".to_owned()),
        Some(certificate) => certificate,
        None => None,
    };
    let mut exchange = Exchange {
        listener: Arc::clone(&chosen.listener),
        door: Door::Proxy,
        method: Arc::from(request.method),
        path,
        service: route.service.clone(),
        rules: Arc::clone(&route.rules),
        presentation,
        certificate,
        peer: None,
        trace_id: [0; 16],
    };
    pipeline.introspect(&mut exchange).await;
    let (verdict, steps) = pipeline.explain(&exchange);
    let position = verdict.basis().position;
    Ok(Explanation {
        effect: verdict.effect().as_str(),
        reason: verdict.reason_code().to_owned(),
        status: verdict.reason().map_or(200, Reason::status),
        warnings: verdict.warnings().iter().map(ToString::to_string).collect(),
        epoch: position.epoch.to_string(),
        revision: position.revision,
        steps: steps.into_iter().map(|step| ExplainStep { name: step.name, finding: step.finding }).collect(),
    })
}

fn refused(reason: Reason, step: &'static str, finding: String) -> Explanation {
    Explanation {
        effect: "deny",
        reason: reason.to_string(),
        status: reason.status(),
        warnings: Vec::new(),
        epoch: String::new(),
        revision: 0,
        steps: vec![ExplainStep { name: step, finding }],
    }
}
