use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use vestibule::control::{
    Action, AgentRef, Dispatcher, DispatcherLimits, Event, LinkId, LinkStatus, ServiceId, Snapshot,
};
use vestibule::limits::{MAX_INVITATIONS_PER_AGENT, SIGNAL_DEAD_AFTER, TICKET_LEN};
use vestibule::wire::{Invitation, RefusalReason, ToServer, from_server, to_server};

use super::random::Random;

/// The dispatcher, and the ledger of what it was told and did.
pub(super) struct Gateway {
    dispatcher: Dispatcher,
    limits: DispatcherLimits,
    services: Vec<String>,
    draining: bool,
    links: HashMap<LinkId, Link>,
    waiting: HashMap<AgentRef, Waiting>,
    /// Where each invitation went.
    invitations: HashMap<u64, LinkId>,
    tickets: HashSet<Vec<u8>>,
    /// The last action, if it was to expect a claim.
    expected: Option<(u64, Vec<u8>, String)>,
    /// Servers invited in this step.
    invited: HashSet<LinkId>,
    pub(super) seen: BTreeSet<Sight>,
}

/// What is worth seeing at least once over all worlds: otherwise they are too tame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sight {
    Refused(RefusalReason),
    /// A second invitation for an agent.
    Moved,
    /// A claim by an invitation that the dispatcher has replaced.
    ClaimCrossedWithMove,
    /// A claim of an agent that the dispatcher has refused.
    ClaimCrossedWithRefusal,
    /// A session that outlives its server's signal connection.
    SessionOutlivedLink,
    /// A link closed by the dispatcher.
    LinkClosed,
}

struct Link {
    server: String,
    allowed: Vec<ServiceId>,
    offered: Option<Vec<String>>,
    heard: Instant,
    draining: bool,
    /// Services that it declined as unknown.
    disowned: HashSet<ServiceId>,
    sessions: usize,
}

struct Waiting {
    service: ServiceId,
    since: Instant,
    invitations: usize,
    last: Option<u64>,
    /// Whether the last invitation was declined.
    declined: bool,
    declined_by: HashSet<LinkId>,
}

impl Gateway {
    pub(super) fn new(limits: DispatcherLimits, services: Vec<String>) -> Self {
        let instance = "00112233445566ff".to_owned();
        Self {
            dispatcher: Dispatcher::new(limits.clone(), services.clone(), instance),
            limits,
            services,
            draining: false,
            links: HashMap::new(),
            waiting: HashMap::new(),
            invitations: HashMap::new(),
            tickets: HashSet::new(),
            expected: None,
            invited: HashSet::new(),
            seen: BTreeSet::new(),
        }
    }

    /// A new process of the same configuration.
    pub(super) fn restart(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        *self = Self { seen, ..Self::new(self.limits.clone(), self.services.clone()) };
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.dispatcher.next_timeout()
    }

    pub(super) fn handle(&mut self, event: Event, now: Instant, random: &mut Random) {
        self.enter(&event, now);
        self.dispatcher.handle(event, now, &mut |bytes| random.fill(bytes));
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, random: &mut Random) {
        self.dispatcher.handle_timeout(now, &mut |bytes| random.fill(bytes));
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        let action = self.dispatcher.poll_action()?;
        self.check_action(&action);
        Some(action)
    }

