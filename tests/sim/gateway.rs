use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use vestibule::control::{
    Action, AgentRef, Dispatcher, DispatcherLimits, Event, LinkId, LinkStatus, Reconfiguration,
    ServiceId, Snapshot, SpareFailure,
};
use vestibule::limits::{MAX_INVITATIONS_PER_AGENT, SIGNAL_DEAD_AFTER, TICKET_LEN};
use vestibule::relay::CloseReason;
use vestibule::wire::{Invitation, RefusalReason, ToServer, from_server, to_server};

use super::random::Random;

/// The dispatcher, and the ledger of what it was told and did.
pub(super) struct Gateway {
    dispatcher: Dispatcher,
    limits: DispatcherLimits,
    services: Vec<String>,
    draining: bool,
    gone: BTreeSet<ServiceId>,
    links: HashMap<LinkId, Link>,
    waiting: HashMap<AgentRef, Waiting>,
    /// Where each invitation went.
    invitations: HashMap<u64, LinkId>,
    tickets: HashSet<Vec<u8>>,
    /// The last action, if it was to expect a claim.
    expected: Option<(u64, Vec<u8>, String)>,
    /// Spares that were asked for and neither given out nor ended: where, and whether it is there.
    spares: HashMap<u64, Spare>,
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
    Reloaded,
    SpareTookAgent,
    SpareFailed(FailedSpare),
}

/// How a spare failed its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FailedSpare {
    Gone,
    Silent,
    Refused,
}

#[derive(Debug, Clone, Copy)]
struct Spare {
    link: LinkId,
    worker: u32,
    ready: bool,
}

struct Link {
    server: String,
    allowed: Vec<ServiceId>,
    offered: Option<Vec<String>>,
    /// How many spares it will hold.
    spares: usize,
    heard: Instant,
    draining: bool,
    /// Services that it declined as unknown.
    disowned: HashSet<ServiceId>,
    sessions: usize,
}

struct Waiting {
    service: ServiceId,
    deadline: Instant,
    invitations: usize,
    last: Option<u64>,
    /// Whether the last invitation was declined, or the spare failed.
    declined: bool,
    on_spare: bool,
    declined_by: HashSet<LinkId>,
}

impl Link {
    fn note_decline(&mut self, id: LinkId, waiting: &mut Waiting, reason: RefusalReason) {
        match reason {
            RefusalReason::Draining => self.draining = true,
            RefusalReason::ServiceUnknown => drop(self.disowned.insert(waiting.service)),
            _ => drop(waiting.declined_by.insert(id)),
        }
    }
}

impl Gateway {
    pub(super) fn new(limits: DispatcherLimits, services: Vec<String>) -> Self {
        let instance = "00112233445566ff".to_owned();
        Self {
            dispatcher: Dispatcher::new(limits.clone(), services.clone(), instance),
            limits,
            services,
            draining: false,
            gone: BTreeSet::new(),
            links: HashMap::new(),
            waiting: HashMap::new(),
            invitations: HashMap::new(),
            tickets: HashSet::new(),
            expected: None,
            spares: HashMap::new(),
            invited: HashSet::new(),
            seen: BTreeSet::new(),
        }
    }

    /// A new process of the same configuration.
    pub(super) fn restart(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        *self = Self { seen, ..Self::new(self.limits.clone(), self.services.clone()) };
    }

    /// A reload in which each link is judged by its server's name.
    pub(super) fn reconfigured(
        &self,
        gone: BTreeSet<ServiceId>,
        invitation_timeout: Duration,
        mut judge: impl FnMut(&str) -> Result<Vec<ServiceId>, CloseReason>,
    ) -> Event {
        let mut links: Vec<LinkId> = self.links.keys().copied().collect();
        links.sort_unstable();
        let is_there = |service: &ServiceId| !gone.contains(service);
        let verdict = |id: LinkId| {
            let allowed = judge(&self.links[&id].server);
            allowed.map(|allowed| allowed.into_iter().filter(is_there).collect())
        };
        let links = links.iter().copied().zip(links.iter().copied().map(verdict)).collect();
        let limits = DispatcherLimits { invitation_timeout, ..self.limits.clone() };
        Event::Reconfigured(Reconfiguration {
            limits,
            services: self.services.clone(),
            gone,
            links,
        })
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
                    spares: 0,
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
                    deadline: now + self.limits.invitation_timeout,
                    invitations: 0,
                    last: None,
                    declined: false,
                    on_spare: false,
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
                    Some(waiting) if waiting.on_spare => {
                        self.seen.insert(Sight::SpareTookAgent);
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
            Event::SpareReady { invitation } => {
                if let Some(spare) = self.spares.get_mut(invitation) {
                    spare.ready = true;
                }
            }
            Event::SpareEnded { invitation, .. } => drop(self.spares.remove(invitation)),
            Event::SpareFailed { agent, invitation, failure } => {
                self.enter_failure(*agent, *invitation, *failure);
            }
            Event::Reconfigured(changed) => self.enter_reload(changed, now),
            Event::Drain => self.draining = true,
        }
    }

    /// What becomes of links that are not allowed, the dispatcher has to say.
    fn enter_reload(&mut self, changed: &Reconfiguration, now: Instant) {
        self.seen.insert(Sight::Reloaded);
        self.limits = changed.limits.clone();
        self.gone.clone_from(&changed.gone);
        for (id, verdict) in &changed.links {
            if let (Ok(allowed), Some(link)) = (verdict, self.links.get_mut(id)) {
                link.allowed.clone_from(allowed);
            }
        }
        for waiting in self.waiting.values_mut() {
            waiting.deadline = waiting.deadline.min(now + self.limits.invitation_timeout);
            let link = waiting.last.and_then(|last| self.links.get(&self.invitations[&last]));
            if link.is_some_and(|link| !link.allowed.contains(&waiting.service)) {
                waiting.declined = true;
            }
        }
    }

