use std::time::Instant;

use vestibule::control::{GatewayAction, GatewayEvent, GatewayLink, SpareFailure};
use vestibule::limits::SIGNAL_DEAD_AFTER;
use vestibule::wire::{RefusalReason, from_server};

use super::random::Random;

/// A server: the link under test, and how it behaves.
pub(super) struct Server {
    pub(super) name: String,
    /// What it is allowed at the gateway.
    pub(super) allowed: Vec<usize>,
    /// The same since the last reload.
    pub(super) allowed_now: Vec<usize>,
    offered: Vec<String>,
    capacity: u32,
    spares: u32,
    /// Of a hundred invitations, how many it answers in some other way than the right one.
    pub(super) sickness: usize,
    /// Its connection, if it has or dials one.
    pub(super) wire: Option<usize>,
    /// `None` while its process is not running.
    link: Option<GatewayLink>,
    /// Last frame from the gateway on its present connection.
    heard: Option<Instant>,
}

/// How an invitation is answered.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Claim,
    ClaimLate,
    ClaimTwice,
    ClaimWithWrongTicket,
    ClaimOfAnother,
    Decline(RefusalReason),
    Nothing,
}

impl Server {
    pub(super) fn new(index: usize, services: &[String], random: &mut Random) -> Self {
        // The first serves everything, so that no service is without a server for good.
        let all = 0..services.len();
        let allowed: Vec<usize> = all.filter(|_| index == 0 || random.percent(60)).collect();
        let is_offered = |_: &&String| index == 0 || random.percent(80);
        let offered = services.iter().filter(is_offered).cloned().collect();
        let bound = random.between(1, 6);
        Self {
            // Two of a kind now and then: a name may be connected twice.
            name: format!("lan-{}", if random.percent(10) { 0 } else { index }),
            allowed_now: allowed.clone(),
            allowed,
            offered,
            capacity: if random.percent(50) { 0 } else { u32::try_from(bound).expect("small") },
            spares: *random.pick(&[0, 2, 8]),
            sickness: *random.pick(&[0, 5, 30, 100]),
            wire: None,
            link: None,
            heard: None,
        }
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.link = Some(GatewayLink::new(self.offered.clone(), self.capacity, self.spares, now));
        self.heard = None;
    }

    /// The process is killed.
    pub(super) fn stop(&mut self) -> Option<usize> {
        self.link = None;
        self.wire.take()
    }

    pub(super) fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(GatewayLink::is_up)
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.link.as_ref()?.next_timeout()
    }

    pub(super) fn handle(&mut self, event: GatewayEvent, now: Instant, random: &mut Random) {
        match &event {
            GatewayEvent::Message(_) => self.heard = Some(now),
            GatewayEvent::Closed | GatewayEvent::DialFailed => self.wire = None,
            _ => {}
        }
        if let Some(link) = &mut self.link {
            link.handle(event, now, &mut |bytes| random.fill(bytes));
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, random: &mut Random) {
        if let Some(link) = &mut self.link {
            link.handle_timeout(now, &mut |bytes| random.fill(bytes));
        }
    }

    pub(super) fn poll_action(&mut self) -> Option<GatewayAction> {
        let action = self.link.as_mut()?.poll_action()?;
        match &action {
            GatewayAction::Dial => {
                assert_eq!(self.wire, None, "dialed while connected");
                self.heard = None;
            }
            GatewayAction::Invited { invitation, .. } => {
                let is_spare = invitation.spare_for_ms > 0;
                assert!(is_spare || self.offered.contains(&invitation.service));
            }
            GatewayAction::Send(message) => {
                assert!(self.wire.is_some(), "sent without a connection");
                let hello = matches!(message.message, Some(from_server::Message::ServerHello(_)));
                assert_eq!(hello, self.heard.is_none(), "the hello is first, and only then");
            }
            GatewayAction::Close(_)
            | GatewayAction::Withdrawn { .. }
            | GatewayAction::CloseSpare { .. } => {}
        }
        Some(action)
    }

    pub(super) fn check(&self, now: Instant) {
        if let Some(heard) = self.heard
            && self.is_up()
        {
            assert!(now <= heard + SIGNAL_DEAD_AFTER, "a dead gateway is still believed in");
        }
    }

    pub(super) fn answer(&self, random: &mut Random) -> Answer {
        if !random.percent(self.sickness) {
            return Answer::Claim;
        }
        match random.below(6) {
            0 => Answer::ClaimLate,
            1 => Answer::ClaimTwice,
            2 => Answer::ClaimWithWrongTicket,
            3 => Answer::ClaimOfAnother,
            4 => Answer::Decline(*random.pick(&RefusalReason::ALL)),
            _ => Answer::Nothing,
        }
    }

    /// What becomes of an agent that comes over a spare; `None` where the server says nothing.
    pub(super) fn take(&self, random: &mut Random) -> Option<Result<(), SpareFailure>> {
        if !random.percent(self.sickness) {
            return Some(Ok(()));
        }
        match random.below(3) {
            0 => Some(Err(SpareFailure::Gone)),
            1 => Some(Err(SpareFailure::Refused(*random.pick(&RefusalReason::ALL)))),
            _ => None,
        }
    }
}
