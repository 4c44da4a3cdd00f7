//! The server's worker: from an order to the backend behind its data connection, and the relay.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::Notify;

use super::backends::{self, Addresses};
use super::data::connection_record;
use super::link::GatewayId;
use super::mail::{ControlMail, Order, WorkerMail};
use super::proxy_protocol;
use super::stage::{Delivery, Record, Stage};
use super::sweep::Sweeping;
use super::visitor::Visitor;
use super::{Service, Shared, settings};
use crate::config::Backend;
use crate::engine::{self, Connection, Core, Post, Session, Urgency};
use crate::relay::{CloseReason, Failure, Party};
use crate::telemetry::counters::HandshakeRole;
use crate::telemetry::ledger::LiveSession;
use crate::telemetry::record::{SessionRecord, Stage as Stretch, Stages, Way};
use crate::tls::{TlsConnection, TlsVersion, check_dates, handshake_failure};
use crate::uring::Token;
use crate::wire::{Accepted, FromDataConnection, RefusalReason, Refused, from_data_connection};

/// The core of a server's worker.
pub(super) type ServerCore = Core<Stage, Record>;

/// What one worker of a server knows beside its connections.
pub(super) struct ServerWorker {
    pub(super) index: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) control: Post<ControlMail, Notify>,
    pub(super) backends: Arc<Addresses>,
    /// Spares, those under way included, by gateway and invitation.
    pub(super) spares: HashMap<(GatewayId, u64), Token>,
    /// What an operator has us end, the first at the front.
    pub(super) sweeps: VecDeque<Sweeping>,
    pub(super) draining: bool,
}

impl engine::Role for ServerWorker {
    type Stage = Stage;
    type Record = Record;
    type Mail = WorkerMail;

    fn accepted(&mut self, _: &mut ServerCore, _: usize, _: TcpStream, _: SocketAddr) -> bool {
        // A server has no listeners.
        false
    }

    fn accept_failed(&mut self, _: &mut ServerCore) -> bool {
        false
    }

    fn ready(&mut self, core: &mut ServerCore, token: Token) {
        match core.stage(token) {
            Some(Stage::Dialing(_) | Stage::Connecting(_)) => self.check_dialled(core, token),
            Some(Stage::Greeting(_)) => self.greet(core, token),
            Some(Stage::Claiming { .. }) => self.read_header(core, token),
            Some(Stage::Delivering { .. }) => self.watch_data(core, token),
            Some(Stage::Securing(_)) => self.secure(core, token),
            // The backend is there; its news is the session's.
            Some(Stage::SteppingDown(_) | Stage::Welcoming(_)) | None => {}
        }
    }

    fn timed_out(&mut self, core: &mut ServerCore, token: Token) {
        match core.stage(token) {
            Some(Stage::Connecting(_) | Stage::Securing(_)) => {
                self.backend_failed(core, token, RefusalReason::BackendTimeout);
            }
            Some(Stage::SteppingDown(_) | Stage::Welcoming(_)) => self.agent_is_late(core, token),
            Some(Stage::Delivering { .. }) | None => {}
            Some(Stage::Claiming { order, .. }) if order.is_spare() => {
                self.data_failed(core, token, CloseReason::SpareUnused);
            }
            Some(_) => self.data_failed(core, token, CloseReason::GatewayUnreachable),
        }
    }

    fn handed_over(&mut self, _: &mut ServerCore, _: Connection<Stage>, _: Stage) {
        // A server hands nothing over.
    }

    fn closed(&mut self, _: SocketAddr) {
        // Nothing is counted by address.
    }

    fn ended(&mut self, core: &mut ServerCore, session: Session<Record>, reason: CloseReason) {
        self.record_session(core, session, reason);
    }

    fn mail(&mut self, core: &mut ServerCore, mail: WorkerMail) {
        core.counters.mails.inc();
        match mail {
            WorkerMail::Reload { shared, backends } => {
                core.set_settings(settings(&shared));
                (self.shared, self.backends) = (shared, backends);
            }
            WorkerMail::Deliver(order) => self.follow(core, order),
            WorkerMail::Backends(backends) => self.backends = backends,
            WorkerMail::CloseSpare { gateway, invitation } => {
                self.close_spare(core, gateway, invitation);
            }
            WorkerMail::EndSessions(sweep) => self.begin_sweep(core, sweep),
            WorkerMail::Drain => self.drain(core),
            WorkerMail::Stop => self.stop(core),
        }
    }

