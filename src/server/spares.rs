//! Spares: data connections that were claimed ahead of need, until an agent comes over one.

use std::sync::Arc;
use std::time::Duration;

use super::Service;
use super::link::GatewayId;
use super::mail::{ControlMail, Order, Purpose};
use super::worker::{ServerCore, ServerWorker};
use crate::relay::CloseReason;
use crate::uring::Token;
use crate::wire::{
    FromDataConnection, RefusalReason, Refused, Taken, from_data_connection::Message,
};

impl Order {
    pub(super) fn is_spare(&self) -> bool {
        self.spare_life().is_some()
    }

    /// How long a spare is kept.
    pub(super) fn spare_life(&self) -> Option<Duration> {
        match self.purpose {
            Purpose::Spare { life } => Some(life),
            Purpose::Session { .. } => None,
        }
    }
}

impl ServerWorker {
    /// An agent came over a spare: takes it, or tells the gateway why not. Returns its service.
    pub(super) fn use_spare(
        &mut self,
        core: &mut ServerCore,
        token: Token,
        order: &mut Order,
        service: &str,
    ) -> Result<Arc<Service>, CloseReason> {
        let refused = match self.shared.service(service) {
            None => Err(RefusalReason::ServiceUnknown),
            Some(_) if !self.shared.seats.take(&order.gateway) => Err(RefusalReason::ServerFull),
            Some(service) => Ok(Arc::clone(service)),
        };
        let answer = match refused {
            Ok(_) => Message::Taken(Taken {}),
            Err(reason) => Message::Refused(Refused { reason: reason.into(), retry_after_ms: 0 }),
        };
        if let Some((connection, scratch)) = core.with_scratch(token) {
            let message = FromDataConnection { message: Some(answer) };
            // A gateway that is gone shows with the next receive.
            let _ = connection.leg.send_message(&message, scratch);
        }
        let service = refused.map_err(CloseReason::Refused)?;
        let (gateway, invitation) = (order.gateway.id, order.invitation);
        order.purpose = Purpose::Session { service: Arc::clone(&service.name) };
        order.received = core.now;
        self.spares.remove(&(gateway, invitation));
        core.watch_gently(token);
        core.counters.spares_used.inc();
        self.control.send(ControlMail::SpareUsed { gateway, invitation });
        Ok(service)
    }

    pub(super) fn close_spare(
        &mut self,
        core: &mut ServerCore,
        gateway: GatewayId,
        invitation: u64,
    ) {
        // Not there: an agent came over it, or it ended.
        if let Some(token) = self.spares.get(&(gateway, invitation)).copied() {
            self.data_failed(core, token, CloseReason::SpareUnused);
        }
    }

    /// Stops once the last session is over; no agent comes over a spare any more.
    pub(super) fn drain(&mut self, core: &mut ServerCore) {
        self.draining = true;
        let spares: Vec<Token> = self.spares.values().copied().collect();
        for token in spares {
            self.data_failed(core, token, CloseReason::SpareUnused);
        }
    }
}
