//! The server's worker: a data connection for each order, the backend behind it, the relay.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::UnixTime;
use tokio::sync::Notify;

use super::Shared;
use super::backends;
use super::mail::{ControlMail, Order, WorkerMail};
use super::proxy_protocol;
use super::stage::{Delivery, Record, Stage};
use super::visitor::Visitor;
use crate::engine::{self, Connection, Core, Post, Session, connect_result};
use crate::limits::DIAL_TIMEOUT;
use crate::relay::{CloseReason, Party};
use crate::telemetry::counters::HandshakeRole;
use crate::telemetry::ledger::LiveSession;
use crate::telemetry::record::{ConnectionRecord, SessionRecord, Stage as Stretch, Stages, Way};
use crate::tls::{TlsConnection, check_dates, handshake_failure};
use crate::uring::Token;
use crate::wire::{
    Accepted, Claim, FrameDecoder, FromDataConnection, RefusalReason, Refused, ToDataConnection,
    from_data_connection, to_data_connection,
};

/// The core of a server's worker.
type ServerCore = Core<Stage, Record>;

/// What one worker of a server knows beside its connections.
pub(super) struct ServerWorker {
    pub(super) index: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) control: Post<ControlMail, Notify>,
    pub(super) draining: bool,
}

impl engine::Role for ServerWorker {
    type Stage = Stage;
    type Record = Record;
    type Mail = WorkerMail;

    fn accepted(&mut self, _: &mut ServerCore, _: usize, _: TcpStream, _: SocketAddr) {
        // A server has no listeners.
    }

    fn ready(&mut self, core: &mut ServerCore, token: Token) {
        match core.stage(token) {
            Some(Stage::Dialing(_) | Stage::Connecting(_)) => self.check_dialled(core, token),
            Some(Stage::Greeting(_)) => self.greet(core, token),
            Some(Stage::Claiming { .. }) => self.read_header(core, token),
            Some(Stage::Delivering { .. }) => self.watch_data(core, token),
            Some(Stage::Securing(_)) => self.secure(core, token),
            None => {}
        }
    }

    fn timed_out(&mut self, core: &mut ServerCore, token: Token) {
        match core.stage(token) {
            Some(Stage::Connecting(_) | Stage::Securing(_)) => {
                self.backend_failed(core, token, RefusalReason::BackendTimeout);
            }
            Some(Stage::Delivering { .. }) | None => {}
            Some(_) => self.data_failed(core, token, CloseReason::GatewayUnreachable),
        }
    }

    fn handed_over(&mut self, _: &mut ServerCore, _: Connection<Stage>, _: Stage) {
        // A server hands nothing over.
    }

    fn ended(&mut self, core: &mut ServerCore, session: Session<Record>, reason: CloseReason) {
        self.record_session(core, session, reason);
    }

    fn mail(&mut self, core: &mut ServerCore, mail: WorkerMail) {
        core.counters.mails.inc();
        match mail {
            WorkerMail::Deliver(order) => self.follow(core, order),
            WorkerMail::Drain => self.draining = true,
            WorkerMail::Stop => self.stop(core),
        }
    }

    fn turn_ended(&mut self, core: &mut ServerCore) -> bool {
        self.control.look_after(core.now);
        !(self.draining && core.connections_len() == 0 && !self.control.has_kept())
    }

    fn mail_due(&self, now: Instant) -> Option<Instant> {
        self.control.due(now)
    }
}

// ---- the data connection ----

impl ServerWorker {
    fn follow(&mut self, core: &mut ServerCore, order: Box<Order>) {
        let (address, expires) = (order.address, order.expires);
        if core.connections_len() >= core.settings.max_connections {
            return self.fail_order(core, &order, CloseReason::ConnectionsFull);
        }
        match engine::dial(address) {
            Ok(socket) => {
                let token = core.adopt(socket, address, Stage::Dialing(order));
                core.set_deadline(token, Some(expires.min(core.now + DIAL_TIMEOUT)));
            }
            Err(_) => self.fail_order(core, &order, CloseReason::GatewayUnreachable),
        }
    }

