use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use vestibule::control::{Purpose, SpareFailure, Ticket, TicketError, Tickets};
use vestibule::wire::{Claim, RefusalReason};

/// A worker as far as the control plane goes, and the ledger of its agents and spares.
#[derive(Default)]
pub(super) struct Worker {
    tickets: Tickets,
    mailbox: VecDeque<Mail>,
    fates: HashMap<u64, Fate>,
    expected: HashMap<u64, (Claim, String)>,
    honoured: HashSet<Vec<u8>>,
    /// Spares that wait for an agent.
    spares: BTreeSet<u64>,
    /// Agents that were given to a spare which has not taken them.
    offers: BTreeMap<u64, u64>,
    /// Spares that an agent was given to, ever.
    given: HashSet<u64>,
}

pub(super) enum Mail {
    Expect { agent: u64, invitation: u64, ticket: Ticket, server: String },
    ExpectSpare { invitation: u64, ticket: Ticket, server: String, life: Duration },
    UseSpare { agent: u64, invitation: u64 },
    CloseSpare { invitation: u64 },
    Refuse { agent: u64, reason: RefusalReason },
}

/// What a worker did with its mail, for the world to go on with.
pub(super) enum Deed {
    /// Sent the header of an agent over a spare.
    Offered { agent: u64, invitation: u64 },
    /// Had no such spare.
    Failed { agent: u64, invitation: u64 },
    /// Closed a spare.
    Closed { invitation: u64 },
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
        self.offers.remove(&agent);
        true
    }

    pub(super) fn post(&mut self, mail: Mail) {
        self.mailbox.push_back(mail);
    }

    pub(super) fn read_mails(&mut self) -> Vec<Deed> {
        let mut deeds = Vec::new();
        for mail in std::mem::take(&mut self.mailbox) {
            deeds.extend(self.read_mail(mail));
        }
        deeds
    }

    fn read_mail(&mut self, mail: Mail) -> Option<Deed> {
        match mail {
            Mail::Expect { agent, invitation, ticket, server } => {
                self.offers.remove(&agent);
                if self.fates[&agent] == Fate::Waiting {
                    let claim = Claim { id: invitation, ticket: ticket.as_bytes().to_vec() };
                    self.expected.insert(agent, (claim, server.clone()));
                    self.tickets.expect(invitation, ticket, server, agent);
                }
            }
            Mail::ExpectSpare { invitation, ticket, server, life } => {
                self.tickets.expect_spare(invitation, ticket, server, life);
            }
            Mail::UseSpare { agent, invitation } => return self.use_spare(agent, invitation),
            Mail::CloseSpare { invitation } => {
                self.tickets.forget_spare(invitation);
                return self.spares.remove(&invitation).then_some(Deed::Closed { invitation });
            }
            Mail::Refuse { agent, reason } => match self.fates[&agent] {
                Fate::Waiting => {
                    self.end(agent, Fate::Refused(reason));
                    self.tickets.forget(agent);
                    self.offers.remove(&agent);
                }
                Fate::Joined | Fate::Left => {}
                Fate::Refused(before) => {
                    panic!("{agent} was refused for {before}, then for {reason}")
                }
            },
        }
        None
    }

    fn use_spare(&mut self, agent: u64, invitation: u64) -> Option<Deed> {
        self.offers.remove(&agent);
        let is_there = self.spares.remove(&invitation);
        if self.fates[&agent] != Fate::Waiting {
            return is_there.then_some(Deed::Closed { invitation });
        }
        self.tickets.forget(agent);
        self.expected.remove(&agent);
        if !is_there {
            return Some(Deed::Failed { agent, invitation });
        }
        assert!(self.given.insert(invitation), "a spare was given to two agents");
        self.offers.insert(agent, invitation);
        Some(Deed::Offered { agent, invitation })
    }

    /// The end of a spare that waits for an agent; whether it did.
    pub(super) fn end_spare(&mut self, invitation: u64) -> bool {
        self.spares.remove(&invitation)
    }

    /// The agent that a spare has not taken yet.
    pub(super) fn offered(&self, invitation: u64) -> Option<u64> {
        let mut offers = self.offers.iter();
        offers.find_map(|(agent, offered)| (*offered == invitation).then_some(*agent))
    }

    /// The server's answer over a spare; whether it still counts.
    pub(super) fn answer(
        &mut self,
        agent: u64,
        invitation: u64,
        answer: Result<(), SpareFailure>,
    ) -> bool {
        if self.offers.get(&agent) != Some(&invitation) {
            return false;
        }
        self.offers.remove(&agent);
        if answer.is_ok() {
            self.end(agent, Fate::Joined);
        }
        true
    }

    /// What the claim gets. The mail was read before.
    pub(super) fn claim(&mut self, claim: &Claim, server: &str) -> Option<Purpose> {
        let right = |(expected, by): &(Claim, String)| expected == claim && by == server;
        let entitled = self.expected.iter().find(|(_, expected)| right(expected));
        let entitled = entitled.map(|(agent, _)| *agent);
        match self.tickets.claim(claim, server) {
            Ok(purpose) => {
                assert!(self.honoured.insert(claim.ticket.clone()), "a ticket was honoured twice");
                match purpose {
                    Purpose::Agent(agent) => {
                        assert_eq!(Some(agent), entitled, "claimed without being invited");
                        self.offers.remove(&agent);
                        self.end(agent, Fate::Joined);
                    }
                    Purpose::Spare { .. } => assert!(self.spares.insert(claim.id)),
                }
                Some(purpose)
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
        let offered = |agent: &u64| self.fates[agent] == Fate::Waiting;
        assert!(self.offers.keys().all(offered), "a spare is kept for an agent that is gone");
    }

    pub(super) fn check_nothing_left(&self) {
        assert_eq!(self.tickets.len(), 0);
        assert!(self.offers.is_empty());
        // Spares are replaced as long as there are any.
        let is_agents =
            |mail: &Mail| !matches!(mail, Mail::ExpectSpare { .. } | Mail::CloseSpare { .. });
        assert!(!self.mailbox.iter().any(is_agents));
        assert!(self.fates.values().all(|fate| *fate != Fate::Waiting));
    }
}
