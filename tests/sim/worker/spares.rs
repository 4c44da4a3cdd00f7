//! Spares of a worker: kept, given out, recalled, old.

use std::time::{Duration, Instant};

use vestibule::control::{Event, SpareFailure};
use vestibule::limits::SPARE_ANSWER_TIMEOUT;
use vestibule::wire::{FrameDecoder, FromDataConnection, from_data_connection};

use super::{HERE, Stage, Worker, taint};
use crate::sim::checks::Check;
use crate::sim::nature::Nature;
use crate::sim::network::ConnectionId;
use crate::sim::planted::Planted;

impl Worker {
    pub(super) fn keep_spare(
        &mut self,
        id: ConnectionId,
        invitation: u64,
        life: Duration,
        now: Instant,
        nature: &mut Nature,
    ) {
        let decoder = FrameDecoder::default();
        let old_at = now + life;
        self.enter(id, Stage::Spare { invitation, old_at, decoder });
        if !nature.has_planted(Planted::SpareLivesForEver) {
            self.deadlines.insert(id, old_at);
        }
        self.spares.insert(invitation, id);
        self.tell(Event::SpareReady { invitation }, nature);
        self.watch_spare(id, nature);
    }

    /// Nothing comes over a spare but its end. Returns whether it lives.
    pub(super) fn watch_spare(&mut self, id: ConnectionId, nature: &mut Nature) -> bool {
        let Some(Stage::Spare { invitation, decoder, .. }) = self.stages.get_mut(&id) else {
            return false;
        };
        if let Ok(None) = nature.read_message::<FromDataConnection>(id, HERE, decoder) {
            return true;
        }
        let invitation = *invitation;
        self.tell(Event::SpareEnded { invitation, in_time: false }, nature);
        self.end_spare(id, invitation, nature);
        false
    }

    pub(super) fn spare_is_old(&mut self, id: ConnectionId, nature: &mut Nature) {
        let Some(Stage::Spare { invitation, .. }) = self.stages.get(&id) else { return };
        let invitation = *invitation;
        self.tell(Event::SpareEnded { invitation, in_time: true }, nature);
        self.end_spare(id, invitation, nature);
    }

    pub(super) fn close_spare(&mut self, invitation: u64, nature: &mut Nature) {
        self.tickets.forget_spare(invitation);
        nature.checks.forget_spare(self.gateway, invitation);
        if let Some(&id) = self.spares.get(&invitation) {
            self.end_spare(id, invitation, nature);
        }
    }

    fn end_spare(&mut self, id: ConnectionId, invitation: u64, nature: &mut Nature) {
        self.spares.remove(&invitation);
        self.hang_up(id, nature);
    }

    /// Gives an agent to a spare, if both are still there.
    pub(super) fn use_spare(
        &mut self,
        agent: ConnectionId,
        invitation: u64,
        now: Instant,
        nature: &mut Nature,
    ) {
        self.recall_offer(agent, nature);
        if !matches!(self.stages.get(&agent), Some(Stage::Waiting(_))) {
            return self.close_spare(invitation, nature);
        }
        self.tickets.forget(agent as u64);
        nature.checks.forget_agent(agent);
        let spare = self.spares.get(&invitation).copied();
        let looks = !nature.has_planted(Planted::SpareIsNotLookedAt);
        let Some(spare) = spare.filter(|spare| !looks || self.watch_spare(*spare, nature)) else {
            return self.mail_failure(agent, invitation, SpareFailure::Gone, nature);
        };
        let server = self.settings.server_of(nature.network.hello(spare));
        if server.is_none_or(|server| !server.is_listed) {
            self.end_spare(spare, invitation, nature);
            self.mail_failure(agent, invitation, SpareFailure::Gone, nature);
        } else if self.judge_again(agent, nature) {
            self.offer(agent, spare, now, nature);
        } else {
            self.close_spare(invitation, nature);
        }
    }

