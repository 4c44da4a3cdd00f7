//! Spares: data connections claimed ahead of need, until one takes an agent.

use std::time::Duration;

use super::mail::ControlMail;
use super::stage::{Offered, Stage};
use super::worker::{GatewayCore, GatewayWorker};
use crate::control::SpareFailure;
use crate::engine::MessageError;
use crate::limits::SPARE_ANSWER_TIMEOUT;
use crate::relay::{CloseReason, Party};
use crate::uring::Token;
use crate::wire::{FrameDecoder, FromDataConnection, RefusalReason, from_data_connection};

// ---- waiting for an agent ----

impl GatewayWorker {
    /// A data connection has claimed the place of a spare.
    pub(super) fn keep_spare(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        invitation: u64,
        life: Duration,
    ) {
        let Some(Stage::Claiming { proven, .. }) = core.take_stage(token) else { return };
        self.end_admission(core, token);
        let decoder = FrameDecoder::default();
        core.enter(token, Stage::Spare { proven, invitation, decoder });
        core.set_deadline(token, Some(core.now + life));
        core.watch_closely(token);
        self.spares.insert(invitation, token);
        self.control.send(ControlMail::SpareReady { invitation });
        self.watch_spare(core, token);
    }

    /// Nothing comes over a spare but its end, or what has no place there. Returns whether it lives.
    pub(super) fn watch_spare(&mut self, core: &mut GatewayCore, token: Token) -> bool {
        let Some(Stage::Spare { proven, invitation, mut decoder }) = core.take_stage(token) else {
            return false;
        };
        let message = core.receive_message::<FromDataConnection>(token, &mut decoder);
        let Some(message) = message else { return false };
        core.enter(token, Stage::Spare { proven, invitation, decoder });
        let reason = match message {
            Ok(None) => return true,
            Ok(Some(_)) => CloseReason::MessageUnexpected,
            // The server drains, or wants no spares any more.
            Err(MessageError::Ended) => CloseReason::SpareUnused,
            Err(error) => error.close_reason(Party::Server),
        };
        self.control.send(ControlMail::SpareEnded { invitation, in_time: false });
        self.end_spare(core, token, reason);
        false
    }

    pub(super) fn spare_is_old(&mut self, core: &mut GatewayCore, token: Token) {
        let Some(Stage::Spare { invitation, .. }) = core.stage(token) else { return };
        let invitation = *invitation;
        self.control.send(ControlMail::SpareEnded { invitation, in_time: true });
        self.end_spare(core, token, CloseReason::SpareUnused);
    }

    /// The dispatcher does not want a spare, which may not have come yet.
    pub(super) fn close_spare(&mut self, core: &mut GatewayCore, invitation: u64) {
        self.tickets.forget_spare(invitation);
        if let Some(&token) = self.spares.get(&invitation) {
            self.end_spare(core, token, CloseReason::SpareUnused);
        }
    }

    pub(super) fn end_spare(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) {
        let Some(Stage::Spare { invitation, .. }) = core.stage(token) else { return };
        self.spares.remove(invitation);
        match reason {
            CloseReason::SpareUnused => core.counters.spares_unused.inc(),
            _ => core.counters.spares_lost.inc(),
        }
        self.fail(core, token, reason);
    }
}

// ---- an agent came ----

impl GatewayWorker {
    /// Gives an agent to a spare, if both are still there.
    pub(super) fn use_spare(&mut self, core: &mut GatewayCore, agent: Token, invitation: u64) {
        self.recall_offer(core, agent);
        if !matches!(core.stage(agent), Some(Stage::Waiting(_))) {
            // It left, or was claimed. The dispatcher has given the spare away: nobody else gets it.
            return self.close_spare(core, invitation);
        }
        // An earlier invitation is void, as with a new one.
        self.tickets.forget(agent.to_bits());
        let spare = self.spares.get(&invitation).copied();
        let Some(spare) = spare.filter(|spare| self.watch_spare(core, *spare)) else {
            return self.mail_failure(agent, invitation, SpareFailure::Gone);
        };
        if let Err(reason) = self.prove_again(core, spare) {
            self.end_spare(core, spare, reason);
            self.mail_failure(agent, invitation, SpareFailure::Gone);
        } else if self.judge_again(core, agent) {
            self.offer(core, agent, spare);
        } else {
            self.close_spare(core, invitation);
        }
    }

