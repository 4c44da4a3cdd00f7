//! Mail between the workers and the control thread of a gateway.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stage::Proven;
use super::{Shared, Sockets};
use crate::control::{AgentRef, Request, SpareFailure, Ticket};
use crate::operator::{Blocks, Selection, Swept};
use crate::relay::CloseReason;
use crate::telemetry::ledger::LiveSession;
use crate::telemetry::record::{ConnectionRecord, SessionRecord};
use crate::tls::TlsConnection;
use crate::wire::RefusalReason;

/// To a worker.
pub(super) enum WorkerMail {
    /// What to go by from now on.
    Reload(Arc<Shared>),
    /// A data connection of this server may claim this agent with this ticket.
    Expect { agent: u64, invitation: u64, ticket: Ticket, server: Arc<str> },
    /// A data connection of this server may become a spare with this ticket.
    ExpectSpare { invitation: u64, ticket: Ticket, server: Arc<str>, life: Duration },
    /// This agent goes over this spare.
    UseSpare { agent: u64, invitation: u64 },
    /// This spare is not wanted any more.
    CloseSpare { invitation: u64 },
    /// There is no session for this agent.
    Refuse { agent: u64, reason: RefusalReason },
    /// A data connection that another worker accepted for an agent of this one.
    Transfer(Transfer),
    /// Keep these out from now on.
    Blocks(Arc<Blocks>),
    /// End what an operator means.
    EndSessions(Sweep),
    /// The same, of another process.
    Passed(Transfer),
    /// Listen on these, each with the index of its listener.
    Listen(Sockets),
    /// Whether signal connections go to another process, which takes over.
    PassSignals(bool),
    /// The process before this one has all that was its own, or is gone.
    PredecessorGone,
    /// Take no new connections, since another process does; say once nobody waits here.
    Leave,
    /// Take no new connections; stop once the last session is over.
    Drain,
    /// End what still lives, and stop.
    Stop,
}

/// What is to be ended, and why.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    /// By which the control thread knows it.
    pub(super) id: u64,
    pub(super) selection: Arc<Selection>,
    /// Whether agents that wait for a session are meant as well.
    pub(super) with_waiting: bool,
    pub(super) reason: CloseReason,
}

/// A connection of which only the first bytes were read.
pub(super) struct Transfer {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) listener: usize,
    pub(super) seen: Vec<u8>,
    pub(super) accepted: Instant,
}

/// To the control thread.
pub(super) enum ControlMail {
    /// An agent waits for a server.
    Admit { agent: AgentRef, request: Request },
    /// It left before it was claimed.
    Leave { agent: AgentRef },
    /// It was claimed.
    Claimed { agent: AgentRef, invitation: u64, request: Request },
    /// A spare took it.
    Taken { agent: AgentRef, invitation: u64, request: Request },
    /// A spare did not take it.
    SpareFailed { agent: AgentRef, invitation: u64, failure: SpareFailure },
    /// A spare waits for an agent.
    SpareReady { invitation: u64 },
    /// It waits no more, and no agent was given to it.
    SpareEnded { invitation: u64, in_time: bool },
    /// Its session began.
    Joined { session: String, live: LiveSession },
    /// Its session ended.
    SessionEnded { invitation: u64, record: Box<SessionRecord> },
    /// The claim led to no session.
    Released { invitation: u64 },
    /// A connection that became no session ended.
    ConnectionEnded(Box<ConnectionRecord>),
    /// Connections that were closed at accept for one reason: the first of them, and how many.
    TurnedAway { record: Box<ConnectionRecord>, count: u64 },
    /// A worker has ended all that it had of a sweep.
    Swept { id: u64, swept: Swept },
    /// A connection for the other process of this gateway.
    Pass(Transfer),
    /// After [`WorkerMail::Leave`]: nobody waits here any more.
    Settled,
    /// A signal connection after its handshake.
    Signal(Box<Signal>),
}

/// A signal connection on its way from the worker that did its handshake.
pub(super) struct Signal {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) tls: TlsConnection,
    /// Raw bytes that came behind the handshake.
    pub(super) pending: Vec<u8>,
    pub(super) proven: Proven,
    pub(super) accepted: Instant,
}

impl ControlMail {
    pub(super) fn connection_ended(record: ConnectionRecord) -> Self {
        Self::ConnectionEnded(Box::new(record))
    }
}
