//! The control plane's decisions: events and `now` in, actions out. No sockets, threads or clocks.
//!
//! - [`Dispatcher`]: the gateway's control thread. Signal connections, the queue of waiting agents,
//!   the choice of a server, deadlines.
//! - [`Tickets`]: a worker of the gateway. Which claim may have which of its waiting agents, and which
//!   may bring a spare.
//! - [`GatewayLink`]: the server. Keeps the signal connection to one gateway.
//! - [`Upgrade`]: either process of a gateway, where one takes the place of the other.
//! - [`Liveness`]: either end of a signal connection.
//!
//! Each is driven alike: after every `handle` and `handle_timeout` the caller carries out what
//! `poll_action` gives until it gives nothing, then waits for an event, or until `next_timeout`.

mod backoff;
mod choice;
mod crl;
mod dispatcher;
mod event;
mod gateway_link;
mod link;
mod liveness;
mod queue;
mod quotas;
mod service_offer;
mod snapshot;
mod spares;
mod tickets;
mod upgrade;

pub use backoff::backoff;
pub use crl::Lists;
pub use dispatcher::Dispatcher;
pub use event::{Action, DispatcherLimits, Event, Reconfiguration, SpareFailure};
pub use gateway_link::{GatewayAction, GatewayEvent, GatewayLink};
pub use liveness::{Liveness, Vital};
pub use quotas::{Request, SessionQuota, SessionRate};
pub use service_offer::ServiceOffer;
pub use snapshot::{LinkStatus, ServiceStatus, Snapshot};
pub use tickets::{Purpose, Ticket, TicketError, Tickets};
pub use upgrade::{Upgrade, UpgradeAction, UpgradeEvent, Word};

/// One signal connection. The caller numbers them and never uses a number again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// An agent that waits, or waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentRef {
    /// Index of the worker that holds it.
    pub worker: u32,
    /// The worker's own token for the connection. It is never given to another connection, so that
    /// an action that crosses with the end of an agent can't hit the next one in its slot.
    pub connection: u64,
}

/// A service of the gateway: a small number that stands for its name as long as the process lives,
/// also where a reload moves or takes out its entry of the configuration.
pub type ServiceId = usize;
