//! One connection, and the pool of them.

use std::cell::Cell;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio_postgres::error::Severity;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::fault::{PlaceFaults, SqlError};
use super::wait::wait;
use crate::hub::store::{FaultKind, StoreFault};

/// A parameter and its type: statements are sent whole, in one round trip, and nothing of them is kept.
pub(super) type Given<'a> = (&'a (dyn ToSql + Sync), Type);

/// One connection.
pub(super) struct Session {
    client: Client,
    warnings: Arc<AtomicU64>,
    tls: Option<MakeRustlsConnect>,
    runtime: Handle,
    /// How long the next statements may take.
    pub(super) bound: Cell<Duration>,
    /// Whether a statement failed only because of what others did at the same time.
    pub(super) collided: Cell<bool>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// The rows of one statement.
    pub(super) fn rows(&self, sql: &str, given: &[Given<'_>]) -> Result<Vec<Row>, SqlError> {
        self.settle(self.client.query_typed(sql, given))
    }

    /// Several statements sent at once, run in order; the first that fails stands for all.
    pub(super) fn all(&self, statements: &[(&str, &[Given<'_>])]) -> Result<Vec<Vec<Row>>, SqlError> {
        let each = statements.iter().map(|(sql, given)| self.client.query_typed(sql, given));
        self.settle(try_join_all(each))
    }

    /// Statements without parameters or rows.
    pub(super) fn run(&self, sql: &str) -> Result<(), SqlError> {
        self.settle(self.client.batch_execute(sql))
    }

    fn settle<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, SqlError> {
        let done = wait(work, self.bound.get()).ok_or(SqlError::Late)?.map_err(SqlError::Told);
        if let Err(error) = &done
            && error.is_collision()
        {
            self.collided.set(true);
        }
        done
    }

    /// Ends a transaction. `Ok(false)`: it is done here, and a standby did not confirm it.
    ///
    /// # Errors
    /// Nobody knows whether it is done, unless the server itself answered.
    pub(super) fn commit(&self) -> Result<bool, SqlError> {
        let before = self.warnings();
        match self.run("COMMIT") {
            Err(SqlError::Late) => {
                // A commit that waits for a standby ends with a warning when it is cancelled.
                self.cancel();
                self.bound.set(AFTER_CANCEL);
                self.run("SELECT 1")?;
                // It was answered, and so was what stood before it; how, is not known any more.
                Err(SqlError::Late)
            }
            other => other.map(|()| self.warnings() == before),
        }
    }

    /// The rows of one statement that is a transaction of its own, and whether it was confirmed.
    pub(super) fn confirmed(&self, sql: &str, given: &[Given<'_>]) -> Result<(Vec<Row>, bool), SqlError> {
        let before = self.warnings();
        match self.rows(sql, given) {
            Err(SqlError::Late) => {
                self.cancel();
                Err(SqlError::Late)
            }
            other => other.map(|rows| (rows, self.warnings() == before)),
        }
    }

    /// Warnings so far. A server warns of a commit that no standby confirmed, in whatever language.
    fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::SeqCst)
    }

    /// Has the server give up what it does for this connection.
    fn cancel(&self) {
        let token = self.client.cancel_token();
        match self.tls.clone() {
            Some(tls) => drop(self.runtime.spawn(async move { token.cancel_query(tls).await })),
            None => drop(self.runtime.spawn(async move { token.cancel_query(NoTls).await })),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) connection: tokio_postgres::Config,
    pub(super) tls: Option<MakeRustlsConnect>,
    /// How long the server may take for one statement.
    pub(super) statement_max: Duration,
    pub(super) runtime: Handle,
    pub(super) faults: PlaceFaults,
    /// Told when another process says that it committed.
    pub(super) hints: Arc<Hints>,
}

impl Dial {
    /// One more connection.
    pub(super) fn session(&self) -> Result<Session, StoreFault> {
        let warnings = Arc::new(AtomicU64::new(0));
        let client = match self.tls.clone() {
            Some(tls) => self.open(tls, &warnings),
            None => self.open(NoTls, &warnings),
        };
        let client = client.map_err(|e| self.faults.sql("connect", &e))?;
        let (tls, runtime) = (self.tls.clone(), self.runtime.clone());
        let session = Session {
            client,
            warnings,
            tls,
            runtime,
            bound: Cell::new(self.bound()),
            collided: Cell::new(false),
        };
        session.run(&self.session_settings()).map_err(|e| self.faults.sql("connect", &e))?;
        Ok(session)
    }

    /// How long one statement may take; the server gives up before that.
    const fn bound(&self) -> Duration {
        self.statement_max.saturating_add(ON_THE_WAY)
    }

    /// What every connection is set to. A commit is acknowledged when it is durable, whatever the
    /// server's default; a connection whose hub went silent gives up the row that orders commits.
    fn session_settings(&self) -> String {
        let statement = self.statement_max.as_millis();
        let silent = statement * 2;
        format!(
            "SET statement_timeout = {statement}; SET lock_timeout = {statement};
             SET idle_in_transaction_session_timeout = {silent}; SET synchronous_commit = on"
        )
    }

    fn open<T>(&self, tls: T, warnings: &Arc<AtomicU64>) -> Result<Client, SqlError>
    where
        T: MakeTlsConnect<Socket> + Send + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as tokio_postgres::tls::TlsConnect<Socket>>::Future: Send,
    {
        let connection = self.connection.clone();
        let (warnings, hints) = (Arc::clone(warnings), Arc::clone(&self.hints));
        let runtime = self.runtime.clone();
        let opening = self.runtime.spawn(async move {
            let (client, connection) = connection.connect(tls).await?;
            runtime.spawn(drive(connection, warnings, hints));
            Ok(client)
        });
        match wait(opening, self.bound()) {
            Some(Ok(opened)) => opened.map_err(SqlError::Told),
            // The runtime is ending.
            Some(Err(_)) | None => Err(SqlError::Late),
        }
    }
}

/// Drives a connection to its end, and notes what the server says unasked.
async fn drive<S>(mut connection: Connection<Socket, S>, warnings: Arc<AtomicU64>, hints: Arc<Hints>)
where
    S: tokio_postgres::tls::TlsStream + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            AsyncMessage::Notice(notice) if notice.parsed_severity() == Some(Severity::Warning) => {
                warnings.fetch_add(1, Ordering::SeqCst);
                tracing::warn!(warning = notice.message(), "the database warns");
            }
            AsyncMessage::Notification(_) => hints.tell(),
            _ => {}
        }
    }
}

/// Hints that there is something new.
#[derive(Debug, Default)]
pub(super) struct Hints {
    told: Mutex<bool>,
    came: Condvar,
}

impl Hints {
    fn tell(&self) {
        *self.told.lock() = true;
        self.came.notify_all();
    }

