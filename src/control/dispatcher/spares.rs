//! Spares: asked for ahead of need, given out, replaced.

use std::time::{Duration, Instant};

use super::{Dispatcher, milliseconds, send};
use crate::control::link::{Link, link_of};
use crate::control::{Action, AgentRef, SpareFailure, Ticket};
use crate::limits::{SPARE_ASK_TIMEOUT, SPARE_LIFE_SLACK};
use crate::wire::{Decline, Invitation, RefusalReason, Withdraw, to_server};

impl Dispatcher {
    pub(super) fn spare_ready(&mut self, invitation: u64, now: Instant) {
        // Not there: the link was lost, or the spare declined, and its worker was told to close it.
        if let Some(greeted) = self.greeted_mut(link_of(invitation)) {
            greeted.spares.note_ready(invitation, now);
        }
    }

    pub(super) fn spare_ended(
        &mut self,
        invitation: u64,
        in_time: bool,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let number = link_of(invitation);
        let Some(greeted) = self.greeted_mut(number) else { return };
        // Not there: we had it closed, and the server was faster.
        let Some(worker) = greeted.spares.remove(invitation) else { return };
        if !in_time {
            greeted.spares.pause(now);
        }
        self.top_up(number, worker, now, random);
    }

    /// The agent goes another way. A spare that was silent condemns those of the same server: what
    /// swallowed one has swallowed them all, and the next agents would wait for nothing as well.
    pub(super) fn spare_failed(
        &mut self,
        agent: AgentRef,
        invitation: u64,
        failure: SpareFailure,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let number = link_of(invitation);
        let Some(index) = self.links.iter().position(|link| link.number == number) else { return };
        let Some(greeted) = self.links[index].greeted_mut() else { return };
        greeted.spares.pause(now);
        if failure == SpareFailure::Silent {
            let spares = greeted.spares.take_all();
            self.close_spares(spares);
        }
        // Not there: the agent left, or was moved on meanwhile.
        let Some(position) = self.queue.position_of(agent) else { return };
        if let SpareFailure::Refused(reason) = failure {
            let decline = Decline { id: invitation, reason: reason.into() };
            return self.decline(index, &decline, now, random);
        }
        let known = self.greeted_mut(number).and_then(|g| g.invitations.remove(&invitation));
        if known.is_some() {
            self.place(position, now, random);
            self.refill(number, now, random);
        }
    }

    /// A server will not bring a spare, or ends it. Where that crossed with our withdrawing, it may still say that it drains.
    pub(super) fn spare_declined(
        &mut self,
        index: usize,
        decline: &Decline,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let Some(greeted) = self.links[index].greeted_mut() else { return };
        if let Some(worker) = greeted.spares.remove(decline.id) {
            greeted.spares.pause(now);
            self.close_spares(vec![(decline.id, worker)]);
        }
        if decline.reason() == RefusalReason::Draining {
            self.drain_link(index, now, random);
        }
    }

    pub(super) fn close_spares(&mut self, spares: Vec<(u64, u32)>) {
        for (invitation, worker) in spares {
            self.push(Action::CloseSpare { worker, invitation });
        }
    }

    pub(super) fn forget_late_spares(&mut self, now: Instant) {
        for index in 0..self.links.len() {
            let link = self.links[index].id;
            let Some(greeted) = self.links[index].greeted_mut() else { continue };
            let late = greeted.spares.take_late(now);
            if late.is_empty() {
                continue;
            }
            greeted.spares.pause(now);
            for (id, _) in &late {
                self.push(send(link, to_server::Message::Withdraw(Withdraw { id: *id })));
            }
            self.close_spares(late);
        }
    }

    /// Asks a server for as many spares as are missing at a worker.
    pub(super) fn top_up(
        &mut self,
        number: u32,
        worker: u32,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        if self.draining {
            return;
        }
        let links = self.links.iter().filter_map(Link::greeted);
        let held: usize = links.map(|greeted| greeted.spares.held(worker)).sum();
        let room = self.limits.max_spares.saturating_sub(held);
        let life = self.limits.spare_life;
        let Some(greeted) = self.greeted_mut(number).filter(|greeted| greeted.has_room()) else {
            return;
        };
        for _ in 0..greeted.spares.missing(worker, life, now).min(room) {
            self.ask_for_spare(number, worker, now, random);
        }
    }

    fn ask_for_spare(
        &mut self,
        number: u32,
        worker: u32,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let life = shortened(self.limits.spare_life, random);
        let Some(link) = self.links.iter_mut().find(|link| link.number == number) else { return };
        let Some(invitation) = link.next_invitation() else { return };
        let ticket = Ticket::draw(random);
        let message = Invitation {
            id: invitation,
            ticket: ticket.as_bytes().to_vec(),
            service: String::new(),
            worker,
            expires_in_ms: milliseconds(SPARE_ASK_TIMEOUT),
            spare_for_ms: milliseconds(life + SPARE_LIFE_SLACK),
        };
        let (link, server) = (link.id, link.server.clone());
        self.push(Action::ExpectSpare { worker, invitation, ticket, server, life });
        self.push(send(link, to_server::Message::Invitation(message)));
        if let Some(greeted) = self.greeted_mut(number) {
            greeted.spares.ask(invitation, worker, now);
        }
    }
}

/// Up to a quarter shorter, so that those which came together do not go together.
fn shortened(life: Duration, random: &mut dyn FnMut(&mut [u8])) -> Duration {
    let mut drawn = [0];
    random(&mut drawn);
    life * (1024 - u32::from(drawn[0])) / 1024
}
