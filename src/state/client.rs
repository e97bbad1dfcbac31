//! Staying connected to a hub: one stream at a time, the next endpoint after a failure.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::core::time::{Clock, Timestamp};
use crate::state::applier::Applier;
use crate::state::missing::ReportQueue;
use crate::state::session::{self, SessionError};
use crate::state::status::StateStatus;
use crate::state::{drift, urgent};
use crate::wire::state_proto as proto;

/// Opens connections to a hub.
pub trait Dial: Send + Sync + std::fmt::Debug {
    /// Opens one connection of its own to `endpoint`.
    ///
    /// # Errors
    /// Says for people why there is none.
    fn dial<'a>(&'a self, endpoint: &'a str) -> Dialled<'a>;

    /// Keeps what connections are opened with: reads files again, renews certificates at one of
    /// `endpoints`. Never ends.
    fn keep<'a>(&'a self, endpoints: &'a [String]) -> Kept<'a> {
        let _ = endpoints;
        Box::pin(std::future::pending())
    }

    /// From when until when the certificate is good that the hub is shown; `None`: there is none.
    fn validity(&self) -> Option<Validity> {
        None
    }

    /// Whether its files are others than those in use, and cannot be used.
    fn is_refused(&self) -> bool {
        false
    }

    /// The cluster and the keys of its hub, where they are known from joining it.
    fn pins(&self) -> Option<Pins> {
        None
    }
}

/// From when until when a certificate is good.
pub type Validity = (Timestamp, Timestamp);

/// What joining a cluster told of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Pins {
    /// The cluster, 16 bytes.
    pub cluster_id: Bytes,
    /// What its hubs sign state with.
    pub signing_keys: Vec<proto::SigningKey>,
}

/// Whatever keeps connections possible, while it runs.
pub type Kept<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A connection being opened.
pub type Dialled<'a> = Pin<Box<dyn Future<Output = Result<Channel, String>> + Send + 'a>>;

/// What the client needs to know.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Hubs, tried in turn.
    pub endpoints: Vec<String>,
    /// How each is reached.
    pub dial: Arc<dyn Dial>,
    /// This enforcement point's name.
    pub spoke_id: String,
    /// Random, one a process start.
    pub incarnation: [u8; 16],
    /// Longest finite `deny_after` of any route; zero: none.
    pub deny_after_max: Duration,
    /// Routes that are never stale, as `listener/route`.
    pub waived: Vec<String>,
    /// Seed for the back-off's jitter.
    pub jitter: u64,
}

/// Cells that wait to be mended.
const MENDS_MAX: usize = 16;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the state current until `stop` is cancelled.
pub async fn run(
    settings: ClientSettings,
    applier: Applier,
    status: Arc<StateStatus>,
    clock: Arc<dyn Clock>,
    reports: ReportQueue,
    stop: CancellationToken,
) {
    let receipt_key = match Ed25519KeyPair::generate() {
        Ok(key) => key,
        Err(_) => {
            tracing::error!("no key for receipts can be made: the state will not be fetched");
            return stop.cancelled().await;
        }
    };
    let applier = Mutex::new(applier);
    let (hub, at_hub) = watch::channel(None);
    let (came, kills) = watch::channel(0);
    let (mend, mended) = mpsc::channel(MENDS_MAX);
    let lane =
        urgent::Lane { settings: &settings, applier: &applier, status: &status, hub: at_hub, came: &came };
    let session = session::Session {
        settings: &settings,
        applier: &applier,
        status: &status,
        clock: &*clock,
        receipt_key: &receipt_key,
        hub,
        kills,
        mend: mended,
        reports,
        scope_version: 0,
    };
    // The ordered stream ends in its own way when told to; the others are simply left.
    tokio::select! {
        biased;
        () = follow(session, &stop) => {}
        () = lane.run() => {}
        () = drift::watch(&applier, &status, &mend) => {}
        () = settings.dial.keep(&settings.endpoints) => {}
    }
    status.urgent(false);
    status.lost(None);
}

