use std::time::Instant;

use crate::relay::CloseReason;
use crate::wire::{FromServer, Invitation, RefusalReason, ToServer};

/// What happened to a [`GatewayLink`]. After [`GatewayAction::Close`], [`Closed`](Self::Closed) or
/// [`DialFailed`](Self::DialFailed) nothing more is reported of that connection.
#[derive(Debug, Clone, PartialEq)]
pub enum GatewayEvent {
    /// The connection asked for by [`GatewayAction::Dial`] stands, its handshake is done.
    Dialed,
    /// There is no such connection.
    DialFailed,
    /// A frame came.
    Message(ToServer),
    /// The connection ended.
    Closed,
    /// This server will not open a data connection for an invitation.
    Decline {
        /// Which.
        id: u64,
        /// Why.
        reason: RefusalReason,
    },
    /// This server takes part in no new sessions from now on.
    Drain,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum GatewayAction {
    /// Dial the gateway; TCP and handshake.
    Dial,
    /// Write a frame.
    Send(FromServer),
    /// End the connection, or the attempt to dial.
    Close(CloseReason),
    /// Open a data connection, claim the ticket and deliver the session.
    Invited {
        /// Well-formed, for a service that this server serves.
        invitation: Invitation,
        /// Of the gateway's process, for the ALPN hint.
        instance: String,
    },
    /// The invitation is void. The session may have been claimed already: then it lives on.
    Withdrawn {
        /// Which.
        id: u64,
    },
}

/// A server's signal connection to one gateway: dials it, keeps it, dials again.
#[derive(Debug)]
pub struct GatewayLink {}

impl GatewayLink {
    /// Dials at once. `services` and `capacity` (0: no bound) are told to the gateway.
    pub fn new(services: Vec<String>, capacity: u32, now: Instant) -> Self {
        let _ = (services, capacity, now);
        unimplemented!()
    }

    /// Takes one event. `random` fills a slice with random bytes, for the jitter.
    pub fn handle(&mut self, event: GatewayEvent, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        let _ = (event, now, random);
        unimplemented!()
    }

    /// Does what is due: dials, pings, gives up.
    pub fn handle_timeout(&mut self, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        let _ = (now, random);
        unimplemented!()
    }

    /// The next thing to do, until `None`.
    pub fn poll_action(&mut self) -> Option<GatewayAction> {
        unimplemented!()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// Whether the gateway knows this server: both hellos are exchanged.
    pub fn is_up(&self) -> bool {
        unimplemented!()
    }
}