    fn enter(&mut self, event: &Event, now: Instant) {
        match event {
            Event::LinkOpened { link, server, allowed } => {
                let entry = Link {
                    server: server.clone(),
                    allowed: allowed.clone(),
                    offered: None,
                    heard: now,
                    draining: false,
                    disowned: HashSet::new(),
                    sessions: 0,
                };
                self.links.insert(*link, entry);
            }
            Event::LinkMessage { link, message } => {
                if let Some(entry) = self.links.get_mut(link) {
                    entry.heard = now;
                    self.enter_message(*link, message.message.as_ref());
                }
            }
            Event::LinkClosed { link } => drop(self.links.remove(link)),
            Event::Admit { agent, service } => {
                let entry = Waiting {
                    service: *service,
                    since: now,
                    invitations: 0,
                    last: None,
                    declined: false,
                    declined_by: HashSet::new(),
                };
                assert!(self.waiting.insert(*agent, entry).is_none());
            }
            Event::Leave { agent } => drop(self.waiting.remove(agent)),
            Event::Claimed { agent, invitation } => {
                match self.waiting.remove(agent) {
                    None => drop(self.seen.insert(Sight::ClaimCrossedWithRefusal)),
                    Some(waiting) if waiting.last != Some(*invitation) => {
                        self.seen.insert(Sight::ClaimCrossedWithMove);
                    }
                    Some(_) => {}
                }
                if let Some(link) = self.links.get_mut(&self.invitations[invitation]) {
                    link.sessions += 1;
                }
            }
            Event::Released { invitation } => {
                match self.links.get_mut(&self.invitations[invitation]) {
                    Some(link) => link.sessions -= 1,
                    None => drop(self.seen.insert(Sight::SessionOutlivedLink)),
                }
            }
            Event::Drain => self.draining = true,
        }
    }

    fn enter_message(&mut self, id: LinkId, message: Option<&from_server::Message>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match message {
            Some(from_server::Message::ServerHello(hello)) if link.offered.is_none() => {
                link.offered = Some(hello.services.clone());
            }
            Some(from_server::Message::Goodbye(_)) => link.draining = true,
            Some(from_server::Message::Decline(decline)) => {
                let is_meant =
                    |waiting: &&mut Waiting| waiting.last == Some(decline.id) && !waiting.declined;
                if self.invitations.get(&decline.id) != Some(&id) || link.draining {
                    return;
                }
                let Some(waiting) = self.waiting.values_mut().find(is_meant) else { return };
                waiting.declined = true;
                match decline.reason() {
                    RefusalReason::Draining => link.draining = true,
                    RefusalReason::ServiceUnknown => drop(link.disowned.insert(waiting.service)),
                    _ => drop(waiting.declined_by.insert(id)),
                }
            }
            _ => {}
        }
    }

    fn check_action(&mut self, action: &Action) {
        let expected = self.expected.take();
        match action {
            Action::Send { link, message } => {
                assert!(self.links.contains_key(link), "sent on a link that is gone");
                let ToServer { message: Some(message) } = message else { panic!("sent nothing") };
                if let to_server::Message::Invitation(invitation) = message {
                    let expected = expected.expect("an invitation without its expectation");
                    self.check_invitation(*link, invitation, &expected);
                }
            }
            Action::CloseLink { link, .. } => {
                self.links.remove(link);
                self.seen.insert(Sight::LinkClosed);
            }
            Action::Expect { agent, invitation, ticket, server } => {
                let waiting = self.waiting.get_mut(agent).expect("who is invited for waits");
                waiting.invitations += 1;
                waiting.last = Some(*invitation);
                waiting.declined = false;
                if waiting.invitations > 1 {
                    self.seen.insert(Sight::Moved);
                }
                assert!(waiting.invitations <= MAX_INVITATIONS_PER_AGENT);
                self.expected = Some((*invitation, ticket.as_bytes().to_vec(), server.clone()));
            }
            Action::Refuse { agent, reason } => {
                if *reason == RefusalReason::QueueFull {
                    assert!(self.waiting.len() > self.limits.max_waiting, "refused without need");
                }
                self.seen.insert(Sight::Refused(*reason));
                assert!(self.waiting.remove(agent).is_some(), "refused who does not wait");
            }
        }
    }

