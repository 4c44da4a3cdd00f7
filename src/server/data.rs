//! Data connections: dialled for an order, the claim of its ticket, the session header.

use std::sync::Arc;

use super::Service;
use super::mail::{ControlMail, Order, Purpose};
use super::stage::Stage;
use super::visitor::Visitor;
use super::worker::{ServerCore, ServerWorker, check_resumed, refusal_of, tell_refusal};
use crate::engine::{self, MessageError, Urgency, connect_result};
use crate::limits::DIAL_TIMEOUT;
use crate::relay::{CloseReason, Party};
use crate::telemetry::counters::HandshakeRole;
use crate::telemetry::record::ConnectionRecord;
use crate::tls::{TlsConnection, handshake_failure};
use crate::uring::Token;
use crate::wire::{
    Claim, FrameDecoder, FromDataConnection, RefusalReason, SessionHeader, ToDataConnection,
    from_data_connection, to_data_connection,
};

impl ServerWorker {
    pub(super) fn follow(&mut self, core: &mut ServerCore, order: Box<Order>) {
        let (address, expires) = (order.address, order.expires);
        let spare = order.is_spare().then_some((order.gateway.id, order.invitation));
        if core.connections_len() >= core.settings.max_connections {
            return self.fail_order(core, &order, CloseReason::ConnectionsFull);
        }
        match engine::dial(address) {
            Ok(socket) => {
                let token = core.adopt(socket, address, Stage::Dialing(order));
                core.set_urgency(token, Urgency::Full);
                self.spares.extend(spare.map(|spare| (spare, token)));
                core.set_deadline(token, Some(expires.min(core.now + DIAL_TIMEOUT)));
            }
            Err(_) => self.fail_order(core, &order, CloseReason::GatewayUnreachable),
        }
    }

    /// Goes on with a socket that was dialled, once it is connected.
    pub(super) fn check_dialled(&mut self, core: &mut ServerCore, token: Token) {
        let Some(connection) = core.connection(token) else { return };
        if !connection.leg.readiness().writable {
            return;
        }
        let result = connect_result(connection.leg.socket());
        match core.take_stage(token) {
            Some(Stage::Dialing(order)) => {
                core.enter(token, Stage::Greeting(order));
                match result {
                    Ok(()) => self.begin_greeting(core, token),
                    Err(_) => self.data_failed(core, token, CloseReason::GatewayUnreachable),
                }
            }
            Some(Stage::Connecting(delivery)) => match result {
                Ok(()) => self.backend_connected(core, token, delivery),
                Err(error) => self.try_next_address(core, token, delivery, refusal_of(&error)),
            },
            _ => {}
        }
    }

    fn begin_greeting(&mut self, core: &mut ServerCore, token: Token) {
        let Some(Stage::Greeting(order)) = core.stage(token) else { return };
        let name = order.gateway.name.clone();
        let tls = order.tls.take().and_then(|config| TlsConnection::client(config, name).ok());
        match (tls, core.connection(token)) {
            (Some(tls), Some(connection)) => {
                connection.leg.begin_tls(tls);
                self.greet(core, token);
            }
            _ => self.data_failed(core, token, CloseReason::HandshakeFailed),
        }
    }

    pub(super) fn greet(&mut self, core: &mut ServerCore, token: Token) {
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        match connection.leg.handshake(scratch, &[]) {
            Ok(false) => {}
            Ok(true) => match check_resumed(core, token, HandshakeRole::Data) {
                Ok(()) => self.claim(core, token),
                Err(error) => self.data_failed(core, token, handshake_failure(&error)),
            },
            Err(error) => self.data_failed(core, token, error.reason),
        }
    }

    fn claim(&mut self, core: &mut ServerCore, token: Token) {
        let Some(Stage::Greeting(order)) = core.take_stage(token) else { return };
        let claim = Claim { id: order.invitation, ticket: order.ticket.clone() };
        let message =
            FromDataConnection { message: Some(from_data_connection::Message::Claim(claim)) };
        let spare_life = order.spare_life();
        core.set_urgency(token, Urgency::Cheap);
        core.enter(token, Stage::Claiming { order, decoder: FrameDecoder::default() });
        if let Some(life) = spare_life {
            core.set_deadline(token, Some(core.now + life));
            core.watch_closely(token);
        }
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        match connection.leg.send_message(&message, scratch) {
            Ok(()) => self.read_header(core, token),
            Err(_) => self.data_failed(core, token, CloseReason::Reset(Party::Gateway)),
        }
    }

    pub(super) fn read_header(&mut self, core: &mut ServerCore, token: Token) {
        let Some(Stage::Claiming { order, mut decoder }) = core.take_stage(token) else { return };
        let message = core.receive_message::<ToDataConnection>(token, &mut decoder);
        let Some(message) = message else { return };
        let failure = match message {
            Ok(None) => return core.enter(token, Stage::Claiming { order, decoder }),
            Ok(Some(ToDataConnection { message: Some(message) })) => match message {
                to_data_connection::Message::SessionHeader(header) => {
                    return self.take_header(core, token, order, header);
                }
                to_data_connection::Message::Refused(refused) => {
                    CloseReason::Refused(refused.reason())
                }
            },
            Ok(Some(ToDataConnection { message: None })) => CloseReason::MessageUnknown,
            Err(MessageError::Ended) if order.is_spare() => CloseReason::SpareUnused,
            Err(error) => error.close_reason(Party::Gateway),
        };
        core.enter(token, Stage::Claiming { order, decoder });
        self.data_failed(core, token, failure);
    }

