//! From the configuration to what each room wants to know.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::reload::Door;
use super::tls::Tls;
use super::{Core, Explained, Serves, Workload, health};
use crate::app::clock::kernel_boot_bytes;
use crate::app::{AppError, random, secret};
use crate::config::{HubAccess, Listener, ListenerKind, ProxyConfig, Sink};
use crate::core::credential::{AnswerLife, ProofNonces};
use crate::core::identity::Keyer;
use crate::core::policy::{RouteRules, Staleness};
use crate::core::time::Clock;
use crate::files;
use crate::outbound::{Bounds, OutboundSettings};
use crate::pep::{
    Asks, AssertionKey, AssertionSettings, Bound, CallerCertificates, Carriers, CredentialForm, ExtAuthzDoor,
    ExtAuthzSettings, ForwardSettings, ForwardedCertificates, ForwardedHeader, IntrospectionClient,
    IntrospectionSettings, Introspector, Limits, ListenerSettings, Load, PauseRule, ProxyDoor, ProxySettings,
    RequestLimits, Route, Routes, Running as Listening, UpstreamAddress, UpstreamCredential, UpstreamFiles,
    UpstreamSettings, UpstreamTls,
};
use crate::sink::{self, FileSink, Shipper, ShipperOptions, StdoutSink};
use crate::spool::{SpoolLog, SpoolOptions};
use crate::state::{ClientSettings, Dial, EnrolledDial, EnrolmentSettings, FilesDial, HubFiles, PlainDial};
use crate::telemetry::introspection::IntrospectionMetrics;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Tracer;

pub(super) fn listener(
    config: &ProxyConfig,
    listener: &Listener,
    load: &Arc<Load>,
    tls: &Tls,
) -> ListenerSettings {
    ListenerSettings {
        name: Arc::clone(&listener.name),
        address: listener.address,
        workers: config.workers,
        tls: tls.get(&listener.name).cloned(),
        limits: Limits {
            connections_max: listener.limits.max_connections,
            head_timeout: listener.limits.header_timeout,
            idle_timeout: listener.limits.idle_timeout,
            send_timeout: listener.limits.send_timeout,
            head_bytes_max: listener.limits.max_header_bytes as usize,
            header_list_bytes_max: listener.limits.max_header_bytes,
            headers_max: listener.limits.max_headers,
            streams_max: listener.limits.max_concurrent_streams,
            resets_max: listener.limits.max_resets,
            control_frames_max: listener.limits.max_control_frames,
            drain_timeout: config.drain_timeout,
            end_timeout: listener.limits.end_timeout,
        },
        load: Arc::clone(load),
    }
}

fn request_limits(limits: &crate::config::Limits) -> RequestLimits {
    RequestLimits {
        head_bytes_max: limits.max_header_bytes as usize,
        headers_max: limits.max_headers,
        target_bytes_max: limits.max_uri_bytes,
        body_bytes_max: limits.max_body_bytes,
        body_timeout: limits.body_timeout,
        body_rate_min: limits.min_body_rate,
    }
}

fn forward(config: &ProxyConfig) -> ForwardSettings {
    ForwardSettings {
        identity_headers: config.forward.identity_headers,
        pass_credential: config.forward.pass_credential,
    }
}

fn certificates(config: &crate::config::CallerCertificates) -> CallerCertificates {
    let forwarded = |forwarded: &crate::config::ForwardedCertificate| ForwardedCertificates {
        header: if forwarded.rfc9440 { ForwardedHeader::ClientCert } else { ForwardedHeader::Xfcc },
        peers: Arc::clone(&forwarded.peers),
    };
    CallerCertificates { issuer: config.issuer.clone(), forwarded: config.forwarded.as_ref().map(forwarded) }
}

fn carriers(listener: &Listener) -> Result<Carriers, AppError> {
    let crate::config::Carriers { authorization, api_key_header } = &listener.carriers;
    // The configuration was checked: only a fault of ours makes this fail.
    let fault =
        || AppError::io(format!("listener `{}`", listener.name))(std::io::ErrorKind::InvalidInput.into());
    Carriers::new(*authorization, api_key_header.as_deref()).ok_or_else(fault)
}

