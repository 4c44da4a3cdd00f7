//! Agents that wait: from admission to the claim.

use std::time::Instant;

use super::{Dispatcher, milliseconds, send};
use crate::control::choice::{Choice, choose};
use crate::control::link::link_of;
use crate::control::queue::{Place, Waiting};
use crate::control::{Action, AgentRef, Request, Ticket};
use crate::wire::{Goodbye, Invitation, RefusalReason, Withdraw, to_server};

impl Dispatcher {
    pub(super) fn admit(
        &mut self,
        agent: AgentRef,
        request: Request,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let service = request.service;
        if service >= self.services.len() || self.gone.contains(&service) {
            return self.refuse(agent, RefusalReason::ServiceUnknown);
        }
        if self.draining {
            return self.refuse(agent, RefusalReason::Draining);
        }
        if self.queue.len() >= self.limits.max_waiting {
            return self.refuse(agent, RefusalReason::QueueFull);
        }
        let of_service = self.limits.services.get(service).copied().unwrap_or_default();
        if let Err(reason) = self.quotas.admit(&request, self.limits.devices, of_service, now) {
            return self.refuse(agent, reason);
        }
        debug_assert!(self.queue.position_of(agent).is_none(), "an agent is admitted once");
        let position = self.queue.push(agent, request, now + self.limits.invitation_timeout);
        self.place(position, now, random);
    }

    pub(super) fn leave(
        &mut self,
        agent: AgentRef,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let position = self.queue.position_of(agent);
        if let Some(waiting) = position.and_then(|position| self.queue.remove(position)) {
            self.quotas.release(&waiting.request, now);
            self.withdraw(&waiting, now, random);
        }
    }

    pub(super) fn claimed(
        &mut self,
        agent: AgentRef,
        invitation: u64,
        request: Request,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        if let Some(greeted) = self.greeted_mut(link_of(invitation)) {
            greeted.invitations.remove(&invitation);
            greeted.sessions += 1;
        }
        // Not there: refused while the claim was on its way here, and the claim was first.
        let position = self.queue.position_of(agent);
        let Some(waiting) = position.and_then(|position| self.queue.remove(position)) else {
            return self.quotas.claim_again(invitation, request, now);
        };
        self.quotas.claim(invitation, request, now);
        // Nothing to withdraw, unless the agent was moved while the claim was on its way here.
        self.withdraw(&waiting, now, random);
    }

    pub(super) fn released(
        &mut self,
        invitation: u64,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        self.quotas.release_claim(invitation, now);
        let number = link_of(invitation);
        // Not there: the session outlived its server's signal connection.
        if let Some(greeted) = self.greeted_mut(number) {
            greeted.sessions = greeted.sessions.saturating_sub(1);
            self.refill(number, now, random);
        }
    }

    pub(super) fn drain(&mut self, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        for waiting in self.queue.take_all() {
            self.refuse_waiting(&waiting, RefusalReason::Draining, now);
            self.withdraw(&waiting, now, random);
        }
        let mut spares = Vec::new();
        for link in &mut self.links {
            let id = link.id;
            if let Some(greeted) = link.greeted_mut() {
                spares.extend(greeted.spares.take_all());
                self.actions.push_back(send(id, to_server::Message::Goodbye(Goodbye {})));
            }
        }
        self.close_spares(spares);
    }

    /// Finds a place for an agent whose invitation, if it had one, is void.
    pub(super) fn place(&mut self, position: u64, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        let Some(waiting) = self.queue.get_mut(position) else { return };
        waiting.place = Place::Queued;
        let service = waiting.request.service;
        match choose(waiting, &self.links, self.lost[service], now) {
            Choice::Invite(number) => self.invite(position, number, now, random),
            Choice::Wait => self.queue.put(position, Place::Queued),
            Choice::Refuse(reason) => {
                if let Some(waiting) = self.queue.remove(position) {
                    self.refuse_waiting(&waiting, reason, now);
                }
            }
        }
    }

    /// Brings an agent to a server: over a spare where there is one at its worker.
    fn invite(
        &mut self,
        position: u64,
        number: u32,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let Some(waiting) = self.queue.get_mut(position) else { return };
        let (agent, had_spare) = (waiting.agent, waiting.spare.is_some());
        let is_new = waiting.invitations == 0;
        waiting.invitations += 1;
        self.turns += 1;
        let turn = self.turns;
        let Some(greeted) = self.greeted_mut(number) else { return };
        greeted.last_turn = turn;
        if is_new {
            greeted.spares.note_agent(agent.worker, now);
        }
        let spare = if had_spare { None } else { greeted.spares.take(agent.worker) };
        let id = match spare {
            Some(spare) => {
                self.push(Action::UseSpare { agent, invitation: spare });
                if let Some(waiting) = self.queue.get_mut(position) {
                    waiting.spare = Some(spare);
                }
                spare
            }
            None => match self.send_invitation(position, number, now, random) {
                Some(id) => id,
                None => return,
            },
        };
        self.queue.put(position, Place::Invited { invitation: id });
        if let Some(greeted) = self.greeted_mut(number) {
            greeted.invitations.insert(id, position);
        }
        self.top_up(number, agent.worker, now, random);
    }

    fn send_invitation(
        &mut self,
        position: u64,
        number: u32,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Option<u64> {
        let link = self.links.iter_mut().find(|link| link.number == number)?;
        let waiting = self.queue.get_mut(position)?;
        let id = link.next_invitation()?;
        let ticket = Ticket::draw(random);
        let left = waiting.deadline.saturating_duration_since(now);
        let invitation = Invitation {
            id,
            ticket: ticket.as_bytes().to_vec(),
            service: self.services[waiting.request.service].name.clone(),
            worker: waiting.agent.worker,
            expires_in_ms: milliseconds(left),
            spare_for_ms: 0,
        };
        let (agent, server) = (waiting.agent, link.server.clone());
        self.actions.push_back(Action::Expect { agent, invitation: id, ticket, server });
        self.actions.push_back(send(link.id, to_server::Message::Invitation(invitation)));
        Some(id)
    }

    /// Takes back the invitation, if there is one, of an agent that is out of the queue already. The
    /// server then has room for another.
    pub(super) fn withdraw(
        &mut self,
        waiting: &Waiting,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let Place::Invited { invitation: id } = waiting.place else { return };
        let number = link_of(id);
        let Some(link) = self.links.iter_mut().find(|link| link.number == number) else { return };
        let Some(greeted) = link.greeted_mut() else { return };
        if greeted.invitations.remove(&id).is_some() {
            self.actions.push_back(send(link.id, to_server::Message::Withdraw(Withdraw { id })));
            self.refill(number, now, random);
        }
    }

    /// Gives a server that may have got room the oldest agents that it can serve.
    pub(super) fn refill(&mut self, number: u32, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        while let Some(oldest) = self.oldest_for(number) {
            self.invite(oldest, number, now, random);
        }
    }

    fn oldest_for(&self, number: u32) -> Option<u64> {
        let link = self.links.iter().find(|link| link.number == number)?;
        let services = &link.greeted().filter(|greeted| greeted.has_room())?.services;
        services.iter().filter_map(|service| self.queue.first_for(*service, number)).min()
    }
}