    fn take_header(
        &mut self,
        core: &mut ServerCore,
        token: Token,
        mut order: Box<Order>,
        header: SessionHeader,
    ) {
        let service = match &order.purpose {
            Purpose::Session { service } => self.ordered_service(core, token, service),
            Purpose::Spare { .. } => self.use_spare(core, token, &mut order, &header.service),
        };
        let visitor = |service: Arc<Service>| {
            let visitor = Visitor::of(header, &service.name)?;
            Ok((service, visitor))
        };
        match service.and_then(visitor) {
            Ok((service, visitor))
                if visitor.passthrough != service.config.agent_tls.is_passthrough() =>
            {
                let reason = RefusalReason::PassthroughMismatch;
                tell_refusal(core, token, reason);
                self.order_failed(core, token, &order, CloseReason::Refused(reason));
            }
            Ok((service, visitor)) => self.deliver(core, token, order, service, visitor),
            Err(reason) => self.order_failed(core, token, &order, reason),
        }
    }

    /// The service of an order. A reload may have taken it out since: the gateway is told then.
    fn ordered_service(
        &self,
        core: &mut ServerCore,
        token: Token,
        service: &str,
    ) -> Result<Arc<Service>, CloseReason> {
        let found = self.shared.service(service).cloned();
        found.ok_or_else(|| {
            tell_refusal(core, token, RefusalReason::ServiceUnknown);
            CloseReason::Refused(RefusalReason::ServiceUnknown)
        })
    }

    /// A gateway whose agent has left resets the data connection: the backend is not needed then.
    pub(super) fn watch_data(&mut self, core: &mut ServerCore, token: Token) {
        let Some(Stage::Delivering { backend }) = core.stage(token) else { return };
        let backend = *backend;
        let Some(connection) = core.connection(token) else { return };
        if !connection.leg.readiness().hung_up {
            return match core.stage(backend) {
                Some(Stage::SteppingDown(_)) => self.step_down(core, backend),
                Some(Stage::Welcoming(_)) => self.welcome(core, backend),
                _ => {}
            };
        }
        if let Some(
            Stage::Connecting(delivery)
            | Stage::Securing(delivery)
            | Stage::SteppingDown(delivery)
            | Stage::Welcoming(delivery),
        ) = core.take_stage(backend)
        {
            self.fail_delivery(core, &delivery, CloseReason::Reset(Party::Gateway));
        }
        core.reset(backend);
        core.reset(token);
    }

    /// Ends a data connection that has no agent yet.
    pub(super) fn data_failed(&mut self, core: &mut ServerCore, token: Token, reason: CloseReason) {
        match core.take_stage(token) {
            Some(
                Stage::Dialing(order) | Stage::Greeting(order) | Stage::Claiming { order, .. },
            ) => self.order_failed(core, token, &order, reason),
            _ => core.reset(token),
        }
    }

    fn order_failed(
        &mut self,
        core: &mut ServerCore,
        token: Token,
        order: &Order,
        reason: CloseReason,
    ) {
        self.fail_order(core, order, reason);
        core.linger(token);
    }

    fn fail_order(&mut self, core: &ServerCore, order: &Order, reason: CloseReason) {
        // A gateway that refused the claim itself, or ended the spare, needs no decline.
        let decline = match reason {
            CloseReason::Refused(_) | CloseReason::SpareUnused => None,
            CloseReason::ConnectionsFull => Some(RefusalReason::ServerFull),
            _ => Some(RefusalReason::InternalError),
        };
        let (gateway, invitation) = (order.gateway.id, order.invitation);
        let mail = match &order.purpose {
            Purpose::Session { service } => {
                let service = Some(Arc::clone(service));
                let record = Box::new(connection_record(core, order, None, service, reason));
                ControlMail::Failed { gateway, invitation, decline, record }
            }
            Purpose::Spare { .. } => {
                self.spares.remove(&(gateway, invitation));
                match reason {
                    CloseReason::SpareUnused => core.counters.spares_unused.inc(),
                    _ => core.counters.spares_lost.inc(),
                }
                let record = Box::new(connection_record(core, order, None, None, reason));
                ControlMail::SpareEnded { gateway, invitation, decline, record }
            }
        };
        self.control.send(mail);
    }
}

/// Of a data connection that became no session.
pub(super) fn connection_record(
    core: &ServerCore,
    order: &Order,
    device: Option<&Arc<str>>,
    service: Option<Arc<str>>,
    reason: CloseReason,
) -> ConnectionRecord {
    let gateway = &order.gateway.address;
    ConnectionRecord {
        peer: order.address,
        identity: device
            .map(|device| (Party::Agent, Arc::clone(device)))
            .or_else(|| Some((Party::Gateway, Arc::clone(gateway)))),
        place: Arc::clone(gateway),
        service,
        duration: core.now - order.received,
        reason,
    }
}