    /// Goes on with a socket that was dialled, once it is connected.
    fn check_dialled(&mut self, core: &mut ServerCore, token: Token) {
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
        let name = self.shared.gateway_names[order.gateway].clone();
        let tls = TlsConnection::client(Arc::clone(&order.tls), name);
        match (tls, core.connection(token)) {
            (Ok(tls), Some(connection)) => {
                connection.leg.begin_tls(tls);
                self.greet(core, token);
            }
            _ => self.data_failed(core, token, CloseReason::HandshakeFailed),
        }
    }

    fn greet(&mut self, core: &mut ServerCore, token: Token) {
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
        core.enter(token, Stage::Claiming { order, decoder: FrameDecoder::default() });
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        match connection.leg.send_message(&message, scratch) {
            Ok(()) => self.read_header(core, token),
            Err(_) => self.data_failed(core, token, CloseReason::Reset(Party::Gateway)),
        }
    }

    fn read_header(&mut self, core: &mut ServerCore, token: Token) {
        let Some(Stage::Claiming { order, mut decoder }) = core.take_stage(token) else { return };
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        let message = connection.leg.receive_message::<ToDataConnection>(&mut decoder, scratch);
        let service = &self.shared.config.services[order.service].name;
        let failure = match message {
            Ok(None) => return core.enter(token, Stage::Claiming { order, decoder }),
            Ok(Some(ToDataConnection { message: Some(message) })) => match message {
                to_data_connection::Message::SessionHeader(header) => {
                    match Visitor::of(header, service) {
                        Ok(visitor) => return self.deliver(core, token, order, visitor),
                        Err(reason) => reason,
                    }
                }
                to_data_connection::Message::Refused(refused) => {
                    CloseReason::Refused(refused.reason())
                }
            },
            Ok(Some(ToDataConnection { message: None })) => CloseReason::MessageUnknown,
            Err(error) => error.close_reason(Party::Gateway),
        };
        core.enter(token, Stage::Claiming { order, decoder });
        self.data_failed(core, token, failure);
    }

    /// A gateway whose agent has left resets the data connection: the backend is not needed then.
    fn watch_data(&mut self, core: &mut ServerCore, token: Token) {
        let Some(connection) = core.connection(token) else { return };
        if !connection.leg.readiness().hung_up {
            return;
        }
        let Some(Stage::Delivering { backend }) = core.stage(token) else { return };
        let backend = *backend;
        if let Some(Stage::Connecting(delivery) | Stage::Securing(delivery)) =
            core.take_stage(backend)
        {
            self.fail_delivery(core, &delivery, CloseReason::Reset(Party::Gateway));
        }
        core.reset(backend);
        core.reset(token);
    }

    /// Ends a data connection that has no agent yet.
    fn data_failed(&mut self, core: &mut ServerCore, token: Token, reason: CloseReason) {
        match core.take_stage(token) {
            Some(
                Stage::Dialing(order) | Stage::Greeting(order) | Stage::Claiming { order, .. },
            ) => {
                self.fail_order(core, &order, reason);
                core.linger(token);
            }
            _ => core.reset(token),
        }
    }

    fn fail_order(&mut self, core: &ServerCore, order: &Order, reason: CloseReason) {
        // A gateway that refused the claim itself needs no decline.
        let decline = match reason {
            CloseReason::Refused(_) => None,
            CloseReason::ConnectionsFull => Some(RefusalReason::ServerFull),
            _ => Some(RefusalReason::InternalError),
        };
        self.mail_failure(core, order, None, decline, reason);
    }

    fn mail_failure(
        &mut self,
        core: &ServerCore,
        order: &Order,
        device: Option<&Arc<str>>,
        decline: Option<RefusalReason>,
        reason: CloseReason,
    ) {
        let record = Box::new(ConnectionRecord {
            peer: order.address,
            identity: device.map(|device| (Party::Agent, Arc::clone(device))).or_else(|| {
                Some((Party::Gateway, Arc::clone(&self.shared.gateways[order.gateway])))
            }),
            place: Arc::clone(&self.shared.gateways[order.gateway]),
            service: Some(Arc::clone(&self.shared.services[order.service])),
            duration: core.now - order.received,
            reason,
        });
        let (gateway, invitation) = (order.gateway, order.invitation);
        self.control.send(ControlMail::Failed { gateway, invitation, decline, record });
    }
}

// ---- the backend ----

