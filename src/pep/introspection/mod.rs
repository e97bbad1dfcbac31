//! Asking issuers about opaque tokens (RFC 7662), before a request is judged.
//!
//! An answer is remembered for a moment, a token is asked about once at a time, a server is asked so many
//! questions at once and left alone when it fails. Whatever goes wrong, there is no answer, and the
//! decision refuses. Only servers of the own configuration are asked, each with the secret that is for
//! it: what an issuer's record names beyond them is not.
//!
//! Questions run on a thread of their own ([`Asks::run`]), so that a caller who goes away takes none with
//! it. Deliberately absent: what an answer means (that is the core's), and signed answers (RFC 9701).

mod breaker;
mod endpoint;
mod memory;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::breaker::PauseRule;
use self::endpoint::{Endpoint, Told, form};
use self::memory::Answers;
use crate::core::credential::{AnswerLife, Asking, Introspect, Introspected, TokenQuestion, Verified};
use crate::core::policy::Reason;
use crate::core::time::Clock;
use crate::outbound::{Client, OutboundSettings};
use crate::telemetry::introspection::{IntrospectionMetrics, IntrospectionResult};

/// What the introspector is told.
#[derive(Clone, Debug)]
pub struct IntrospectionSettings {
    /// Whom may be asked, with whose credentials.
    pub clients: Vec<IntrospectionClient>,
    /// Where servers may be, whom to trust, and the bounds of one question.
    pub outbound: OutboundSettings,
    /// For how long answers count.
    pub life: AnswerLife,
    /// Questions to one server at once.
    pub concurrent_max: usize,
    /// When a server is left alone.
    pub pause: PauseRule,
}

/// A server that may be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntrospectionClient {
    /// Its URL, exactly as issuers' records have it.
    pub endpoint: Arc<str>,
    /// Who we are there.
    pub client_id: Arc<str>,
    /// The file of our secret there, one line.
    pub secret_file: PathBuf,
}

/// A server cannot be asked, as configured.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("introspection at `{endpoint}`: {what}")]
pub struct IntrospectionFileError {
    endpoint: Arc<str>,
    what: String,
}

/// Asks, and remembers.
pub struct Introspector {
    endpoints: BTreeMap<Arc<str>, Arc<Endpoint>>,
    answers: Answers,
    clock: Arc<dyn Clock>,
    metrics: IntrospectionMetrics,
    life: AnswerLife,
    concurrent_max: usize,
    pause: PauseRule,
    asks: mpsc::Sender<Ask>,
}

impl std::fmt::Debug for Introspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introspector").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Introspector {
    /// Reads the secrets. Blocks. What it asks, [`Asks`] does.
    ///
    /// # Errors
    /// [`IntrospectionFileError`] names the server that cannot be asked.
    pub fn open(
        settings: &IntrospectionSettings,
        clock: Arc<dyn Clock>,
        metrics: IntrospectionMetrics,
    ) -> Result<(Arc<Self>, Asks), IntrospectionFileError> {
        let open = |client: &IntrospectionClient| {
            let endpoint = Endpoint::open(client, metrics.paused(&client.endpoint))?;
            Ok((Arc::clone(&client.endpoint), Arc::new(endpoint)))
        };
        let endpoints = settings.clients.iter().map(open).collect::<Result<_, _>>()?;
        // Room for every question that may be under way.
        let room = settings.concurrent_max.saturating_mul(settings.clients.len().max(1));
        let (asks, waiting) = mpsc::channel(room);
        let introspector = Arc::new(Self {
            endpoints,
            answers: Answers::new(ENTRIES_MAX),
            clock,
            metrics,
            life: settings.life,
            concurrent_max: settings.concurrent_max,
            pause: settings.pause,
            asks,
        });
        let client = Arc::new(Client::new(&settings.outbound));
        let asks = Asks { introspector: Arc::clone(&introspector), client, waiting };
        Ok((introspector, asks))
    }

    /// Forgets the tokens that `gone` names, and says how many.
    pub fn purge(&self, gone: impl Fn(&Verified) -> bool) -> usize {
        self.answers.purge(gone)
    }

    /// Takes over secrets that have changed. Blocks.
    pub fn look(&self) {
        self.endpoints.values().for_each(|endpoint| endpoint.look());
    }

    fn begin(&self, question: &TokenQuestion<'_>) -> Begun {
        let now = self.clock.now().boot;
        let refused = |reason| Begun::Over(question.unanswered(reason, now));
        let Some(endpoint) = self.endpoints.get(question.endpoint()) else {
            return refused(Reason::IntrospectionUnconfigured);
        };
        let unanswered = question.unanswered(Reason::IntrospectionFailed, now);
        let mut state = endpoint.state.lock();
        if let Some(told) = state.flights.get(question.key()) {
            return Begun::Asking(told.clone(), unanswered);
        }
        // Another question about it may have ended since this was looked up.
        let held = self.answers.lookup(question.key(), now).filter(|answer| now < answer.renew());
        if let Some(answer) = held {
            return Begun::Over(answer);
        }
        // A part of the places is kept for tokens that were good a moment ago: made-up ones must not end
        // what those have open.
        let is_known = self.answers.last(question.key()).is_some_and(|last| last.said().is_ok());
        let places =
            if is_known { self.concurrent_max } else { self.concurrent_max - self.concurrent_max / 4 };
        if state.flights.len() >= places {
            return refused(Reason::Overloaded);
        }
        if !state.breaker.admits(now) {
            return refused(Reason::IntrospectionPaused);
        }
        let (tell, told) = watch::channel(None);
        state.flights.insert(*question.key(), told.clone());
        drop(state);
        let ask = Ask { asking: question.asking(), endpoint: Arc::clone(endpoint), tell };
        if self.asks.try_send(ask).is_err() {
            // Nobody asks any more: this process is about to end.
            endpoint.ended(question.key(), false, now, self.pause);
        }
        Begun::Asking(told, unanswered)
    }
}