    fn offer(
        &mut self,
        agent: ConnectionId,
        spare: ConnectionId,
        now: Instant,
        nature: &mut Nature,
    ) {
        let Some(Stage::Spare { invitation, old_at, .. }) = self.stages.remove(&spare) else {
            return;
        };
        let has_ended = nature.network.has_ended(spare, HERE);
        nature.checks.hold(Check::SpareIsLookedAt, !has_ended, || {
            format!("spare {invitation:x} has ended, and is given out")
        });
        nature.checks.hold(Check::SpareIsYoung, now <= old_at || self.is_late, || {
            format!("spare {invitation:x} is too old, and is given out")
        });
        self.spares.remove(&invitation);
        self.enter(spare, Stage::Offered { invitation, agent, decoder: FrameDecoder::default() });
        self.deadlines.insert(spare, now + SPARE_ANSWER_TIMEOUT);
        let Some(Stage::Waiting(waiting)) = self.stages.get_mut(&agent) else { return };
        waiting.offered = Some(spare);
        let Some(Stage::Waiting(waiting)) = self.stages.get(&agent) else { return };
        let header = self.header(waiting, invitation);
        nature.say(spare, HERE, &header);
        self.read_taken(spare, now, nature);
    }

    pub(super) fn read_taken(&mut self, id: ConnectionId, now: Instant, nature: &mut Nature) {
        let Some(Stage::Offered { invitation, agent, decoder }) = self.stages.get_mut(&id) else {
            return;
        };
        let (invitation, agent) = (*invitation, *agent);
        let failure = match nature.read_message::<FromDataConnection>(id, HERE, decoder) {
            Ok(None) => return,
            Ok(Some(FromDataConnection { message })) => match message {
                Some(from_data_connection::Message::Taken(_)) => {
                    return self.taken(id, agent, invitation, now, nature);
                }
                Some(from_data_connection::Message::Refused(refused)) => {
                    SpareFailure::Refused(refused.reason())
                }
                _ => SpareFailure::Gone,
            },
            Err(_) => SpareFailure::Gone,
        };
        self.offer_failed(id, failure, nature);
    }

    /// From here on it is as if the agent had been claimed.
    fn taken(
        &mut self,
        id: ConnectionId,
        agent: ConnectionId,
        invitation: u64,
        now: Instant,
        nature: &mut Nature,
    ) {
        let Some(Stage::Waiting(waiting)) = self.stages.remove(&agent) else { return };
        let server = self.settings.server_of(nature.network.hello(id));
        if server.is_some_and(|server| server.is_hostile) {
            taint(&waiting.device, nature);
        }
        self.bind(id, agent, &waiting, invitation, nature);
        self.read_answer(id, now, nature);
    }

    /// The spare did not take its agent, which goes back to the dispatcher.
    pub(super) fn offer_failed(
        &mut self,
        id: ConnectionId,
        failure: SpareFailure,
        nature: &mut Nature,
    ) {
        let Some(Stage::Offered { invitation, agent, .. }) = self.stages.get(&id) else { return };
        let (invitation, agent) = (*invitation, *agent);
        if let Some(Stage::Waiting(waiting)) = self.stages.get_mut(&agent) {
            waiting.offered = None;
        }
        self.mail_failure(agent, invitation, failure, nature);
        self.abort(id, nature);
    }

    /// The dispatcher has found another way for an agent, or it left.
    pub(super) fn recall_offer(&mut self, agent: ConnectionId, nature: &mut Nature) {
        let Some(Stage::Waiting(waiting)) = self.stages.get_mut(&agent) else { return };
        if let Some(spare) = waiting.offered.take() {
            self.abort(spare, nature);
        }
    }

    fn mail_failure(
        &self,
        agent: ConnectionId,
        invitation: u64,
        failure: SpareFailure,
        nature: &mut Nature,
    ) {
        let agent = self.agent_ref(agent);
        self.tell(Event::SpareFailed { agent, invitation, failure }, nature);
    }
}
