//! Agents, from admission to the claim of their server, and the record of their sessions.

use std::sync::Arc;

use super::admission;
use super::mail::ControlMail;
use super::stage::{Record, Speech, Stage, Visitor, Waiting};
use super::worker::{GatewayCore, GatewayWorker};
use crate::config::ListenerKind;
use crate::control::{Request, ServiceId, Ticket};
use crate::engine::{Received, Session};
use crate::relay::{CloseReason, Failure, Party};
use crate::telemetry::record::{SessionRecord, Stage as Stretch, Way};
use crate::tls::{Alert, Identity, TlsConnection};
use crate::uring::Token;
use crate::wire::{self, RefusalReason, ToAgent, from_agent, to_agent};

impl GatewayWorker {
    /// An old agent: its listener names its service, and it is admitted at once.
    pub(super) fn receive_plain_agent(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        listener: usize,
    ) {
        let ListenerKind::Plain { service, .. } = self.shared.config.listeners[listener].kind
        else {
            return;
        };
        let Some(connection) = core.connection(token) else { return };
        let generation = self.shared.generation;
        let visitor = Visitor::unproven(listener, generation, connection, Speech::Plain);
        let waiting =
            Waiting { visitor, service, admitted: core.now, invited: None, offered: None };
        let request = waiting.request();
        if let Some(connection) = core.connection(token)
            && !self.allows_tls(listener)
        {
            connection.leg.refuse_tls();
        }
        core.enter(token, Stage::Waiting(Box::new(waiting)));
        self.waiting += 1;
        self.wait(core, token, request);
    }

    /// Reads which service our own agent asks for.
    pub(super) fn read_request(&mut self, core: &mut GatewayCore, token: Token) {
        let Some(Stage::Request { visitor, mut decoder }) = core.take_stage(token) else { return };
        let request = core.receive_message::<wire::FromAgent>(token, &mut decoder);
        let Some(request) = request else { return };
        let listener = visitor.listener;
        match request {
            Ok(Some(wire::FromAgent { message: Some(from_agent::Message::Open(open)) })) => {
                match admission::named_service(&self.shared.config, listener, &open.service) {
                    Ok(service) => {
                        let tls = core.connection(token).and_then(|c| c.leg.tls());
                        let certificate = tls.and_then(TlsConnection::peer_certificate);
                        let identity = certificate.map(Identity::of).and_then(Result::ok);
                        self.admit(core, token, *visitor, service, identity.as_ref());
                    }
                    Err(reason) => {
                        core.enter(token, Stage::Request { visitor, decoder });
                        self.turn_down(core, token, CloseReason::Refused(reason));
                    }
                }
            }
            Ok(Some(wire::FromAgent { message: None })) => {
                core.enter(token, Stage::Request { visitor, decoder });
                self.turn_down(core, token, CloseReason::MessageUnknown);
            }
            Ok(None) => core.enter(token, Stage::Request { visitor, decoder }),
            Err(error) => {
                core.enter(token, Stage::Request { visitor, decoder });
                self.turn_down(core, token, error.close_reason(Party::Agent));
            }
        }
    }

    /// Lets a device that proved who it is wait for a server, or turns it down.
    pub(super) fn admit(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        mut visitor: Visitor,
        service: ServiceId,
        identity: Option<&Identity>,
    ) {
        self.end_admission(core, token);
        let listener = visitor.listener;
        let before = std::mem::replace(&mut visitor.generation, self.shared.generation);
        let is_unread = visitor.speaks == Speech::Unread;
        let allowed = if before == self.shared.generation {
            admission::admit(&self.shared.config, listener, service, identity, is_unread)
                .map_err(CloseReason::Refused)
        } else {
            // Our own agent, which has named its service after a reload.
            self.judge_device(core, token, listener, service, is_unread)
        };
        let address = visitor.address.ip();
        let allowed = allowed.and_then(|()| self.check_blocks(address, identity));
        let allowed = match allowed {
            // Others may have been let in since its ClientHello.
            Ok(()) if !self.has_room_for_agent(core) => Err(CloseReason::ConnectionsFull),
            allowed => allowed,
        };
        let waiting =
            Waiting { visitor, service, admitted: core.now, invited: None, offered: None };
        let request = waiting.request();
        core.enter(token, Stage::Waiting(Box::new(waiting)));
        self.waiting += 1;
        match allowed {
            Ok(()) => self.wait(core, token, request),
            Err(reason) => self.turn_down(core, token, reason),
        }
    }

    fn wait(&mut self, core: &mut GatewayCore, token: Token, request: Request) {
        // The dispatcher keeps the deadline of whoever waits.
        core.set_deadline(token, None);
        let agent = self.agent_ref(token);
        self.control.send(ControlMail::Admit { agent, request });
        self.watch_waiting(core, token);
    }

    /// A server was invited for an agent that waits here.
    pub(super) fn expect(
        &mut self,
        core: &mut GatewayCore,
        agent: u64,
        invitation: u64,
        ticket: Ticket,
        server: &str,
    ) {
        let now = core.now;
        self.recall_offer(core, Token::from_bits(agent));
        if let Some(Stage::Waiting(waiting)) = core.stage(Token::from_bits(agent)) {
            waiting.invited = Some(now);
            self.tickets.expect(invitation, ticket, server.to_owned(), agent);
        }
    }

