//! The network of a world: connections as TCP and TLS give them.
//!
//! Within one connection nothing is lost, reordered or duplicated, as long as it lives: what comes
//! is a beginning of what was sent, in pieces, and late. Everything else may go wrong: a connection is
//! reset, cut so that neither end hears anything, or one end only; it stalls (which is what loss
//! looks like from here), a host dies and leaves the other end half-open. What was sent on one
//! connection and what was sent on another arrive in any order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use vestibule::relay::{CloseReason, Party};
use vestibule::wire::alpn::Hint;

use super::nature::{Nature, Occurrence, ProcessId};
use super::random::Random;

mod bytes;

/// Its index; never used again.
pub(super) type ConnectionId = usize;

pub(super) struct Network {
    connections: Vec<Connection>,
    pub(super) latency_ms: u64,
    /// Of a hundred sends and receives, how many move less than they could.
    pub(super) crumbs: usize,
    /// Bytes that one direction holds before its sender has to wait.
    window: usize,
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Dialer,
    Acceptor,
}

/// What the handshake says of whoever dials: it can't be forged.
#[derive(Debug, Clone)]
pub(super) enum Hello {
    Signal { server: usize },
    Data { server: usize, hint: Hint },
    Agent { device: String },
    Backend { service: usize, device: String },
}

struct Connection {
    hello: Hello,
    sockets: [Socket; 2],
}

/// One end, with the direction in which it sends.
#[expect(clippy::struct_excessive_bools, reason = "a kernel knows as many things of a socket")]
struct Socket {
    owner: ProcessId,
    /// Whether its process has it.
    open: bool,
    /// Its host is gone, and answers nothing.
    silent: bool,
    /// Its host was gone: what was under way is lost, and all that it says now is a reset.
    crashed: bool,
    /// Bytes that came and were not read.
    received: VecDeque<u8>,
    /// What comes ended, after those bytes: cleanly, or cut short.
    ended: Option<bool>,
    failed: bool,
    /// Whether what it sends is swallowed.
    cut: bool,
    /// Bytes that are under way.
    in_flight: usize,
    /// Its process waits until it can send more.
    wants_room: bool,
    ended_writing: bool,
    /// When the last thing sent arrives: the next can't overtake it.
    last_arrival: Instant,
}

pub(super) enum Packet {
    Bytes(Vec<u8>),
    End {
        clean: bool,
    },
    Reset,
    /// The other end has read, and takes more.
    Room,
    /// The kernel of this end has given up: probes or bytes were not answered.
    Lost,
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::End { clean } => write!(f, "End(clean: {clean})"),
            Self::Reset => f.write_str("Reset"),
            Self::Room => f.write_str("Room"),
            Self::Lost => f.write_str("Lost"),
        }
    }
}

pub(super) enum Received {
    Nothing,
    Payload(Vec<u8>),
    End,
    Truncated,
    Reset,
}

/// Why there is no further message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Ended,
    Truncated,
    Reset,
    Frame,
}

impl Broken {
    pub(super) fn close_reason(self, party: Party) -> CloseReason {
        match self {
            Self::Ended | Self::Truncated => CloseReason::Truncated(party),
            Self::Reset => CloseReason::Reset(party),
            Self::Frame => CloseReason::FrameInvalid,
        }
    }
}

/// What happens to a connection from outside.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cut {
    Reset,
    Silent,
    /// What that end sends is swallowed.
    OneWay(End),
}

impl End {
    pub(super) const BOTH: [Self; 2] = [Self::Dialer, Self::Acceptor];

    pub(super) const fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Acceptor,
            Self::Acceptor => Self::Dialer,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Dialer => 0,
            Self::Acceptor => 1,
        }
    }
}

impl Network {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            connections: Vec::new(),
            latency_ms: *random.pick(&[0, 5, 60, 400]),
            crumbs: *random.pick(&[0, 20, 70]),
            window: *random.pick(&[64, 500, 4_000]),
        }
    }

    pub(super) fn hello(&self, id: ConnectionId) -> &Hello {
        &self.connections[id].hello
    }

    pub(super) fn owner(&self, id: ConnectionId, end: End) -> ProcessId {
        self.socket(id, end).owner
    }

    pub(super) fn is_open(&self, id: ConnectionId, end: End) -> bool {
        self.socket(id, end).open
    }

    /// Connections that have both ends, for faults.
    pub(super) fn live(&self) -> Vec<ConnectionId> {
        let ids = 0..self.connections.len();
        ids.filter(|id| End::BOTH.iter().all(|end| self.is_open(*id, *end))).collect()
    }

    fn of(&self, process: ProcessId) -> Vec<(ConnectionId, End)> {
        let ids = 0..self.connections.len();
        let ends = ids.flat_map(|id| End::BOTH.map(|end| (id, end)));
        ends.filter(|(id, end)| self.owner(*id, *end) == process).collect()
    }

    fn socket(&self, id: ConnectionId, end: End) -> &Socket {
        &self.connections[id].sockets[end.index()]
    }

    fn socket_mut(&mut self, id: ConnectionId, end: End) -> &mut Socket {
        &mut self.connections[id].sockets[end.index()]
    }

    /// Whether the kernel of this end knows that the other has gone other than cleanly.
    pub(super) fn has_left(&self, id: ConnectionId, end: End) -> bool {
        let socket = self.socket(id, end);
        socket.failed || socket.ended == Some(false)
    }

    pub(super) fn has_failed(&self, id: ConnectionId, end: End) -> bool {
        self.socket(id, end).failed
    }

    /// Whether the kernel of this end knows of any end of the other.
    pub(super) fn has_ended(&self, id: ConnectionId, end: End) -> bool {
        let socket = self.socket(id, end);
        socket.failed || socket.ended.is_some()
    }
}

