//! A worker of a gateway: the real `Tickets`, and around them what `src/gateway` does with sockets.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use vestibule::control::{AgentRef, Event, Request, SpareFailure, Ticket, Tickets};
use vestibule::relay::{CloseReason, Ending};
use vestibule::wire::alpn::Hint;
use vestibule::wire::{
    Claim, FrameDecoder, FromAgent, RefusalReason, Refused, ToAgent, from_agent, to_agent,
};

use super::checks::{Check, Expected};
use super::gateway::Settings;
use super::nature::{Leaked, Nature, Occurrence, Way};
use super::network::{ConnectionId, End};
use super::session::Session;

mod data;
mod spares;

/// The gateway dials nobody.
const HERE: End = End::Acceptor;

pub(super) struct Worker {
    gateway: usize,
    life: u32,
    index: u32,
    instance: String,
    settings: Rc<Settings>,
    tickets: Tickets,
    mailbox: VecDeque<Mail>,
    stages: BTreeMap<ConnectionId, Stage>,
    /// By the agent's connection, with the invitation.
    sessions: BTreeMap<ConnectionId, (Session, u64)>,
    spares: BTreeMap<u64, ConnectionId>,
    deadlines: BTreeMap<ConnectionId, Instant>,
    /// Its process was stopped, and it has not looked at its clock yet.
    pub(super) is_late: bool,
}

pub(super) enum Mail {
    Reload(Rc<Settings>),
    Expect { agent: ConnectionId, invitation: u64, ticket: Ticket, server: String },
    ExpectSpare { invitation: u64, ticket: Ticket, server: String, life: Duration },
    UseSpare { agent: ConnectionId, invitation: u64 },
    CloseSpare { invitation: u64 },
    Refuse { agent: ConnectionId, reason: RefusalReason },
}

enum Stage {
    Request { device: String, decoder: FrameDecoder },
    Waiting(Waiting),
    Claimed { data: ConnectionId, invitation: u64 },
    Claiming { server: usize, hint: Hint, decoder: FrameDecoder },
    Spare { invitation: u64, old_at: Instant, decoder: FrameDecoder },
    Offered { invitation: u64, agent: ConnectionId, decoder: FrameDecoder },
    Answering { agent: ConnectionId, decoder: FrameDecoder },
    Joined { agent: ConnectionId },
}

struct Waiting {
    device: String,
    service: usize,
    /// Whether it speaks TLS with the backend: it can't learn anything else after a reload.
    passthrough: bool,
    admitted: Instant,
    /// The spare that it was given to.
    offered: Option<ConnectionId>,
}

impl Waiting {
    fn request(&self) -> Request {
        // To the gateway there are a few devices, with many sessions each.
        let device = self.device.split('-').nth(1).and_then(|agent| agent.chars().last());
        Request { service: self.service, device: device.map(|last| last.to_string().into()) }
    }
}

impl Worker {
    pub(super) fn new(
        gateway: usize,
        life: u32,
        index: u32,
        instance: &str,
        settings: &Rc<Settings>,
    ) -> Self {
        Self {
            gateway,
            life,
            index,
            instance: instance.to_owned(),
            settings: Rc::clone(settings),
            tickets: Tickets::default(),
            mailbox: VecDeque::new(),
            stages: BTreeMap::new(),
            sessions: BTreeMap::new(),
            spares: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            is_late: false,
        }
    }

    pub(super) fn holds(&self, id: ConnectionId) -> bool {
        self.stages.contains_key(&id)
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.values().filter_map(|(session, _)| session.deadline());
        self.deadlines.values().copied().chain(sessions).min()
    }

    pub(super) fn accept_agent(
        &mut self,
        id: ConnectionId,
        device: String,
        now: Instant,
        nature: &mut Nature,
    ) {
        self.enter(id, Stage::Request { device, decoder: FrameDecoder::default() });
        self.deadlines.insert(id, now + self.settings.admission_timeout);
        self.ready(id, now, nature);
    }

    pub(super) fn accept_data(
        &mut self,
        id: ConnectionId,
        server: usize,
        hint: Hint,
        now: Instant,
        nature: &mut Nature,
    ) {
        self.enter(id, Stage::Claiming { server, hint, decoder: FrameDecoder::default() });
        self.deadlines.insert(id, now + self.settings.admission_timeout);
        self.ready(id, now, nature);
    }

    /// Something came on a connection. Mail is older than that.
    pub(super) fn ready(&mut self, id: ConnectionId, now: Instant, nature: &mut Nature) {
        self.read_mails(now, nature);
        match self.stages.get(&id) {
            None => {}
            Some(Stage::Request { .. }) => self.read_request(id, now, nature),
            Some(Stage::Waiting(_) | Stage::Claimed { .. }) => self.watch_waiting(id, nature),
            Some(Stage::Claiming { .. }) => self.read_claim(id, now, nature),
            Some(Stage::Spare { .. }) => drop(self.watch_spare(id, nature)),
            Some(Stage::Offered { .. }) => self.read_taken(id, now, nature),
            Some(Stage::Answering { .. }) => self.read_answer(id, now, nature),
            Some(Stage::Joined { agent }) => self.run_session(*agent, now, nature),
        }
    }

