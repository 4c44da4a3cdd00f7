//! What a dispatcher was told and what it did, and the checks that follow from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use vestibule::control::{
    Action, AgentRef, DispatcherLimits, Event, LinkId, ServiceId, ServiceOffer, SpareFailure,
};
use vestibule::limits::{MAX_INVITATIONS_PER_AGENT, TICKET_LEN};
use vestibule::relay::CloseReason;
use vestibule::wire::{Invitation, RefusalReason, ToServer, from_server, to_server};

use super::checks::{Check, Checks, FailedSpare, Sight};
use super::gateway::Settings;

mod after_step;
mod quotas;

pub(super) struct Ledger {
    limits: DispatcherLimits,
    services: Vec<ServiceOffer>,
    /// Services that a reload took away.
    gone: BTreeSet<ServiceId>,
    /// Agents and spares that a reload found, where its bounds are lower.
    left_over: LeftOver,
    draining: bool,
    /// Servers that an operator has drained.
    drained: BTreeSet<String>,
    links: BTreeMap<LinkId, Link>,
    waiting: BTreeMap<AgentRef, Waiting>,
    held: quotas::Held,
    /// Where each invitation went.
    invitations: BTreeMap<u64, LinkId>,
    tickets: BTreeSet<Vec<u8>>,
    /// The last action, if it was to expect a claim.
    expected: Option<(u64, Vec<u8>, String)>,
    /// Spares that were asked for and neither given out nor ended.
    spares: BTreeMap<u64, Spare>,
    /// Servers invited in this step.
    invited: BTreeSet<LinkId>,
}

/// What becomes of a signal connection when its gateway reloads.
pub(super) type Verdict = (LinkId, Result<Vec<ServiceId>, CloseReason>);

#[derive(Debug, Default)]
struct LeftOver {
    waiting: usize,
    spares: BTreeMap<u32, usize>,
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
    offered: Option<Vec<ServiceOffer>>,
    /// How many spares it will hold.
    spares: usize,
    heard: Instant,
    draining: bool,
    /// Services that it declined as unknown.
    disowned: BTreeSet<ServiceId>,
    sessions: usize,
}

struct Waiting {
    service: ServiceId,
    deadline: Instant,
    /// Its service came to end the TLS elsewhere after it was admitted.
    is_of_the_old_way: bool,
    invitations: usize,
    last: Option<u64>,
    /// Whether the last invitation was declined, or the spare failed.
    declined: bool,
    on_spare: bool,
    declined_by: BTreeSet<LinkId>,
}

impl Link {
    /// Whether it may have agents of this service, the gateway's `number`, and says that it serves it.
    fn serves(&self, number: ServiceId, service: &ServiceOffer) -> bool {
        let is_offered = self.offered.as_ref().is_some_and(|offered| offered.contains(service));
        is_offered && self.allowed.contains(&number)
    }

    fn note_decline(&mut self, id: LinkId, waiting: &mut Waiting, reason: RefusalReason) {
        match reason {
            RefusalReason::Draining => self.draining = true,
            RefusalReason::ServiceUnknown => drop(self.disowned.insert(waiting.service)),
            _ => drop(waiting.declined_by.insert(id)),
        }
    }
}

impl Ledger {
    pub(super) fn new(limits: DispatcherLimits, services: Vec<ServiceOffer>) -> Self {
        Self {
            limits,
            services,
            gone: BTreeSet::new(),
            left_over: LeftOver::default(),
            draining: false,
            drained: BTreeSet::new(),
            links: BTreeMap::new(),
            waiting: BTreeMap::new(),
            held: quotas::Held::default(),
            invitations: BTreeMap::new(),
            tickets: BTreeSet::new(),
            expected: None,
            spares: BTreeMap::new(),
            invited: BTreeSet::new(),
        }
    }

    fn spares_by_worker(&self) -> BTreeMap<u32, usize> {
        let mut by_worker = BTreeMap::new();
        for spare in self.spares.values() {
            *by_worker.entry(spare.worker).or_default() += 1;
        }
        by_worker
    }

    /// How many invitations that agent had.
    pub(super) fn invitations_of(&self, agent: AgentRef) -> usize {
        self.waiting.get(&agent).map_or(0, |waiting| waiting.invitations)
    }
}

// ---- what the dispatcher is told ----

