//! Data connections: the claim of a ticket, the session header, the server's answer, the join.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::mail::ControlMail;
use super::stage::{Claim, Offered, Record, Speech, Stage, Visitor, Waiting};
use super::worker::{GatewayCore, GatewayWorker};
use crate::control::Purpose;
use crate::engine::Terms;
use crate::relay::{CloseReason, DataPath, Party};
use crate::telemetry::ledger::LiveSession;
use crate::tls::{CertificateId, TlsConnection};
use crate::uring::Token;
use crate::wire::{
    self, FrameDecoder, FromDataConnection, Opened, RefusalReason, Refused, SessionHeader, ToAgent,
    ToDataConnection, from_data_connection, to_agent, to_data_connection,
};

impl GatewayWorker {
    /// Reads the claim of a data connection, and judges it.
    pub(super) fn read_claim(&mut self, core: &mut GatewayCore, token: Token) {
        let Some(Stage::Claiming { proven, mut decoder }) = core.take_stage(token) else { return };
        let message = core.receive_message::<FromDataConnection>(token, &mut decoder);
        let Some(message) = message else { return };
        core.enter(token, Stage::Claiming { proven, decoder });
        match message {
            Ok(None) => {}
            Ok(Some(FromDataConnection {
                message: Some(from_data_connection::Message::Claim(claim)),
            })) => {
                self.judge(core, token, &claim);
            }
            Ok(Some(FromDataConnection { message: None })) => {
                self.refuse_data(core, token, CloseReason::MessageUnknown);
            }
            Ok(Some(_)) => self.refuse_data(core, token, CloseReason::MessageUnexpected),
            Err(error) => self.refuse_data(core, token, error.close_reason(Party::Server)),
        }
    }

    fn judge(&mut self, core: &mut GatewayCore, token: Token, claim: &wire::Claim) {
        if let Err(reason) = self.prove_again(core, token) {
            return self.refuse_data(core, token, reason);
        }
        let Some(Stage::Claiming { proven, .. }) = core.stage(token) else { return };
        match self.tickets.claim(claim, &proven.server) {
            Ok(Purpose::Agent(agent)) => self.give(core, token, Token::from_bits(agent), claim.id),
            Ok(Purpose::Spare { life }) => self.keep_spare(core, token, claim.id, life),
            Err(_) => self.refuse_data(core, token, CloseReason::TicketInvalid),
        }
    }

    /// Gives the claimed agent to its data connection.
    fn give(&mut self, core: &mut GatewayCore, token: Token, agent: Token, invitation: u64) {
        if !self.judge_again(core, agent) || !self.may_serve(core, token, agent) {
            return self.refuse_data(core, token, CloseReason::TicketInvalid);
        }
        let Some(Stage::Waiting(waiting)) = core.take_stage(agent) else { return };
        let Some(Stage::Claiming { proven, .. }) = core.take_stage(token) else { return };
        let message = self.header(core, agent, &waiting, invitation);
        let request = waiting.request();
        self.end_admission(core, token);
        let decoder = FrameDecoder::default();
        let offered = Offered { proven, invitation, agent, decoder };
        self.bind(core, token, offered, waiting);
        let reference = self.agent_ref(agent);
        let mail = ControlMail::Claimed { agent: reference, invitation, request };
        self.control.send_quietly(mail, core.now);
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        match connection.leg.send_message(&message, scratch) {
            Ok(()) => self.read_answer(core, token),
            Err(_) => self.answer_failed(core, token, CloseReason::Reset(Party::Server)),
        }
    }

    /// From now on agent and data connection share their fate.
    pub(super) fn bind(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        offered: Offered,
        waiting: Box<Waiting>,
    ) {
        let Offered { proven, invitation, agent, decoder } = offered;
        // The agent's own deadline goes on until the session is joined.
        let deadline = waiting.admitted + self.shared.config.limits.invitation_timeout;
        let server = Arc::clone(&proven.server);
        let tls = core.connection(token).and_then(|connection| connection.leg.tls());
        let chain = tls.map(TlsConnection::peer_chain).unwrap_or_default();
        let certificates = CertificateId::of_chain(chain);
        let claim = Claim { data: token, invitation, server, certificates, at: core.now };
        core.enter(agent, Stage::Claimed { waiting, claim });
        core.enter(token, Stage::Answering { proven, agent, decoder });
        core.set_deadline(token, Some(deadline));
    }

    /// Who the agent is, for its server.
    pub(super) fn header(
        &self,
        core: &mut GatewayCore,
        agent: Token,
        waiting: &Waiting,
        id: u64,
    ) -> ToDataConnection {
        let visitor = &waiting.visitor;
        let local = core.connection(agent).and_then(|c| c.leg.socket().local_addr().ok());
        let (listener_ip, listener_port) = local.map(address_bytes).unwrap_or_default();
        let (agent_ip, agent_port) = address_bytes(visitor.address);
        let header = SessionHeader {
            session: self.session_name(id),
            service: self.shared.services[waiting.service].to_string(),
            device: visitor.device.as_deref().unwrap_or_default().to_owned(),
            agent_ip,
            agent_port,
            listener_ip,
            listener_port,
            sni: visitor.sni.clone(),
            alpn: visitor.alpn.clone(),
            passthrough: visitor.speaks == Speech::Unread,
        };
        ToDataConnection { message: Some(to_data_connection::Message::SessionHeader(header)) }
    }