    pub(super) fn post(&mut self, mail: Mail, nature: &mut Nature) {
        self.mailbox.push_back(mail);
        let (gateway, life, worker) = (self.gateway, self.life, self.index);
        nature.after(Duration::ZERO, 20, Occurrence::WorkerTurn { gateway, life, worker });
    }

    pub(super) fn read_mails(&mut self, now: Instant, nature: &mut Nature) {
        while let Some(mail) = self.mailbox.pop_front() {
            match mail {
                Mail::Reload(settings) => self.settings = settings,
                Mail::Expect { agent, invitation, ticket, server } => {
                    self.expect(agent, invitation, ticket, server, nature);
                }
                Mail::ExpectSpare { invitation, ticket, server, life } => {
                    self.note_expected(None, invitation, &ticket, &server, nature);
                    self.tickets.expect_spare(invitation, ticket, server, life);
                }
                Mail::UseSpare { agent, invitation } => {
                    self.use_spare(agent, invitation, now, nature);
                }
                Mail::CloseSpare { invitation } => self.close_spare(invitation, nature),
                Mail::Refuse { agent, reason } => {
                    if matches!(self.stages.get(&agent), Some(Stage::Waiting(_))) {
                        self.recall_offer(agent, nature);
                        self.turn_down(agent, CloseReason::Refused(reason), nature);
                    }
                }
            }
        }
    }

    /// Does what is due.
    pub(super) fn wake(&mut self, now: Instant, nature: &mut Nature) {
        self.read_mails(now, nature);
        self.is_late = false;
        let due = |(id, at): (&ConnectionId, &Instant)| (*at <= now).then_some(*id);
        for id in self.deadlines.iter().filter_map(due).collect::<Vec<_>>() {
            self.deadlines.remove(&id);
            match self.stages.get(&id) {
                Some(Stage::Request { .. } | Stage::Claiming { .. }) => self.hang_up(id, nature),
                Some(Stage::Spare { .. }) => self.spare_is_old(id, nature),
                Some(Stage::Offered { .. }) => {
                    self.offer_failed(id, SpareFailure::Silent, nature);
                }
                Some(Stage::Answering { .. }) => {
                    let reason = CloseReason::Refused(RefusalReason::BackendTimeout);
                    self.answer_failed(id, reason, nature);
                }
                _ => {}
            }
        }
        let timed_out = |(agent, (session, _)): (&ConnectionId, &(Session, u64))| {
            session.timed_out(now).map(|ending| (*agent, ending))
        };
        for (agent, ending) in self.sessions.iter().filter_map(timed_out).collect::<Vec<_>>() {
            self.session_over(agent, ending, nature);
        }
        let overdue = self.sessions.iter().find(|(_, (session, _))| session.is_overdue(now));
        nature.checks.hold(Check::QuietSessionEnds, overdue.is_none(), || {
            format!("the session of connection {:?}", overdue.map(|(agent, _)| agent))
        });
    }

    /// A ticket lives no longer than its agent waits.
    pub(super) fn check(&self, nature: &mut Nature) {
        let waits = |stage: &&Stage| matches!(stage, Stage::Waiting(_));
        let waiting = self.stages.values().filter(waits).count();
        let tickets = self.tickets.len();
        nature.checks.hold(Check::BooksAgree, tickets <= waiting, || {
            format!("{tickets} tickets for {waiting} agents at worker {}", self.index)
        });
    }

    /// The process ends, and its sessions with it.
    pub(super) fn stop(&mut self, nature: &mut Nature) {
        let reason = CloseReason::DrainTimeout;
        for agent in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.session_over(agent, Ending { reason, reset: true }, nature);
        }
        for (id, stage) in std::mem::take(&mut self.stages) {
            nature.abort(id, HERE);
            if matches!(stage, Stage::Waiting(_) | Stage::Claimed { .. }) {
                self.agent_ends(id, reason, nature);
            }
        }
    }

    pub(super) fn check_nothing_left(&self, nature: &mut Nature) {
        let tickets = usize::from(!self.tickets.is_empty());
        for (what, len) in [
            ("tickets", tickets),
            ("mail", self.mailbox.len()),
            ("spares", self.spares.len()),
            ("sessions", self.sessions.len()),
            ("deadlines", self.deadlines.len()),
            ("connections", self.stages.len()),
        ] {
            nature.checks.nothing_is_left(&format!("{what} of gateway {}", self.gateway), len);
        }
    }
}

// ---- agents ----

impl Worker {
    fn read_request(&mut self, id: ConnectionId, now: Instant, nature: &mut Nature) {
        let Some(Stage::Request { device, decoder }) = self.stages.get_mut(&id) else { return };
        let open = match nature.read_message::<FromAgent>(id, HERE, decoder) {
            Ok(None) => return,
            Ok(Some(FromAgent { message: Some(from_agent::Message::Open(open)) })) => open,
            Ok(Some(_)) | Err(_) => return self.hang_up(id, nature),
        };
        let device = std::mem::take(device);
        let Some(service) = self.settings.number_of(&open.service) else {
            say_refused_to_agent(id, RefusalReason::ServiceUnknown, nature);
            return self.hang_up(id, nature);
        };
        nature.checks.note_admitted(self.gateway, id);
        let passthrough = self.settings.services[service].passthrough;
        let waiting = Waiting { device, service, passthrough, admitted: now, offered: None };
        let request = waiting.request();
        self.enter(id, Stage::Waiting(waiting));
        let agent = self.agent_ref(id);
        self.tell(Event::Admit { agent, request }, nature);
        self.watch_waiting(id, nature);
    }