impl Ledger {
    pub(super) fn enter(&mut self, event: &Event, now: Instant, checks: &mut Checks) {
        match event {
            Event::LinkOpened { link, server, allowed } => {
                let entry = Link {
                    server: server.clone(),
                    allowed: allowed.clone(),
                    offered: None,
                    spares: 0,
                    heard: now,
                    draining: false,
                    disowned: BTreeSet::new(),
                    sessions: 0,
                };
                self.links.insert(*link, entry);
            }
            Event::LinkMessage { link, message } => {
                if let Some(entry) = self.links.get_mut(link) {
                    entry.heard = now;
                    self.enter_message(*link, message.message.as_ref(), checks);
                }
            }
            Event::LinkClosed { link } => drop(self.links.remove(link)),
            Event::DrainServer { server } => self.enter_drained(server),
            Event::UndrainServer { server } => drop(self.drained.remove(server)),
            // `note_reload` knows it already, and from the settings. No server here brings lists, and no
            // gateway has a second process.
            Event::Reconfigured(_)
            | Event::CrlJudged { .. }
            | Event::Moving(_)
            | Event::TookOver
            | Event::Moved => {}
            Event::Admit { agent, request } => {
                self.held.admit(*agent, request);
                self.waiting.insert(*agent, self.waiting_for(request.service, now));
            }
            Event::Leave { agent } => {
                self.held.leave(*agent);
                self.waiting.remove(agent);
            }
            Event::Claimed { agent, invitation, request } => {
                self.held.claim(*agent, *invitation, request);
                self.enter_claim(*agent, *invitation, checks);
            }
            Event::Released { invitation } => {
                self.held.release(*invitation);
                match self.links.get_mut(&self.invitations[invitation]) {
                    Some(link) => link.sessions = link.sessions.saturating_sub(1),
                    None => checks.see(Sight::SessionOutlivedLink),
                }
            }
            Event::SpareReady { invitation } => {
                if let Some(spare) = self.spares.get_mut(invitation) {
                    spare.ready = true;
                }
            }
            Event::SpareEnded { invitation, .. } => drop(self.spares.remove(invitation)),
            Event::SpareFailed { agent, invitation, failure } => {
                self.enter_failure(*agent, *invitation, *failure, checks);
            }
            Event::Drain => self.draining = true,
        }
    }

    fn waiting_for(&self, service: usize, now: Instant) -> Waiting {
        Waiting {
            service,
            deadline: now + self.limits.invitation_timeout,
            is_of_the_old_way: false,
            invitations: 0,
            last: None,
            declined: false,
            on_spare: false,
            declined_by: BTreeSet::new(),
        }
    }

    /// What a reload makes true: limits, services that are gone or end the TLS elsewhere, and who may serve what.
    pub(super) fn note_reload(&mut self, settings: &Settings, verdicts: &[Verdict], now: Instant) {
        self.limits = settings.limits.clone();
        self.gone.clone_from(&settings.gone);
        self.held.note_left_over();
        self.left_over.waiting = self.waiting.len();
        self.left_over.spares = self.spares_by_worker();
        let latest = now + self.limits.invitation_timeout;
        let before = std::mem::replace(&mut self.services, settings.services.clone());
        for waiting in self.waiting.values_mut() {
            waiting.deadline = waiting.deadline.min(latest);
            waiting.is_of_the_old_way = before[waiting.service] != self.services[waiting.service];
        }
        for (link, verdict) in verdicts {
            match (verdict, self.links.get_mut(link)) {
                (Ok(allowed), Some(link)) => link.allowed.clone_from(allowed),
                _ => drop(self.links.remove(link)),
            }
        }
    }

    /// Its invitations are void, as if they were declined.
    fn enter_drained(&mut self, server: &str) {
        if !self.drained.insert(server.to_owned()) {
            return;
        }
        let (links, invitations) = (&self.links, &self.invitations);
        let is_there =
            |last: &u64| links.get(&invitations[last]).is_some_and(|link| link.server == server);
        for waiting in self.waiting.values_mut() {
            waiting.declined |= waiting.last.as_ref().is_some_and(is_there);
        }
    }

    /// Whether a server gets nothing new.
    fn is_closed(&self, link: &Link) -> bool {
        self.draining || link.draining || self.drained.contains(&link.server)
    }

