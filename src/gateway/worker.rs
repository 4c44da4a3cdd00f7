//! The gateway's worker: from the first byte of TLS to the role that a handshake chose.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::admission::{self, Role};
use super::mail::{ControlMail, Signal, Transfer, WorkerMail};
use super::return_times::ReturnTimes;
use super::sources::Sources;
use super::stage::{Elsewhere, Kind, Record, Stage, elsewhere};
use super::sweep::Sweeping;
use super::tolls::Tolls;
use super::turned_away::TurnedAway;
use super::walk::Walk;
use crate::control::{AgentRef, Tickets};
use crate::engine::{self, Connection, Core, HandshakeError, Post, Session};
use crate::limits::MAX_RECORD_LEN;
use crate::operator::Blocks;
use crate::relay::{CloseReason, Party};
use crate::telemetry::record::ConnectionRecord;
use crate::tls::{Alert, ClientHello, HelloError, TlsConnection};
use crate::uring::{Token, Waker};
use crate::wire::RefusalReason;

/// The core of a gateway's worker.
pub(super) type GatewayCore = Core<Stage, Record>;

/// What one worker of a gateway knows beside its connections.
pub(super) struct GatewayWorker {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) control: Post<ControlMail, tokio::sync::Notify>,
    /// By index of the worker; never used for our own.
    pub(super) peers: Vec<Post<WorkerMail, Waker>>,
    /// The listener of each listening socket.
    pub(super) sockets: Vec<usize>,
    pub(super) tickets: Tickets,
    /// Connections that wait for an agent, by the invitation that asked for them.
    pub(super) spares: HashMap<u64, Token>,
    /// Counts by address, of all workers.
    pub(super) sources: Arc<Sources>,
    /// How fast each may move bytes, of all workers.
    pub(super) tolls: Arc<Tolls>,
    /// Connections that are not admitted yet.
    pub(super) handshakes: usize,
    pub(super) max_handshakes: usize,
    /// Those of them that have proved nothing, the oldest first, and some that have ended.
    pub(super) strangers: VecDeque<Token>,
    /// Agents that wait for a server, or for its answer.
    pub(super) waiting: usize,
    pub(super) turned_away: TurnedAway,
    pub(super) return_times: ReturnTimes,
    /// Who is kept out.
    pub(super) blocks: Arc<Blocks>,
    /// What an operator has us end, the first at the front.
    pub(super) sweeps: VecDeque<Sweeping>,
    /// Whom it looks at since what is trusted has changed.
    pub(super) review: Option<Walk>,
    /// The process that this one succeeds, while data connections may still come for it.
    pub(super) predecessor: Option<Arc<str>>,
    /// Whether signal connections go to the process that succeeds this one.
    pub(super) passes_signals: bool,
    pub(super) life: Life,
}

/// How far a worker is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Takes in who comes.
    Serving,
    /// Another process takes in who comes; some here may wait for a server.
    Leaving,
    /// The same, and nobody waits here.
    Settled,
    /// Stops once its last connection is closed.
    Draining,
}

impl engine::Role for GatewayWorker {
    type Stage = Stage;
    type Record = Record;
    type Mail = WorkerMail;

    fn accepted(
        &mut self,
        core: &mut GatewayCore,
        socket_index: usize,
        socket: TcpStream,
        peer: SocketAddr,
    ) -> bool {
        self.arrive(core, self.sockets[socket_index], socket, peer)
    }

    fn accept_failed(&mut self, core: &mut GatewayCore) -> bool {
        self.shed(core)
    }

    fn ready(&mut self, core: &mut GatewayCore, token: Token) {
        match core.stage(token) {
            Some(Stage::Prologue { .. }) => self.read_prologue(core, token),
            Some(Stage::Hello { .. }) => self.read_hello(core, token),
            Some(Stage::Handshake { .. }) => self.advance_handshake(core, token),
            Some(Stage::Request { .. }) => self.read_request(core, token),
            Some(Stage::Waiting(_) | Stage::Claimed { .. }) => self.watch_waiting(core, token),
            Some(Stage::Claiming { .. }) => self.read_claim(core, token),
            Some(Stage::Spare { .. }) => drop(self.watch_spare(core, token)),
            Some(Stage::Offered(_)) => self.read_taken(core, token),
            Some(Stage::Answering { .. }) => self.read_answer(core, token),
            Some(Stage::SteppingDown { .. }) => self.step_down(core, token),
            Some(Stage::Transferring { .. } | Stage::Signalling(_)) | None => {}
        }
    }