    /// Waits for one, for at most `span`.
    pub(super) fn wait(&self, span: Duration) {
        let mut told = self.told.lock();
        if !*told {
            self.came.wait_for(&mut told, span);
        }
        *told = false;
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
pub(super) struct Pool {
    held: Mutex<Held>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    idle: Vec<Session>,
    open: usize,
}

/// A connection of the pool; it goes back when it is dropped, unless it is closed or in an unknown state.
pub(super) struct Pooled<'a> {
    pool: &'a Pool,
    session: Option<Session>,
    /// Whether it may be used again.
    pub(super) clean: bool,
}

impl Pool {
    pub(super) fn take(&self, dial: &Dial) -> Result<Pooled<'_>, StoreFault> {
        let until = Instant::now() + dial.bound();
        let mut held = self.held.lock();
        loop {
            while let Some(session) = held.idle.pop() {
                if !session.is_closed() {
                    session.bound.set(dial.bound());
                    session.collided.set(false);
                    return Ok(Pooled { pool: self, session: Some(session), clean: false });
                }
                held.open -= 1;
            }
            if held.open < CONNECTIONS_MAX {
                held.open += 1;
                break;
            }
            if self.freed.wait_until(&mut held, until).timed_out() {
                let what = format_args!("all {CONNECTIONS_MAX} connections are in use");
                return Err(dial.faults.fault(FaultKind::Unreachable, what));
            }
        }
        drop(held);
        // Counted already: given back by the guard whatever happens.
        let mut pooled = Pooled { pool: self, session: None, clean: false };
        pooled.session = Some(dial.session()?);
        Ok(pooled)
    }
}

impl std::ops::Deref for Pooled<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("it is there until the guard is dropped")
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        let mut held = self.pool.held.lock();
        match self.session.take() {
            Some(session) if self.clean && !session.is_closed() => held.idle.push(session),
            _ => held.open -= 1,
        }
        drop(held);
        self.pool.freed.notify_one();
    }
}

/// What an answer may take on its way, beyond the server's own bound.
const ON_THE_WAY: Duration = Duration::from_secs(3);
/// How long reading a whole cell may take.
pub(super) const BULK_MAX: Duration = Duration::from_secs(120);
const AFTER_CANCEL: Duration = Duration::from_secs(2);
const CONNECTIONS_MAX: usize = 16;
