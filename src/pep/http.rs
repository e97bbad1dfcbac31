//! The reverse proxy: one request from head to answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::core::credential::ClientCertificate;
use crate::core::evidence::{Decision, Denied, Door, EvidenceMode, ExchangeFacts};
use crate::core::id::DecisionId;
use crate::core::policy::Reason;
use crate::pep::body::Body;
use crate::pep::certificate::CallerCertificates;
use crate::pep::exchanges::{Exchanges, Shard};
use crate::pep::extract::{self, AdmitRules, Admitted, MethodNames};
use crate::pep::forward::{ForwardSettings, Forwarder, Outgoing, Stopped};
use crate::pep::limits::RequestLimits;
use crate::pep::line::Turn;
use crate::pep::load::Load;
use crate::pep::presentation::Carriers;
use crate::pep::respond::{Refusal, offer_nonce};
use crate::pep::routes::Routes;
use crate::pep::serve::{Front, Peer};
use crate::pep::trace::Trace;
use crate::pep::upload::UploadRules;
use crate::pep::upstream::{UpstreamSettings, Upstreams};
use crate::pep::websocket::Offer;
use crate::pipeline::Pipeline;
use crate::telemetry::metrics::{ListenerMetrics, Metrics, UpstreamFailure};
use crate::telemetry::traces::Tracer;

/// A proxy door as configured.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// The listener's name.
    pub listener: Arc<str>,
    /// Its routes.
    pub routes: Routes,
    /// The upstreams that routes name.
    pub upstreams: BTreeMap<Arc<str>, UpstreamSettings>,
    /// Where credentials are looked for.
    pub carriers: Carriers,
    /// Which certificate is a caller's.
    pub certificates: CallerCertificates,
    /// What upstreams are told.
    pub forward: ForwardSettings,
    /// Bounds of a request.
    pub limits: RequestLimits,
    /// What is taken on at once.
    pub load: Arc<Load>,
    /// What requests are traced by; `None`: they are not.
    pub tracer: Option<Arc<Tracer>>,
}

/// A route names an upstream that is not configured.
#[derive(Debug, thiserror::Error)]
#[error(
    "listener `{listener}`: a route names the upstream `{upstream}`, which is not configured; expected one of {known:?}"
)]
pub struct UnknownUpstream {
    listener: Arc<str>,
    upstream: Arc<str>,
    known: Vec<Arc<str>>,
}

/// The reverse proxy behind one listener.
#[derive(Debug)]
pub struct ProxyDoor {
    settled: Mutex<Settled>,
    seats: Mutex<Vec<Weak<Seat>>>,
    exchanges: Arc<Exchanges>,
    metrics: Metrics,
    counters: Arc<ListenerMetrics>,
}

/// What requests are read, judged and forwarded by.
#[derive(Clone, Debug)]
struct Settled {
    shared: Arc<Shared>,
    upstreams: BTreeMap<Arc<str>, UpstreamSettings>,
}

#[derive(Debug)]
struct Shared {
    listener: Arc<str>,
    routes: Routes,
    carriers: Carriers,
    certificates: CallerCertificates,
    takes_proofs: bool,
    forward: ForwardSettings,
    uploads: Arc<UploadRules>,
    load: Arc<Load>,
    tracer: Option<Arc<Tracer>>,
    pipeline: Arc<Pipeline>,
    metrics: Arc<ListenerMetrics>,
    methods: MethodNames,
}

impl ProxyDoor {
    /// Joins configuration and decision path; what it forwards is listed among `exchanges`.
    ///
    /// # Errors
    /// [`UnknownUpstream`] when a route's upstream is not configured.
    pub fn new(
        settings: ProxySettings,
        exchanges: Arc<Exchanges>,
        metrics: &Metrics,
    ) -> Result<Self, UnknownUpstream> {
        let counters = metrics.listener(&settings.listener, Door::Proxy);
        let settled = Mutex::new(Settled::new(settings, &exchanges, &counters)?);
        Ok(Self { settled, seats: Mutex::default(), exchanges, metrics: metrics.clone(), counters })
    }