/// A proxy listener as explanations need it; `None` for another kind.
pub(super) fn explained(listener: &Listener) -> Option<Explained> {
    let ListenerKind::Proxy(proxy) = &listener.kind else { return None };
    let certificates = certificates(&proxy.certificates);
    Some(Explained { listener: Arc::clone(&listener.name), routes: routes(listener)?, certificates })
}

/// A proxy listener's routes; `None` for another kind.
pub(super) fn routes(listener: &Listener) -> Option<Routes> {
    let ListenerKind::Proxy(proxy) = &listener.kind else { return None };
    let route = |route: &crate::config::Route| Route {
        host: route.host.clone(),
        path: Some(route.path.clone()),
        methods: route.methods.to_vec(),
        service: route.service.clone(),
        rules: Arc::clone(&route.rules),
    };
    Some(Routes::new(proxy.routes.iter().map(route).collect()))
}

/// The upstreams, with what their files hold now.
pub(super) fn upstreams(
    config: &ProxyConfig,
    clock: &Arc<dyn Clock>,
    key: Option<&Arc<AssertionKey>>,
    workload: &Workload,
) -> Result<BTreeMap<Arc<str>, UpstreamSettings>, AppError> {
    let settings = |upstream: &crate::config::Upstream| -> Result<_, AppError> {
        Ok(UpstreamSettings {
            address: address(upstream, clock, workload)?,
            http2: upstream.http2,
            credential: credential(upstream)?,
            assertion: assertion(upstream, key),
            connect_timeout: upstream.connect_timeout,
            response_timeout: upstream.response_timeout,
            idle_max: upstream.max_idle_per_worker,
            health: health::of(upstream),
        })
    };
    config.upstreams.iter().map(|(name, upstream)| Ok((Arc::clone(name), settings(upstream)?))).collect()
}

fn address(
    upstream: &crate::config::Upstream,
    clock: &Arc<dyn Clock>,
    workload: &Workload,
) -> Result<UpstreamAddress, AppError> {
    use crate::config::{OwnCertificate, UpstreamAddress as Written};
    Ok(match &upstream.address {
        Written::Clear(server) => UpstreamAddress::Clear(Arc::from(server.host()), server.port()),
        Written::Secure(server, tls) => {
            let (own, live) = match &tls.own {
                None => (None, None),
                Some(OwnCertificate::Files(certificate, key)) => {
                    (Some((certificate.clone(), key.clone())), None)
                }
                Some(OwnCertificate::WorkloadApi) => (None, Some(workload.identity())),
            };
            let files = UpstreamFiles { ca: tls.ca.clone(), own };
            let (name, http2, clock) = (&tls.server_name, upstream.http2, Arc::clone(clock));
            let tls = UpstreamTls::open(&upstream.name, name, http2, files, live, clock)?;
            UpstreamAddress::Secure(Arc::from(server.host()), server.port(), Arc::new(tls))
        }
        Written::Socket(path) => UpstreamAddress::Socket(Arc::clone(path)),
    })
}

/// What nonces of proofs are made from: the file that is shared, or a secret of this process.
pub(super) fn proof_nonces(config: &ProxyConfig) -> Result<ProofNonces, AppError> {
    let Some(path) = &config.credentials.dpop_nonce_key else {
        return Ok(ProofNonces::new(Zeroizing::new(random::bytes::<32>()?).as_slice()));
    };
    let what = || AppError::io(format!("`credentials.dpop_nonce_key` {}", path.display()));
    let secret = Zeroizing::new(files::read(path, NONCE_KEY_BYTES_MAX).map_err(what())?);
    if secret.len() < 32 {
        return Err(what()(std::io::Error::other("expected at least 32 random bytes")));
    }
    Ok(ProofNonces::new(&secret))
}

