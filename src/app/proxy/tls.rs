//! TLS of listeners, and the files of certificates: opened, watched, counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::settings::LOOK_EVERY;
use super::{Core, Part, ProxyConfig, Workload};
use crate::app::AppError;
use crate::app::certificates::{Certificates, Place};
use crate::config::{Authorities, Listener, ListenerKind};
use crate::core::time::Clock;
use crate::mtls::{DomainTrust, WallClock};
use crate::pep::{
    CertificateFiles, ClientAuthorities, ClientCertificates, ListenerTls, TlsSettings, TlsVersion,
    UpstreamAddress, UpstreamSettings,
};

/// TLS of listeners, by name.
pub(super) type Tls = BTreeMap<Arc<str>, Arc<ListenerTls>>;

/// Reads the files of every listener that has TLS.
pub(super) fn open(
    config: &ProxyConfig,
    clock: &Arc<dyn Clock>,
    workload: &Workload,
) -> Result<Tls, AppError> {
    let settings = |listener| settings(listener, clock, workload);
    let with_tls = config.listeners.iter().filter_map(|listener| Some((listener, settings(listener)?)));
    let opened = with_tls.map(|(listener, settings)| {
        let tls = ListenerTls::open(&listener.name, settings, Arc::clone(clock))?;
        Ok((Arc::clone(&listener.name), Arc::new(tls)))
    });
    opened.collect()
}

fn settings(listener: &Listener, clock: &Arc<dyn Clock>, workload: &Workload) -> Option<TlsSettings> {
    let ListenerKind::Proxy(proxy) = &listener.kind else { return None };
    let tls = proxy.tls.as_ref()?;
    let files = |files: &crate::config::Certificate| CertificateFiles {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        default: files.default,
    };
    let clients = tls.clients.as_ref().map(|clients| {
        let mode = if clients.required { ClientCertificates::Required } else { ClientCertificates::Optional };
        let authorities = match &clients.ca {
            Authorities::File(path) => ClientAuthorities::File(path.clone()),
            Authorities::WorkloadApi(domain) => {
                let clock = WallClock::new(Arc::clone(clock));
                ClientAuthorities::Live(DomainTrust::new(workload.authorities(), Arc::clone(domain), clock))
            }
        };
        (authorities, mode)
    });
    let version_min = if tls.tls13_only { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
    let certificates = tls.certificates.iter().map(files).collect();
    let identity = tls.from_workload_api.then(|| workload.identity());
    Some(TlsSettings { certificates, identity, clients, version_min })
}

/// Every place where this process shows a certificate.
pub(super) fn places(core: &Core, tls: &Tls) -> Vec<Place> {
    let mut places = Vec::new();
    for (name, tls) in tls {
        let (good, bad) = (Arc::clone(tls), Arc::clone(tls));
        places.push(Place {
            kind: "listener",
            name: Arc::clone(name),
            validity: Box::new(move || good.validity()),
            refused: Box::new(move || bad.is_refused()),
        });
    }
    for (name, upstream) in &core.upstreams {
        let UpstreamAddress::Secure(_, _, tls) = &upstream.address else { continue };
        if !tls.shows_certificate() {
            continue;
        }
        let (good, bad) = (Arc::clone(tls), Arc::clone(tls));
        places.push(Place {
            kind: "upstream",
            name: Arc::clone(name),
            validity: Box::new(move || good.validity()),
            refused: Box::new(move || bad.is_refused()),
        });
    }
    let (good, bad) = (Arc::clone(&core.dial), Arc::clone(&core.dial));
    places.push(Place {
        kind: "hub",
        name: "hub".into(),
        validity: Box::new(move || good.validity()),
        refused: Box::new(move || bad.is_refused()),
    });
    places
}

/// Counts them.
pub(super) fn certificates(core: &Core, tls: &Tls) -> Result<Arc<Certificates>, AppError> {
    let registered = Certificates::register(core.metrics.registry(), places(core, tls));
    Ok(Arc::new(registered.map_err(|error| AppError::io("metrics")(std::io::Error::other(error)))?))
}

/// Upstreams whose files are looked at; a reload puts others in their place.
pub(super) type WithFiles = Arc<ArcSwap<Vec<UpstreamSettings>>>;

/// Those of `upstreams` that have files.
pub(super) fn with_files(upstreams: &BTreeMap<Arc<str>, UpstreamSettings>) -> Vec<UpstreamSettings> {
    upstreams.values().filter(|upstream| upstream.has_files()).cloned().collect()
}

/// Looks at the files of listeners and upstreams for as long as it runs.
pub(super) fn watch(
    core: &Core,
    tls: &Tls,
    upstreams: WithFiles,
    certificates: Arc<Certificates>,
) -> Result<Part, AppError> {
    let listeners: Vec<_> = tls.values().cloned().collect();
    let clock = Arc::clone(&core.condition.clock);
    Part::start("files", move |stop| async move {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = looks.tick() => {
                    listeners.iter().for_each(|tls| tls.look());
                    upstreams.load_full().iter().for_each(UpstreamSettings::look);
                    certificates.warn(clock.now().wall);
                }
            }
        }
    })
}