    /// Has requests from now on read, judged and forwarded by `settings`; those under way go on as they began.
    ///
    /// # Errors
    /// [`UnknownUpstream`] when a route's upstream is not configured; nothing changes then.
    pub fn reload(&self, settings: ProxySettings) -> Result<(), UnknownUpstream> {
        let settled = Settled::new(settings, &self.exchanges, &self.counters)?;
        // A worker that comes meanwhile waits, and finds the new.
        let mut current = self.settled.lock();
        let mut seats = self.seats.lock();
        seats.retain(|seat| seat.strong_count() > 0);
        for seat in seats.iter().filter_map(Weak::upgrade) {
            let shard = Arc::clone(&seat.0.load().shard);
            seat.0.store(Arc::new(settled.worker(shard, &self.metrics)));
        }
        *current = settled;
        Ok(())
    }
}

impl Settled {
    fn new(
        settings: ProxySettings,
        exchanges: &Arc<Exchanges>,
        counters: &Arc<ListenerMetrics>,
    ) -> Result<Self, UnknownUpstream> {
        let unknown = settings.routes.upstreams().find(|name| !settings.upstreams.contains_key(*name));
        if let Some(upstream) = unknown {
            return Err(UnknownUpstream {
                listener: settings.listener,
                upstream: Arc::clone(upstream),
                known: settings.upstreams.into_keys().collect(),
            });
        }
        let shared = Arc::new(Shared {
            metrics: Arc::clone(counters),
            listener: settings.listener,
            takes_proofs: settings.routes.take_proofs(),
            routes: settings.routes,
            carriers: settings.carriers,
            certificates: settings.certificates,
            forward: settings.forward,
            uploads: Arc::new(UploadRules { limits: settings.limits, exchanges: Arc::clone(exchanges) }),
            load: settings.load,
            tracer: settings.tracer,
            pipeline: Arc::clone(exchanges.pipeline()),
            methods: MethodNames::default(),
        });
        Ok(Self { shared, upstreams: settings.upstreams })
    }

    fn worker(&self, shard: Arc<Shard>, metrics: &Metrics) -> ProxyWorker {
        let upstreams = Upstreams::new(&self.upstreams, metrics);
        ProxyWorker { shared: Arc::clone(&self.shared), shard, upstreams }
    }
}

impl Front for ProxyDoor {
    type Worker = Arc<Seat>;
    type Service = ProxyService;
    type Body = Body;

    fn worker(&self) -> Self::Worker {
        let settled = self.settled.lock();
        let seat =
            Arc::new(Seat(ArcSwap::from_pointee(settled.worker(self.exchanges.shard(), &self.metrics))));
        self.seats.lock().push(Arc::downgrade(&seat));
        seat
    }

    fn service(seat: &Self::Worker, peer: Peer) -> ProxyService {
        let worker = seat.0.load();
        let taken = |certificate| worker.shared.certificates.taken(certificate);
        ProxyService {
            peer: peer.address.ip().to_canonical(),
            certificate: peer.certificate.map(taken),
            seat: Arc::clone(seat),
        }
    }

    fn metrics(&self) -> &Arc<ListenerMetrics> {
        &self.counters
    }
}

/// Where one worker's share of a proxy is found, which a reload replaces.
#[derive(Debug)]
pub struct Seat(ArcSwap<ProxyWorker>);

/// One worker's share of a proxy.
#[derive(Debug)]
struct ProxyWorker {
    shared: Arc<Shared>,
    shard: Arc<Shard>,
    upstreams: Upstreams,
}

/// Answers the requests of one connection.
#[derive(Clone, Debug)]
pub struct ProxyService {
    seat: Arc<Seat>,
    peer: IpAddr,
    certificate: Option<Arc<ClientCertificate>>,
}