/// The key of assertions, made at first use; `None`: none of the upstreams gets one.
pub(super) fn assertion_key(config: &ProxyConfig) -> Result<Option<Arc<AssertionKey>>, AppError> {
    if config.upstreams.values().all(|upstream| upstream.assertion.is_none()) {
        return Ok(None);
    }
    let path = config.enforcement_point.data_dir.join("assertion.key");
    let seed = Zeroizing::new(secret::key(&path)?);
    let fault =
        || AppError::io(format!("key file {}", path.display()))(std::io::ErrorKind::InvalidData.into());
    Ok(Some(Arc::new(AssertionKey::from_seed(&seed).ok_or_else(fault)?)))
}

fn assertion(
    upstream: &crate::config::Upstream,
    key: Option<&Arc<AssertionKey>>,
) -> Option<AssertionSettings> {
    let (assertion, key) = (upstream.assertion.as_ref()?, Arc::clone(key?));
    Some(AssertionSettings {
        key,
        issuer: Arc::clone(&assertion.issuer),
        audience: Arc::clone(&assertion.audience),
        lifetime: assertion.lifetime,
    })
}

fn credential(upstream: &crate::config::Upstream) -> Result<Option<Arc<UpstreamCredential>>, AppError> {
    use crate::config::UpstreamCredential as Written;
    let (form, file) = match &upstream.credential {
        None => return Ok(None),
        Some(Written::Basic(user, file)) => (CredentialForm::Basic(Arc::clone(user)), file),
        Some(Written::Header(name, file)) => (CredentialForm::Header(Arc::clone(name)), file),
    };
    Ok(Some(Arc::new(UpstreamCredential::open(&upstream.name, form, file)?)))
}

