//! Spans of requests: who begins them, and who exports them.

use std::sync::Arc;

use super::{Part, ProxyConfig};
use crate::app::{AppError, random};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{ExportSettings, Sampler, Spans, Tracer};

/// A tracer, and the spans that wait for their export; `None`: nothing is traced.
pub(super) fn open(config: &ProxyConfig, metrics: &Metrics) -> Option<(Arc<Tracer>, Export)> {
    let traces = config.traces.as_ref()?;
    let ca = match traces.ca.as_ref().map(std::fs::read_to_string).transpose() {
        Ok(ca) => ca,
        Err(error) => {
            // A door is not kept shut by what only watches it.
            let path = traces.ca.as_ref().map(|path| path.display().to_string());
            tracing::warn!(%error, path, "`OTEL_EXPORTER_OTLP_CERTIFICATE` cannot be read: no spans are exported");
            return None;
        }
    };
    let of_ours = [
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", config.enforcement_point.id.to_string()),
    ];
    let written = traces.resource.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let mut resource: Vec<_> = written.collect();
    for (key, value) in of_ours {
        if !resource.iter().any(|(known, _)| known == key) {
            resource.push((key.to_owned(), value));
        }
    }
    let settings = ExportSettings {
        endpoint: traces.endpoint.to_string(),
        ca,
        resource,
        batch_max: traces.batch_max,
        delay: traces.delay,
    };
    let sampler = Sampler { parent_based: traces.parent_based, share: traces.share };
    let ids = Box::new(|| random::bytes::<24>().ok());
    let (tracer, spans) = Tracer::new(sampler, ids, traces.queue_max, metrics.registry());
    Some((Arc::new(tracer), Export { spans, settings }))
}

/// Spans, and where they go.
pub(super) struct Export {
    spans: Spans,
    settings: ExportSettings,
}

/// Exports for as long as it runs.
pub(super) fn start(export: Option<Export>) -> Result<Option<Part>, AppError> {
    let Some(Export { spans, settings }) = export else { return Ok(None) };
    tracing::info!(endpoint = settings.endpoint, "spans are exported");
    Part::start("traces", move |stop| spans.export(settings, stop)).map(Some)
}