    fn check_invitation(
        &mut self,
        link: LinkId,
        invitation: &Invitation,
        expected: &(u64, Vec<u8>, String),
    ) {
        let (id, ticket, server) = expected;
        assert_eq!((invitation.id, &invitation.ticket), (*id, ticket));
        assert_eq!(ticket.len(), TICKET_LEN);
        assert!(self.tickets.insert(ticket.clone()), "a ticket was given out twice");
        assert!(self.invitations.insert(*id, link).is_none(), "two invitations of one id");
        assert!(!self.draining, "invited while the gateway drains");
        let entry = &self.links[&link];
        assert!(!entry.draining, "invited a server that drains");
        assert_eq!(&entry.server, server, "the ticket is bound to another server");
        let offered = entry.offered.as_ref().expect("invited before its hello");
        assert!(offered.contains(&invitation.service), "invited for what it does not offer");
        let allowed = |service: &ServiceId| self.services[*service] == invitation.service;
        assert!(entry.allowed.iter().any(allowed), "invited for what it may not serve");
        self.invited.insert(link);
    }

    /// After each step, once its actions are carried out.
    pub(super) fn check_after_step(&mut self, now: Instant) {
        let snapshot = self.dispatcher.snapshot();
        assert_eq!(snapshot.waiting, self.waiting.len(), "agents are lost or invented");
        assert!(snapshot.waiting <= self.limits.max_waiting);
        assert_eq!(snapshot.links.len() + snapshot.greeting, self.links.len());
        assert!(self.links.len() <= self.limits.max_links);
        let mut by_service = vec![0; self.services.len()];
        for waiting in self.waiting.values() {
            by_service[waiting.service] += 1;
            assert!(now <= waiting.since + self.limits.invitation_timeout, "a deadline was missed");
        }
        assert!(snapshot.services.iter().map(|service| service.waiting).eq(by_service));
        for status in &snapshot.links {
            assert_eq!(status.sessions, self.links[&status.link].sessions, "load is miscounted");
            if let Some(capacity) = status.capacity
                && self.invited.contains(&status.link)
            {
                assert!(status.waiting + status.sessions <= capacity as usize, "over its capacity");
            }
        }
        self.invited.clear();
        let invited: usize = snapshot.links.iter().map(|link| link.waiting).sum();
        assert!(invited <= snapshot.waiting, "an invitation outlived its agent");
        let silent = |link: &Link| now > link.heard + SIGNAL_DEAD_AFTER;
        assert!(!self.links.values().any(silent), "a silent link is still there");
        self.check_nobody_is_forgotten(&snapshot);
        assert!(!self.draining || snapshot.waiting == 0, "someone waits while the gateway drains");
    }

    /// No agent is left in the queue while there is a server that could have it.
    fn check_nobody_is_forgotten(&self, snapshot: &Snapshot) {
        let has_room = |status: &&LinkStatus| {
            let load = status.waiting + status.sessions;
            status.capacity.is_none_or(|capacity| load < capacity as usize)
        };
        let open: Vec<LinkId> =
            snapshot.links.iter().filter(has_room).map(|link| link.link).collect();
        for waiting in self.waiting.values().filter(|waiting| !self.is_invited(waiting)) {
            let could_have_it = |id: &&LinkId| {
                let link = &self.links[id];
                let offered = link
                    .offered
                    .as_ref()
                    .is_some_and(|offered| offered.contains(&self.services[waiting.service]));
                let may = offered
                    && link.allowed.contains(&waiting.service)
                    && !link.disowned.contains(&waiting.service);
                may && !link.draining && !waiting.declined_by.contains(id)
            };
            assert_eq!(open.iter().find(could_have_it), None, "an agent is forgotten in the queue");
        }
    }

    fn is_invited(&self, waiting: &Waiting) -> bool {
        let Some(last) = waiting.last else { return false };
        let link = self.links.get(&self.invitations[&last]);
        !waiting.declined && link.is_some_and(|link| !link.draining)
    }

    pub(super) fn check_nothing_left(&self) {
        let snapshot = self.dispatcher.snapshot();
        assert_eq!(snapshot.waiting, 0);
        assert!(
            snapshot.links.iter().all(|link| link.waiting + link.sessions == 0),
            "{snapshot:?}"
        );
    }
}
