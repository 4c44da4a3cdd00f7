use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::link::{Greeted, Link, Stage};
use super::queue::{Place, Queue, Waiting};
use super::quotas::Quotas;
use super::{
    Action, AgentRef, DispatcherLimits, Event, LinkId, ServiceId, ServiceOffer, ServiceStatus,
    Snapshot, Vital,
};
use crate::limits::MAX_SIGNAL_CONNECTIONS_OF_SERVER;
use crate::relay::CloseReason;
use crate::wire::{
    Decline, GatewayHello, Goodbye, Ping, Pong, RefusalReason, ServerHello, ToServer, from_server,
    to_server,
};

mod agents;
mod crls;
mod moving;
mod operator;
mod reload;
mod spares;
#[cfg(test)]
mod tests;

/// Told to servers, for their log.
const SOFTWARE: &str = concat!("vestibule ", env!("CARGO_PKG_VERSION"));

/// The gateway's control thread without its effects.
///
/// An agent in the queue waits because no server can take it at this moment; whenever a server gets
/// room, it is given the oldest agents that it may serve. So at no time are there both an agent in
/// the queue and a server that it could go to.
#[derive(Debug)]
pub struct Dispatcher {
    limits: DispatcherLimits,
    /// By number, those that are gone as well.
    services: Vec<ServiceOffer>,
    /// Services that a reload took out of the configuration.
    gone: BTreeSet<ServiceId>,
    instance: String,
    draining: bool,
    /// Names of servers that an operator has drained, connected or not.
    drained: BTreeSet<String>,
    /// Another process is to take this one's place, and servers are told.
    moving: bool,
    /// Few, so that finding one is a walk.
    links: Vec<Link>,
    queue: Queue,
    quotas: Quotas,
    /// By service: when a server was last lost that served it.
    lost: Vec<Option<Instant>>,
    /// Invitations so far.
    turns: u64,
    /// By server: since when its lists of revoked certificates are counted, and how many it began.
    crls_begun: BTreeMap<String, (Instant, u32)>,
    actions: VecDeque<Action>,
}

impl Dispatcher {
    /// `services` are those of the configuration, in its order. `instance` names this process: 16
    /// hexadecimal digits.
    pub fn new(limits: DispatcherLimits, services: Vec<ServiceOffer>, instance: String) -> Self {
        let mut quotas = Quotas::default();
        quotas.grow(services.len());
        Self {
            limits,
            instance,
            quotas,
            draining: false,
            drained: BTreeSet::new(),
            moving: false,
            links: Vec::new(),
            queue: Queue::new(services.len()),
            lost: vec![None; services.len()],
            gone: BTreeSet::new(),
            turns: 0,
            crls_begun: BTreeMap::new(),
            actions: VecDeque::new(),
            services,
        }
    }

    /// Takes one event. `random` fills a slice with unpredictable bytes.
    pub fn handle(&mut self, event: Event, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        match event {
            Event::LinkOpened { link, server, allowed } => {
                self.open_link(link, server, allowed, now, random);
            }
            Event::LinkMessage { link, message } => {
                let result = self.receive(link, message.message, now, random);
                if let Err(reason) = result {
                    self.close_link(link, reason, now, random);
                }
            }
            Event::LinkClosed { link } => self.lose_link(link, now, random),
            Event::Admit { agent, request } => self.admit(agent, request, now, random),
            Event::Leave { agent } => self.leave(agent, now, random),
            Event::Claimed { agent, invitation, request } => {
                self.claimed(agent, invitation, request, now, random);
            }
            Event::Released { invitation } => self.released(invitation, now, random),
            Event::SpareReady { invitation } => self.spare_ready(invitation, now),
            Event::SpareEnded { invitation, in_time } => {
                self.spare_ended(invitation, in_time, now, random);
            }
            Event::SpareFailed { agent, invitation, failure } => {
                self.spare_failed(agent, invitation, failure, now, random);
            }
            Event::CrlJudged { link, transfer, outcome } => {
                self.crl_judged(link, transfer, outcome);
            }
            Event::Reconfigured(changed) => self.reconfigure(changed, now, random),
            Event::DrainServer { server } => self.drain_server(&server, now, random),
            Event::UndrainServer { server } => self.undrain_server(&server, now, random),
            Event::Moving(moving) => self.set_moving(moving),
            Event::TookOver => self.lost.fill(Some(now)),
            Event::Moved => self.moved(now, random),
            Event::Drain => self.drain(now, random),
        }
    }

