//! The hub: opened, bound, then served on a runtime of its own.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::AppError;
use super::clock::HubClock;
use super::thread::Part;
use crate::admin::{Health, Readiness};
use crate::config::{Database, HubConfig, StateSecurity, Store};
use crate::core::time::Clock;
use crate::hub::store::PostgresSettings;
use crate::hub::{
    AccessSettings, GuardLimits, Hub, HubFigures, HubSettings, IssuerSettings, RetentionSettings, Scope,
    StoreSettings, StreamSecurity, StreamSettings, TlsFiles,
};
use crate::outbound::OutboundSettings;

/// Whether the hub serves health and metrics itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operations {
    /// On the address of its configuration.
    Own,
    /// Not at all: another role of the process does.
    Shared,
}

/// A running hub.
#[derive(Debug)]
pub struct Running {
    hub: Part,
    operations: Option<Part>,
}

/// Opens the store, takes the listeners and starts to serve.
///
/// # Errors
/// [`AppError`] names the part that cannot start; nothing is left running.
pub async fn start(config: &HubConfig, operations: Operations) -> Result<Running, AppError> {
    let clock: Arc<dyn Clock> = Arc::new(HubClock::default());
    super::data_folder(&config.data_dir)
        .map_err(AppError::io(format!("data folder {}", config.data_dir.display())))?;
    let hub = Hub::open(settings(config), clock)?;
    let ended = CancellationToken::new();
    let health = match operations {
        Operations::Own => Some(health(hub.figures().clone(), ended.clone()).bind(config.metrics)?),
        Operations::Shared => None,
    };
    let (tell, told) = oneshot::channel();
    let part = Part::start_wide("hub", move |stop| async move {
        // However it ends: a panic is no way to stay ready.
        let _unready = ended.drop_guard();
        let bound = match hub.bind().await {
            Ok(bound) => bound,
            // Whoever started it waits for this, or is gone.
            Err(error) => return tell.send(Err(error)).unwrap_or_default(),
        };
        tell.send(Ok(())).unwrap_or_default();
        let served = Box::pin(bound.serve(stop.cancelled_owned())).await;
        if let Err(error) = served {
            tracing::error!(%error, "the hub ended");
        }
    })?;
    told.await.map_err(|_| AppError::Ended { part: "hub".to_owned() })??;
    let operations = health.map(|server| {
        Part::start("operations", move |stop| async move {
            if let Err(error) = server.serve(stop).await {
                tracing::error!(%error, "health and metrics ended");
            }
        })
    });
    Ok(Running { hub: part, operations: operations.transpose()? })
}

pub(super) fn settings(config: &HubConfig) -> HubSettings {
    let store = match &config.store {
        Store::Sqlite(file) => StoreSettings::Sqlite(file.clone()),
        Store::Postgres(Database { connection, roots }) => {
            StoreSettings::Postgres(PostgresSettings::new(connection.clone(), roots.clone()))
        }
    };
    HubSettings {
        store,
        data_dir: config.data_dir.clone(),
        stream: config.state.address,
        api: config.api.address,
        admin_token_file: config.api.admin_token_file.clone(),
        admins: config.api.admins.iter().map(|(name, file)| (name.to_string(), file.clone())).collect(),
        guard: GuardLimits {
            count: config.guard.count,
            percent: config.guard.percent,
            window: config.guard.window,
        },
        retention: RetentionSettings { log: config.retention.log, ..RetentionSettings::default() },
        witness: config.witness.clone(),
        streams: StreamSettings::default(),
        access: access(&config.state),
        issuers: issuers(&config.issuers),
    }
}

fn issuers(config: &crate::config::Issuers) -> IssuerSettings {
    IssuerSettings {
        refresh: config.refresh,
        refetch_interval: config.refetch_interval,
        keep: config.keep,
        outbound: OutboundSettings {
            internal_hosts: config.internal_hosts.clone(),
            ca_file: config.ca.clone(),
            ..OutboundSettings::default()
        },
        ..IssuerSettings::default()
    }
}

fn access(state: &crate::config::State) -> AccessSettings {
    let files = |files: &crate::config::StateFiles| TlsFiles {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        client_ca: files.client_ca.clone(),
    };
    AccessSettings {
        security: match &state.security {
            StateSecurity::MutualTls(given) => StreamSecurity::MutualTls(given.as_ref().map(files)),
            StateSecurity::InsecureCleartext => StreamSecurity::CleartextOnLoopback,
        },
        default_scope: if state.all_tenants_by_default { Scope::All } else { Scope::none() },
        certificate_lifetime: state.certificate_lifetime,
        ..AccessSettings::default()
    }
}

fn health(figures: HubFigures, ended: CancellationToken) -> Health {
    let registry = figures.refresh().registry().clone();
    let refresh = move || {
        figures.refresh();
    };
    Health {
        readiness: Arc::new(move || {
            let ended = ended.is_cancelled();
            let detail = ended.then(|| "the hub no longer serves".to_owned());
            Readiness { ready: !ended, detail: detail.into_iter().collect() }
        }),
        refresh: Arc::new(refresh),
        registry,
        keys: None,
    }
}

impl Running {
    /// Resolves when the hub has ended, which nobody told it to.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        self.hub.ended()
    }

    /// Ends every stream and finishes open requests.
    ///
    /// # Errors
    /// [`AppError::Ended`] when a part had ended before.
    pub async fn stop(self) -> Result<(), AppError> {
        let ended = self.hub.stop().await;
        match self.operations {
            Some(operations) => ended.and(operations.stop().await),
            None => ended,
        }
    }
}
