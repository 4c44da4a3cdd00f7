use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use super::{AgentRef, Request, ServiceId};
use crate::wire::RefusalReason;

/// An agent that waits for a server.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) agent: AgentRef,
    /// What it was admitted for.
    pub(super) request: Request,
    pub(super) deadline: Instant,
    /// Invitations so far.
    pub(super) invitations: usize,
    /// Numbers of the links that had no room for it: it does not go there again.
    pub(super) declined_by: Vec<u32>,
    /// What the last of them said.
    pub(super) last_decline: Option<RefusalReason>,
    /// The spare that it was given. It gets no other: where one fails, others may.
    pub(super) spare: Option<u64>,
    pub(super) place: Place,
}

/// Where a waiting agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the queue: no server can be invited at this moment.
    Queued,
    /// A server was invited and has not answered, or a spare was given out and has not.
    Invited {
        /// Its last invitation, or that of the spare; earlier ones are void.
        invitation: u64,
    },
}

/// Agents that wait, each with a position: the order of admission, thus of deadlines as well.
#[derive(Debug)]
pub(super) struct Queue {
    agents: BTreeMap<u64, Waiting>,
    positions: HashMap<AgentRef, u64>,
    /// By service: positions of the agents that are [`Place::Queued`].
    queued: Vec<BTreeSet<u64>>,
    next_position: u64,
}

impl Queue {
    pub(super) fn new(services: usize) -> Self {
        Self {
            agents: BTreeMap::new(),
            positions: HashMap::new(),
            queued: vec![BTreeSet::new(); services],
            next_position: 0,
        }
    }

    pub(super) fn push(&mut self, agent: AgentRef, request: Request, deadline: Instant) -> u64 {
        let service = request.service;
        let position = self.next_position;
        self.next_position += 1;
        self.positions.insert(agent, position);
        self.queued[service].insert(position);
        let waiting = Waiting {
            agent,
            request,
            deadline,
            invitations: 0,
            declined_by: Vec::new(),
            last_decline: None,
            spare: None,
            place: Place::Queued,
        };
        self.agents.insert(position, waiting);
        position
    }

    pub(super) fn remove(&mut self, position: u64) -> Option<Waiting> {
        let waiting = self.agents.remove(&position)?;
        self.positions.remove(&waiting.agent);
        self.queued[waiting.request.service].remove(&position);
        Some(waiting)
    }

    pub(super) fn get(&self, position: u64) -> Option<&Waiting> {
        self.agents.get(&position)
    }

    pub(super) fn get_mut(&mut self, position: u64) -> Option<&mut Waiting> {
        self.agents.get_mut(&position)
    }

    /// Moves an agent between the queue and the invited.
    pub(super) fn put(&mut self, position: u64, place: Place) {
        let Some(waiting) = self.agents.get_mut(&position) else { return };
        waiting.place = place;
        let queued = &mut self.queued[waiting.request.service];
        match place {
            Place::Queued => queued.insert(position),
            Place::Invited { .. } => queued.remove(&position),
        };
    }

    pub(super) fn position_of(&self, agent: AgentRef) -> Option<u64> {
        self.positions.get(&agent).copied()
    }

    /// The first of the queue of `service` that the link of that number did not decline.
    pub(super) fn first_for(&self, service: ServiceId, link: u32) -> Option<u64> {
        let takes = |position: &&u64| !self.agents[*position].declined_by.contains(&link);
        self.queued[service].iter().find(takes).copied()
    }

    /// Removes those whose deadline has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Waiting> {
        let due = self.agents.iter().take_while(|(_, waiting)| waiting.deadline <= now);
        let due: Vec<u64> = due.map(|(position, _)| *position).collect();
        due.into_iter().filter_map(|position| self.remove(position)).collect()
    }

    /// Makes room for services that were added.
    pub(super) fn grow(&mut self, services: usize) {
        self.queued.resize_with(services, BTreeSet::new);
    }

    /// Nobody waits longer than that. Deadlines stay in the order of admission.
    pub(super) fn bound_deadlines(&mut self, latest: Instant) {
        for waiting in self.agents.values_mut() {
            waiting.deadline = waiting.deadline.min(latest);
        }
    }

    /// Removes those who wait for one of these services.
    pub(super) fn take_for(&mut self, services: &BTreeSet<ServiceId>) -> Vec<Waiting> {
        let waiting =
            self.agents.iter().filter(|(_, waiting)| services.contains(&waiting.request.service));
        let positions: Vec<u64> = waiting.map(|(position, _)| *position).collect();
        positions.into_iter().filter_map(|position| self.remove(position)).collect()
    }

    /// Removes everyone.
    pub(super) fn take_all(&mut self) -> Vec<Waiting> {
        self.positions.clear();
        self.queued.iter_mut().for_each(BTreeSet::clear);
        std::mem::take(&mut self.agents).into_values().collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.agents.first_key_value().map(|(_, waiting)| waiting.deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.agents.len()
    }

    /// How many wait, by service.
    pub(super) fn len_by_service(&self) -> Vec<usize> {
        let mut counts = vec![0; self.queued.len()];
        for waiting in self.agents.values() {
            counts[waiting.request.service] += 1;
        }
        counts
    }
}
