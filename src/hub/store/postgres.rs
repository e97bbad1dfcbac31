//! The store in a PostgreSQL database, which several hubs may share.
//!
//! Statements are plain SQL, so that databases that speak PostgreSQL's protocol serve too. Schema:
//!
//! | Table | Holds |
//! |---|---|
//! | `portreeve_store` | one row: schema version, cluster id, epoch, head revision and global hash, where the log begins, the epoch before and where it was left |
//! | `portreeve_cell`, `portreeve_record`, `portreeve_change`, `portreeve_receipt`, `portreeve_item` | as in the other engine; a change also the random id of its commit |
//! | `portreeve_replica` | a row a process that serves, with its heartbeats |
//! | `portreeve_member` | the roster, a row a process and member; only that process writes it |
//! | `portreeve_number` | a sequence: versions of items, order of joins |
//!
//! INVARIANT: a commit takes the row of `portreeve_store` first and holds it to its end, so revisions
//! are gap-free and in commit order; whatever it depends on is read after that. What may be shown to
//! others is what a write that came later was confirmed for: see [`side::heartbeat`].
//!
//! A statement is bounded at the server and here. A connection that is lost is made anew by the next
//! call; a commit whose answer is lost is looked for before anything is answered.

mod commit;
mod fault;
mod fill;
mod members;
mod read;
mod schema;
mod session;
mod settings;
mod side;
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};

use super::side::check_item;
use super::{
    CellImage, CellPosition, ChangeSet, Committed, Expect, FaultKind, Guarantee, Head, Item, Logged, Minted,
    Page, Peer, PeerMember, StateStore, StoreError, StoreFault, StoreIdentity, StoredMember, StoredReceipt,
    StoredRecord,
};
use crate::core::id::{Epoch, Name, Position};
use crate::core::identity::RecordKind;
use crate::core::time::{Clock, Timestamp};
use fault::{PlaceFaults, SqlError};
use session::{Dial, Given, Hints, Pool, Pooled, Session};
pub use settings::PostgresSettings;

/// A store in a PostgreSQL database.
pub struct PostgresStore {
    engine: Engine,
    identity: StoreIdentity,
    clock: Arc<dyn Clock>,
    /// Drives the connections.
    _driver: Driver,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.engine.faults.place()).finish_non_exhaustive()
    }
}

/// What every statement needs.
struct Engine {
    dial: Dial,
    pool: Pool,
    faults: PlaceFaults,
    /// This process, among those on the database.
    id: [u8; 16],
    epoch: Epoch,
    superseded: AtomicBool,
    /// The number of what this process told last; held while more is told, so that numbers become
    /// visible in their order.
    told: Mutex<i64>,
    hints: Arc<Hints>,
    /// Whether a connection listens for hints.
    listening: Mutex<Option<Session>>,
}

/// How a transaction ended.
enum Ended<T> {
    /// Durable, as the database is set up to make it.
    Confirmed(T),
    /// Durable here, and a standby that should have it did not say so.
    Unconfirmed(T),
    /// The answer was lost.
    Unknown(T, String),
}