/// Whom is asked about opaque tokens, and what does the asking; `None`: nobody is.
pub(super) fn introspector(
    config: &ProxyConfig,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Option<(Arc<Introspector>, Asks)>, AppError> {
    let Some(written) = &config.introspection else { return Ok(None) };
    let client = |client: &crate::config::IntrospectionClient| IntrospectionClient {
        endpoint: Arc::clone(&client.endpoint),
        client_id: Arc::clone(&client.client_id),
        secret_file: client.client_secret_file.clone(),
    };
    let settings = IntrospectionSettings {
        clients: written.clients.iter().map(client).collect(),
        outbound: OutboundSettings {
            internal_hosts: written.internal_hosts.clone(),
            ca_file: written.ca.clone(),
            bounds: Bounds { whole: written.timeout, body_bytes_max: ANSWER_BYTES_MAX },
        },
        life: AnswerLife { active: written.active_max, refused: written.inactive_max },
        concurrent_max: written.max_concurrent,
        pause: PauseRule { after: written.pause_after, pause: written.pause },
    };
    let metrics = IntrospectionMetrics::new(metrics.registry());
    Ok(Some(Introspector::open(&settings, Arc::clone(clock), metrics)?))
}

/// Largest answer about a token, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Starts a listener's workers behind its door.
pub(super) fn serve(
    config: &ProxyConfig,
    listener: &Listener,
    (bound, load): (Bound, Arc<Load>),
    core: &Core,
    serves: &mut Vec<Serves>,
) -> Result<(Listening, Door), AppError> {
    let fault = AppError::io(format!("listener `{}`", listener.name));
    Ok(match &listener.kind {
        ListenerKind::Proxy(kind) => {
            let settings = proxy(config, (listener, kind), &core.upstreams, load, core.tracer.as_ref())?;
            let door = ProxyDoor::new(settings, Arc::clone(&core.exchanges), &core.metrics)?;
            (bound.start(&door).map_err(fault)?, Door::Proxy(door))
        }
        ListenerKind::ExtAuthz(kind) => {
            let settings = ext_authz(config, (listener, kind), load, core.tracer.as_ref())?;
            let door = ExtAuthzDoor::new(settings, Arc::clone(&core.pipeline), &core.metrics);
            serves.push(door.serves());
            (bound.start(&door).map_err(fault)?, Door::ExtAuthz(door))
        }
    })
}

/// What a proxy listener's requests are read, judged and forwarded by.
pub(super) fn proxy(
    config: &ProxyConfig,
    (listener, kind): (&Listener, &crate::config::ProxyListener),
    upstreams: &BTreeMap<Arc<str>, UpstreamSettings>,
    load: Arc<Load>,
    tracer: Option<&Arc<Tracer>>,
) -> Result<ProxySettings, AppError> {
    Ok(ProxySettings {
        listener: Arc::clone(&listener.name),
        routes: routes(listener).unwrap_or_default(),
        upstreams: upstreams.clone(),
        carriers: carriers(listener)?,
        certificates: certificates(&kind.certificates),
        forward: forward(config),
        limits: request_limits(&listener.limits),
        load,
        tracer: tracer.cloned(),
    })
}

/// What the checks of an ext_authz listener are judged by.
pub(super) fn ext_authz(
    config: &ProxyConfig,
    (listener, kind): (&Listener, &crate::config::ExtAuthzListener),
    load: Arc<Load>,
    tracer: Option<&Arc<Tracer>>,
) -> Result<ExtAuthzSettings, AppError> {
    Ok(ExtAuthzSettings {
        listener: Arc::clone(&listener.name),
        service_key: Arc::clone(&kind.service_key),
        default_tenant: Some(config.enforcement_point.tenant.clone()),
        rules: Arc::clone(&kind.rules),
        carriers: carriers(listener)?,
        takes_certificates: kind.takes_certificates,
        client_issuer: kind.client_issuer.clone(),
        forward: forward(config),
        load,
        tracer: tracer.cloned(),
        message_timeout: listener.limits.body_timeout,
    })
}

fn all_rules(config: &ProxyConfig) -> impl Iterator<Item = (String, &Arc<RouteRules>)> {
    config.listeners.iter().flat_map(|listener| match &listener.kind {
        ListenerKind::Proxy(proxy) => proxy
            .routes
            .iter()
            .filter(|route| !route.rules.anonymous)
            .map(|route| (named(listener, route), &route.rules))
            .collect::<Vec<_>>(),
        ListenerKind::ExtAuthz(door) => vec![(listener.name.to_string(), &door.rules)],
    })
}

/// What tells a route apart from the others: its listener, and whatever it matches by.
fn named(listener: &Listener, route: &crate::config::Route) -> String {
    let by = [route.methods.join(","), route.host.as_deref().unwrap_or_default().to_owned()];
    let by: String = by.iter().filter(|by| !by.is_empty()).map(|by| format!(" {by}")).collect();
    format!("{}{by}{}", listener.name, route.path.text())
}

/// What keys the table: the same after a restart, so that the last-known-good is in its order.
pub(super) fn keyer(data: &Path) -> Result<Keyer, AppError> {
    let mut key = [0; 16];
    key.copy_from_slice(&secret::key(&data.join("table.key"))?[..16]);
    Ok(Keyer::new(u128::from_le_bytes(key)))
}

/// The limits of the most lenient route.
pub(super) fn longest_staleness(config: &ProxyConfig) -> Staleness {
    let limits = || all_rules(config).map(|(_, rules)| rules.staleness);
    let waived = limits().any(|limit| limit.deny_after.is_none());
    let longest = limits().filter_map(|limit| limit.deny_after).max().unwrap_or_default();
    let warn_after = limits().map(|limit| limit.warn_after).min().unwrap_or_default();
    Staleness { warn_after, deny_after: (!waived).then_some(longest) }
}

/// The longest finite `deny_after` of any route; zero: none.
pub(super) fn deny_after_max(config: &ProxyConfig) -> Duration {
    all_rules(config).filter_map(|(_, rules)| rules.staleness.deny_after).max().unwrap_or(Duration::ZERO)
}

/// The routes whose state may be of any age.
pub(super) fn waived(config: &ProxyConfig) -> Vec<String> {
    let waived = all_rules(config).filter(|(_, rules)| rules.staleness.deny_after.is_none());
    waived.map(|(name, _)| name).collect()
}

/// How the hub is reached.
pub(super) fn dial(
    config: &ProxyConfig,
    clock: &Arc<dyn Clock>,
    jitter: u64,
) -> Result<Arc<dyn Dial>, AppError> {
    let (id, clock) = (config.enforcement_point.id.clone(), Arc::clone(clock));
    Ok(match &config.hub.access {
        HubAccess::InsecureCleartext => Arc::new(PlainDial),
        HubAccess::Files { ca, certificate, key } => {
            let files = HubFiles { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() };
            Arc::new(FilesDial::open(files, id, clock, LOOK_EVERY)?)
        }
        HubAccess::JoinToken(file) => {
            let settings = EnrolmentSettings {
                join_token_file: file.clone(),
                folder: config.enforcement_point.data_dir.join("identity"),
                spoke_id: id,
                look_every: LOOK_EVERY,
                jitter,
            };
            Arc::new(EnrolledDial::open(settings, clock)?)
        }
    })
}

pub(super) fn client(
    config: &ProxyConfig,
    incarnation: [u8; 16],
    jitter: u64,
    dial: Arc<dyn Dial>,
) -> ClientSettings {
    ClientSettings {
        dial,
        endpoints: config.hub.endpoints.iter().map(ToString::to_string).collect(),
        spoke_id: config.enforcement_point.id.to_string(),
        incarnation,
        deny_after_max: deny_after_max(config),
        waived: waived(config),
        jitter,
    }
}

/// A sink's name: stable for its target, and fit for a file name (its cursor's).
fn sink_name(sink: &Sink) -> String {
    match sink {
        Sink::File(path) => {
            let target = path.as_os_str().as_encoded_bytes();
            format!("file-{}", &blake3::hash(target).to_hex()[..16])
        }
        Sink::Stdout => "stdout".to_owned(),
    }
}

pub(super) fn open_log(
    config: &ProxyConfig,
    clock: &Arc<dyn Clock>,
    incarnation: [u8; 16],
) -> Result<Arc<SpoolLog>, AppError> {
    let random = u128::from_le_bytes(random::bytes()?);
    let point = &config.enforcement_point;
    let mut options =
        SpoolOptions::new(&point.data_dir, point.id.to_string(), incarnation, random, Arc::clone(clock));
    options.boot_id = kernel_boot_bytes();
    options.max_bytes = config.evidence.spool.max_bytes;
    options.segment_bytes = config.evidence.spool.segment_bytes;
    let budgets = config.listeners.iter().map(|l| (Arc::clone(&l.name), l.unresolved_refusals_per_s));
    options.refusals_by_listener = budgets.collect();
    options.sinks = config.evidence.sinks.iter().map(sink_name).collect();
    let (log, opened) = SpoolLog::open(options)?;
    match &opened.predecessor {
        Some(before) if !before.closed || !before.damage.is_empty() => tracing::warn!(
            log = %log.id(), before = %before.log, records = before.size, torn_bytes = before.torn_bytes,
            damaged_stretches = before.damage.len(), lost_at_most = before.lost_at_most,
            "the decision log is open; the one before did not end in order"
        ),
        _ => tracing::info!(log = %log.id(), logs_kept = opened.logs_kept, "the decision log is open"),
    }
    Ok(log)
}

/// Nobody keeps more random bytes than this.
const NONCE_KEY_BYTES_MAX: u64 = 64 * 1024;

/// How often certificates are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Starts a thread a sink.
pub(super) fn shippers(
    config: &ProxyConfig,
    log: &Arc<SpoolLog>,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Shipper>, AppError> {
    let start = |target: &Sink| {
        let options = ShipperOptions { name: sink_name(target), clock: Arc::clone(clock) };
        let sink: Box<dyn sink::Sink> = match target {
            Sink::File(path) => Box::new(FileSink::new(path)),
            Sink::Stdout => Box::new(StdoutSink),
        };
        Shipper::start(Arc::clone(log), sink, options)
    };
    Ok(config.evidence.sinks.iter().map(start).collect::<Result<_, _>>()?)
}