    /// Reads whether the server reached the backend.
    pub(super) fn read_answer(&mut self, core: &mut GatewayCore, token: Token) {
        let Some(Stage::Answering { proven, agent, mut decoder }) = core.take_stage(token) else {
            return;
        };
        let message = core.receive_message::<FromDataConnection>(token, &mut decoder);
        let Some(message) = message else { return };
        core.enter(token, Stage::Answering { proven, agent, decoder });
        match message {
            Ok(None) => {}
            Ok(Some(FromDataConnection { message: Some(message) })) => match message {
                from_data_connection::Message::Accepted(_) => self.accepted(core, agent, token),
                from_data_connection::Message::Refused(Refused { reason, .. }) => {
                    let reason =
                        RefusalReason::try_from(reason).unwrap_or(RefusalReason::Unspecified);
                    let reason = CloseReason::Refused(reason);
                    self.turn_claimed_down(core, token, reason);
                    self.fail(core, token, reason);
                }
                from_data_connection::Message::Claim(_)
                | from_data_connection::Message::Taken(_) => {
                    self.answer_failed(core, token, CloseReason::MessageUnexpected);
                }
            },
            Ok(Some(FromDataConnection { message: None })) => {
                self.answer_failed(core, token, CloseReason::MessageUnknown);
            }
            Err(error) => self.answer_failed(core, token, error.close_reason(Party::Server)),
        }
    }

    /// The backend is there. An agent whose TLS is not ours is joined once that of its data connection has ended.
    fn accepted(&mut self, core: &mut GatewayCore, agent: Token, data: Token) {
        let is_unread = match core.stage(agent) {
            Some(Stage::Claimed { waiting, .. }) => waiting.visitor.speaks == Speech::Unread,
            _ => false,
        };
        if !is_unread {
            return self.join(core, agent, data);
        }
        let Some(Stage::Answering { proven, agent, .. }) = core.take_stage(data) else { return };
        core.enter(data, Stage::SteppingDown { proven, agent });
        self.step_down(core, data);
    }

    /// The claim led to no session: both connections end, for the same reason. The data connection is
    /// reset, since its server may have joined its own end by now, and would pass an end on as the agent's.
    /// One that refused has not.
    pub(super) fn answer_failed(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        reason: CloseReason,
    ) {
        self.turn_claimed_down(core, token, reason);
        self.abort(core, token, reason);
    }

    /// Turns down the agent of a data connection that claimed it.
    fn turn_claimed_down(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) {
        let Some(Stage::Answering { agent, .. } | Stage::SteppingDown { agent, .. }) =
            core.stage(token)
        else {
            return;
        };
        let agent = *agent;
        if let Some(Stage::Claimed { claim, .. }) = core.stage(agent) {
            let invitation = claim.invitation;
            self.control.send(ControlMail::Released { invitation });
            self.turn_down(core, agent, reason);
        }
    }

    fn refuse_data(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) {
        let refused = Refused { reason: reason.refusal().into(), retry_after_ms: 0 };
        let message =
            ToDataConnection { message: Some(to_data_connection::Message::Refused(refused)) };
        if let Some((connection, scratch)) = core.with_scratch(token) {
            // A server that is gone needs no answer; `fail` closes either way.
            let _ = connection.leg.send_message(&message, scratch);
        }
        self.fail(core, token, reason);
    }

    pub(super) fn join(&mut self, core: &mut GatewayCore, agent: Token, data: Token) {
        // The header and its answer may have passed within one turn.
        core.now = Instant::now();
        if self.is_revoked(core, agent) {
            return self.answer_failed(core, data, CloseReason::CertificateRevoked);
        }
        let Some(Stage::Claimed { waiting, claim }) = core.take_stage(agent) else { return };
        let session = self.session_name(claim.invitation);
        if waiting.visitor.speaks == Speech::Messages {
            let opened = Opened { session: session.clone() };
            let message = ToAgent { message: Some(to_agent::Message::Opened(opened)) };
            let sent =
                core.with_scratch(agent).map(|(c, scratch)| c.leg.send_message(&message, scratch));
            if !matches!(sent, Some(Ok(()))) {
                core.enter(agent, Stage::Claimed { waiting, claim });
                return self.answer_failed(core, data, CloseReason::AgentLeft);
            }
        }
        let service = Arc::clone(&self.shared.services[waiting.service]);
        let path = self.shared.platform.path(waiting.visitor.speaks.path());
        let live = live_session(service, &waiting, &claim.server, path, core.now);
        self.waiting -= 1;
        let terms = self.terms(core, &waiting);
        let record = Record { waiting, claim, joined: core.now };
        core.join_on(terms, (agent, Party::Agent), (data, Party::Server), record);
        self.control.send_quietly(ControlMail::Joined { session, live }, core.now);
    }
}

impl GatewayWorker {
    /// What holds for the session of an agent, as its service, its device and its address stand now.
    fn terms(&self, core: &GatewayCore, waiting: &Waiting) -> Terms {
        let config = &self.shared.config;
        let relay = config.service(waiting.service).map(|service| service.limits.relay);
        Terms {
            relay: relay.unwrap_or(core.settings.relay),
            throttle: self.tolls.throttle(config, &waiting.visitor, waiting.service),
        }
    }
}

fn live_session(
    service: Arc<str>,
    waiting: &Waiting,
    server: &Arc<str>,
    path: DataPath,
    now: Instant,
) -> LiveSession {
    let Visitor { device, aliases, address, .. } = &waiting.visitor;
    LiveSession {
        device: device.clone(),
        aliases: aliases.clone(),
        agent: *address,
        service,
        peer: Arc::clone(server),
        path,
        since: now,
    }
}

/// The address in network order, and the port.
fn address_bytes(address: SocketAddr) -> (Vec<u8>, u32) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    (ip, u32::from(address.port()))
}
