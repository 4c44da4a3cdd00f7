//! Mail between the workers and the control thread of a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::operator::{Selection, Swept};
use crate::relay::CloseReason;
use crate::telemetry::ledger::LiveSession;
use crate::telemetry::record::{ConnectionRecord, SessionRecord};
use crate::wire::RefusalReason;

use super::Shared;
use super::backends::Addresses;
use super::link::{Gateway, GatewayId};

/// To a worker.
pub(super) enum WorkerMail {
    /// What to go by from now on, with what its backends' names lead to.
    Reload { shared: Arc<Shared>, backends: Arc<Addresses> },
    /// Claim an agent and deliver its session.
    Deliver(Box<Order>),
    /// What the backends' names lead to from now on.
    Backends(Arc<Addresses>),
    /// This spare is not wanted any more.
    CloseSpare { gateway: GatewayId, invitation: u64 },
    /// End what an operator means.
    EndSessions(Sweep),
    /// Stop once the last session is over.
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
    pub(super) reason: CloseReason,
}

/// An invitation that this server follows.
pub(super) struct Order {
    pub(super) gateway: Arc<Gateway>,
    /// The gateway's end of the signal connection that the invitation came by: the data connection
    /// goes to the same host, also where the gateway's name has several addresses.
    pub(super) address: SocketAddr,
    /// With the hint to the worker that holds the agent. Taken by the handshake: no session keeps what a
    /// reload has replaced.
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) invitation: u64,
    pub(super) ticket: Vec<u8>,
    pub(super) purpose: Purpose,
    pub(super) expires: Instant,
    /// When the invitation came, or the agent over a spare.
    pub(super) received: Instant,
}

/// What a data connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An agent waits for the service of this name.
    Session { service: Arc<str> },
    /// None waits yet: it is kept so long.
    Spare { life: Duration },
}

/// To the control thread.
pub(super) enum ControlMail {
    /// A session began.
    Joined { session: String, live: LiveSession },
    /// A worker has ended all that it had of a sweep.
    Swept { id: u64, swept: Swept },
    /// A session ended.
    SessionEnded { gateway: GatewayId, record: Box<SessionRecord> },
    /// An order led to no session. The gateway hears of it only where the data connection could not
    /// tell it.
    Failed {
        gateway: GatewayId,
        invitation: u64,
        decline: Option<RefusalReason>,
        record: Box<ConnectionRecord>,
    },
    /// An agent came over a spare: it is a session to be from now on, and holds a seat.
    SpareUsed { gateway: GatewayId, invitation: u64 },
    /// A spare ended without an agent. The gateway hears of it where it may not know.
    SpareEnded {
        gateway: GatewayId,
        invitation: u64,
        decline: Option<RefusalReason>,
        record: Box<ConnectionRecord>,
    },
}