    /// The dispatcher has no server for an agent.
    pub(super) fn refuse_waiting(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        reason: RefusalReason,
    ) {
        // An agent that was claimed meanwhile is not refused: the claim was first.
        if matches!(core.stage(token), Some(Stage::Waiting(_))) {
            self.recall_offer(core, token);
            self.tickets.forget(token.to_bits());
            self.turn_down(core, token, CloseReason::Refused(reason));
        }
    }

    /// Looks whether an agent that waits is still there. Its bytes stay where they are.
    pub(super) fn watch_waiting(&mut self, core: &mut GatewayCore, token: Token) {
        let speaks = match core.stage(token) {
            Some(Stage::Waiting(waiting) | Stage::Claimed { waiting, .. }) => {
                waiting.visitor.speaks
            }
            _ => return,
        };
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        let readiness = connection.leg.readiness();
        let reason = if readiness.hung_up {
            Some(CloseReason::AgentLeft)
        } else if connection.leg.is_offered_refused_tls() {
            Some(CloseReason::UnexpectedTls)
        } else if !readiness.read_closed {
            None
        } else if speaks == Speech::Unread {
            // Nobody ends TLS cleanly before its handshake.
            Some(CloseReason::AgentLeft)
        } else if speaks == Speech::Plain {
            connection.leg.is_empty_stream().then_some(CloseReason::AgentLeft)
        } else {
            // A clean end is a request that is complete; anything else is an agent that left.
            loop {
                match connection.leg.read_ahead(scratch) {
                    Received::Failed(_) => break Some(CloseReason::AgentLeft),
                    Received::Payload if connection.leg.may_read_ahead() => {}
                    Received::Nothing if connection.leg.readiness().readable => {}
                    Received::End | Received::Payload | Received::Nothing => break None,
                }
            }
        };
        if let Some(reason) = reason {
            self.leave(core, token, reason);
        }
    }

    fn leave(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) {
        if let Some(Stage::Claimed { claim, .. }) = core.stage(token) {
            let claim = claim.clone();
            // The server finds out by the reset; there is no message for it after the header.
            self.abort(core, claim.data, CloseReason::AgentLeft);
            self.control.send(ControlMail::Released { invitation: claim.invitation });
        } else {
            self.recall_offer(core, token);
            let agent = self.agent_ref(token);
            self.control.send(ControlMail::Leave { agent });
        }
        self.tickets.forget(token.to_bits());
        self.abort(core, token, reason);
    }

    /// Ends the connection of an agent that gets no session, and tells it in its own way.
    pub(super) fn turn_down(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) {
        let speaks = match core.stage(token) {
            Some(Stage::Request { .. }) => Speech::Messages,
            Some(Stage::Waiting(waiting) | Stage::Claimed { waiting, .. }) => {
                waiting.visitor.speaks
            }
            _ => return,
        };
        let (refusal, now) = (reason.refusal(), core.now);
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        let told: Result<(), Failure> = match speaks {
            Speech::Messages => {
                let wait = refusal.is_transient().then(|| self.return_times.draw(now));
                let retry_after_ms =
                    wait.map_or(0, |wait| wait.as_millis().try_into().unwrap_or(0));
                let refused = wire::Refused { reason: refusal.into(), retry_after_ms };
                let message = ToAgent { message: Some(to_agent::Message::Refused(refused)) };
                connection.leg.send_message(&message, scratch)
            }
            Speech::Tls(_) => connection.leg.end_with_alert(Alert::from(reason)),
            Speech::Unread => connection.leg.send_raw(&Alert::from(reason).unprotected_record()),
            Speech::Plain => Err(Failure::Reset),
        };
        match told {
            Ok(()) => self.fail(core, token, reason),
            Err(_) => self.abort(core, token, reason),
        }
    }

    /// Writes the one record of a session that has ended.
    pub(super) fn record_session(
        &mut self,
        core: &GatewayCore,
        session: Session<Record>,
        reason: CloseReason,
    ) {
        let Record { waiting, claim, joined } = session.record;
        let Waiting { visitor, service, admitted, invited, .. } = *waiting;
        let mut stages = visitor.stages;
        let invited = invited.unwrap_or(admitted);
        stages.set(Stretch::AdmissionToInvitation, invited - admitted);
        stages.set(Stretch::InvitationToClaim, claim.at - invited);
        stages.set(Stretch::ClaimToJoined, joined - claim.at);
        stages.set(Stretch::AcceptToJoined, joined - visitor.accepted);
        let record = SessionRecord {
            session: self.session_name(claim.invitation),
            service: Arc::clone(&self.shared.services[service]),
            device: visitor.device,
            agent: visitor.address,
            way: Way::Gateway {
                listener: Arc::clone(&self.shared.listeners[visitor.listener]),
                server: claim.server,
            },
            path: self.shared.platform.path(visitor.speaks.path()),
            worker: u32::try_from(self.index).expect("workers are few"),
            bytes_to_server: session.bytes.inward,
            bytes_to_agent: session.bytes.outward,
            stages,
            duration: core.now - visitor.accepted,
            reason,
        };
        let record = Box::new(record);
        let mail = ControlMail::SessionEnded { invitation: claim.invitation, record };
        self.control.send_quietly(mail, core.now);
    }

    /// Unique over all processes of all gateways: the instance, and the invitation in it.
    pub(super) fn session_name(&self, invitation: u64) -> String {
        format!("{}-{invitation:x}", self.shared.instance)
    }

    fn allows_tls(&self, listener: usize) -> bool {
        matches!(
            self.shared.config.listeners[listener].kind,
            ListenerKind::Plain { allow_tls: true, .. }
        )
    }
}
