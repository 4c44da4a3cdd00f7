use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use thiserror::Error;

use crate::limits::TICKET_LEN;
use crate::wire::Claim;

/// The one-time secret in an invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket([u8; TICKET_LEN]);

impl Ticket {
    /// A new ticket from a source of random bytes.
    pub fn draw(random: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut bytes = [0; TICKET_LEN];
        random(&mut bytes);
        Self(bytes)
    }

    /// The secret itself, for the invitation.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(secret)")
    }
}

/// What a good claim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// This agent waits: the worker's token for its connection.
    Agent(u64),
    /// Nobody waits yet: the connection is a spare.
    Spare {
        /// How long it may lie idle.
        life: Duration,
    },
}

/// Why a claim gets nothing. Always the server's fault, or that of a race with a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TicketError {
    /// This worker expects nobody by that invitation.
    #[error("the invitation was claimed before, is void, or never was at this worker")]
    Unknown,
    /// The invitation exists, and went to someone else.
    #[error("the invitation went to another server")]
    OtherServer,
    /// The invitation exists, and its secret is another one.
    #[error("the ticket is not that of the invitation")]
    Wrong,
}

/// What may be claimed at one worker, agents and the places of spares, each by one ticket of one server,
/// once.
///
/// A worker reads its mails before it judges a claim: the expectation is mailed before the invitation
/// is sent, so it is always there in time.
#[derive(Debug, Default)]
pub struct Tickets {
    by_invitation: HashMap<u64, Expectation>,
    by_agent: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Expectation {
    ticket: Ticket,
    server: String,
    purpose: Purpose,
}

impl Tickets {
    /// Lets `server` claim `agent` (the worker's token for its connection) with `ticket`. What was
    /// expected for that agent before is void.
    pub fn expect(&mut self, invitation: u64, ticket: Ticket, server: String, agent: u64) {
        self.forget(agent);
        self.by_agent.insert(agent, invitation);
        let purpose = Purpose::Agent(agent);
        self.by_invitation.insert(invitation, Expectation { ticket, server, purpose });
    }

    /// Lets `server` bring a spare with `ticket`.
    pub fn expect_spare(
        &mut self,
        invitation: u64,
        ticket: Ticket,
        server: String,
        life: Duration,
    ) {
        let purpose = Purpose::Spare { life };
        self.by_invitation.insert(invitation, Expectation { ticket, server, purpose });
    }

    /// No spare is wanted by that invitation any more.
    pub fn forget_spare(&mut self, invitation: u64) {
        let is_spare = |expected: &Expectation| matches!(expected.purpose, Purpose::Spare { .. });
        if self.by_invitation.get(&invitation).is_some_and(is_spare) {
            self.by_invitation.remove(&invitation);
        }
    }

    /// The agent left or was refused: nothing may claim it any more.
    pub fn forget(&mut self, agent: u64) {
        if let Some(invitation) = self.by_agent.remove(&agent) {
            self.by_invitation.remove(&invitation);
        }
    }

    /// Gives what is claimed to the connection of `server` (its name on the allow-list), and voids
    /// the ticket. A wrong claim voids nothing: otherwise one server could spoil those of another.
    pub fn claim(&mut self, claim: &Claim, server: &str) -> Result<Purpose, TicketError> {
        let expected = self.by_invitation.get(&claim.id).ok_or(TicketError::Unknown)?;
        if expected.server != server {
            return Err(TicketError::OtherServer);
        }
        verify_slices_are_equal(&expected.ticket.0, &claim.ticket)
            .map_err(|_| TicketError::Wrong)?;
        let purpose = expected.purpose;
        match purpose {
            Purpose::Agent(agent) => self.forget(agent),
            Purpose::Spare { .. } => self.forget_spare(claim.id),
        }
        Ok(purpose)
    }

    /// Agents that may be claimed.
    pub fn len(&self) -> usize {
        self.by_agent.len()
    }