    /// Does what is due: deadlines of agents, pings, silent links. Agents of a dead link are invited
    /// elsewhere with new tickets, hence `random`.
    pub fn handle_timeout(&mut self, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        for waiting in self.queue.take_due(now) {
            let reason = match waiting.place {
                Place::Invited { .. } => RefusalReason::InvitationTimeout,
                Place::Queued if self.is_served(waiting.request.service) => {
                    RefusalReason::ServerFull
                }
                Place::Queued => RefusalReason::NoServer,
            };
            self.refuse_waiting(&waiting, reason, now);
            self.withdraw(&waiting, now, random);
        }
        self.forget_late_spares(now);
        let mut dead = Vec::new();
        for link in &mut self.links {
            match &mut link.stage {
                Stage::Greeting { deadline } if *deadline <= now => dead.push(link.id),
                Stage::Greeting { .. } => {}
                Stage::Greeted(greeted) => match greeted.liveness.handle_timeout(now) {
                    Some(Vital::Dead) => dead.push(link.id),
                    Some(Vital::Ping { nonce }) => {
                        let ping = to_server::Message::Ping(Ping { nonce });
                        self.actions.push_back(send(link.id, ping));
                    }
                    None => {}
                },
            }
        }
        for link in dead {
            self.close_link(link, CloseReason::SignalSilent, now, random);
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let links = self.links.iter().map(Link::next_timeout);
        links.chain(self.queue.next_deadline()).min()
    }

    /// A picture of this moment.
    pub fn snapshot(&self) -> Snapshot {
        let waiting = self.queue.len_by_service();
        let services = self.services.iter().zip(waiting).enumerate();
        let links: Vec<_> =
            self.links.iter().filter_map(|link| link.status(&self.services)).collect();
        Snapshot {
            greeting: self.links.len() - links.len(),
            links,
            services: services
                .map(|(service, (offer, waiting))| ServiceStatus {
                    name: offer.name.clone(),
                    waiting,
                    servers: self.links.iter().filter(|link| link.serves(service)).count(),
                })
                .collect(),
            waiting: self.queue.len(),
            draining: self.draining,
            drained_servers: self.drained.iter().cloned().collect(),
        }
    }
}

// ---- signal connections ----

impl Dispatcher {
    fn open_link(
        &mut self,
        id: LinkId,
        server: String,
        allowed: Vec<ServiceId>,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let of_server = self.links.iter().filter(|link| link.server == server).count();
        if self.links.len() >= self.limits.max_links
            || of_server >= MAX_SIGNAL_CONNECTIONS_OF_SERVER
        {
            return self.push(Action::CloseLink { link: id, reason: CloseReason::ConnectionsFull });
        }
        let mut drawn = [0; 4];
        random(&mut drawn);
        let mut number = u32::from_ne_bytes(drawn);
        while self.links.iter().any(|link| link.number == number) {
            number = number.wrapping_add(1);
        }
        self.links.push(Link::new(id, number, server, allowed, now));
    }

    /// An error is the reason to close the link.
    fn receive(
        &mut self,
        id: LinkId,
        message: Option<from_server::Message>,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), CloseReason> {
        // A message may cross with our closing.
        let Some(index) = self.links.iter().position(|link| link.id == id) else { return Ok(()) };
        let message = message.ok_or(CloseReason::MessageUnknown)?;
        let number = self.links[index].number;
        let greeted = match (&mut self.links[index].stage, &message) {
            (Stage::Greeting { .. }, from_server::Message::ServerHello(hello)) => {
                self.greet(index, hello, now);
                self.refill(number, now, random);
                return Ok(());
            }
            (Stage::Greeting { .. }, _) => return Err(CloseReason::MessageUnexpected),
            (Stage::Greeted(greeted), _) => greeted,
        };
        greeted.liveness.heard(now);
        match message {
            from_server::Message::ServerHello(hello) => {
                greeted.renew(&hello);
                self.links[index].agree(&self.services);
                self.refill(number, now, random);
            }
            from_server::Message::Goodbye(_) => self.drain_link(index, now, random),
            from_server::Message::Decline(decline) => self.decline(index, &decline, now, random),
            from_server::Message::Ping(Ping { nonce }) => {
                self.push(send(id, to_server::Message::Pong(Pong { nonce })));
            }
            from_server::Message::Pong(_) => {}
            from_server::Message::Crl(piece) => return self.take_crl(index, &piece, now),
        }
        Ok(())
    }

