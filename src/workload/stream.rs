//! Following one stream: open, take, and open again.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::backoff::Backoff;
use super::status::Feed;
use super::{KEPT_MAX, WorkloadClient};
use crate::core::time::BootInstant;
use crate::wire::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;

/// The client of one connection.
pub(super) type Client = SpiffeWorkloadApiClient<Channel>;

/// What one stream brings, and where that is put.
pub(super) trait Source: Send + Sync {
    /// A message: everything there is then.
    type Message: Send;

    /// Opens the stream.
    fn open(
        &self,
        client: &mut Client,
    ) -> impl Future<Output = Result<tonic::Response<Streaming<Self::Message>>, Status>> + Send;

    /// Takes a message.
    fn take(&self, message: Self::Message) -> Taken;

    /// Drops what was taken; whether there was anything.
    fn withdraw(&self) -> bool;
}

/// What became of a message.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Whether something came of it that is other than before.
    pub(super) changed: bool,
    /// Whether anything is held now.
    pub(super) holds: bool,
    /// What could not be used, and why.
    pub(super) refused: Vec<String>,
}

/// One stream that is followed.
pub(super) struct Following {
    pub(super) client: Arc<WorkloadClient>,
    pub(super) endpoint: Endpoint,
    pub(super) feed: Feed,
}

/// How a stream ended.
enum Ended {
    Told,
    Broken(String),
    /// We may have nothing of it.
    Denied(String),
    /// Asking again would be no use.
    Refused(String),
}

impl Following {
    /// Follows it until told to stop.
    pub(super) async fn run<S: Source>(self, source: S, stop: &CancellationToken) {
        let (feed, status) = (self.feed, &self.client.status);
        let mut backoff = Backoff::new(self.client.jitter.wrapping_add(feed as u64));
        let mut said = None;
        status.wanted(feed);
        loop {
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => Ended::Told,
                ended = self.once(&source, &mut backoff, &mut said) => ended,
            };
            let (error, stopped) = match ended {
                Ended::Told => return,
                Ended::Broken(error) => (error, false),
                Ended::Denied(error) => {
                    self.withdraw(&source, "the Workload API denies it");
                    (error, false)
                }
                Ended::Refused(error) => (error, true),
            };
            if stopped {
                tracing::error!(feed = feed.as_str(), error, "the Workload API is not asked for this again");
            } else {
                tracing::warn!(feed = feed.as_str(), error, "a stream of the Workload API is down");
            }
            status.failed(feed, error, stopped);
            if self.rest(&source, &mut backoff, said, stopped, stop).await {
                return;
            }
        }
    }

    /// Waits before the next attempt, or for ever; drops what was said too long ago. Whether it is over.
    async fn rest<S: Source>(
        &self,
        source: &S,
        backoff: &mut Backoff,
        said: Option<BootInstant>,
        stopped: bool,
        stop: &CancellationToken,
    ) -> bool {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return true,
                () = (self.client.pause)(backoff.next()) => {}
            }
            let silence = said.and_then(|said| self.now().since(said));
            if silence.is_some_and(|silence| silence >= KEPT_MAX) {
                self.withdraw(source, "nothing was heard of it for too long");
            }
            if !stopped {
                return false;
            }
        }
    }

    async fn once<S: Source>(
        &self,
        source: &S,
        backoff: &mut Backoff,
        said: &mut Option<BootInstant>,
    ) -> Ended {
        let opening = async {
            let channel = self.endpoint.connect().await.map_err(|error| Ended::Broken(causes(&error)))?;
            let mut client = Client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let mut stream = source.open(&mut client).await.map_err(|status| ended(&status))?.into_inner();
            let first = stream.message().await;
            Ok::<_, Ended>((stream, first))
        };
        // An agent that takes the call and is mute must not keep what was said before in force for ever.
        let (mut stream, mut next) = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(ended)) => return ended,
            Err(_) => return Ended::Broken("it did not answer in time".to_owned()),
        };
        loop {
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => return Ended::Broken("the stream has ended".to_owned()),
                Err(status) => return ended(&status),
            };
            backoff.reset();
            *said = Some(self.now());
            let taken = source.take(message);
            self.client.status.taken(self.feed, taken.holds);
            if !taken.refused.is_empty() {
                self.client.status.refuse();
            }
            for why in taken.refused {
                tracing::error!(feed = self.feed.as_str(), why, "what the Workload API says is not used");
            }
            if taken.changed {
                tracing::info!(feed = self.feed.as_str(), "the Workload API has said something new");
                self.tell();
            }
            next = stream.message().await;
        }
    }

    fn withdraw<S: Source>(&self, source: &S, why: &'static str) {
        self.client.status.withdrawn(self.feed);
        if source.withdraw() {
            tracing::error!(feed = self.feed.as_str(), why, "what the Workload API had said counts no more");
            self.tell();
        }
    }

    /// Tells whoever rests on what was said. Nothing rests on our own certificate; keys tell once they are
    /// put in the place of a record's.
    fn tell(&self) {
        if self.feed == Feed::Authorities {
            self.client.trust.moved();
            (self.client.moved)();
        }
    }

    fn now(&self) -> BootInstant {
        self.client.clock.now().boot
    }
}

/// A call with the header without which a server answers nobody: a browser cannot be made to send it.
pub(super) fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
    request
}

/// # Standard
/// SPIFFE Workload Endpoint §6, Workload API §5.
fn ended(status: &Status) -> Ended {
    let told: String = status.message().chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect();
    let text = format!("{:?}: {told}", status.code());
    match status.code() {
        Code::PermissionDenied => Ended::Denied(text),
        Code::InvalidArgument | Code::Unimplemented => Ended::Refused(text),
        _ => Ended::Broken(text),
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// How long an agent may take to open a stream and say the first of it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const SHOWN_CHARS: usize = 200;