    fn enter_failure(&mut self, agent: AgentRef, invitation: u64, failure: SpareFailure) {
        self.seen.insert(Sight::SpareFailed(match failure {
            SpareFailure::Gone => FailedSpare::Gone,
            SpareFailure::Silent => FailedSpare::Silent,
            SpareFailure::Refused(_) => FailedSpare::Refused,
        }));
        let id = self.invitations[&invitation];
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.draining) else { return };
        let Some(waiting) = self.waiting.get_mut(&agent) else { return };
        if waiting.last == Some(invitation) && !waiting.declined {
            waiting.declined = true;
            if let SpareFailure::Refused(reason) = failure {
                link.note_decline(id, waiting, reason);
            }
        }
    }

    fn enter_message(&mut self, id: LinkId, message: Option<&from_server::Message>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match message {
            Some(from_server::Message::ServerHello(hello)) => {
                link.offered = Some(hello.services.clone());
                link.disowned.clear();
                // Those above a smaller number are used, or age.
                link.spares = link.spares.max(hello.spares as usize);
            }
            Some(from_server::Message::Goodbye(_)) => link.draining = true,
            Some(from_server::Message::Decline(decline)) => {
                let is_spare = self.spares.get(&decline.id).is_some_and(|spare| spare.link == id);
                if is_spare && decline.reason() == RefusalReason::Draining {
                    link.draining = true;
                }
                let is_meant =
                    |waiting: &&mut Waiting| waiting.last == Some(decline.id) && !waiting.declined;
                if self.invitations.get(&decline.id) != Some(&id) || link.draining {
                    return;
                }
                let Some(waiting) = self.waiting.values_mut().find(is_meant) else { return };
                waiting.declined = true;
                link.note_decline(id, waiting, decline.reason());
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
                    let is_spare = invitation.spare_for_ms > 0;
                    assert_eq!(is_spare, self.spares.contains_key(&invitation.id));
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
                waiting.on_spare = false;
                if waiting.invitations > 1 {
                    self.seen.insert(Sight::Moved);
                }
                assert!(waiting.invitations <= MAX_INVITATIONS_PER_AGENT);
                self.expected = Some((*invitation, ticket.as_bytes().to_vec(), server.clone()));
            }
            Action::ExpectSpare { worker, invitation, ticket, server, life } => {
                assert!(*life <= self.limits.spare_life);
                let named = |(_, link): &(&LinkId, &Link)| link.server == *server;
                let (link, _) = self.links.iter().find(named).expect("asked of a server");
                let spare = Spare { link: *link, worker: *worker, ready: false };
                assert!(self.spares.insert(*invitation, spare).is_none());
                self.expected = Some((*invitation, ticket.as_bytes().to_vec(), server.clone()));
            }
            Action::UseSpare { agent, invitation } => self.check_use(*agent, *invitation),
            Action::CloseSpare { worker, invitation } => {
                let spare = self.spares.remove(invitation);
                assert!(spare.is_none_or(|spare| spare.worker == *worker));
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
        if let Some(spare) = self.spares.get_mut(id) {
            // Two of a kind have one name.
            spare.link = link;
            assert_eq!(spare.worker, invitation.worker);
            return;
        }
        assert!(offered.contains(&invitation.service), "invited for what it does not offer");
        let allowed = |service: &ServiceId| self.services[*service] == invitation.service;
        assert!(entry.allowed.iter().any(allowed), "invited for what it may not serve");
        self.invited.insert(link);
    }

    fn check_use(&mut self, agent: AgentRef, invitation: u64) {
        let spare = self.spares.remove(&invitation).expect("given out without being held");
        assert!(spare.ready, "given out before it was there");
        assert_eq!(spare.worker, agent.worker, "given out at another worker");
        let link = &self.links[&spare.link];
        assert!(!self.draining && !link.draining, "given out while somebody drains");
        let waiting = self.waiting.get_mut(&agent).expect("who is given a spare waits");
        let service = &self.services[waiting.service];
        assert!(link.allowed.contains(&waiting.service));
        assert!(link.offered.as_ref().is_some_and(|offered| offered.contains(service)));
        waiting.invitations += 1;
        waiting.last = Some(invitation);
        waiting.declined = false;
        waiting.on_spare = true;
        assert!(waiting.invitations <= MAX_INVITATIONS_PER_AGENT);
        self.invited.insert(spare.link);
    }

    fn check_spares(&self, snapshot: &Snapshot) {
        let mut by_worker: HashMap<u32, usize> = HashMap::new();
        let mut by_link: HashMap<LinkId, (usize, usize)> = HashMap::new();
        for spare in self.spares.values() {
            let link = self.links.get(&spare.link).expect("a spare outlived its link");
            assert!(!link.draining && !self.draining, "a spare is held while somebody drains");
            *by_worker.entry(spare.worker).or_default() += 1;
            let (held, ready) = by_link.entry(spare.link).or_default();
            *held += 1;
            *ready += usize::from(spare.ready);
        }
        let most = by_worker.values().max().copied().unwrap_or(0);
        assert!(most <= self.limits.max_spares, "{most} spares at one worker");
        for status in &snapshot.links {
            let (held, ready) = by_link.get(&status.link).copied().unwrap_or_default();
            assert!(held <= self.links[&status.link].spares, "more spares than it will hold");
            assert_eq!(status.spares, ready, "spares are miscounted");
        }
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
            assert!(now <= waiting.deadline, "a deadline was missed");
            assert!(!self.gone.contains(&waiting.service), "someone waits for what is gone");
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
        self.check_spares(&snapshot);
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