impl Engine {
    fn new(settings: &PostgresSettings, driver: &Driver) -> Result<Self, StoreFault> {
        let faults = PlaceFaults(settings.describe());
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| faults.fault(FaultKind::Io, "no random bytes"))?;
        let hints = Arc::new(Hints::default());
        let dial = Dial {
            connection: settings.connection(),
            tls: settings.tls(&faults)?,
            statement_max: settings.statement_max,
            runtime: driver.handle().clone(),
            faults: faults.clone(),
            hints: Arc::clone(&hints),
        };
        Ok(Self {
            dial,
            pool: Pool::default(),
            faults,
            id,
            epoch: Epoch::from_bytes([0; 16]),
            superseded: AtomicBool::new(false),
            told: Mutex::new(0),
            hints,
            listening: Mutex::new(None),
        })
    }

    fn session(&self) -> Result<Pooled<'_>, StoreFault> {
        if self.superseded.load(Ordering::Relaxed) {
            return Err(self.faults.superseded());
        }
        self.pool.take(&self.dial)
    }

    const fn epoch(&self) -> [u8; 16] {
        *self.epoch.as_bytes()
    }

    fn is_ours(&self, epoch: Epoch) -> Result<(), StoreFault> {
        if epoch == self.epoch { Ok(()) } else { Err(self.supersede()) }
    }

    /// Nothing is served from a lineage that was left.
    fn supersede(&self) -> StoreFault {
        self.superseded.store(true, Ordering::Relaxed);
        self.faults.superseded()
    }

    /// Reads at one instant.
    fn read<T, E: Into<StoreError>>(
        &self,
        work: impl Fn(&Self, &Session) -> Result<T, E>,
    ) -> Result<T, StoreError> {
        let mut session = self.session()?;
        let sql = |e: SqlError| self.faults.sql("begin reading", &e);
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").map_err(sql)?;
        let result = work(self, &session).map_err(Into::into);
        session.clean = session.run("COMMIT").is_ok();
        result
    }

    /// Writes; more than once when others get in the way. What it comes to is known or a fault.
    fn write<T>(
        &self,
        doing: &str,
        work: impl Fn(&Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.transact(doing, work)? {
            Ended::Confirmed(value) => Ok(value),
            Ended::Unconfirmed(_) => {
                let what = format_args!("{doing}: no standby confirmed it");
                Err(self.faults.fault(FaultKind::Unknown, what).into())
            }
            Ended::Unknown(_, why) => {
                Err(self.faults.fault(FaultKind::Unknown, format_args!("{doing}: {why}")).into())
            }
        }
    }

    /// One transaction: begun anew when it collided with another, a bounded number of times.
    fn transact<T>(
        &self,
        doing: &str,
        work: impl Fn(&Session) -> Result<T, StoreError>,
    ) -> Result<Ended<T>, StoreError> {
        for _ in 0..COLLISIONS_MAX {
            let mut session = self.session()?;
            session.run("BEGIN").map_err(|e| self.faults.sql(doing, &e))?;
            let value = match work(&session) {
                Ok(value) => value,
                Err(error) => {
                    session.clean = session.run("ROLLBACK").is_ok();
                    if session.collided.get() {
                        continue;
                    }
                    return Err(error);
                }
            };
            match session.commit() {
                Ok(confirmed) => {
                    session.clean = true;
                    let ended = if confirmed { Ended::Confirmed(value) } else { Ended::Unconfirmed(value) };
                    return Ok(ended);
                }
                Err(error) if error.is_collision() => {}
                // The server itself refused: it is not done. Its last words as it goes down are no answer.
                Err(error) if error.state().is_some_and(|state| !is_shutdown(state.code())) => {
                    return Err(self.faults.sql(doing, &error).into());
                }
                Err(error) => return Ok(Ended::Unknown(value, error.to_string())),
            }
        }
        let what = format_args!("{doing}: others were always faster");
        Err(self.faults.fault(FaultKind::Unreachable, what).into())
    }

    /// Waits until another process hints at something new, or `at_most` so long.
    fn await_hint(&self, at_most: Duration) {
        let mut listening = self.listening.lock();
        if listening.as_ref().is_none_or(Session::is_closed) {
            *listening = self.dial.session().ok().filter(|s| s.run(&format!("LISTEN {CHANNEL}")).is_ok());
        }
        drop(listening);
        self.hints.wait(at_most);
    }
}

/// Whether a server says so because it ends, or ends the connection.
fn is_shutdown(state: &str) -> bool {
    state.starts_with("57P") || state.starts_with("08")
}

impl PostgresStore {
    /// Opens the store, or makes its schema in a database that has none. Blocks.
    ///
    /// # Errors
    /// [`StoreFault`] names the database, what is wrong and what to do.
    pub fn open(settings: &PostgresSettings, clock: Arc<dyn Clock>) -> Result<Self, StoreFault> {
        let driver = Driver::start(settings)?;
        let mut engine = Engine::new(settings, &driver)?;
        let identity = schema::open(&engine, clock.now().wall)?;
        engine.epoch = identity.epoch;
        members::enter(&engine)?;
        Ok(Self { engine, identity, clock, _driver: driver })
    }
}

/// What drives the connections: a thread of its own. It is ended without waiting, which may be done anywhere.
struct Driver(Option<Runtime>);

impl Driver {
    fn start(settings: &PostgresSettings) -> Result<Self, StoreFault> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres")
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(|e| StoreFault::at(settings.describe(), FaultKind::Io, e))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it runs until it is dropped").handle()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl StateStore for PostgresStore {
    fn identity(&self) -> StoreIdentity {
        self.identity
    }

    fn describe(&self) -> String {
        self.engine.faults.place().to_owned()
    }

    fn commit(&self, changes: &ChangeSet, expect: &[Expect]) -> Result<Committed, StoreError> {
        commit::commit(&self.engine, &*self.clock, changes, expect)
    }

    fn head(&self) -> Result<Position, StoreError> {
        let head = self.engine.read(read::meta)?.head.position;
        self.engine.is_ours(head.epoch)?;
        Ok(head)
    }

    fn tail(&self, from: u64, max: usize) -> Result<Vec<Logged>, StoreError> {
        self.engine.read(|engine, session| read::tail(engine, session, from, max))
    }

    fn logged(&self, revision: u64) -> Result<Option<Logged>, StoreError> {
        self.engine.read(|engine, session| read::logged(engine, session, revision))
    }

    fn cells(&self) -> Result<(Position, Vec<CellPosition>), StoreError> {
        let (head, cells) = self.engine.read(|engine, session| {
            Ok::<_, StoreFault>((read::meta(engine, session)?.head.position, read::cells(engine, session)?))
        })?;
        self.engine.is_ours(head.epoch)?;
        Ok((head, cells))
    }