    /// A clean end is a request that is complete; anything else is an agent that left.
    fn watch_waiting(&mut self, id: ConnectionId, nature: &mut Nature) {
        if !nature.network.has_left(id, HERE) {
            return;
        }
        if let Some(Stage::Claimed { data, invitation, .. }) = self.stages.get(&id) {
            let (data, invitation) = (*data, *invitation);
            self.abort(data, nature);
            self.tell(Event::Released { invitation }, nature);
        } else {
            self.recall_offer(id, nature);
            let agent = self.agent_ref(id);
            self.tell(Event::Leave { agent }, nature);
        }
        self.abort(id, nature);
        self.agent_ends(id, CloseReason::AgentLeft, nature);
    }

    /// Whether an agent may still wait, as things stand after a reload.
    fn judge_again(&mut self, id: ConnectionId, nature: &mut Nature) -> bool {
        let Some(Stage::Waiting(waiting)) = self.stages.get(&id) else { return false };
        let is_gone = self.settings.gone.contains(&waiting.service);
        let offered = &self.settings.services[waiting.service];
        if !is_gone && offered.passthrough == waiting.passthrough {
            return true;
        }
        self.recall_offer(id, nature);
        let agent = self.agent_ref(id);
        self.tell(Event::Leave { agent }, nature);
        self.turn_down(id, CloseReason::Refused(RefusalReason::ServiceUnknown), nature);
        false
    }

    fn turn_down(&mut self, id: ConnectionId, reason: CloseReason, nature: &mut Nature) {
        say_refused_to_agent(id, reason.refusal(), nature);
        self.hang_up(id, nature);
        self.agent_ends(id, reason, nature);
    }

    fn agent_ends(&mut self, id: ConnectionId, reason: CloseReason, nature: &mut Nature) {
        self.tickets.forget(id as u64);
        nature.checks.forget_agent(id);
        nature.checks.each_agent_ends_once_with_a_reason(id, reason);
    }

    fn expect(
        &mut self,
        agent: ConnectionId,
        invitation: u64,
        ticket: Ticket,
        server: String,
        nature: &mut Nature,
    ) {
        self.recall_offer(agent, nature);
        if matches!(self.stages.get(&agent), Some(Stage::Waiting(_))) {
            nature.checks.forget_agent(agent);
            self.note_expected(Some(agent), invitation, &ticket, &server, nature);
            self.tickets.expect(invitation, ticket, server, agent as u64);
        }
    }

    fn note_expected(
        &self,
        agent: Option<ConnectionId>,
        invitation: u64,
        ticket: &Ticket,
        server: &str,
        nature: &mut Nature,
    ) {
        let ticket = ticket.as_bytes().to_vec();
        let hint = Hint { instance: self.instance.clone(), worker: self.index };
        let claim = Claim { id: invitation, ticket: ticket.clone() };
        nature.leak(Leaked { gateway: self.gateway, hint, claim });
        let expected = Expected {
            ticket,
            server: server.to_owned(),
            instance: self.instance.clone(),
            worker: self.index,
            agent,
        };
        nature.checks.note_expected(self.gateway, invitation, expected);
    }
}

// ---- small steps ----

impl Worker {
    fn enter(&mut self, id: ConnectionId, stage: Stage) {
        self.deadlines.remove(&id);
        self.stages.insert(id, stage);
    }

    /// Closes a connection after its last words.
    fn hang_up(&mut self, id: ConnectionId, nature: &mut Nature) {
        self.stages.remove(&id);
        self.deadlines.remove(&id);
        nature.close(id, HERE);
    }

    fn abort(&mut self, id: ConnectionId, nature: &mut Nature) {
        self.stages.remove(&id);
        self.deadlines.remove(&id);
        nature.abort(id, HERE);
    }

    fn tell(&self, event: Event, nature: &mut Nature) {
        let (gateway, life, worker) = (self.gateway, self.life, self.index);
        let way = Way { gateway, worker };
        nature.mail(way, Occurrence::ControlMail { gateway, life, event });
    }

    fn agent_ref(&self, id: ConnectionId) -> AgentRef {
        AgentRef { worker: self.index, connection: id as u64 }
    }
}

fn say_refused_to_agent(id: ConnectionId, reason: RefusalReason, nature: &mut Nature) {
    let refused = Refused { reason: reason.into(), retry_after_ms: 0 };
    let message = ToAgent { message: Some(to_agent::Message::Refused(refused)) };
    nature.say(id, HERE, &message);
}

fn taint(device: &str, nature: &mut Nature) {
    if let Ok(device) = device.parse() {
        nature.checks.taint(device);
    }
}
