//! A network: connections whose segments are late, held up, lost with a machine, or refused.
//!
//! As over TCP, what one end writes comes in order and once, or the connection breaks: a lost
//! segment shows as a late one, and everything behind it is late, too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use portreeve::state::{Dial, Dialled, tuned};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::server::Connected;

use super::host::{HostClock, MS, SECOND, Us};
use super::random::Random;

/// A machine's place in the world.
pub(crate) type HostId = usize;

/// No segment is faster than this: machines may run apart for so long.
pub(crate) const LATENCY_MIN: Us = 20 * MS;
const LATENCY_SPREAD: Us = 20 * MS;
/// How long TCP tries again before it gives a connection up.
const GIVE_UP: Us = 12 * SECOND;
/// Bytes that may be on their way or unread.
const WINDOW_BYTES: usize = 32 * 1024;
/// Connections that wait to be taken.
const BACKLOG: usize = 64;
const SEGMENT_BYTES: usize = 8 * 1024;

/// The network.
#[derive(Clone, Debug)]
pub(crate) struct Net(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    seed: u64,
    /// How many connections there were between two machines.
    between: BTreeMap<(HostId, HostId), u64>,
    clocks: Vec<Arc<HostClock>>,
    connections: Vec<Connection>,
    listeners: BTreeMap<HostId, mpsc::Sender<io::Result<SimStream>>>,
    /// Ways on which nothing gets through.
    blocked: BTreeSet<(HostId, HostId)>,
    off: BTreeSet<HostId>,
    /// Percent of segments that are lost once.
    loss: u64,
    /// When which end's segments are due, for the world to schedule.
    due: Vec<(Us, usize, usize)>,
    lost: u64,
}

#[derive(Debug)]
struct Connection {
    ends: [End; 2],
    /// Tells the one who connects.
    opening: Option<oneshot::Sender<io::Result<()>>>,
}

