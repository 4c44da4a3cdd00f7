use std::collections::{HashMap, HashSet, VecDeque};

use vestibule::control::{Ticket, TicketError, Tickets};
use vestibule::wire::{Claim, RefusalReason};

/// A worker as far as the control plane goes, and the ledger of its agents.
#[derive(Default)]
pub(super) struct Worker {
    tickets: Tickets,
    mailbox: VecDeque<Mail>,
    fates: HashMap<u64, Fate>,
    expected: HashMap<u64, (Claim, String)>,
    honoured: HashSet<Vec<u8>>,
}

pub(super) enum Mail {
    Expect { agent: u64, invitation: u64, ticket: Ticket, server: String },
    Refuse { agent: u64, reason: RefusalReason },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Waiting,
    Joined,
    Refused(RefusalReason),
    Left,
}

impl Worker {
    pub(super) fn arrive(&mut self, agent: u64) {
        assert_eq!(self.fates.insert(agent, Fate::Waiting), None);
    }

    /// Whether it still waited.
    pub(super) fn leave(&mut self, agent: u64) -> bool {
        if self.fates[&agent] != Fate::Waiting {
            return false;
        }
        self.end(agent, Fate::Left);
        self.tickets.forget(agent);
        true
    }

    pub(super) fn post(&mut self, mail: Mail) {
        self.mailbox.push_back(mail);
    }

    pub(super) fn read_mails(&mut self) {
        for mail in std::mem::take(&mut self.mailbox) {
            match mail {
                Mail::Expect { agent, invitation, ticket, server } => {
                    if self.fates[&agent] == Fate::Waiting {
                        let claim = Claim { id: invitation, ticket: ticket.as_bytes().to_vec() };
                        self.expected.insert(agent, (claim, server.clone()));
                        self.tickets.expect(invitation, ticket, server, agent);
                    }
                }
                Mail::Refuse { agent, reason } => match self.fates[&agent] {
                    Fate::Waiting => {
                        self.end(agent, Fate::Refused(reason));
                        self.tickets.forget(agent);
                    }
                    Fate::Joined | Fate::Left => {}
                    Fate::Refused(before) => {
                        panic!("{agent} was refused for {before}, then for {reason}")
                    }
                },
            }
        }
    }

    /// The agent that the claim gets.
    pub(super) fn claim(&mut self, claim: &Claim, server: &str) -> Option<u64> {
        self.read_mails();
        let right = |(expected, by): &(Claim, String)| expected == claim && by == server;
        let entitled = self.expected.iter().find(|(_, expected)| right(expected));
        let entitled = entitled.map(|(agent, _)| *agent);
        match self.tickets.claim(claim, server) {
            Ok(agent) => {
                assert_eq!(Some(agent), entitled, "claimed without being invited");
                assert!(self.honoured.insert(claim.ticket.clone()), "a ticket was honoured twice");
                self.end(agent, Fate::Joined);
                Some(agent)
            }
            Err(TicketError::Unknown | TicketError::OtherServer | TicketError::Wrong) => {
                assert_eq!(entitled, None, "a valid claim was turned away");
                None
            }
        }
    }

    fn end(&mut self, agent: u64, fate: Fate) {
        let before = self.fates.insert(agent, fate);
        assert_eq!(before, Some(Fate::Waiting), "an agent ended twice");
        self.expected.remove(&agent);
    }

    pub(super) fn fate(&self, agent: u64) -> Fate {
        self.fates[&agent]
    }

    pub(super) fn check(&self) {
        let waiting = self.fates.values().filter(|fate| **fate == Fate::Waiting).count();
        assert!(self.tickets.len() <= waiting, "a ticket outlived its agent");
    }

    pub(super) fn check_nothing_left(&self) {
        assert!(self.tickets.is_empty());
        assert!(self.mailbox.is_empty());
        assert!(self.fates.values().all(|fate| *fate != Fate::Waiting));
    }
}
