//! Envoy's external authorization over gRPC: the same decision, the effect is Envoy's.
//!
//! Deliberately absent: `error_response`. What cannot be decided is an explicit deny, so
//! that no fail-open setting of Envoy applies. What cannot be decoded as a check, or is over 1 MiB, gets
//! no answer but a gRPC error: there `failure_mode_allow` must be false.

mod answer;
mod attributes;
mod message;

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use tonic::codegen::Service as _;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use self::answer::Answer;
use self::message::Message;
use crate::core::evidence::{Decision, Door, EvidenceMode, ExchangeFacts};
use crate::core::id::Name;
use crate::core::policy::{Reason, RouteRules};
use crate::pep::extract::{self, MethodNames};
use crate::pep::forward::ForwardSettings;
use crate::pep::http::refuse;
use crate::pep::load::Load;
use crate::pep::presentation::Carriers;
use crate::pep::serve::{Front, Peer};
use crate::pep::trace::Trace;
use crate::pipeline::Pipeline;
use crate::telemetry::metrics::{ListenerMetrics, Metrics};
use crate::telemetry::traces::Tracer;
use crate::wire::ext_authz::authorization_server::{Authorization, AuthorizationServer};
use crate::wire::ext_authz::{CheckRequest, CheckResponse};

/// An ext_authz door as configured.
#[derive(Clone, Debug)]
pub struct ExtAuthzSettings {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The key of `context_extensions` that names the service, as `name` or `tenant/name`.
    pub service_key: Arc<str>,
    /// The tenant of a service named without one; `None`: such a name is refused.
    pub default_tenant: Option<Name>,
    /// How requests are judged; `upstream` is empty.
    pub rules: Arc<RouteRules>,
    /// Where credentials are looked for.
    pub carriers: Carriers,
    /// Whether callers' certificates count that Envoy shows: it asks for them and validates them.
    pub takes_certificates: bool,
    /// The `iss` of the issuer whose certificates are taken; `None`: only those that the hub has records of.
    pub client_issuer: Option<Arc<str>>,
    /// What the upstream is told.
    pub forward: ForwardSettings,
    /// What is taken on at once.
    pub load: Arc<Load>,
    /// What checks are traced by; `None`: they are not.
    pub tracer: Option<Arc<Tracer>>,
    /// Longest time for the message of a check, from its first pause on.
    pub message_timeout: Duration,
}

/// Envoy's external authorization behind one listener.
#[derive(Debug)]
pub struct ExtAuthzDoor {
    shared: Arc<ArcSwap<Shared>>,
    metrics: Arc<ListenerMetrics>,
    health: HealthReporter,
}

#[derive(Debug)]
struct Shared {
    settings: ExtAuthzSettings,
    pipeline: Arc<Pipeline>,
    metrics: Arc<ListenerMetrics>,
    methods: MethodNames,
}

impl ExtAuthzDoor {
    /// Joins configuration and decision path. Its health begins as not serving.
    pub fn new(settings: ExtAuthzSettings, pipeline: Arc<Pipeline>, metrics: &Metrics) -> Self {
        let metrics = metrics.listener(&settings.listener, Door::ExtAuthz);
        let counters = Arc::clone(&metrics);
        let shared = Shared { settings, pipeline, metrics, methods: MethodNames::default() };
        let shared = Arc::new(ArcSwap::from_pointee(shared));
        let health = HealthReporter::new();
        // INVARIANT: nobody else has the reporter yet, so its lock is free and this does not wait.
        if Serves(health.clone()).set(false).now_or_never().is_none() {
            tracing::error!("health could not be set at start");
        }
        Self { shared, metrics: counters, health }
    }

    /// Has checks from now on judged by `settings`.
    pub fn reload(&self, settings: ExtAuthzSettings) {
        let pipeline = Arc::clone(&self.shared.load().pipeline);
        let metrics = Arc::clone(&self.metrics);
        self.shared.store(Arc::new(Shared { settings, pipeline, metrics, methods: MethodNames::default() }));
    }

    /// Sets what `grpc.health.v1.Health` answers.
    pub fn serves(&self) -> Serves {
        Serves(self.health.clone())
    }
}

/// Sets what `grpc.health.v1.Health` answers, for `""` and for the authorization service.
#[derive(Clone, Debug)]
pub struct Serves(HealthReporter);

impl Serves {
    /// SERVING or NOT_SERVING.
    pub async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["", SERVICE] {
            self.0.set_service_status(name, status).await;
        }
    }
}

const SERVICE: &str = "envoy.service.auth.v3.Authorization";
const HEALTH_PREFIX: &str = "/grpc.health.v1.Health/";

/// Largest request, in bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

impl Front for ExtAuthzDoor {
    type Worker = CheckService;
    type Service = CheckService;
    type Body = tonic::body::Body;

    const HTTP1: bool = false;

    fn worker(&self) -> CheckService {
        let checker = Checker(Arc::clone(&self.shared));
        let health = HealthServer::new(HealthService::from_health_reporter(self.health.clone()));
        CheckService {
            shared: Arc::clone(&self.shared),
            checks: AuthorizationServer::new(checker).max_decoding_message_size(MESSAGE_BYTES_MAX),
            health: health.max_decoding_message_size(MESSAGE_BYTES_MAX),
        }
    }