    fn cell(&self, tenant: &Name) -> Result<Option<CellPosition>, StoreError> {
        self.engine.read(|engine, session| read::cell(engine, session, tenant))
    }

    fn snapshot(&self, tenant: &Name) -> Result<Option<CellImage>, StoreError> {
        self.engine.read(|engine, session| read::snapshot(engine, session, tenant))
    }

    fn record(
        &self,
        tenant: &Name,
        kind: RecordKind,
        name: &Name,
    ) -> Result<Option<StoredRecord>, StoreError> {
        self.engine.read(|engine, session| read::record(engine, session, tenant, kind, name))
    }

    fn page(
        &self,
        tenant: &Name,
        kind: RecordKind,
        after: Option<&Name>,
        max: usize,
    ) -> Result<Page, StoreError> {
        self.engine.read(|engine, session| read::page(engine, session, tenant, kind, (after, max)))
    }

    fn counts(&self, tenant: &Name) -> Result<Vec<(RecordKind, u64)>, StoreError> {
        self.engine.read(|engine, session| read::counts(engine, session, tenant))
    }

    fn members(&self) -> Result<Vec<StoredMember>, StoreError> {
        self.engine.read(members::members)
    }

    fn save_member(&self, member: &StoredMember) -> Result<(), StoreError> {
        members::save(&self.engine, member)
    }

    fn forget_member(&self, spoke_id: &str, incarnation: &[u8; 16]) -> Result<(), StoreError> {
        members::forget(&self.engine, spoke_id, incarnation)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn await_change(&self, at_most: Duration) {
        self.engine.await_hint(at_most);
    }

    fn peers(&self) -> Result<Vec<Peer>, StoreError> {
        self.engine.read(members::peers)
    }

    fn told_by(&self, peer: &[u8; 16], after: u64) -> Result<Vec<PeerMember>, StoreError> {
        self.engine.read(|engine, session| members::told_by(engine, session, peer, after))
    }

    fn tell(&self, members: &[PeerMember]) -> Result<(), StoreError> {
        members.chunks(side::AT_ONCE).try_for_each(|part| members::tell(&self.engine, part))
    }

    fn forget_peer(&self, peer: &[u8; 16]) -> Result<(), StoreError> {
        members::forget_peer(&self.engine, peer)
    }

    fn guarantee(&self) -> Result<Guarantee, StoreError> {
        self.engine.read(side::guarantee)
    }

    fn heartbeat(&self) -> Result<Head, StoreError> {
        side::heartbeat(&self.engine)
    }

    fn oldest(&self) -> Result<u64, StoreError> {
        Ok(self.engine.read(read::meta)?.oldest)
    }

    fn settled(&self, tenant: &Name, before: Timestamp) -> Result<Vec<StoredRecord>, StoreError> {
        self.engine.read(|engine, session| read::settled(engine, session, tenant, before))
    }

    fn dropped(&self, tenant: &Name) -> Result<Vec<StoredRecord>, StoreError> {
        self.engine.read(|engine, session| read::dropped(engine, session, tenant))
    }

    fn trim(&self, before: u64) -> Result<(), StoreError> {
        self.engine.write("trim the change log", |session| side::trim(&self.engine, session, before))
    }

    fn items(&self, space: &str) -> Result<Vec<Item>, StoreError> {
        self.engine.read(|engine, session| side::items(engine, session, space))
    }

    fn item(&self, space: &str, key: &str) -> Result<Option<Item>, StoreError> {
        self.engine.read(|engine, session| side::item(engine, session, space, key))
    }

    fn put_item(
        &self,
        space: &str,
        key: &str,
        value: &[u8],
        expected: Option<u64>,
    ) -> Result<u64, StoreError> {
        check_item(space, key, value)?;
        side::set_item(&self.engine, (space, key), Some(value), expected)
    }

    fn remove_item(&self, space: &str, key: &str, expected: u64) -> Result<(), StoreError> {
        side::set_item(&self.engine, (space, key), None, Some(expected)).map(|_| ())
    }

    fn save_receipts(&self, receipts: &[StoredReceipt]) -> Result<(), StoreError> {
        self.engine.write("save receipts", |session| side::save_receipts(&self.engine, session, receipts))
    }

    fn receipts(&self, revision: u64) -> Result<Vec<StoredReceipt>, StoreError> {
        self.engine.read(|engine, session| side::receipts(engine, session, revision))
    }

    fn mint_epoch(&self, witnessed: Option<Position>) -> Result<Minted, StoreError> {
        let minted = side::mint_epoch(&self.engine, witnessed)?;
        self.engine.supersede();
        Ok(minted)
    }
}

/// How often a transaction that others got in the way of is begun anew.
const COLLISIONS_MAX: usize = 32;
/// Where hints are given.
const CHANNEL: &str = "portreeve";
