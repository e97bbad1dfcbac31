//! Staying connected to a hub: one stream at a time, the next endpoint after a failure.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::core::time::Clock;
use crate::state::applier::Applier;
use crate::state::session::{self, SessionError};
use crate::state::status::StateStatus;

/// What the client needs to know.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Hubs, tried in turn.
    pub endpoints: Vec<String>,
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

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the state current until `stop` is cancelled.
pub async fn run(
    settings: ClientSettings,
    mut applier: Applier,
    status: Arc<StateStatus>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut jitter = Jitter(settings.jitter | 1);
    let mut wait = BACKOFF_MIN;
    for endpoint in settings.endpoints.iter().cycle() {
        status.trying(endpoint);
        let before = status.connections();
        let ended = match connect(endpoint).await {
            Ok(channel) => {
                let mut session = session::Session {
                    settings: &settings,
                    applier: &mut applier,
                    status: &status,
                    clock: &*clock,
                };
                session.run(channel, &stop).await
            }
            Err(error) => Err(error),
        };
        if stop.is_cancelled() {
            break;
        }
        let refused = ended.as_ref().is_err_and(SessionError::is_alarm);
        let began_anew = status.connections() > before && !refused;
        status.lost(ended.as_ref().err().map(ToString::to_string));
        match ended {
            Ok(()) => tracing::info!(hub = %endpoint, "the hub ended the state stream"),
            Err(error) if error.is_alarm() => {
                tracing::error!(hub = %endpoint, %error, "the hub's state is refused; the last good state stays");
            }
            Err(error) => tracing::warn!(hub = %endpoint, %error, "no state stream; the state is ageing"),
        }
        // A fleet loses its hub at one instant, so the first wait is spread too; and a hub that only
        // says what is refused is no sooner right for being asked more often.
        wait = jitter.next(if began_anew { BACKOFF_MIN } else { wait });
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    status.lost(None);
}

async fn connect(endpoint: &str) -> Result<Channel, SessionError> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|e| SessionError::transport(&e))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(|e| SessionError::transport(&e))
}

/// Decorrelated jitter: spreads the reconnections of a fleet.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    fn next(&mut self, before: Duration) -> Duration {
        // xorshift64: no more is asked of it than to differ between processes.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let spread = before.min(BACKOFF_MAX).as_nanos() * 3 - BACKOFF_MIN.as_nanos() + 1;
        let over = u64::try_from(u128::from(self.0) % spread).unwrap_or(0);
        (BACKOFF_MIN + Duration::from_nanos(over)).min(BACKOFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_stays_within_its_bounds() {
        let mut jitter = Jitter(7);
        let mut wait = BACKOFF_MIN;
        for _ in 0..1000 {
            wait = jitter.next(wait);
            assert!((BACKOFF_MIN..=BACKOFF_MAX).contains(&wait), "{wait:?}");
        }
    }
}