/// Keeps an ordered stream open to one of the hubs.
async fn follow(mut session: session::Session<'_>, stop: &CancellationToken) {
    let status = session.status;
    let mut backoff = Backoff::new(session.settings.jitter);
    for endpoint in session.settings.endpoints.iter().cycle() {
        status.trying(endpoint);
        let before = status.connections();
        let ended = match session.settings.dial.dial(endpoint).await.map_err(SessionError::Transport) {
            Ok(channel) => match session.pin().await {
                Ok(()) => session.run(endpoint, channel, stop).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        session.hub.send_replace(None);
        if stop.is_cancelled() {
            break;
        }
        let welcomed = status.connections() > before;
        let refused = ended.as_ref().is_err_and(SessionError::is_alarm);
        status.lost(ended.as_ref().err().map(ToString::to_string));
        match ended {
            Ok(()) => tracing::info!(hub = %endpoint, "the hub ended the state stream"),
            Err(error) if error.is_alarm() => {
                tracing::error!(hub = %endpoint, %error, "the hub's state is refused; the last good state stays");
            }
            Err(error) => tracing::warn!(hub = %endpoint, %error, "no state stream; the state is ageing"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(backoff.after(welcomed, refused)) => {}
        }
    }
}

/// Dials over TCP in clear: on loopback only.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainDial;

impl Dial for PlainDial {
    fn dial<'a>(&'a self, endpoint: &'a str) -> Dialled<'a> {
        Box::pin(async move {
            let endpoint = tuned(endpoint)?;
            endpoint.connect().await.map_err(|e| causes(&e))
        })
    }
}

/// An endpoint with the time-outs of every connection to a hub.
///
/// # Errors
/// Says what is wrong with the URL.
pub fn tuned(endpoint: &str) -> Result<Endpoint, String> {
    Ok(Endpoint::from_shared(endpoint.to_owned())
        .map_err(|e| causes(&e))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

/// What went wrong, with what was behind it.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// How long to wait before the next try: decorrelated jitter, so that a fleet that lost its hub
/// at one instant does not come back at one.
#[derive(Debug)]
pub(super) struct Backoff {
    state: u64,
    wait: Duration,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed | 1, wait: BACKOFF_MIN }
    }

    /// The wait after a stream that was `welcomed` or not, and ended because what the hub said was
    /// `refused` or not. A welcome begins anew; a hub that only says what is refused is no sooner
    /// right for being asked more often.
    pub(super) fn after(&mut self, welcomed: bool, refused: bool) -> Duration {
        // xorshift64: no more is asked of it than to differ between processes.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let before = if welcomed && !refused { BACKOFF_MIN } else { self.wait };
        let spread = before.as_nanos() * 3 - BACKOFF_MIN.as_nanos() + 1;
        let over = u64::try_from(u128::from(self.state) % spread).unwrap_or(0);
        self.wait = (BACKOFF_MIN + Duration::from_nanos(over)).min(BACKOFF_MAX);
        self.wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(seed: u64, welcomed: bool, refused: bool) -> Duration {
        let mut backoff = Backoff::new(seed);
        let waits: Vec<_> = (0..30).map(|_| backoff.after(welcomed, refused)).collect();
        assert!(waits.iter().all(|wait| (BACKOFF_MIN..=BACKOFF_MAX).contains(wait)), "{waits:?}");
        waits.iter().sum()
    }

    #[test]
    fn only_an_accepted_welcome_begins_anew() {
        for seed in 0..50 {
            let anew = BACKOFF_MIN * 3 * 30;
            assert!(total(seed, true, false) <= anew, "a fleet comes back soon, seed {seed}");
            assert!(total(seed, true, true) > anew, "what is refused makes no storm, seed {seed}");
            assert!(total(seed, false, false) > anew, "nor does a hub that is away, seed {seed}");
        }
    }

    #[test]
    fn the_first_wait_differs_between_processes() {
        let first: std::collections::BTreeSet<_> =
            (1..50).map(|n| Backoff::new(n * 2).after(true, false)).collect();
        assert!(first.len() > 40, "{first:?}");
    }
}