impl ServerWorker {
    fn deliver(&mut self, core: &mut ServerCore, data: Token, order: Box<Order>, visitor: Visitor) {
        let backend = backends::choose(&self.shared.config.services[order.service], &visitor.alpn);
        let mut untried = order.backends.get(&backend.address).cloned().unwrap_or_default();
        // The first in the list is tried first, and `pop` takes the last.
        untried.reverse();
        core.set_deadline(data, None);
        let delivery = Box::new(Delivery { order, visitor, data, untried, claimed: core.now });
        self.connect_backend(core, delivery, RefusalReason::BackendUnreachable);
    }

    /// Dials the next address of the backend; `last_failure` is the answer where there is none.
    fn connect_backend(
        &mut self,
        core: &mut ServerCore,
        mut delivery: Box<Delivery>,
        last_failure: RefusalReason,
    ) {
        let mut failure = last_failure;
        while let Some(address) = delivery.untried.pop() {
            match engine::dial(address) {
                Ok(socket) => {
                    let (data, timeout) =
                        (delivery.data, self.backend_of(&delivery).connect_timeout);
                    let backend = core.adopt(socket, address, Stage::Connecting(delivery));
                    core.set_deadline(backend, Some(core.now + timeout));
                    core.enter(data, Stage::Delivering { backend });
                    return;
                }
                Err(error) => failure = refusal_of(&error),
            }
        }
        self.refuse(core, &delivery, failure);
    }

    fn try_next_address(
        &mut self,
        core: &mut ServerCore,
        token: Token,
        delivery: Box<Delivery>,
        failure: RefusalReason,
    ) {
        core.reset(token);
        self.connect_backend(core, delivery, failure);
    }

    fn backend_connected(&mut self, core: &mut ServerCore, token: Token, delivery: Box<Delivery>) {
        let backend = self.backend_of(&delivery);
        let tls = backend.tls.is_some();
        let sends_header = backend.proxy_protocol;
        if let Some(connection) = core.connection(token)
            && sends_header
        {
            let header = proxy_protocol::header(&delivery.visitor);
            let sent = header.is_ok_and(|header| connection.leg.send_raw(&header).is_ok());
            if !sent {
                return self.try_next_address(core, token, delivery, RefusalReason::BackendRefused);
            }
        }
        if !tls {
            return self.join(core, token, delivery);
        }
        let config = self.shared.backend_tls(delivery.order.service, &delivery.visitor.alpn);
        let connection = config.and_then(|(config, name)| TlsConnection::client(config, name).ok());
        match (connection, core.connection(token)) {
            (Some(tls), Some(connection)) => {
                connection.leg.begin_tls(tls);
                core.enter(token, Stage::Securing(delivery));
                self.secure(core, token);
            }
            _ => self.try_next_address(core, token, delivery, RefusalReason::BackendTlsFailed),
        }
    }

    fn secure(&mut self, core: &mut ServerCore, token: Token) {
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        let result = connection.leg.handshake(scratch, &[]);
        let checked = match result {
            Ok(false) => return,
            Ok(true) => check_resumed(core, token, HandshakeRole::Backend)
                .map_err(|error| (handshake_failure(&error), Some(error.to_string()))),
            Err(error) => Err((error.reason, error.detail)),
        };
        match checked {
            Ok(()) => {
                if let Some(Stage::Securing(delivery)) = core.take_stage(token) {
                    self.join(core, token, delivery);
                }
            }
            Err((reason, detail)) => {
                tracing::warn!(%reason, detail, "TLS with backend failed");
                self.backend_failed(core, token, RefusalReason::BackendTlsFailed);
            }
        }
    }

    fn backend_failed(&mut self, core: &mut ServerCore, token: Token, reason: RefusalReason) {
        if let Some(Stage::Connecting(delivery) | Stage::Securing(delivery)) =
            core.take_stage(token)
        {
            self.try_next_address(core, token, delivery, reason);
        }
    }

    /// Tells the gateway that there is no session, and why.
    fn refuse(&mut self, core: &mut ServerCore, delivery: &Delivery, reason: RefusalReason) {
        let refused = Refused { reason: reason.into(), retry_after_ms: 0 };
        let message =
            FromDataConnection { message: Some(from_data_connection::Message::Refused(refused)) };
        if let Some((connection, scratch)) = core.with_scratch(delivery.data) {
            // A gateway that is gone needs no answer.
            let _ = connection.leg.send_message(&message, scratch);
        }
        core.linger(delivery.data);
        self.fail_delivery(core, delivery, CloseReason::Refused(reason));
    }