    fn timed_out(&mut self, core: &mut GatewayCore, token: Token) {
        match core.stage(token) {
            Some(Stage::Answering { .. }) => {
                let reason = CloseReason::Refused(RefusalReason::BackendTimeout);
                self.answer_failed(core, token, reason);
            }
            Some(Stage::SteppingDown { .. }) => {
                let reason = CloseReason::Refused(RefusalReason::InvitationTimeout);
                self.answer_failed(core, token, reason);
            }
            Some(Stage::Spare { .. }) => self.spare_is_old(core, token),
            Some(Stage::Offered(_)) => self.offer_timed_out(core, token),
            Some(_) => self.fail(core, token, CloseReason::AdmissionTimeout),
            None => {}
        }
    }

    fn handed_over(&mut self, _: &mut GatewayCore, connection: Connection<Stage>, stage: Stage) {
        let Connection { leg, opened, peer, .. } = connection;
        let (socket, tls, pending) = leg.into_parts();
        match (stage, tls) {
            (Stage::Transferring { to, listener, seen }, _) => {
                let transfer = Transfer { socket, peer, listener, seen, accepted: opened };
                match to {
                    Elsewhere::Worker(worker) => {
                        self.peers[worker].send(WorkerMail::Transfer(transfer));
                    }
                    Elsewhere::Process => {
                        self.sources.disconnect(peer.ip());
                        self.control.send(ControlMail::Pass(transfer));
                    }
                }
            }
            (Stage::Signalling(proven), Some(tls)) => {
                self.sources.disconnect(peer.ip());
                let signal = Signal { socket, peer, tls, pending, proven, accepted: opened };
                self.control.send(ControlMail::Signal(Box::new(signal)));
            }
            // Nothing else is handed over.
            _ => {}
        }
    }

    fn closed(&mut self, peer: SocketAddr) {
        self.sources.disconnect(peer.ip());
    }

    fn ended(&mut self, core: &mut GatewayCore, session: Session<Record>, reason: CloseReason) {
        self.record_session(core, session, reason);
    }

    fn mail(&mut self, core: &mut GatewayCore, mail: WorkerMail) {
        core.counters.mails.inc();
        match mail {
            WorkerMail::Reload(shared) => self.reload(core, shared),
            WorkerMail::Expect { agent, invitation, ticket, server } => {
                self.expect(core, agent, invitation, ticket, &server);
            }
            WorkerMail::ExpectSpare { invitation, ticket, server, life } => {
                self.tickets.expect_spare(invitation, ticket, server.to_string(), life);
            }
            WorkerMail::UseSpare { agent, invitation } => {
                self.use_spare(core, Token::from_bits(agent), invitation);
            }
            WorkerMail::CloseSpare { invitation } => self.close_spare(core, invitation),
            WorkerMail::Refuse { agent, reason } => {
                self.refuse_waiting(core, Token::from_bits(agent), reason);
            }
            WorkerMail::Transfer(transfer) => self.receive_transfer(core, transfer),
            WorkerMail::Blocks(blocks) => self.set_blocks(blocks),
            WorkerMail::EndSessions(sweep) => self.begin_sweep(core, sweep),
            WorkerMail::Passed(transfer) => self.receive_passed(core, transfer),
            WorkerMail::Listen(sockets) => {
                let (listening, listeners): (_, Vec<usize>) = sockets.into_iter().unzip();
                self.sockets.extend(listeners);
                core.listen(listening);
            }
            WorkerMail::PassSignals(passes) => self.passes_signals = passes,
            WorkerMail::PredecessorGone => self.predecessor = None,
            WorkerMail::Leave => {
                core.stop_accepting();
                if self.life == Life::Serving {
                    self.life = Life::Leaving;
                }
            }
            WorkerMail::Drain => self.drain(core),
            WorkerMail::Stop => self.stop(core),
        }
    }

    fn turn_ended(&mut self, core: &mut GatewayCore) -> bool {
        self.sweep_on(core);
        self.review(core);
        core.counters.handshakes_open.set(self.handshakes as u64);
        core.counters.spares_open.set(self.spares.len() as u64);
        for (record, count) in self.turned_away.take(core.now, self.life == Life::Draining) {
            let record = Box::new(record);
            self.control.send_quietly(ControlMail::TurnedAway { record, count }, core.now);
        }
        if self.life == Life::Leaving && self.handshakes == 0 && self.waiting == 0 {
            self.life = Life::Settled;
            self.control.send(ControlMail::Settled);
        }
        self.control.look_after(core.now);
        for peer in &mut self.peers {
            peer.flush();
        }
        let has_kept = self.control.has_kept() || self.peers.iter().any(Post::has_kept);
        let has_work = has_kept || !self.sweeps.is_empty();
        !(self.life == Life::Draining && core.connections_len() == 0 && !has_work)
    }