impl hyper::service::Service<Request<Incoming>> for ProxyService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let worker = self.seat.0.load_full();
        let (peer, certificate) = (self.peer, self.certificate.clone());
        Box::pin(async move { Ok(worker.answer(peer, certificate, request).await) })
    }
}

impl ProxyWorker {
    /// Answers one request; a panic refuses it and is recorded.
    async fn answer(
        &self,
        peer: IpAddr,
        certificate: Option<Arc<ClientCertificate>>,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        let begun = Instant::now();
        let offer = Offer::take(&mut request);
        let bodiless = request.method() == Method::HEAD;
        let version = request.version();
        let method = self.shared.methods.of(request.method().as_str());
        let mut trace = Trace::begin(self.shared.tracer.as_deref(), request.headers());
        let facts = extract::facts(&self.shared.listener, Door::Proxy, method, Some(peer), &trace);
        let again = facts.clone();
        let handled = async {
            let Some(place) = self.shared.load.enter() else {
                return Outcome::Refused(refuse(&self.shared.pipeline, facts, Reason::Overloaded).await);
            };
            self.handle(facts, certificate, (request, offer), Turn::next(place), begun, &mut trace).await
        };
        let handled = AssertUnwindSafe(handled).catch_unwind().await;
        let outcome = match handled {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Refused(self.fault(again.clone()).await),
        };
        let response = self.respond(outcome, (version, bodiless), begun, &mut trace);
        if let Some(tracer) = &self.shared.tracer {
            let ended = || self.shared.pipeline.now().wall;
            trace.end(tracer, &again, (version, Some(response.status())), ended, begun.elapsed());
        }
        response
    }

