//! Data connections of a worker: the claim, the header, the answer, the session.

use std::time::{Duration, Instant};

use vestibule::control::{Event, Purpose};
use vestibule::relay::{CloseReason, Ending, Party};
use vestibule::wire::{
    Claim, FrameDecoder, FromDataConnection, Opened, RefusalReason, Refused, SessionHeader,
    ToAgent, ToDataConnection, from_data_connection, to_agent, to_data_connection,
};

use super::{HERE, Stage, Waiting, Worker, taint};
use crate::sim::nature::Nature;
use crate::sim::network::ConnectionId;
use crate::sim::planted::Planted;
use crate::sim::session::{Leg, Session};

impl Worker {
    pub(super) fn read_claim(&mut self, id: ConnectionId, now: Instant, nature: &mut Nature) {
        let Some(Stage::Claiming { decoder, .. }) = self.stages.get_mut(&id) else { return };
        let message = match nature.read_message::<FromDataConnection>(id, HERE, decoder) {
            Ok(None) => return,
            Ok(Some(message)) => message.message,
            Err(_) => None,
        };
        match message {
            Some(from_data_connection::Message::Claim(claim)) => {
                self.judge(id, &claim, now, nature);
            }
            _ => self.refuse_data(id, RefusalReason::ProtocolError, nature),
        }
    }

    pub(super) fn judge(
        &mut self,
        id: ConnectionId,
        claim: &Claim,
        now: Instant,
        nature: &mut Nature,
    ) {
        let Some(Stage::Claiming { server, hint, .. }) = self.stages.get(&id) else { return };
        let (index, hint) = (*server, hint.clone());
        if !self.settings.servers[index].is_listed {
            return self.refuse_data(id, CloseReason::CertificateNotAllowed.refusal(), nature);
        }
        let server = self.settings.servers[index].name.clone();
        let mut judged = self.tickets.claim(claim, &server);
        if nature.has_planted(Planted::TicketIsKept) && nature.checks.was_honoured(claim) {
            judged = Ok(Purpose::Spare { life: Duration::from_secs(1) });
        }
        let Ok(purpose) = judged else {
            nature.checks.a_valid_claim_is_honoured(self.gateway, claim, &server, &hint);
            return self.refuse_data(id, RefusalReason::TicketInvalid, nature);
        };
        let agent = match purpose {
            Purpose::Agent(agent) => Some(usize::try_from(agent).expect("one of ours")),
            Purpose::Spare { .. } => None,
        };
        nature.checks.a_ticket_is_honoured_once_and_for_whom_it_was_drawn(
            self.gateway,
            claim,
            &server,
            agent,
        );
        match purpose {
            Purpose::Agent(_) => {
                self.give(id, agent.expect("just found"), claim.id, index, nature);
            }
            Purpose::Spare { life } => self.keep_spare(id, claim.id, life, now, nature),
        }
    }

    pub(super) fn give(
        &mut self,
        id: ConnectionId,
        agent: ConnectionId,
        invitation: u64,
        server: usize,
        nature: &mut Nature,
    ) {
        if !self.judge_again(agent, nature) || !self.may_serve(server, agent) {
            return self.refuse_data(id, RefusalReason::TicketInvalid, nature);
        }
        let Some(Stage::Waiting(waiting)) = self.stages.remove(&agent) else { return };
        if self.settings.servers[server].is_hostile {
            taint(&waiting.device, nature);
        }
        let header = self.header(&waiting, invitation);
        self.bind(id, agent, &waiting, invitation, nature);
        nature.say(id, HERE, &header);
    }

    fn may_serve(&self, server: usize, agent: ConnectionId) -> bool {
        let Some(Stage::Waiting(waiting)) = self.stages.get(&agent) else { return false };
        self.settings.servers[server].services.contains(&waiting.service)
    }

    /// From now on agent and data connection share their fate.
    pub(super) fn bind(
        &mut self,
        id: ConnectionId,
        agent: ConnectionId,
        waiting: &Waiting,
        invitation: u64,
        nature: &mut Nature,
    ) {
        let deadline = waiting.admitted + self.settings.limits.invitation_timeout;
        self.enter(agent, Stage::Claimed { data: id, invitation });
        self.enter(id, Stage::Answering { agent, decoder: FrameDecoder::default() });
        self.deadlines.insert(id, deadline);
        let agent = self.agent_ref(agent);
        self.tell(Event::Claimed { agent, invitation, request: waiting.request() }, nature);
    }

