use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use vestibule::control::{
    Action, AgentRef, Dispatcher, DispatcherLimits, Event, LinkId, ServiceId,
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
    sessions: usize,
}

struct Waiting {
    service: ServiceId,
    since: Instant,
    invitations: usize,
    last: u64,
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
                let (server, allowed) = (server.clone(), allowed.clone());
                let (offered, draining) = (None, false);
                let entry = Link { server, allowed, offered, heard: now, draining, sessions: 0 };
                self.links.insert(*link, entry);
            }
            Event::LinkMessage { link, message } => {
                let Some(link) = self.links.get_mut(link) else { return };
                match &message.message {
                    Some(from_server::Message::ServerHello(hello)) if link.offered.is_none() => {
                        link.offered = Some(hello.services.clone());
                    }
                    Some(from_server::Message::Goodbye(_)) => link.draining = true,
                    _ => {}
                }
                link.heard = now;
            }
            Event::LinkClosed { link } => drop(self.links.remove(link)),
            Event::Admit { agent, service } => {
                let entry = Waiting { service: *service, since: now, invitations: 0, last: 0 };
                assert!(self.waiting.insert(*agent, entry).is_none());
            }
            Event::Leave { agent } => drop(self.waiting.remove(agent)),
            Event::Claimed { agent, invitation } => {
                match self.waiting.remove(agent) {
                    None => drop(self.seen.insert(Sight::ClaimCrossedWithRefusal)),
                    Some(waiting) if waiting.last != *invitation => {
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
                waiting.last = *invitation;
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
            assert!(now < waiting.since + self.limits.invitation_timeout, "a deadline was missed");
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
        let silent = |link: &Link| now >= link.heard + SIGNAL_DEAD_AFTER;
        assert!(!self.links.values().any(silent), "a silent link is still there");
        assert!(!self.draining || snapshot.waiting == 0, "someone waits while the gateway drains");
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