    fn mail_due(&self, now: Instant) -> Option<Instant> {
        if self.review.is_some() {
            return Some(now);
        }
        let peers = self.peers.iter().filter_map(|peer| peer.due(now));
        let sweep = (!self.sweeps.is_empty()).then_some(now);
        peers.chain(self.control.due(now)).chain(self.turned_away.due()).chain(sweep).min()
    }
}

impl GatewayWorker {
    pub(super) fn read_hello(&mut self, core: &mut GatewayCore, token: Token) {
        loop {
            let Some((connection, scratch)) = core.with_scratch(token) else { return };
            match connection.leg.receive_raw(scratch, MAX_RECORD_LEN) {
                Ok(None) => return,
                Ok(Some(0)) | Err(_) => {
                    return self.fail(core, token, CloseReason::HandshakeFailed);
                }
                Ok(Some(len)) => {
                    let bytes = scratch.raw(len).to_vec();
                    if self.take_hello_bytes(core, token, &bytes) {
                        return;
                    }
                }
            }
        }
    }

    /// Returns whether the hello is settled, one way or the other.
    pub(super) fn take_hello_bytes(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        bytes: &[u8],
    ) -> bool {
        let Some(Stage::Hello { listener, reader }) = core.stage(token) else { return true };
        let listener = *listener;
        match reader.read(bytes) {
            Ok(None) => return false,
            Ok(Some(hello)) => {
                let seen = std::mem::take(&mut **reader).into_seen();
                self.choose_role(core, token, listener, &hello, seen);
            }
            Err(HelloError::NotTls) => self.fail(core, token, CloseReason::NotTls),
            Err(HelloError::Damaged { answer }) => {
                self.fail_with(core, token, &answer, CloseReason::HandshakeFailed);
            }
            Err(HelloError::TooOld { answer }) => {
                self.fail_with(core, token, &answer, CloseReason::TlsVersion);
            }
        }
        true
    }

    fn choose_role(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        listener: usize,
        hello: &ClientHello,
        seen: Vec<u8>,
    ) {
        let shared = Arc::clone(&self.shared);
        let Some(roles) = &shared.roles[listener] else { return };
        let kind = match admission::role(&shared.config, listener, hello) {
            Err(reason) => {
                let alert = Alert::from(reason).unprotected_record();
                return self.fail_with(core, token, &alert, CloseReason::Refused(reason));
            }
            Ok(Role::Signal) if self.passes_signals => {
                return self.transfer(core, token, Elsewhere::Process, listener, seen);
            }
            Ok(Role::Signal) => Kind::Signal,
            Ok(Role::Data(hint)) => {
                let (workers, before) = (self.peers.len(), self.predecessor.as_deref());
                if let Some(to) =
                    elsewhere(hint.as_ref(), &shared.instance, before, self.index, workers)
                {
                    return self.transfer(core, token, to, listener, seen);
                }
                Kind::Data
            }
            Ok(Role::Agent) => Kind::Agent,
            Ok(Role::Foreign(service)) => Kind::Foreign(service),
            Ok(Role::Unread(service)) => {
                return self.admit_unread(core, token, listener, service, hello, seen);
            }
        };
        if let Err((alert, reason)) = self.may_shake_hands(core, token, &kind) {
            return self.fail_with(core, token, &alert.unprotected_record(), reason);
        }
        let config = kind.config_for(roles, hello).map(|role| Arc::clone(&role.config));
        let tls = config.and_then(|config| TlsConnection::server(config).ok());
        let (Some(tls), Some(connection)) = (tls, core.connection(token)) else {
            // Servers are not taken on this listener.
            let alert = Alert::AccessDenied.unprotected_record();
            return self.fail_with(core, token, &alert, CloseReason::HandshakeFailed);
        };
        connection.leg.begin_tls(tls);
        core.set_urgency(token, kind.urgency(hello));
        let (sni, hello_at, generation) = (hello.sni.clone(), core.now, shared.generation);
        core.enter(token, Stage::Handshake { listener, kind, sni, hello_at, generation, seen });
        core.requeue(token);
    }