    fn offer(&mut self, core: &mut GatewayCore, agent: Token, spare: Token) {
        let Some(Stage::Spare { proven, invitation, decoder }) = core.take_stage(spare) else {
            return;
        };
        self.spares.remove(&invitation);
        core.enter(spare, Stage::Offered(Offered { proven, invitation, agent, decoder }));
        core.set_deadline(spare, Some(core.now + SPARE_ANSWER_TIMEOUT));
        let Some(Stage::Waiting(mut waiting)) = core.take_stage(agent) else { return };
        let message = self.header(core, agent, &waiting, invitation);
        waiting.invited = Some(core.now);
        waiting.offered = Some(spare);
        core.enter(agent, Stage::Waiting(waiting));
        let Some((connection, scratch)) = core.with_scratch(spare) else { return };
        match connection.leg.send_message(&message, scratch) {
            Ok(()) => self.read_taken(core, spare),
            Err(failure) => {
                let reason = failure.close_reason(Party::Server);
                self.offer_failed(core, spare, SpareFailure::Gone, reason);
            }
        }
    }

    /// Reads whether the server takes the agent.
    pub(super) fn read_taken(&mut self, core: &mut GatewayCore, token: Token) {
        let Some(Stage::Offered(mut offered)) = core.take_stage(token) else { return };
        let message = core.receive_message::<FromDataConnection>(token, &mut offered.decoder);
        let Some(message) = message else { return };
        let (failure, reason) = match message {
            Ok(None) => return core.enter(token, Stage::Offered(offered)),
            Ok(Some(FromDataConnection { message })) => match message {
                Some(from_data_connection::Message::Taken(_)) => {
                    return self.taken(core, token, offered);
                }
                Some(from_data_connection::Message::Refused(refused)) => {
                    let reason = refused.reason();
                    (SpareFailure::Refused(reason), CloseReason::Refused(reason))
                }
                Some(_) => (SpareFailure::Gone, CloseReason::MessageUnexpected),
                None => (SpareFailure::Gone, CloseReason::MessageUnknown),
            },
            Err(error) => (SpareFailure::Gone, error.close_reason(Party::Server)),
        };
        core.enter(token, Stage::Offered(offered));
        self.offer_failed(core, token, failure, reason);
    }

    /// From here on it is as if the agent had been claimed.
    fn taken(&mut self, core: &mut GatewayCore, token: Token, offered: Offered) {
        let (agent, invitation) = (offered.agent, offered.invitation);
        let Some(Stage::Waiting(mut waiting)) = core.take_stage(agent) else { return };
        waiting.offered = None;
        let request = waiting.request();
        self.bind(core, token, offered, waiting);
        core.watch_gently(token);
        core.counters.spares_used.inc();
        let agent = self.agent_ref(agent);
        self.control.send(ControlMail::Taken { agent, invitation, request });
        self.read_answer(core, token);
    }

    pub(super) fn offer_timed_out(&mut self, core: &mut GatewayCore, token: Token) {
        let reason = CloseReason::Refused(RefusalReason::InvitationTimeout);
        self.offer_failed(core, token, SpareFailure::Silent, reason);
    }

    /// The spare did not take its agent, which goes back to the dispatcher.
    fn offer_failed(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        failure: SpareFailure,
        reason: CloseReason,
    ) {
        let Some(Stage::Offered(Offered { agent, invitation, .. })) = core.stage(token) else {
            return;
        };
        let (agent, invitation) = (*agent, *invitation);
        if let Some(Stage::Waiting(waiting)) = core.stage(agent) {
            waiting.offered = None;
        }
        self.mail_failure(agent, invitation, failure);
        core.counters.spares_lost.inc();
        // With a reset: the server delivers nobody then.
        self.abort(core, token, reason);
    }

    /// The dispatcher has found another way for an agent, or it left.
    pub(super) fn recall_offer(&mut self, core: &mut GatewayCore, agent: Token) {
        let Some(Stage::Waiting(waiting)) = core.stage(agent) else { return };
        if let Some(spare) = waiting.offered.take() {
            core.counters.spares_unused.inc();
            self.abort(core, spare, CloseReason::SpareUnused);
        }
    }

    fn mail_failure(&mut self, agent: Token, invitation: u64, failure: SpareFailure) {
        let agent = self.agent_ref(agent);
        self.control.send(ControlMail::SpareFailed { agent, invitation, failure });
    }
}