#[derive(Debug)]
struct End {
    host: HostId,
    /// Its own, since the order in which tasks of one machine are woken is not ours to say.
    random: Random,
    inbound: VecDeque<Bytes>,
    ended: bool,
    reset: bool,
    closed: bool,
    finished: bool,
    /// Bytes it has written that the other has not read.
    unread: usize,
    flight: VecDeque<(Us, Segment)>,
    last_due: Us,
    stalled_until: Us,
    /// Since when what it sends is not taken.
    unheard: Option<Us>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
enum Segment {
    Syn,
    SynAck,
    Data(Bytes),
    Fin,
    Rst,
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            seed,
            between: BTreeMap::new(),
            clocks: Vec::new(),
            connections: Vec::new(),
            listeners: BTreeMap::new(),
            blocked: BTreeSet::new(),
            off: BTreeSet::new(),
            loss: 0,
            due: Vec::new(),
            lost: 0,
        })))
    }

    pub(crate) fn add(&self, clock: Arc<HostClock>) -> HostId {
        let mut state = self.0.lock();
        state.clocks.push(clock);
        state.clocks.len() - 1
    }

    /// Takes connections to a machine.
    pub(crate) fn listen(&self, host: HostId) -> mpsc::Receiver<io::Result<SimStream>> {
        let (sender, incoming) = mpsc::channel(BACKLOG);
        self.0.lock().listeners.insert(host, sender);
        incoming
    }

    pub(crate) fn unlisten(&self, host: HostId) {
        let listener = self.0.lock().listeners.remove(&host);
        drop(listener);
    }

    /// What the network sends from a machine from now on goes nowhere, and nothing reaches it.
    pub(crate) fn power(&self, host: HostId, on: bool) {
        let mut state = self.0.lock();
        if on {
            state.off.remove(&host)
        } else {
            state.off.insert(host)
        };
    }

    pub(crate) fn set_loss(&self, percent: u64) {
        self.0.lock().loss = percent;
    }

    /// Segments that were lost once.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lock().lost
    }

    pub(crate) fn block(&self, from: HostId, to: HostId) {
        self.0.lock().blocked.insert((from, to));
    }

    /// Lets everything through again.
    pub(crate) fn heal(&self, now: Us) {
        let mut state = self.0.lock();
        state.blocked.clear();
        for connection in 0..state.connections.len() {
            for end in 0..2 {
                state.connections[connection].ends[end].stalled_until = 0;
                state.try_again(connection, end, now);
            }
        }
    }

    /// Open connections of a machine.
    pub(crate) fn of(&self, host: HostId) -> Vec<usize> {
        let state = self.0.lock();
        let open = |c: &Connection| c.ends.iter().all(|end| !end.reset && !end.closed);
        let of = |c: &Connection| c.ends.iter().any(|end| end.host == host);
        let places = state.connections.iter().enumerate();
        places.filter(|(_, c)| open(c) && of(c)).map(|(place, _)| place).collect()
    }

    /// Breaks a connection: both ends see it at once.
    pub(crate) fn cut(&self, connection: usize) {
        let mut state = self.0.lock();
        for end in &mut state.connections[connection].ends {
            end.flight.clear();
            end.break_off();
        }
    }

    /// Nothing that this end writes comes through for a while; nothing is closed.
    pub(crate) fn stall(&self, connection: usize, end: usize, until: Us) {
        let mut state = self.0.lock();
        let stalled = &mut state.connections[connection].ends[end];
        stalled.stalled_until = until;
        state.due.push((until, connection, end));
    }

    /// The end of a connection that is at a machine.
    pub(crate) fn end_at(&self, connection: usize, host: HostId) -> usize {
        usize::from(self.0.lock().connections[connection].ends[1].host == host)
    }

    /// Which machine shall take what is due on an end.
    pub(crate) fn receiver(&self, connection: usize, end: usize) -> HostId {
        self.0.lock().connections[connection].ends[1 - end].host
    }

    /// What has become due since it was last asked.
    pub(crate) fn take_due(&self) -> Vec<(Us, usize, usize)> {
        std::mem::take(&mut self.0.lock().due)
    }

    /// Hands over what of an end has arrived.
    pub(crate) fn deliver(&self, connection: usize, end: usize, now: Us) {
        let mut state = self.0.lock();
        loop {
            let sender = &state.connections[connection].ends[end];
            let due = sender.flight.front().is_some_and(|(at, _)| *at <= now);
            let way = (sender.host, state.connections[connection].ends[1 - end].host);
            if !due || sender.stalled_until > now || state.blocked.contains(&way) {
                return;
            }
            let segment = state.connections[connection].ends[end].flight.pop_front();
            let Some((_, segment)) = segment else { return };
            if state.off.contains(&way.1) {
                state.connections[connection].ends[end].unheard.get_or_insert(now);
                continue;
            }
            if matches!(segment, Segment::Syn)
                && let Some(listener) = state.listeners.get(&way.1).cloned()
            {
                state.send(connection, 1 - end, Segment::SynAck);
                // A process that has just gone drops it, which locks the network again.
                drop(state);
                let stream = SimStream { net: self.clone(), connection, end: 1 - end };
                listener.try_send(Ok(stream)).ok();
                state = self.0.lock();
                continue;
            }
            state.arrive(connection, 1 - end, segment);
        }
    }

    /// Gives up connections on which nothing has come through for too long.
    pub(crate) fn give_up(&self, now: Us) {
        let mut state = self.0.lock();
        for connection in &mut state.connections {
            for end in 0..2 {
                let sender = &mut connection.ends[end];
                let waits = sender.flight.front().map(|(due, _)| *due);
                let since = [waits, sender.unheard].into_iter().flatten().min();
                if since.is_some_and(|since| since + GIVE_UP < now) {
                    sender.flight.clear();
                    sender.unheard = None;
                    sender.break_off();
                    if let Some(opening) = connection.opening.take() {
                        opening.send(Err(io::ErrorKind::TimedOut.into())).ok();
                    }
                }
            }
        }
    }

    async fn connect(self, from: HostId, to: HostId) -> io::Result<TokioIo<SimStream>> {
        let (opening, opened) = oneshot::channel();
        let connection = {
            let mut state = self.0.lock();
            let ends = state.new_ends(from, to);
            state.connections.push(Connection { ends, opening: Some(opening) });
            let connection = state.connections.len() - 1;
            state.send(connection, 0, Segment::Syn);
            connection
        };
        let stream = SimStream { net: self, connection, end: 0 };
        opened.await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))??;
        Ok(TokioIo::new(stream))
    }
}

impl State {
    fn new_ends(&mut self, from: HostId, to: HostId) -> [End; 2] {
        let count = self.between.entry((from, to)).or_default();
        *count += 1;
        let mut random = Random::new(self.seed ^ (*count << 16) ^ ((from as u64) << 8) ^ to as u64);
        [from, to].map(|host| End::new(host, Random::new(random.next())))
    }

    fn send(&mut self, connection: usize, end: usize, segment: Segment) {
        let host = self.connections[connection].ends[end].host;
        if self.off.contains(&host) {
            return;
        }
        let now = self.clocks[host].true_now();
        let sender = &mut self.connections[connection].ends[end];
        let mut due = now + LATENCY_MIN + sender.random.below(LATENCY_SPREAD);
        if sender.random.percent(self.loss) {
            self.lost += 1;
            due += sender.random.between(200 * MS, 800 * MS);
        }
        due = due.max(sender.last_due);
        sender.last_due = due;
        sender.flight.push_back((due, segment));
        self.due.push((due, connection, end));
    }