    fn enter_claim(&mut self, agent: AgentRef, invitation: u64, checks: &mut Checks) {
        match self.waiting.remove(&agent) {
            None => checks.see(Sight::ClaimCrossedWithRefusal),
            Some(waiting) if waiting.last != Some(invitation) => {
                checks.see(Sight::ClaimCrossedWithMove);
            }
            Some(waiting) if waiting.on_spare => checks.see(Sight::SpareTookAgent),
            Some(_) => {}
        }
        if let Some(link) = self.links.get_mut(&self.invitations[&invitation]) {
            link.sessions += 1;
        }
    }

    fn enter_failure(
        &mut self,
        agent: AgentRef,
        invitation: u64,
        failure: SpareFailure,
        checks: &mut Checks,
    ) {
        checks.see(Sight::SpareFailed(match failure {
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

    fn enter_message(
        &mut self,
        id: LinkId,
        message: Option<&from_server::Message>,
        checks: &mut Checks,
    ) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match message {
            Some(from_server::Message::ServerHello(hello)) => {
                let offer = |(place, name): (u32, &String)| {
                    let passthrough = hello.passthrough.contains(&place);
                    ServiceOffer { name: name.clone(), passthrough }
                };
                let offered: Vec<_> = (0..).zip(&hello.services).map(offer).collect();
                let is_other = |offer: &ServiceOffer| !self.services.contains(offer);
                if offered.iter().any(is_other) {
                    checks.see(Sight::OfferOfAnotherKind);
                }
                link.offered = Some(offered);
                link.disowned.clear();
                // Those above a smaller number are used, or age.
                link.spares = link.spares.max(hello.spares as usize);
            }
            Some(from_server::Message::Goodbye(_)) if link.offered.is_some() => {
                link.draining = true;
            }
            Some(from_server::Message::Decline(decline)) => {
                let drained_before = link.draining;
                // Whatever it was about.
                link.draining |=
                    decline.reason() == RefusalReason::Draining && link.offered.is_some();
                let is_meant =
                    |waiting: &&mut Waiting| waiting.last == Some(decline.id) && !waiting.declined;
                if self.invitations.get(&decline.id) != Some(&id) || drained_before {
                    return;
                }
                let Some(waiting) = self.waiting.values_mut().find(is_meant) else { return };
                waiting.declined = true;
                link.note_decline(id, waiting, decline.reason());
            }
            _ => {}
        }
    }
}

// ---- what the dispatcher does ----

impl Ledger {
    pub(super) fn check_action(&mut self, action: &Action, checks: &mut Checks) {
        let expected = self.expected.take();
        match action {
            Action::Send { link, message } => {
                self.check_send(*link, message, expected.as_ref(), checks);
            }
            Action::CloseLink { link, .. } => {
                self.links.remove(link);
                checks.see(Sight::LinkClosed);
            }
            Action::Expect { agent, invitation, ticket, server } => {
                self.note_invited(*agent, *invitation, false, checks);
                self.expected = Some((*invitation, ticket.as_bytes().to_vec(), server.clone()));
            }
            Action::ExpectSpare { worker, invitation, ticket, server, life } => {
                let named = |(_, link): &(&LinkId, &Link)| link.server == *server;
                let asked = self.links.iter().find(named).map(|(link, _)| *link);
                checks.hold(
                    Check::SparesAreBounded,
                    asked.is_some() && *life <= self.limits.spare_life,
                    || format!("a spare for {life:?} is asked of {server}"),
                );
                let Some(link) = asked else { return };
                let spare = Spare { link, worker: *worker, ready: false };
                let is_new = self.spares.insert(*invitation, spare).is_none();
                checks.hold(Check::TicketIsDrawnOnce, is_new, || {
                    format!("two spares by {invitation:x}")
                });
                self.expected = Some((*invitation, ticket.as_bytes().to_vec(), server.clone()));
            }
            Action::UseSpare { agent, invitation } => self.check_use(*agent, *invitation, checks),
            Action::JudgeCrl { .. } => {}
            Action::CloseSpare { invitation, .. } => drop(self.spares.remove(invitation)),
            Action::Refuse { agent, reason } => {
                let most = self.limits.max_waiting;
                let is_full = *reason != RefusalReason::QueueFull || self.waiting.len() > most;
                checks.hold(Check::QueueIsBounded, is_full, || {
                    format!("{agent:?} is refused though there is room")
                });
                self.held.refuse(*agent, *reason, &self.limits, checks);
                checks.see(Sight::Refused(*reason));
                let waited = self.waiting.remove(agent).is_some();
                checks.hold(Check::SessionEndsOnce, waited, || {
                    format!("{agent:?} is refused for {reason}, and does not wait")
                });
            }
        }
    }

    fn note_invited(
        &mut self,
        agent: AgentRef,
        invitation: u64,
        on_spare: bool,
        checks: &mut Checks,
    ) {
        let Some(waiting) = self.waiting.get_mut(&agent) else {
            return checks.hold(Check::BooksAgree, false, || {
                format!("{agent:?} is invited for, and does not wait")
            });
        };
        waiting.invitations += 1;
        waiting.last = Some(invitation);
        waiting.declined = false;
        waiting.on_spare = on_spare;
        if waiting.invitations > 1 {
            checks.see(Sight::Moved);
        }
        let count = waiting.invitations;
        checks.hold(Check::InvitationsAreBounded, count <= MAX_INVITATIONS_PER_AGENT, || {
            format!("{agent:?} is invited for {count} times")
        });
    }

    fn check_send(
        &mut self,
        link: LinkId,
        message: &ToServer,
        expected: Option<&(u64, Vec<u8>, String)>,
        checks: &mut Checks,
    ) {
        let is_there = self.links.contains_key(&link) && message.message.is_some();
        checks.hold(Check::BooksAgree, is_there, || format!("{message:?} to {link:?}"));
        if let Some(to_server::Message::Invitation(invitation)) = &message.message
            && is_there
        {
            self.check_invitation(link, invitation, expected, checks);
        }
    }

    fn check_invitation(
        &mut self,
        link: LinkId,
        invitation: &Invitation,
        expected: Option<&(u64, Vec<u8>, String)>,
        checks: &mut Checks,
    ) {
        let entry = &self.links[&link];
        let Invitation { id, ticket, service, worker, spare_for_ms, .. } = invitation;
        let announced = (*id, ticket.clone(), entry.server.clone());
        let is_new = self.tickets.insert(ticket.clone()) && ticket.len() == TICKET_LEN;
        let is_first = self.invitations.insert(*id, link).is_none();
        let is_announced = expected == Some(&announced);
        checks.hold(Check::TicketIsDrawnOnce, is_new && is_first && is_announced, || {
            format!("{id:x} to {}: new ticket {is_new}, announced {is_announced}", entry.server)
        });
        let drains = self.is_closed(entry);
        let is_spare = *spare_for_ms > 0;
        let mut services = self.services.iter().enumerate();
        let own = services.find(|(_, own)| own.name == *service);
        let is_served = own.is_some_and(|(number, own)| entry.serves(number, own));
        let may = !drains && entry.offered.is_some() && (is_spare || is_served);
        checks.hold(Check::InvitedForWhatItMayServe, may, || {
            format!("{} is invited for {service:?}; drains: {drains}", entry.server)
        });
        if !is_spare {
            self.invited.insert(link);
        } else if let Some(spare) = self.spares.get_mut(id) {
            // Two of a kind have one name.
            spare.link = link;
            let is_there = spare.worker == *worker;
            checks.hold(Check::BooksAgree, is_there, || format!("spare {id:x} of two workers"));
        }
    }

    fn check_use(&mut self, agent: AgentRef, invitation: u64, checks: &mut Checks) {
        let spare = self.spares.remove(&invitation);
        let is_there = spare.is_some_and(|spare| spare.ready && spare.worker == agent.worker);
        checks.hold(Check::SpareIsGivenOutOnce, is_there, || {
            format!("{invitation:x} is given to {agent:?}; it was {spare:?}")
        });
        self.note_invited(agent, invitation, true, checks);
        let Some(waiting) = self.waiting.get(&agent) else { return };
        let Some(link) = spare.and_then(|spare| self.links.get(&spare.link)) else { return };
        let service = &self.services[waiting.service];
        let may = link.serves(waiting.service, service) && !self.is_closed(link);
        checks.hold(Check::InvitedForWhatItMayServe, may, || {
            format!("{} gets {agent:?} for {service:?} over a spare", link.server)
        });
        self.invited.extend(spare.map(|spare| spare.link));
    }
}
