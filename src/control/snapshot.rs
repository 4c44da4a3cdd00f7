use std::time::Instant;

use super::LinkId;

/// What the dispatcher is doing, for the status page and the gauges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Signal connections that have said hello, oldest first.
    pub links: Vec<LinkStatus>,
    /// Signal connections that have not said hello yet.
    pub greeting: usize,
    /// Every service of the configuration, in its order.
    pub services: Vec<ServiceStatus>,
    /// Agents that wait, invited or not.
    pub waiting: usize,
    /// Whether the gateway drains.
    pub draining: bool,
    /// Names of servers that an operator has drained, connected or not.
    pub drained_servers: Vec<String>,
}

/// One signal connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// The caller's number for it.
    pub link: LinkId,
    /// Name of the server on the allow-list.
    pub server: String,
    /// Names of the services that it offers and may serve.
    pub services: Vec<String>,
    /// Invitations that it has not answered.
    pub waiting: usize,
    /// Sessions that were claimed over this connection's invitations and live.
    pub sessions: usize,
    /// Spares that wait for an agent.
    pub spares: usize,
    /// Sessions that it will hold at once; `None`: it states no bound.
    pub capacity: Option<u32>,
    /// What it says that it is: at most [`MAX_NAME_LEN`](crate::limits::MAX_NAME_LEN) printable
    /// ASCII characters.
    pub software: String,
    /// When it said hello.
    pub since: Instant,
    /// Whether it takes part in no new sessions: its server drains, or an operator has drained it.
    pub draining: bool,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Agents that wait for it, invited or not.
    pub waiting: usize,
    /// Servers that are invited for it.
    pub servers: usize,
}