    fn fail_delivery(&mut self, core: &ServerCore, delivery: &Delivery, reason: CloseReason) {
        let device = delivery.visitor.device.as_ref();
        self.mail_failure(core, &delivery.order, device, None, reason);
    }

    fn join(&mut self, core: &mut ServerCore, backend: Token, delivery: Box<Delivery>) {
        let accepted = from_data_connection::Message::Accepted(Accepted {});
        let message = FromDataConnection { message: Some(accepted) };
        let sent = core
            .with_scratch(delivery.data)
            .map(|(connection, scratch)| connection.leg.send_message(&message, scratch));
        if !matches!(sent, Some(Ok(()))) {
            core.reset(backend);
            core.reset(delivery.data);
            return self.fail_delivery(core, &delivery, CloseReason::Reset(Party::Gateway));
        }
        let address = &self.backend_of(&delivery).address;
        let name: Arc<str> = address.to_string().into();
        let Delivery { order, visitor, data, claimed, .. } = *delivery;
        let live = LiveSession {
            who: visitor.device.as_deref().map_or_else(|| visitor.agent.to_string(), str::to_owned),
            service: Arc::clone(&self.shared.services[order.service]),
            since: core.now,
        };
        let session = visitor.session.clone();
        let record = Record { order, visitor, claimed, joined: core.now, backend: name };
        core.join((data, Party::Gateway), (backend, Party::Backend), record);
        self.control.send_quietly(ControlMail::Joined { session, live }, core.now);
    }

    fn backend_of(&self, delivery: &Delivery) -> &crate::config::Backend {
        let service = &self.shared.config.services[delivery.order.service];
        backends::choose(service, &delivery.visitor.alpn)
    }

    fn record_session(&mut self, core: &ServerCore, session: Session<Record>, reason: CloseReason) {
        let Record { order, visitor, claimed, joined, backend } = session.record;
        let mut stages = Stages::default();
        stages.set(Stretch::InvitationToClaim, claimed - order.received);
        stages.set(Stretch::ClaimToJoined, joined - claimed);
        stages.set(Stretch::AcceptToJoined, joined - order.received);
        let record = Box::new(SessionRecord {
            session: visitor.session,
            service: Arc::clone(&self.shared.services[order.service]),
            device: visitor.device,
            agent: visitor.agent,
            way: Way::Server { gateway: Arc::clone(&self.shared.gateways[order.gateway]), backend },
            worker: self.index,
            bytes_to_server: session.bytes.inward,
            bytes_to_agent: session.bytes.outward,
            stages,
            duration: core.now - order.received,
            reason,
        });
        let mail = ControlMail::SessionEnded { gateway: order.gateway, record };
        self.control.send_quietly(mail, core.now);
    }

    fn stop(&mut self, core: &mut ServerCore) {
        self.draining = true;
        for token in core.session_tokens() {
            if let Some(session) = core.part(token, true) {
                self.record_session(core, session, CloseReason::DrainTimeout);
            }
        }
        for token in core.connection_tokens() {
            self.data_failed(core, token, CloseReason::DrainTimeout);
            core.reset(token);
        }
    }
}

/// Counts the handshake, and looks again at whoever it resumed with: rustls did not.
fn check_resumed(
    core: &mut ServerCore,
    token: Token,
    role: HandshakeRole,
) -> Result<(), rustls::Error> {
    let counters = Arc::clone(&core.counters);
    let chain = core.connection(token).and_then(|c| c.leg.tls()?.resumed_chain());
    counters.handshakes.of(role, chain.is_some()).inc();
    chain.map_or(Ok(()), |chain| check_dates(chain, UnixTime::now()))
}

fn refusal_of(error: &std::io::Error) -> RefusalReason {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset => {
            RefusalReason::BackendRefused
        }
        std::io::ErrorKind::TimedOut => RefusalReason::BackendTimeout,
        _ => RefusalReason::BackendUnreachable,
    }
}
