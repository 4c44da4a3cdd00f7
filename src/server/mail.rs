//! Mail between the workers and the control thread of a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;

use crate::telemetry::ledger::LiveSession;
use crate::telemetry::record::{ConnectionRecord, SessionRecord};
use crate::wire::RefusalReason;

use super::backends::Addresses;

/// To a worker.
pub(super) enum WorkerMail {
    /// Claim an agent and deliver its session.
    Deliver(Box<Order>),
    /// Stop once the last session is over.
    Drain,
    /// End what still lives, and stop.
    Stop,
}

/// An invitation that this server follows.
pub(super) struct Order {
    /// Index of the gateway.
    pub(super) gateway: usize,
    /// The gateway's end of the signal connection that the invitation came by: the data connection
    /// goes to the same host, also where the gateway's name has several addresses.
    pub(super) address: SocketAddr,
    /// With the hint to the worker that holds the agent.
    pub(super) tls: Arc<ClientConfig>,
    pub(super) invitation: u64,
    pub(super) ticket: Vec<u8>,
    /// Index of the service.
    pub(super) service: usize,
    pub(super) expires: Instant,
    pub(super) received: Instant,
    pub(super) backends: Arc<Addresses>,
}

/// To the control thread.
pub(super) enum ControlMail {
    /// A session began.
    Joined { session: String, live: LiveSession },
    /// A session ended.
    SessionEnded { gateway: usize, record: Box<SessionRecord> },
    /// An order led to no session. The gateway hears of it only where the data connection could not
    /// tell it.
    Failed {
        gateway: usize,
        invitation: u64,
        decline: Option<RefusalReason>,
        record: Box<ConnectionRecord>,
    },
}