impl Socket {
    fn new(owner: ProcessId, now: Instant, open: bool) -> Self {
        Self {
            owner,
            open,
            silent: false,
            crashed: false,
            received: VecDeque::new(),
            ended: None,
            failed: false,
            cut: false,
            in_flight: 0,
            wants_room: false,
            ended_writing: false,
            last_arrival: now,
        }
    }
}

// ---- a connection's life ----

impl Nature {
    pub(super) fn dial(&mut self, from: ProcessId, to: ProcessId, hello: Hello) -> ConnectionId {
        let id = self.network.connections.len();
        let sockets = [Socket::new(from, self.now, true), Socket::new(to, self.now, false)];
        self.network.connections.push(Connection { hello, sockets });
        let is_swallowed = to != ProcessId::Backends && self.random.percent(3);
        if self.calm || !is_swallowed {
            self.after(Duration::ZERO, self.network.latency_ms, Occurrence::Knock(id));
        }
        id
    }

    /// The other host takes a connection, or turns it away.
    pub(super) fn answer_dial(&mut self, id: ConnectionId, through: bool) {
        self.network.socket_mut(id, End::Acceptor).open = through;
        let arrival = self.arrival(id, End::Acceptor);
        self.at(arrival, Occurrence::Dialed(id, through));
    }

    /// Ends both directions with nothing lost that was sent before.
    pub(super) fn close(&mut self, id: ConnectionId, end: End) {
        if self.release(id, end) && !self.network.socket(id, end).ended_writing {
            self.fly(id, end.other(), Packet::End { clean: true });
        }
    }

    /// The process goes without a goodbye: TCP ends, TLS does not.
    pub(super) fn truncate(&mut self, id: ConnectionId, end: End) {
        if self.release(id, end) && !self.network.socket(id, end).ended_writing {
            self.fly(id, end.other(), Packet::End { clean: false });
        }
    }

    pub(super) fn abort(&mut self, id: ConnectionId, end: End) {
        if self.release(id, end) {
            self.fly(id, end.other(), Packet::Reset);
        }
    }

    /// Whether it was held.
    fn release(&mut self, id: ConnectionId, end: End) -> bool {
        let socket = self.network.socket_mut(id, end);
        socket.received.clear();
        std::mem::take(&mut socket.open)
    }

    /// One direction ends cleanly, after what was sent.
    pub(super) fn end_writing(&mut self, id: ConnectionId, end: End) {
        let socket = self.network.socket_mut(id, end);
        if !std::mem::replace(&mut socket.ended_writing, true) {
            self.fly(id, end.other(), Packet::End { clean: true });
        }
    }

    /// All sockets of a process that dies.
    pub(super) fn drop_sockets(&mut self, process: ProcessId, silently: bool) {
        for (id, end) in self.network.of(process) {
            if !self.network.is_open(id, end) {
                continue;
            }
            if silently {
                self.release(id, end);
                let socket = self.network.socket_mut(id, end);
                (socket.silent, socket.crashed) = (true, true);
                self.lose(id);
            } else if !self.network.socket(id, end).ended_writing && self.random.percent(50) {
                self.truncate(id, end);
            } else {
                self.abort(id, end);
            }
        }
    }

    /// A host that crashed is back: it knows none of its connections, and says so when asked.
    pub(super) fn host_returns(&mut self, process: ProcessId) {
        for (id, end) in self.network.of(process) {
            self.network.socket_mut(id, end).silent = false;
        }
    }

    pub(super) fn cut(&mut self, id: ConnectionId, how: Cut) {
        match how {
            Cut::Reset => {
                for end in End::BOTH {
                    self.after(Duration::ZERO, 50, Occurrence::Packet(id, end, Packet::Lost));
                }
            }
            Cut::Silent => {
                for end in End::BOTH {
                    self.network.socket_mut(id, end).cut = true;
                }
                self.lose(id);
            }
            Cut::OneWay(end) => {
                self.network.socket_mut(id, end).cut = true;
                self.lose(id);
            }
        }
    }

    /// The kernels find out by themselves, but on signal connections: there the pings are to.
    fn lose(&mut self, id: ConnectionId) {
        let within_ms = match self.network.hello(id) {
            Hello::Signal { .. } => return,
            Hello::Data { .. } | Hello::Backend { .. } => 9_000,
            Hello::Agent { .. } => 15_000,
        };
        for end in End::BOTH {
            self.after(Duration::ZERO, within_ms, Occurrence::Packet(id, end, Packet::Lost));
        }
    }

    /// Whatever was cut is over: both ends are told.
    pub(super) fn heal(&mut self) {
        for id in 0..self.network.connections.len() {
            let sockets = &self.network.connections[id].sockets;
            let is_cut = sockets.iter().any(|socket| socket.cut || socket.crashed);
            if is_cut {
                self.cut(id, Cut::Reset);
            }
        }
    }

    /// Nothing arrives for a while; then all of it does.
    pub(super) fn stall(&mut self, id: ConnectionId, end: End, for_ms: u64) {
        let until = self.now + self.random.millis(for_ms);
        let last = &mut self.network.socket_mut(id, end).last_arrival;
        *last = until.max(*last);
    }
}
