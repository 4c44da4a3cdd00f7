use std::time::Duration;

use vestibule::control::{AgentRef, Event, GatewayEvent, SpareFailure};
use vestibule::limits::{SIGNAL_DEAD_AFTER, SPARE_ANSWER_TIMEOUT};

use vestibule::wire::{Decline, RefusalReason};

use super::{Occurrence, World};
use crate::sim::worker::Deed;

/// A data connection that was claimed ahead of need.
pub(super) struct Spare {
    worker: u32,
    server: usize,
    /// Nobody is at the server's end any more, and the gateway may not know.
    abandoned: bool,
}

impl World {
    pub(super) fn read_mails(&mut self, worker: u32) {
        for deed in self.workers[worker as usize].read_mails() {
            match deed {
                Deed::Offered { agent, invitation } => {
                    let agent = AgentRef { worker, connection: agent };
                    self.offered(agent, invitation);
                }
                Deed::Failed { agent, invitation } => {
                    let agent = AgentRef { worker, connection: agent };
                    let failure = SpareFailure::Gone;
                    self.mail_control(worker, Event::SpareFailed { agent, invitation, failure });
                }
                Deed::Closed { invitation } => self.tell_server(invitation),
            }
        }
    }

    pub(super) fn keep_spare(&mut self, worker: u32, server: usize, id: u64, life: Duration) {
        self.spares.insert(id, Spare { worker, server, abandoned: false });
        self.mail_control(worker, Event::SpareReady { invitation: id });
        self.at(self.now + life, Occurrence::SpareIsOld(id));
        if self.random.percent(self.servers[server].sickness / 3) {
            self.after(Duration::ZERO, 10_000, Occurrence::SpareDies(id));
        }
    }

    /// The server has the header, if there is one.
    fn offered(&mut self, agent: AgentRef, id: u64) {
        let spare = &self.spares[&id];
        let present = (!spare.abandoned).then_some(spare.server);
        let answer = present.and_then(|server| self.servers[server].take(&mut self.random));
        if let Some(answer) = answer {
            let prompt = if self.calm { 100 } else { 2_500 };
            self.after(Duration::ZERO, prompt, Occurrence::SpareAnswer(agent, id, answer));
        }
        let silence = Occurrence::SpareAnswer(agent, id, Err(SpareFailure::Silent));
        self.at(self.now + SPARE_ANSWER_TIMEOUT, silence);
    }

    pub(super) fn spare_answers(
        &mut self,
        agent: AgentRef,
        id: u64,
        answer: Result<(), SpareFailure>,
    ) {
        // It belonged to an earlier process of the gateway.
        if !self.spares.contains_key(&id) {
            return;
        }
        let worker = agent.worker;
        if !self.workers[worker as usize].answer(agent.connection, id, answer) {
            return;
        }
        match answer {
            Ok(()) => self.begin_session(agent, id),
            Err(failure) => {
                let failed = Event::SpareFailed { agent, invitation: id, failure };
                self.mail_control(worker, failed);
            }
        }
        self.tell_server(id);
    }

    pub(super) fn spare_dies(&mut self, id: u64) {
        let Some(spare) = self.spares.get(&id) else { return };
        let (worker, server) = (spare.worker, spare.server);
        if self.random.percent(50) {
            // The server's end noticed as well, and may be faster.
            let decline = Decline { id, reason: RefusalReason::InternalError.into() };
            self.after(Duration::ZERO, 100, Occurrence::LocalDecline(server, decline));
        }
        if self.workers[worker as usize].end_spare(id) {
            self.mail_control(worker, Event::SpareEnded { invitation: id, in_time: false });
            self.tell_server(id);
        } else if let Some(connection) = self.workers[worker as usize].offered(id) {
            let agent = AgentRef { worker, connection };
            self.spare_answers(agent, id, Err(SpareFailure::Gone));
        }
    }

    pub(super) fn spare_is_old(&mut self, id: u64) {
        let Some(spare) = self.spares.get(&id) else { return };
        let worker = spare.worker;
        if self.workers[worker as usize].end_spare(id) {
            self.mail_control(worker, Event::SpareEnded { invitation: id, in_time: true });
            self.tell_server(id);
        }
    }

    /// Nobody is at that server's end of its spares any more. The gateway hears so, or finds out.
    pub(super) fn abandon_spares(&mut self, server: usize, silently: bool) {
        let within = if silently { SIGNAL_DEAD_AFTER } else { Duration::from_millis(100) };
        let within_ms = u64::try_from(within.as_millis()).expect("seconds");
        let mut ids = Vec::new();
        for (id, spare) in &mut self.spares {
            if spare.server == server && !spare.abandoned {
                spare.abandoned = true;
                ids.push(*id);
            }
        }
        // The order of a map is not that of the seed.
        ids.sort_unstable();
        for id in ids {
            self.after(Duration::ZERO, within_ms, Occurrence::SpareDies(id));
        }
    }

    fn tell_server(&mut self, id: u64) {
        if let Some(spare) = self.spares.get(&id) {
            self.serve(spare.server, GatewayEvent::SpareEnded { id });
        }
    }
}