    /// Sends again what had waited.
    fn try_again(&mut self, connection: usize, end: usize, now: Us) {
        let sender = &mut self.connections[connection].ends[end];
        if sender.flight.front().is_some_and(|(due, _)| *due <= now) {
            let again = now + sender.random.between(50 * MS, 500 * MS);
            self.due.push((again, connection, end));
        }
    }

    fn arrive(&mut self, connection: usize, at: usize, segment: Segment) {
        match segment {
            // Nobody listens.
            Segment::Syn => {
                self.connections[connection].ends[at].closed = true;
                self.send(connection, at, Segment::Rst);
            }
            Segment::SynAck => {
                if let Some(opening) = self.connections[connection].opening.take() {
                    opening.send(Ok(())).ok();
                }
            }
            Segment::Data(_) if self.connections[connection].ends[at].closed => {
                self.send(connection, at, Segment::Rst);
            }
            Segment::Data(bytes) => {
                let receiver = &mut self.connections[connection].ends[at];
                receiver.inbound.push_back(bytes);
                receiver.wake();
            }
            Segment::Fin => {
                let receiver = &mut self.connections[connection].ends[at];
                receiver.ended = true;
                receiver.wake();
            }
            Segment::Rst => {
                if let Some(opening) = self.connections[connection].opening.take() {
                    opening.send(Err(io::ErrorKind::ConnectionRefused.into())).ok();
                }
                self.connections[connection].ends[at].break_off();
            }
        }
    }
}

impl End {
    const fn new(host: HostId, random: Random) -> Self {
        Self {
            host,
            random,
            inbound: VecDeque::new(),
            ended: false,
            reset: false,
            closed: false,
            finished: false,
            unread: 0,
            flight: VecDeque::new(),
            last_due: 0,
            stalled_until: 0,
            unheard: None,
            reader: None,
            writer: None,
        }
    }

    fn break_off(&mut self) {
        self.reset = true;
        self.wake();
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct SimStream {
    net: Net,
    connection: usize,
    end: usize,
}

impl Connected for SimStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.net.0.lock();
        let [a, b] = &mut state.connections[self.connection].ends;
        let (ours, theirs) = if self.end == 0 { (a, b) } else { (b, a) };
        if ours.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let Some(first) = ours.inbound.front_mut() else {
            if ours.ended {
                return Poll::Ready(Ok(()));
            }
            ours.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        let taken = first.len().min(buffer.remaining());
        buffer.put_slice(&first[..taken]);
        first.advance(taken);
        if first.is_empty() {
            ours.inbound.pop_front();
        }
        theirs.unread -= taken;
        if let Some(waker) = theirs.writer.take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.net.0.lock();
        let ours = &mut state.connections[self.connection].ends[self.end];
        let cut = if ours.random.percent(5) { bytes.len().div_ceil(2) } else { bytes.len() };
        if ours.reset || ours.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(ours.unread);
        if room == 0 {
            ours.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = cut.min(room).min(SEGMENT_BYTES);
        ours.unread += taken;
        state.send(self.connection, self.end, Segment::Data(Bytes::copy_from_slice(&bytes[..taken])));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.net.0.lock().finish(self.connection, self.end);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut state = self.net.0.lock();
        state.finish(self.connection, self.end);
        state.connections[self.connection].ends[self.end].closed = true;
    }
}

impl State {
    fn finish(&mut self, connection: usize, end: usize) {
        let ours = &mut self.connections[connection].ends[end];
        if !std::mem::replace(&mut ours.finished, true) && !ours.reset {
            self.send(connection, end, Segment::Fin);
        }
    }
}

/// Dials over the network from one machine. Hubs are `http://hub-N`, N their place.
#[derive(Debug)]
pub(crate) struct SimDial {
    pub(crate) net: Net,
    pub(crate) from: HostId,
}

impl Dial for SimDial {
    fn dial<'a>(&'a self, endpoint: &'a str) -> Dialled<'a> {
        Box::pin(async move {
            let to = endpoint.rsplit('-').next().and_then(|place| place.parse().ok());
            let to: HostId = to.ok_or("no such hub")?;
            let (net, from) = (self.net.clone(), self.from);
            let connector = tower::service_fn(move |_: http::Uri| net.clone().connect(from, to));
            tuned(endpoint)?.connect_with_connector(connector).await.map_err(|e| e.to_string())
        })
    }
}
