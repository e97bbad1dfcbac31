//! A hub: the real one, over a store in memory, on a machine of the world.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use portreeve::core::id::Name;
use portreeve::hub::{
    AccessSettings, GuardLimits, Hub, HubSettings, IssuerSettings, RetentionSettings, Scope, StoreSettings,
    StreamSecurity, StreamSettings,
};
use serde_json::Value;
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt as _;

use super::host::{Host, HostClock, Us};
use super::net::{HostId, Net};
use super::random::Random;
use super::store::{Disk, Told, Trouble};

/// A hub.
pub(crate) struct HubHost {
    pub(crate) place: HostId,
    pub(crate) host: Host,
    pub(crate) disk: Disk,
    pub(crate) trouble: Arc<Mutex<Trouble>>,
    pub(crate) answers: Arc<Mutex<Vec<Answer>>>,
    pub(crate) streams: StreamSettings,
    folder: PathBuf,
    api: Option<axum::Router>,
    seed: Random,
}

/// What the API said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) asked: Asked,
    pub(crate) at: Us,
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// What it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// A change.
    Change,
    /// The receipts of a revision, as of a lineage of the store.
    Receipts { revision: u64, lineage: u32 },
    /// The scope of an enforcement point: all, or all without one tenant.
    Scope { edge: String, without: Option<Name> },
}

const TOKEN: &str = "prt_admin_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

impl HubHost {
    pub(crate) fn new(
        place: HostId,
        clock: Arc<HostClock>,
        folder: &Path,
        disk: Disk,
        streams: StreamSettings,
        seed: Random,
    ) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        write_private(&folder.join("admin.token"), TOKEN.as_bytes());
        // One key for all hubs of the cluster, and for all worlds.
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap().to_pkcs8().unwrap();
        write_private(&folder.join("cluster.key"), key.as_ref());
        Self {
            place,
            host: Host::new(clock),
            disk,
            trouble: Arc::default(),
            answers: Arc::default(),
            streams,
            folder: folder.to_owned(),
            api: None,
            seed,
        }
    }

    /// Starts a process over what is on its disk.
    ///
    /// # Errors
    /// Says why the hub does not serve.
    pub(crate) fn start(&mut self, net: &Net, told: Told) -> Result<(), String> {
        let seed = self.seed.next();
        let clock = Arc::clone(&self.host.clock);
        let store = self.disk.open(clock.clone(), Arc::clone(&self.trouble), seed, told);
        let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = HubSettings {
            store: StoreSettings::Sqlite(self.folder.join("hub.db")),
            data_dir: self.folder.clone(),
            stream: local,
            api: local,
            admin_token_file: self.folder.join("admin.token"),
            streams: self.streams.clone(),
            witness: self.folder.join("hub.witness"),
            admins: Vec::new(),
            // Nothing is held: an approval would only be one more change.
            guard: GuardLimits { count: u32::MAX, percent: 100, ..GuardLimits::default() },
            retention: RetentionSettings {
                log: Duration::from_secs(8),
                past_end: Duration::from_secs(2),
                look_every: Duration::from_secs(3),
            },
            access: AccessSettings {
                security: StreamSecurity::CleartextOnLoopback,
                default_scope: Scope::All,
                ..AccessSettings::default()
            },
            issuers: IssuerSettings::default(),
        };
        let hub = Hub::over(Arc::new(store), settings, clock).map_err(|e| e.to_string())?;
        self.api = Some(hub.api());
        let incoming = ReceiverStream::new(net.listen(self.place));
        let runtime = self.host.start();
        runtime.spawn(async move {
            hub.serve_streams(incoming, std::future::pending()).await.ok();
        });
        Ok(())
    }

    pub(crate) fn kill(&mut self, net: &Net) {
        net.unlisten(self.place);
        self.api = None;
        self.host.kill();
    }

    /// Removes what lies beside the keys: whatever would tell of an older store.
    pub(crate) fn forget_witness(&self) {
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            let keeps = ["admin.token", "cluster.key"].iter().any(|name| path.ends_with(name));
            if !keeps && path.is_file() {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    /// Asks the API; the answer comes when the hub has it.
    pub(crate) fn ask(&self, asked: Asked, method: &str, path: &str, body: Option<Value>) {
        let (Some(api), Some(runtime)) = (self.api.clone(), self.host.runtime()) else { return };
        let body = axum::body::Body::from(body.map(|body| body.to_string()).unwrap_or_default());
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(body)
            .unwrap();
        let (answers, clock) = (Arc::clone(&self.answers), Arc::clone(&self.host.clock));
        runtime.spawn(async move {
            let Ok(answer) = api.oneshot(request).await;
            let status = answer.status().as_u16();
            let bytes = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            answers.lock().push(Answer { asked, at: clock.true_now(), status, body });
        });
    }
}

fn write_private(file: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut made =
        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(file).unwrap();
    made.write_all(bytes).unwrap();
}
