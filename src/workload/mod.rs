//! The SPIFFE Workload API, as a client: a certificate of one's own, authorities and keys of trust domains.
//!
//! Each stream is followed by itself. A message is everything there is then: what it lacks is
//! withdrawn. A stream that breaks withdraws nothing, for [`KEPT_MAX`]; an answer that denies
//! withdraws all. What is taken is put where TLS and decisions read it; whoever rests on it is told.
//!
//! Deliberately absent: looking for a socket, asking for JWT-SVIDs of one's own, and lists of revoked
//! certificates.
//!
//! # Standard
//! SPIFFE Workload Endpoint §3 to §6, Workload API §4 and §5.

mod backoff;
mod keys;
mod source;
mod status;
mod stream;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::core::identity::{LocalTrust, SnapshotCell};
use crate::core::time::Clock;
use crate::mtls::{LiveBundles, LiveIdentity};
pub use keys::JwtBundles;
use source::{Authorities, Identity, Keys};
pub use status::{Feed, WorkloadStatus};

/// How long counts what was last said, once a stream has broken.
pub const KEPT_MAX: Duration = Duration::from_secs(86_400);

/// Waits; the time is the caller's.
pub type Pause = Arc<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What is wanted of the Workload API: each is `None` where nothing needs it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// This workload's own certificate.
    pub identity: Option<Arc<LiveIdentity>>,
    /// Authorities of trust domains.
    pub authorities: Option<Arc<LiveBundles>>,
    /// Keys of trust domains.
    pub keys: Option<Arc<JwtBundles>>,
}

/// What the client needs.
pub struct WorkloadClient {
    /// `unix:///path` or `http://ip:port`.
    pub endpoint: String,
    /// What is wanted.
    pub wanted: Wanted,
    /// Where keys are put.
    pub trust: Arc<LocalTrust>,
    /// The state that says which issuers there are.
    pub state: Arc<SnapshotCell>,
    /// What operators see.
    pub status: Arc<WorkloadStatus>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Called after something that is trusted has changed: whatever rests on it is to be judged again.
    pub moved: Arc<dyn Fn() + Send + Sync>,
    /// Waits between attempts.
    pub pause: Pause,
    /// Seed of the wait's jitter.
    pub jitter: u64,
}

impl fmt::Debug for WorkloadClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadClient").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl WorkloadClient {
    /// Whether `endpoint` is one that can be asked.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(endpoint: &str) -> Result<(), String> {
        dialled(endpoint).map(drop)
    }

    /// Follows every stream that is wanted until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let endpoint = match dialled(&self.endpoint) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                tracing::error!(why, "the Workload API cannot be asked");
                return stop.cancelled().await;
            }
        };
        let client = Arc::new(self);
        let follow =
            |feed| stream::Following { client: Arc::clone(&client), endpoint: endpoint.clone(), feed };
        let wanted = client.wanted.clone();
        let identity = async {
            if let Some(held) = wanted.identity {
                follow(Feed::Identity).run(Identity::new(held), &stop).await;
            }
        };
        let authorities = async {
            if let Some(held) = wanted.authorities {
                follow(Feed::Authorities).run(Authorities::new(held), &stop).await;
            }
        };
        let kept = wanted.keys.clone();
        let keys = async {
            if let Some(held) = wanted.keys {
                follow(Feed::Keys).run(Keys(held), &stop).await;
            }
        };
        let put = async {
            if let Some(held) = kept {
                keys::keep(&held, &client, &stop).await;
            }
        };
        tokio::join!(identity, authorities, keys, put);
    }
}

fn dialled(endpoint: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| error.to_string())?;
    let alive = endpoint.http2_keep_alive_interval(KEEPALIVE_INTERVAL).keep_alive_while_idle(true);
    Ok(alive.keep_alive_timeout(KEEPALIVE_TIMEOUT).connect_timeout(CONNECT_TIMEOUT))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