impl Introspect for Introspector {
    fn remembered(&self, question: &TokenQuestion<'_>) -> Option<Introspected> {
        let found = self.answers.lookup(question.key(), self.clock.now().boot);
        let counter = if found.is_some() { &self.metrics.hits } else { &self.metrics.misses };
        counter.inc();
        found
    }

    fn last(&self, question: &TokenQuestion<'_>) -> Option<Introspected> {
        self.answers.last(question.key())
    }

    fn ask(&self, question: &TokenQuestion<'_>) -> Pin<Box<dyn Future<Output = Introspected> + Send>> {
        let begun = self.begin(question);
        Box::pin(async move {
            match begun {
                Begun::Over(answer) => answer,
                Begun::Asking(mut told, unanswered) => {
                    let answer = told.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
                    answer.unwrap_or(unanswered)
                }
            }
        })
    }
}

/// What becomes of a question.
enum Begun {
    /// There is an answer, or none will come.
    Over(Introspected),
    /// It is under way; the second is what counts if it comes to nothing.
    Asking(Told, Introspected),
}

/// A question under way, and where its answer goes.
struct Ask {
    asking: Asking,
    endpoint: Arc<Endpoint>,
    tell: watch::Sender<Option<Introspected>>,
}

/// Does the asking of an [`Introspector`].
pub struct Asks {
    introspector: Arc<Introspector>,
    client: Arc<Client>,
    waiting: mpsc::Receiver<Ask>,
}

impl std::fmt::Debug for Asks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asks").finish_non_exhaustive()
    }
}

impl Asks {
    /// Asks, and looks after the files of secrets, until told to stop. What is under way then has no answer.
    pub async fn run(mut self, stop: CancellationToken) {
        // As many as the servers' bounds allow, and no more.
        let mut under_way = JoinSet::new();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(_) = under_way.join_next() => {}
                Some(ask) = self.waiting.recv() => {
                    under_way.spawn(one(Arc::clone(&self.introspector), Arc::clone(&self.client), ask));
                }
                _ = looks.tick() => self.introspector.look(),
            }
        }
    }
}

/// One question and its end, whatever that is.
async fn one(introspector: Arc<Introspector>, client: Arc<Client>, ask: Ask) {
    let Ask { asking, endpoint, tell } = ask;
    // An answer is as old as its question.
    let (asked, begun) = (introspector.clock.now(), Instant::now());
    let posting = async {
        let form = form(asking.token());
        let answer = client.post_form(&endpoint.target, endpoint.authorization(), form).await;
        let answer = answer.map_err(|error| error.to_string())?;
        asking.read(&answer.body, asked, introspector.life).map_err(|error| error.to_string())
    };
    // Whatever happens, the question has an end: else its token and its place would be lost.
    let found = AssertUnwindSafe(posting).catch_unwind().await;
    let found = found.unwrap_or_else(|_| Err("a fault of ours".to_owned()));
    let now = introspector.clock.now().boot;
    let (answered, result) = match &found {
        Ok(answer) => (true, result(answer)),
        Err(error) => {
            let (issuer, endpoint) = (asking.issuer(), &*endpoint.url);
            tracing::warn!(%issuer, endpoint, %error, "an issuer said nothing of an opaque token");
            (false, IntrospectionResult::Failed)
        }
    };
    introspector.metrics.asked(result, begun.elapsed().as_secs_f64());
    let failed = || Introspected::unanswered(&asking, Reason::IntrospectionFailed, now);
    // Remembered before it is under way no more: whoever comes now finds the one or the other.
    let answer = found.inspect(|answer| introspector.answers.store(answer)).unwrap_or_else(|_| failed());
    endpoint.ended(asking.key(), answered, now, introspector.pause);
    tell.send_replace(Some(answer));
}

fn result(answer: &Introspected) -> IntrospectionResult {
    match answer.said() {
        Ok(_) => IntrospectionResult::Active,
        Err(Reason::CredentialInactive) => IntrospectionResult::Inactive,
        Err(_) => IntrospectionResult::Refused,
    }
}

/// How often files of secrets are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Answers kept of each kind; some 50 MiB of both at most.
const ENTRIES_MAX: u64 = 50_000;