    fn turn_ended(&mut self, core: &mut ServerCore) -> bool {
        self.sweep_on(core);
        core.counters.spares_open.set(self.spares.len() as u64);
        self.control.look_after(core.now);
        let has_work = self.control.has_kept() || !self.sweeps.is_empty();
        !(self.draining && core.connections_len() == 0 && !has_work)
    }

    fn mail_due(&self, now: Instant) -> Option<Instant> {
        let sweep = (!self.sweeps.is_empty()).then_some(now);
        self.control.due(now).into_iter().chain(sweep).min()
    }
}

// ---- the backend ----

impl ServerWorker {
    pub(super) fn deliver(
        &mut self,
        core: &mut ServerCore,
        data: Token,
        order: Box<Order>,
        service: Arc<Service>,
        visitor: Visitor,
    ) {
        let backend = backends::choose(&service.config, &visitor.alpn);
        let mut untried = self.backends.get(&backend.address).cloned().unwrap_or_default();
        // The first in the list is tried first, and `pop` takes the last.
        untried.reverse();
        core.set_deadline(data, None);
        let claimed = core.now;
        let delivery = Box::new(Delivery { order, service, visitor, data, untried, claimed });
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
                    let (data, timeout) = (delivery.data, backend_of(&delivery).connect_timeout);
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

    pub(super) fn try_next_address(
        &mut self,
        core: &mut ServerCore,
        token: Token,
        delivery: Box<Delivery>,
        failure: RefusalReason,
    ) {
        core.reset(token);
        self.connect_backend(core, delivery, failure);
    }

    pub(super) fn backend_connected(
        &mut self,
        core: &mut ServerCore,
        token: Token,
        delivery: Box<Delivery>,
    ) {
        let tls = backend_of(&delivery).tls.is_some();
        // An agent that is to prove itself here is introduced after that.
        let is_known = delivery.service.agent_tls.is_none();
        if is_known && introduce(core, token, &delivery).is_err() {
            return self.try_next_address(core, token, delivery, RefusalReason::BackendRefused);
        }
        if !tls {
            return self.join(core, token, delivery);
        }
        let config = delivery.service.backend_tls(&delivery.visitor.alpn);
        let connection = config.and_then(|(config, name)| TlsConnection::client(config, name).ok());
        match (connection, core.connection(token)) {
            (Some(tls), Some(connection)) => {
                connection.leg.begin_tls(tls);
                core.set_urgency(token, Urgency::Full);
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
        tell_refusal(core, delivery.data, reason);
        core.linger(delivery.data);
        self.fail_delivery(core, delivery, CloseReason::Refused(reason));
    }

    pub(super) fn fail_delivery(
        &mut self,
        core: &ServerCore,
        delivery: &Delivery,
        reason: CloseReason,
    ) {
        let Delivery { order, service, visitor, .. } = delivery;
        let service = Some(Arc::clone(&service.name));
        let record = connection_record(core, order, visitor.device.as_ref(), service, reason);
        let record = Box::new(record);
        let (gateway, invitation) = (order.gateway.id, order.invitation);
        self.control.send(ControlMail::Failed { gateway, invitation, decline: None, record });
    }

    fn join(&mut self, core: &mut ServerCore, backend: Token, delivery: Box<Delivery>) {
        if delivery.visitor.passthrough {
            return self.begin_step_down(core, backend, delivery);
        }
        if tell_accepted(core, delivery.data).is_err() {
            return self.undelivered(core, backend, &delivery, CloseReason::Reset(Party::Gateway));
        }
        self.joined(core, backend, delivery);
    }

    pub(super) fn joined(
        &mut self,
        core: &mut ServerCore,
        backend: Token,
        delivery: Box<Delivery>,
    ) {
        let address = &backend_of(&delivery).address;
        let name: Arc<str> = address.to_string().into();
        let Delivery { order, service, visitor, data, claimed, .. } = *delivery;
        let live = LiveSession {
            device: visitor.device.clone(),
            aliases: None,
            agent: visitor.agent,
            peer: Arc::clone(&order.gateway.address),
            service: Arc::clone(&service.name),
            path: self.shared.platform.path(visitor.path()),
            since: core.now,
        };
        let session = visitor.session.clone();
        let service = Arc::clone(&service.name);
        let record = Record { order, service, visitor, claimed, joined: core.now, backend: name };
        core.join((data, Party::Gateway), (backend, Party::Backend), record);
        self.control.send_quietly(ControlMail::Joined { session, live }, core.now);
    }

    pub(super) fn record_session(
        &mut self,
        core: &ServerCore,
        session: Session<Record>,
        reason: CloseReason,
    ) {
        let Record { order, service, visitor, claimed, joined, backend } = session.record;
        let mut stages = Stages::default();
        stages.set(Stretch::InvitationToClaim, claimed - order.received);
        stages.set(Stretch::ClaimToJoined, joined - claimed);
        stages.set(Stretch::AcceptToJoined, joined - order.received);
        let record = Box::new(SessionRecord {
            path: self.shared.platform.path(visitor.path()),
            session: visitor.session,
            service,
            device: visitor.device,
            agent: visitor.agent,
            way: Way::Server { gateway: Arc::clone(&order.gateway.address), backend },
            worker: self.index,
            bytes_to_server: session.bytes.inward,
            bytes_to_agent: session.bytes.outward,
            stages,
            duration: core.now - order.received,
            reason,
        });
        let mail = ControlMail::SessionEnded { gateway: order.gateway.id, record };
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

/// Tells the backend who comes, where it wants to know.
pub(super) fn introduce(
    core: &mut ServerCore,
    backend: Token,
    delivery: &Delivery,
) -> Result<(), Failure> {
    let Some(connection) = core.connection(backend) else { return Ok(()) };
    if !backend_of(delivery).proxy_protocol {
        return Ok(());
    }
    let header = proxy_protocol::header(&delivery.visitor).map_err(|_| Failure::Reset)?;
    connection.leg.send_raw(&header)
}

/// Tells the gateway that the backend is there.
pub(super) fn tell_accepted(core: &mut ServerCore, data: Token) -> Result<(), Failure> {
    let accepted = from_data_connection::Message::Accepted(Accepted {});
    let message = FromDataConnection { message: Some(accepted) };
    let Some((connection, scratch)) = core.with_scratch(data) else { return Err(Failure::Reset) };
    connection.leg.send_message(&message, scratch)
}

/// Tells the gateway why there is no session; the caller ends the connection.
pub(super) fn tell_refusal(core: &mut ServerCore, data: Token, reason: RefusalReason) {
    let refused = Refused { reason: reason.into(), retry_after_ms: 0 };
    let message =
        FromDataConnection { message: Some(from_data_connection::Message::Refused(refused)) };
    if let Some((connection, scratch)) = core.with_scratch(data) {
        // A gateway that is gone needs no answer.
        let _ = connection.leg.send_message(&message, scratch);
    }
}

fn backend_of(delivery: &Delivery) -> &Backend {
    backends::choose(&delivery.service.config, &delivery.visitor.alpn)
}

/// Counts the handshake, and looks again at whoever it resumed with: rustls did not.
pub(super) fn check_resumed(
    core: &mut ServerCore,
    token: Token,
    role: HandshakeRole,
) -> Result<(), rustls::Error> {
    let chain = count_handshake(core, token, role);
    chain.map_or(Ok(()), |chain| check_dates(chain, UnixTime::now()))
}

/// Counts the handshake. Returns the chain of a peer that resumed.
pub(super) fn count_handshake(
    core: &mut ServerCore,
    token: Token,
    role: HandshakeRole,
) -> Option<&[CertificateDer<'static>]> {
    let counters = Arc::clone(&core.counters);
    let tls = core.connection(token).and_then(|connection| connection.leg.tls());
    if tls.and_then(TlsConnection::version) == Some(TlsVersion::Older) {
        counters.older_handshakes.inc();
    }
    let chain = tls.and_then(TlsConnection::resumed_chain);
    counters.handshakes.of(role, chain.is_some()).inc();
    chain
}

pub(super) fn refusal_of(error: &std::io::Error) -> RefusalReason {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset => {
            RefusalReason::BackendRefused
        }
        std::io::ErrorKind::TimedOut => RefusalReason::BackendTimeout,
        _ => RefusalReason::BackendUnreachable,
    }
}