    fn service(worker: &CheckService, _: Peer) -> CheckService {
        worker.clone()
    }

    fn metrics(&self) -> &Arc<ListenerMetrics> {
        &self.metrics
    }
}

/// Answers the calls of one connection.
#[derive(Clone, Debug)]
pub struct CheckService {
    shared: Arc<ArcSwap<Shared>>,
    checks: AuthorizationServer<Checker>,
    health: HealthServer<HealthService>,
}

impl hyper::service::Service<Request<Incoming>> for CheckService {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let timeout = self.shared.load().settings.message_timeout;
        let request = request.map(|body| Message::new(body, timeout));
        if request.uri().path().starts_with(HEALTH_PREFIX) {
            self.health.clone().call(request)
        } else {
            self.checks.clone().call(request)
        }
    }
}

/// Has each call judged by what is settled when it comes.
#[derive(Clone, Debug)]
struct Checker(Arc<ArcSwap<Shared>>);

/// Judges one call.
#[derive(Debug)]
struct Judge(Arc<Shared>);

#[tonic::async_trait]
impl Authorization for Checker {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        Judge(self.0.load_full()).check(request).await
    }
}

impl Judge {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let begun = Instant::now();
        let (listener, methods) = (&self.0.settings.listener, &self.0.methods);
        let tracer = self.0.settings.tracer.as_deref();
        let mut known = None;
        let judged = AssertUnwindSafe(async {
            let question = attributes::read(request.into_inner());
            let mut trace = question.trace(tracer);
            let facts = &*known.insert(question.facts(listener, methods, &trace));
            let answer = match self.0.settings.load.enter() {
                Some(_place) => self.judge(facts.clone(), &question, begun, &mut trace).await,
                None => self.refuse(facts.clone(), Reason::Overloaded, begun, &mut trace).await,
            };
            if let Some(tracer) = tracer {
                let ended = || self.0.pipeline.now().wall;
                trace.end(tracer, facts, (Version::HTTP_2, None), ended, begun.elapsed());
            }
            answer
        });
        let answer = match judged.catch_unwind().await {
            Ok(answer) => answer,
            Err(_) => {
                let unread =
                    || extract::facts(listener, Door::ExtAuthz, methods.of(""), None, &Trace::default());
                self.fault(known.unwrap_or_else(unread), begun).await
            }
        };
        // No answer at all is an error to Envoy; nothing here leads to it.
        let answer = answer.ok_or_else(|| tonic::Status::internal("no decision"))?;
        Ok(tonic::Response::new(answer.into_response()))
    }

    async fn judge(
        &self,
        facts: ExchangeFacts,
        question: &attributes::Asked,
        begun: Instant,
        trace: &mut Trace,
    ) -> Option<Answer> {
        let Shared { settings, pipeline, metrics, .. } = &*self.0;
        let elapsed = || begun.elapsed().as_secs_f64();
        let mut admitted = question.admit(&facts, settings);
        let mode =
            admitted.as_ref().map_or_else(|_| EvidenceMode::default(), |admitted| admitted.rules.evidence);
        let pending = match pipeline.reserve(mode, facts) {
            Ok(pending) => pending,
            Err(denied) => {
                metrics.denied(denied.reason(), elapsed());
                trace.decided(denied.id(), denied.verdict(), Some(denied.reason()));
                return Some(Answer::deny(denied, settings, None));
            }
        };
        let committed = match &mut admitted {
            Ok(exchange) => {
                pipeline.introspect(exchange).await;
                pipeline.check(pending, exchange)
            }
            Err(reason) => pipeline.refuse(pending, *reason),
        };
        let (outcome, target) = match (committed.await, &admitted) {
            (Decision::Deny(denied), _) => (Err(denied), None),
            (Decision::Allow(allowed), Ok(exchange)) => {
                (pipeline.release(allowed, exchange), question.judged_target(&exchange.path))
            }
            (Decision::Allow(_), Err(_)) => return None,
        };
        Some(match outcome {
            Ok(released) => {
                metrics.allowed(released.verdict().warnings(), elapsed());
                trace.decided(released.id(), released.verdict(), None);
                let nonce = pipeline.offered_nonce(released.verdict().basis());
                Answer::allow(released, settings, question.barred_headers(), target).offering(nonce)
            }
            Err(denied) => {
                metrics.denied(denied.reason(), elapsed());
                trace.decided(denied.id(), denied.verdict(), Some(denied.reason()));
                let nonce = pipeline.offered_nonce(denied.verdict().basis());
                Answer::deny(denied, settings, nonce)
            }
        })
    }

    async fn fault(&self, facts: ExchangeFacts, begun: Instant) -> Option<Answer> {
        tracing::error!(listener = %self.0.settings.listener, "a check met a fault and was refused");
        self.refuse(facts, Reason::Internal, begun, &mut Trace::default()).await
    }

    async fn refuse(
        &self,
        facts: ExchangeFacts,
        reason: Reason,
        begun: Instant,
        trace: &mut Trace,
    ) -> Option<Answer> {
        let denied = refuse(&self.0.pipeline, facts, reason).await?;
        trace.decided(denied.id(), denied.verdict(), Some(denied.reason()));
        self.0.metrics.denied(denied.reason(), begun.elapsed().as_secs_f64());
        Some(Answer::deny(denied, &self.0.settings, None))
    }
}
