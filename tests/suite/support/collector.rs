//! A collector of spans, by OTLP over gRPC.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;

use super::PATIENCE;
use super::tls::runtime;

/// A span as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) span: Span,
    /// Who says it.
    pub(crate) resource: Vec<KeyValue>,
    /// The header `x-team` of the call.
    pub(crate) team: Option<String>,
}

impl Arrived {
    /// An attribute of the span as text.
    pub(crate) fn attribute(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }

    /// An attribute of who says it.
    pub(crate) fn said_by(&self, key: &str) -> Option<String> {
        text(&self.resource, key)
    }

    /// The trace, our span, and the span above it, in lower hex.
    pub(crate) fn ids(&self) -> (String, String, String) {
        (hex(&self.span.trace_id), hex(&self.span.span_id), hex(&self.span.parent_span_id))
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let mut found = attributes.iter().filter(|held| held.key == key);
    let value = found.next()?.value.clone();
    assert!(found.next().is_none(), "{key} twice");
    match value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The collector, for as long as it is held.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    arrived: Receiver<Arrived>,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    /// Takes whatever comes.
    pub(crate) fn new() -> Self {
        let runtime = runtime();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, arrived) = sync_channel(1000);
        let service = TraceServiceServer::new(Inbox(Mutex::new(tell)));
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, arrived, _runtime: runtime }
    }

    /// The next span that arrives.
    pub(crate) fn next(&self) -> Arrived {
        self.arrived.recv_timeout(PATIENCE).expect("a span arrives")
    }

    /// Whether nothing has arrived that was not taken yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.arrived.try_recv().is_err()
    }
}

struct Inbox(Mutex<SyncSender<Arrived>>);

#[tonic::async_trait]
impl TraceService for Inbox {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let team = request.metadata().get("x-team").map(|value| value.to_str().unwrap().to_owned());
        for of_one in request.into_inner().resource_spans {
            let resource = of_one.resource.unwrap_or_default().attributes;
            for span in of_one.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let arrived = Arrived { span, resource: resource.clone(), team: team.clone() };
                // Nobody need wait for it.
                drop(self.0.lock().unwrap().send(arrived));
            }
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}