    fn greet(&mut self, index: usize, hello: &ServerHello, now: Instant) {
        let link = &mut self.links[index];
        let mut greeted = Box::new(Greeted::new(hello, now));
        greeted.set_drained(self.drained.contains(&link.server));
        link.stage = Stage::Greeted(greeted);
        link.agree(&self.services);
        let id = link.id;
        let agreed = link.greeted().map(|greeted| &greeted.services[..]).unwrap_or_default();
        let answer = GatewayHello {
            instance: self.instance.clone(),
            services: agreed.iter().map(|service| self.services[*service].name.clone()).collect(),
            software: SOFTWARE.to_owned(),
            takes_crls: self.limits.takes_crls,
        };
        self.push(send(id, to_server::Message::GatewayHello(answer)));
        if self.draining {
            self.push(send(id, to_server::Message::Goodbye(Goodbye {})));
        } else if self.moving {
            self.tell_of_successor(index);
        }
    }

    /// The server drains: its unanswered invitations go elsewhere.
    fn drain_link(&mut self, index: usize, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        let Some(greeted) = self.links[index].greeted_mut() else { return };
        if greeted.is_draining() {
            return;
        }
        for service in &greeted.services {
            self.lost[*service] = Some(now);
        }
        let positions = greeted.drain();
        let spares = greeted.spares.take_all();
        self.close_spares(spares);
        for position in positions {
            self.place(position, now, random);
        }
    }

    fn close_link(
        &mut self,
        link: LinkId,
        reason: CloseReason,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        self.push(Action::CloseLink { link, reason });
        self.lose_link(link, now, random);
    }

    fn lose_link(&mut self, id: LinkId, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        for position in self.forget_link(id, now) {
            self.place(position, now, random);
        }
    }

    /// Returns the positions of agents whose invitations are now void.
    fn forget_link(&mut self, id: LinkId, now: Instant) -> Vec<u64> {
        let Some(index) = self.links.iter().position(|link| link.id == id) else {
            return Vec::new();
        };
        let link = self.links.remove(index);
        let Stage::Greeted(mut greeted) = link.stage else { return Vec::new() };
        for service in &greeted.services {
            self.lost[*service] = Some(now);
        }
        self.close_spares(greeted.spares.take_all());
        greeted.drain()
    }

    fn decline(
        &mut self,
        index: usize,
        decline: &Decline,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let number = self.links[index].number;
        let Some(greeted) = self.links[index].greeted_mut() else { return };
        // A decline may cross with our withdrawing, or with the server's own late claim.
        let Some(position) = greeted.invitations.remove(&decline.id) else {
            return self.spare_declined(index, decline, now, random);
        };
        let Some(waiting) = self.queue.get_mut(position) else { return };
        match decline.reason() {
            RefusalReason::Draining => {
                waiting.last_decline = Some(RefusalReason::Draining);
                self.drain_link(index, now, random);
                self.place(position, now, random);
            }
            RefusalReason::ServiceUnknown => {
                greeted.disown(waiting.request.service, &self.services[waiting.request.service]);
                self.place(position, now, random);
            }
            RefusalReason::ServerFull => {
                waiting.last_decline = Some(RefusalReason::ServerFull);
                waiting.declined_by.push(number);
                self.place(position, now, random);
            }
            // Its spare broke at the server's end: no word about the agent.
            _ if waiting.spare == Some(decline.id) => self.place(position, now, random),
            said => {
                if let Some(waiting) = self.queue.remove(position) {
                    self.refuse_waiting(&waiting, final_reason(said), now);
                }
            }
        }
        self.refill(number, now, random);
    }
}

// ---- small steps ----

impl Dispatcher {
    fn is_served(&self, service: ServiceId) -> bool {
        self.links.iter().any(|link| link.serves(service))
    }

    fn greeted_mut(&mut self, number: u32) -> Option<&mut Greeted> {
        self.links.iter_mut().find(|link| link.number == number)?.greeted_mut()
    }

    fn refuse(&mut self, agent: AgentRef, reason: RefusalReason) {
        self.push(Action::Refuse { agent, reason });
    }

    /// Refuses an agent that is out of the queue already.
    fn refuse_waiting(&mut self, waiting: &Waiting, reason: RefusalReason, now: Instant) {
        self.quotas.release(&waiting.request, now);
        self.refuse(waiting.agent, reason);
    }

    fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }
}

/// What an agent is told after a decline that no other server would mend. A server has no say in
/// reasons that are the gateway's own, such as a full queue: they would mislead the operator.
fn final_reason(said: RefusalReason) -> RefusalReason {
    match said {
        RefusalReason::BackendRefused
        | RefusalReason::BackendTimeout
        | RefusalReason::BackendUnreachable
        | RefusalReason::BackendTlsFailed => said,
        _ => RefusalReason::InternalError,
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn send(link: LinkId, message: to_server::Message) -> Action {
    Action::Send { link, message: ToServer { message: Some(message) } }
}
