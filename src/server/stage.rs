use std::sync::Arc;
use std::time::Instant;

use super::Service;
use super::mail::Order;
use super::visitor::Visitor;
use crate::uring::Token;
use crate::wire::FrameDecoder;

/// The life of a connection at a server, until it is one leg of a session.
pub(super) enum Stage {
    /// A data connection on its way to the gateway.
    Dialing(Box<Order>),
    /// Its TLS handshake.
    Greeting(Box<Order>),
    /// The claim is made; the session header is awaited. On a spare that may take long.
    Claiming { order: Box<Order>, decoder: FrameDecoder },
    /// The header came; the backend is being connected.
    Delivering { backend: Token },
    /// A backend connection on its way.
    Connecting(Box<Delivery>),
    /// Its TLS handshake.
    Securing(Box<Delivery>),
    /// A backend that is connected; the TLS of the data connection is about to end.
    SteppingDown(Box<Delivery>),
    /// A backend that is connected; the agent's own TLS begins, behind that of the data connection.
    Welcoming(Box<Delivery>),
}

/// A claimed agent on its way to the backend.
pub(super) struct Delivery {
    pub(super) order: Box<Order>,
    /// As it was when the agent came: a reload changes it for the next.
    pub(super) service: Arc<Service>,
    pub(super) visitor: Visitor,
    /// The data connection.
    pub(super) data: Token,
    /// Addresses of the backend that were not tried yet.
    pub(super) untried: Vec<std::net::SocketAddr>,
    pub(super) claimed: Instant,
}

/// What is remembered of a session.
pub(super) struct Record {
    pub(super) order: Box<Order>,
    /// Name of the service.
    pub(super) service: Arc<str>,
    pub(super) visitor: Visitor,
    pub(super) claimed: Instant,
    pub(super) joined: Instant,
    pub(super) backend: Arc<str>,
}