    /// Whether nothing may be claimed.
    pub fn is_empty(&self) -> bool {
        self.by_agent.is_empty() && self.by_invitation.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(byte: u8) -> Ticket {
        Ticket::draw(&mut |bytes| bytes.fill(byte))
    }

    fn claim(id: u64, byte: u8) -> Claim {
        Claim { id, ticket: vec![byte; TICKET_LEN] }
    }

    fn one_expected() -> Tickets {
        let mut tickets = Tickets::default();
        tickets.expect(1, ticket(7), "lan-1".to_owned(), 42);
        tickets
    }

    #[test]
    fn a_ticket_is_honoured_once() {
        let mut tickets = one_expected();
        assert_eq!(tickets.claim(&claim(1, 7), "lan-1"), Ok(Purpose::Agent(42)));
        assert_eq!(tickets.claim(&claim(1, 7), "lan-1"), Err(TicketError::Unknown));
        assert!(tickets.is_empty());
    }

    #[test]
    fn a_wrong_guess_does_not_void_the_ticket() {
        let mut tickets = one_expected();
        assert_eq!(tickets.claim(&claim(1, 8), "lan-1"), Err(TicketError::Wrong));
        let short = Claim { id: 1, ticket: vec![7; TICKET_LEN - 1] };
        assert_eq!(tickets.claim(&short, "lan-1"), Err(TicketError::Wrong));
        assert_eq!(tickets.claim(&claim(2, 7), "lan-1"), Err(TicketError::Unknown));
        assert_eq!(tickets.claim(&claim(1, 7), "lan-1"), Ok(Purpose::Agent(42)));
    }

    #[test]
    fn the_ticket_of_another_server_is_worth_nothing() {
        let mut tickets = one_expected();
        assert_eq!(tickets.claim(&claim(1, 7), "lan-2"), Err(TicketError::OtherServer));
        assert_eq!(tickets.claim(&claim(1, 7), "lan-1"), Ok(Purpose::Agent(42)));
    }

    #[test]
    fn a_new_expectation_voids_the_old_one_of_that_agent() {
        let mut tickets = one_expected();
        tickets.expect(2, ticket(8), "lan-2".to_owned(), 42);
        assert_eq!(tickets.claim(&claim(1, 7), "lan-1"), Err(TicketError::Unknown));
        assert_eq!(tickets.claim(&claim(2, 8), "lan-2"), Ok(Purpose::Agent(42)));
        assert!(tickets.is_empty());
    }

    #[test]
    fn an_agent_that_left_cannot_be_claimed() {
        let mut tickets = one_expected();
        tickets.forget(42);
        assert_eq!(tickets.claim(&claim(1, 7), "lan-1"), Err(TicketError::Unknown));
        assert!(tickets.is_empty());
    }

    #[test]
    fn the_ticket_of_a_spare_is_honoured_once_and_for_its_server_only() {
        let mut tickets = Tickets::default();
        let life = Duration::from_secs(1);
        tickets.expect_spare(5, ticket(9), "lan-1".to_owned(), life);
        assert_eq!(tickets.claim(&claim(5, 8), "lan-1"), Err(TicketError::Wrong));
        assert_eq!(tickets.claim(&claim(5, 9), "lan-2"), Err(TicketError::OtherServer));
        assert_eq!(tickets.claim(&claim(5, 9), "lan-1"), Ok(Purpose::Spare { life }));
        assert_eq!(tickets.claim(&claim(5, 9), "lan-1"), Err(TicketError::Unknown));
        assert!(tickets.is_empty());
    }

    #[test]
    fn a_spare_that_is_not_wanted_any_more_cannot_be_claimed_and_an_agent_still_can() {
        let mut tickets = one_expected();
        tickets.expect_spare(5, ticket(9), "lan-1".to_owned(), Duration::from_secs(1));
        tickets.forget_spare(5);
        tickets.forget_spare(1);
        assert_eq!(tickets.claim(&claim(5, 9), "lan-1"), Err(TicketError::Unknown));
        assert_eq!(tickets.claim(&claim(1, 7), "lan-1"), Ok(Purpose::Agent(42)));
    }

    #[test]
    fn the_log_never_shows_a_ticket() {
        assert_eq!(format!("{:?}", ticket(7)), "Ticket(secret)");
    }
}