    pub(super) fn header(&self, waiting: &Waiting, invitation: u64) -> ToDataConnection {
        let header = SessionHeader {
            session: format!("{}-{invitation:x}", self.instance),
            service: self.settings.services[waiting.service].name.clone(),
            passthrough: waiting.passthrough,
            device: waiting.device.clone(),
            ..SessionHeader::default()
        };
        ToDataConnection { message: Some(to_data_connection::Message::SessionHeader(header)) }
    }

    pub(super) fn read_answer(&mut self, id: ConnectionId, now: Instant, nature: &mut Nature) {
        let Some(Stage::Answering { agent, decoder }) = self.stages.get_mut(&id) else { return };
        let agent = *agent;
        let reason = match nature.read_message::<FromDataConnection>(id, HERE, decoder) {
            Ok(None) => return,
            Ok(Some(FromDataConnection { message })) => match message {
                Some(from_data_connection::Message::Accepted(_)) => {
                    return self.join(agent, id, now, nature);
                }
                Some(from_data_connection::Message::Refused(refused)) => {
                    let reason = CloseReason::Refused(refused.reason());
                    self.turn_claimed_down(id, reason, nature);
                    return self.hang_up(id, nature);
                }
                Some(_) => CloseReason::MessageUnexpected,
                None => CloseReason::MessageUnknown,
            },
            Err(broken) => broken.close_reason(Party::Server),
        };
        self.answer_failed(id, reason, nature);
    }

    /// Its server may have joined its own end, and must not take this for the agent's.
    pub(super) fn answer_failed(
        &mut self,
        id: ConnectionId,
        reason: CloseReason,
        nature: &mut Nature,
    ) {
        self.turn_claimed_down(id, reason, nature);
        self.abort(id, nature);
    }

    fn turn_claimed_down(&mut self, id: ConnectionId, reason: CloseReason, nature: &mut Nature) {
        let Some(Stage::Answering { agent, .. }) = self.stages.get(&id) else { return };
        let agent = *agent;
        if let Some(Stage::Claimed { invitation, .. }) = self.stages.get(&agent) {
            let invitation = *invitation;
            self.tell(Event::Released { invitation }, nature);
            self.turn_down(agent, reason, nature);
        }
    }

    pub(super) fn refuse_data(
        &mut self,
        id: ConnectionId,
        reason: RefusalReason,
        nature: &mut Nature,
    ) {
        let refused = Refused { reason: reason.into(), retry_after_ms: 0 };
        let message =
            ToDataConnection { message: Some(to_data_connection::Message::Refused(refused)) };
        nature.say(id, HERE, &message);
        self.hang_up(id, nature);
    }

    pub(super) fn join(
        &mut self,
        agent: ConnectionId,
        data: ConnectionId,
        now: Instant,
        nature: &mut Nature,
    ) {
        let Some(Stage::Claimed { invitation, .. }) = self.stages.get(&agent) else { return };
        let invitation = *invitation;
        let opened = Opened { session: format!("{}-{invitation:x}", self.instance) };
        let opened = ToAgent { message: Some(to_agent::Message::Opened(opened)) };
        nature.say(agent, HERE, &opened);
        for leg in [agent, data] {
            self.deadlines.remove(&leg);
            self.enter(leg, Stage::Joined { agent });
        }
        let outer = Leg::new(agent, HERE, Party::Agent);
        let inner = Leg::new(data, HERE, Party::Server);
        let session = Session::new(outer, inner, self.settings.relay, now, nature);
        self.sessions.insert(agent, (session, invitation));
        self.run_session(agent, now, nature);
    }

    pub(super) fn run_session(&mut self, agent: ConnectionId, now: Instant, nature: &mut Nature) {
        let Some((session, _)) = self.sessions.get_mut(&agent) else { return };
        if let Some(ending) = session.run(now, nature) {
            self.session_over(agent, ending, nature);
        }
    }

    pub(super) fn session_over(
        &mut self,
        agent: ConnectionId,
        ending: Ending,
        nature: &mut Nature,
    ) {
        let Some((session, invitation)) = self.sessions.remove(&agent) else { return };
        session.part(ending, nature);
        for leg in session.legs() {
            self.stages.remove(&leg);
        }
        self.tell(Event::Released { invitation }, nature);
        self.agent_ends(agent, ending.reason, nature);
    }
}