    fn respond(
        &self,
        outcome: Outcome,
        (version, bodiless): (Version, bool),
        begun: Instant,
        trace: &mut Trace,
    ) -> Response<Body> {
        let (refused, reason) = match outcome {
            Outcome::Answered(response) => return response,
            Outcome::Refused(Some(denied)) => {
                let reason = denied.reason();
                self.shared.metrics.denied(reason, begun.elapsed().as_secs_f64());
                trace.decided(denied.id(), denied.verdict(), Some(reason));
                let nonce = self.shared.pipeline.offered_nonce(denied.verdict().basis());
                (Refusal::of(denied, self.shared.takes_proofs).offering(nonce), reason)
            }
            Outcome::Refused(None) => return bare(StatusCode::INTERNAL_SERVER_ERROR),
            Outcome::Severed(id, reason) => {
                trace.severed(reason);
                (Refusal::severed(id, reason, self.shared.takes_proofs), reason)
            }
            Outcome::Failed(refusal) => return refusal.into_response(bodiless),
        };
        let mut response = refused.into_response(bodiless);
        if version < Version::HTTP_2 && ends_connection(reason) {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        response
    }

    /// Admit, reserve, decide, commit, look once more, forward.
    async fn handle(
        &self,
        facts: ExchangeFacts,
        certificate: Option<Arc<ClientCertificate>>,
        (request, offer): (Request<Incoming>, Option<Offer>),
        turn: Turn,
        begun: Instant,
        trace: &mut Trace,
    ) -> Outcome {
        let shared = &*self.shared;
        let (mut parts, body) = request.into_parts();
        let carriers = &shared.carriers;
        let rules = AdmitRules {
            routes: &shared.routes,
            carriers,
            certificates: &shared.certificates,
            limits: &shared.uploads.limits,
        };
        let admitted = extract::admit(&mut parts, &facts, certificate.as_ref(), &rules);
        let mode = admitted.as_ref().map_or_else(|_| EvidenceMode::default(), |a| a.exchange.rules.evidence);
        let pending = match shared.pipeline.reserve(mode, facts) {
            Ok(pending) => pending,
            Err(denied) => return Outcome::Refused(Some(denied)),
        };
        let (admitted, committed) = match admitted {
            Ok(mut admitted) => {
                shared.pipeline.introspect(&mut admitted.exchange).await;
                let committed = shared.pipeline.check(pending, &admitted.exchange);
                (Some(admitted), committed)
            }
            Err(reason) => (None, shared.pipeline.refuse(pending, reason)),
        };
        match (committed.await, admitted) {
            (Decision::Deny(denied), _) => Outcome::Refused(Some(denied)),
            (Decision::Allow(allowed), Some(admitted)) => {
                trace.decided(allowed.id(), allowed.verdict(), None);
                let warnings = allowed.verdict().warnings().to_vec();
                let nonce = shared.pipeline.offered_nonce(allowed.verdict().basis());
                let decided = begun.elapsed().as_secs_f64();
                let Admitted { exchange, target, host } = admitted;
                let open = self.shard.enter(exchange, &allowed, turn);
                let forwarder = Forwarder {
                    pipeline: &shared.pipeline,
                    upstreams: &self.upstreams,
                    settings: shared.forward,
                    carriers,
                };
                let rules = Arc::clone(&shared.uploads);
                let trace = trace.onward();
                let outgoing = Outgoing { parts, body, target, host, offer, rules, trace };
                let mut forwarded = forwarder.forward(allowed, &open, outgoing).await;
                if let Ok(response) = &mut forwarded {
                    offer_nonce(response.headers_mut(), nonce);
                }
                if !matches!(forwarded, Err(Stopped::Denied(_))) {
                    shared.metrics.allowed(&warnings, decided);
                }
                forwarded.into()
            }
            // A refusal is never an allow; were it one, nothing could be forwarded.
            (Decision::Allow(allowed), None) => {
                Outcome::Failed(Refusal::failed(StatusCode::INTERNAL_SERVER_ERROR, allowed.id()))
            }
        }
    }

    /// Records a fault of ours.
    async fn fault(&self, facts: ExchangeFacts) -> Option<Denied> {
        tracing::error!(listener = %self.shared.listener, "a request met a fault and was refused");
        refuse(&self.shared.pipeline, facts, Reason::Internal).await
    }
}

/// Whether what follows on the connection could be taken for what it is not, or is not waited for.
const fn ends_connection(reason: Reason) -> bool {
    matches!(reason, Reason::RequestAmbiguous | Reason::RequestBody | Reason::RequestSlow)
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Refuses on record; `None` only if a refusal came back as an allow, which it cannot.
pub(crate) async fn refuse(pipeline: &Pipeline, facts: ExchangeFacts, reason: Reason) -> Option<Denied> {
    let pending = match pipeline.reserve(EvidenceMode::default(), facts) {
        Ok(pending) => pending,
        Err(denied) => return Some(denied),
    };
    match pipeline.refuse(pending, reason).await {
        Decision::Deny(denied) => Some(denied),
        Decision::Allow(_) => None,
    }
}

enum Outcome {
    Answered(Response<Body>),
    Refused(Option<Denied>),
    Failed(Refusal),
    Severed(DecisionId, Reason),
}

impl From<Result<Response<Body>, Stopped>> for Outcome {
    fn from(forwarded: Result<Response<Body>, Stopped>) -> Self {
        match forwarded {
            Ok(response) => Self::Answered(response),
            Err(Stopped::Denied(denied)) => Self::Refused(Some(denied)),
            Err(Stopped::Severed(id, reason)) => Self::Severed(id, reason),
            Err(Stopped::Unasked(id)) => Self::Failed(Refusal::failed(StatusCode::BAD_REQUEST, id)),
            Err(Stopped::Failed(id, kind)) => Self::Failed(Refusal::failed(failure_status(kind), id)),
        }
    }
}

fn failure_status(kind: UpstreamFailure) -> StatusCode {
    match kind {
        UpstreamFailure::Connect | UpstreamFailure::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
        UpstreamFailure::Timeout => StatusCode::GATEWAY_TIMEOUT,
        UpstreamFailure::Tls | UpstreamFailure::Reset | UpstreamFailure::Invalid => StatusCode::BAD_GATEWAY,
    }
}

fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
