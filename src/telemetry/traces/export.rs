//! Export of spans by OTLP over gRPC, in batches.

use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig};

use super::{Spans, data};

/// Where spans go, and as whose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportSettings {
    /// `http://host:port`, or `https` for TLS.
    pub endpoint: String,
    /// The only authorities trusted for TLS, in PEM; `None`: the system's.
    pub ca: Option<String>,
    /// Who says it: `service.name` and so on.
    pub resource: Vec<(String, String)>,
    /// Spans in one message, at most.
    pub batch_max: usize,
    /// How long a span waits for others.
    pub delay: Duration,
}

/// How long an export may go on once it is to end.
const FLUSH: Duration = Duration::from_secs(2);

impl Spans {
    /// Exports for as long as it runs, and what waits when `stop` is cancelled.
    ///
    /// Headers, timeout and compression are what the library reads in `OTEL_EXPORTER_OTLP_*`: headers may be
    /// secret, and so are in no configuration of ours.
    pub async fn export(mut self, settings: ExportSettings, stop: CancellationToken) {
        let mut exporter = match exporter(&settings) {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::error!(error, "spans cannot be exported: all are dropped");
                return;
            }
        };
        exporter.set_resource(&resource(&settings));
        let mut shipping = Shipping { exporter, scope: scope(), stop, troubled: false };
        loop {
            let first = tokio::select! {
                biased;
                () = shipping.stop.cancelled() => break,
                first = self.queue.recv() => first,
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            let rest = async {
                while batch.len() < settings.batch_max {
                    let Some(next) = self.queue.recv().await else { break };
                    batch.push(next);
                }
            };
            tokio::select! {
                biased;
                () = shipping.stop.cancelled() => {}
                // Full or not: it goes.
                _ = tokio::time::timeout(settings.delay, rest) => {}
            }
            self.ship(&mut shipping, batch).await;
        }
        let mut left = Vec::new();
        while let Ok(span) = self.queue.try_recv() {
            left.push(span);
        }
        if !left.is_empty() {
            self.ship(&mut shipping, left).await;
        }
    }

    async fn ship(&self, shipping: &mut Shipping, batch: Vec<super::Span>) {
        let count = batch.len() as u64;
        let batch = batch.into_iter().map(|span| data::of(span, &shipping.scope)).collect();
        let ending = async {
            shipping.stop.cancelled().await;
            tokio::time::sleep(FLUSH).await;
        };
        let ended = tokio::select! {
            biased;
            ended = shipping.exporter.export(batch) => ended.map_err(|error| error.to_string()),
            () = ending => Err("the process ends".to_owned()),
        };
        match ended {
            Ok(()) => {
                self.exported.inc_by(count);
                if std::mem::replace(&mut shipping.troubled, false) {
                    tracing::info!("spans are exported again");
                }
            }
            Err(error) => {
                self.failed.inc_by(count);
                if std::mem::replace(&mut shipping.troubled, true) {
                    tracing::debug!(error, "spans could not be exported");
                } else {
                    tracing::warn!(error, "spans could not be exported");
                }
            }
        }
    }
}

struct Shipping {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    stop: CancellationToken,
    /// The last export failed.
    troubled: bool,
}

fn exporter(settings: &ExportSettings) -> Result<SpanExporter, String> {
    let mut builder = SpanExporter::builder().with_tonic().with_endpoint(&settings.endpoint);
    if settings.endpoint.starts_with("https://") {
        let tls = match &settings.ca {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        builder = builder.with_tls_config(tls);
    }
    builder.build().map_err(|error| error.to_string())
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("portreeve").with_version(env!("CARGO_PKG_VERSION")).build()
}

fn resource(settings: &ExportSettings) -> Resource {
    let written = settings.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(written)
        .build()
}