    /// Gives a connection to whom it belongs.
    fn transfer(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        to: Elsewhere,
        listener: usize,
        seen: Vec<u8>,
    ) {
        self.end_admission(core, token);
        core.hand_over(token, Stage::Transferring { to, listener, seen });
    }

    /// What can be refused before any cryptography.
    fn may_shake_hands(
        &self,
        core: &mut GatewayCore,
        token: Token,
        kind: &Kind,
    ) -> Result<(), (Alert, CloseReason)> {
        let Some(connection) = core.connection(token) else { return Ok(()) };
        let from = connection.peer.ip();
        match kind {
            Kind::Signal | Kind::Data if !admission::may_be_server(&self.shared.config, from) => {
                Err((Alert::AccessDenied, CloseReason::ServerAddressNotAllowed))
            }
            Kind::Agent | Kind::Foreign(_) if !self.has_room_for_agent(core) => {
                Err((Alert::InternalError, CloseReason::ConnectionsFull))
            }
            _ => Ok(()),
        }
    }

    fn advance_handshake(&mut self, core: &mut GatewayCore, token: Token) {
        let Some(Stage::Handshake { seen, .. }) = core.stage(token) else { return };
        let seen = std::mem::take(seen);
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        match connection.leg.handshake(scratch, &seen) {
            Ok(false) => {}
            Ok(true) => self.established(core, token),
            Err(HandshakeError { reason, detail }) => {
                if let Some(detail) = detail {
                    let peer = connection.peer;
                    let advice = core.stage(token).and_then(|stage| stage.advice(reason));
                    tracing::debug!(%peer, %reason, detail, advice, "handshake refused");
                }
                self.fail(core, token, reason);
            }
        }
    }

    /// Ends a connection that is no session, with the answer that its stage has for the peer.
    pub(super) fn fail(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) {
        self.fail_with(core, token, &[], reason);
    }

    fn fail_with(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        answer: &[u8],
        reason: CloseReason,
    ) {
        let Some(connection) = core.connection(token) else { return };
        let sent = answer.is_empty() || connection.leg.send_raw(answer).is_ok();
        if self.record_end(core, token, reason) {
            if sent { core.linger(token) } else { core.reset(token) }
        }
    }

    /// Ends a connection that is no session with a reset and nothing before it: a peer that is cut
    /// off must not take that for a clean end.
    pub(super) fn abort(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) {
        if self.record_end(core, token, reason) {
            core.reset(token);
        }
    }

    /// Takes the connection out of its stage and writes its one record; false where it has none.
    fn record_end(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) -> bool {
        let Some(connection) = core.connection(token) else { return false };
        let (peer, opened) = (connection.peer, connection.opened);
        let Some(stage) = core.take_stage(token) else { return false };
        let Some(listener) = stage.listener() else { return false };
        if stage.is_before_admission() {
            self.end_admission(core, token);
        } else if stage.is_admitted_agent() {
            self.waiting -= 1;
        }
        let proven = stage.device().map(|device| (Party::Agent, Arc::clone(device)));
        let server = stage.server().map(|server| (Party::Server, Arc::clone(server)));
        let service = stage.service().map(|service| Arc::clone(&self.shared.services[service]));
        self.record_connection(core, listener, peer, opened, proven.or(server), service, reason);
        true
    }

    pub(super) fn agent_ref(&self, token: Token) -> AgentRef {
        let worker = u32::try_from(self.index).expect("workers are few");
        AgentRef { worker, connection: token.to_bits() }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record")]
    fn record_connection(
        &mut self,
        core: &GatewayCore,
        listener: usize,
        peer: SocketAddr,
        opened: Instant,
        identity: Option<(Party, Arc<str>)>,
        service: Option<Arc<str>>,
        reason: CloseReason,
    ) {
        let record = ControlMail::connection_ended(ConnectionRecord {
            peer,
            identity,
            place: Arc::clone(&self.shared.listeners[listener]),
            service,
            duration: core.now - opened,
            reason,
        });
        self.control.send_quietly(record, core.now);
    }

    fn drain(&mut self, core: &mut GatewayCore) {
        self.life = Life::Draining;
        core.stop_accepting();
    }

    fn stop(&mut self, core: &mut GatewayCore) {
        self.drain(core);
        for token in core.session_tokens() {
            if let Some(session) = core.part(token, true) {
                self.record_session(core, session, CloseReason::DrainTimeout);
            }
        }
        for token in core.connection_tokens() {
            self.abort(core, token, CloseReason::DrainTimeout);
        }
    }
}
