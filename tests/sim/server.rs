//! A server's process: a real `GatewayLink` to each gateway, and around them what `src/server` does
//! with sockets: data connections, seats, backends.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use vestibule::control::{GatewayAction, GatewayEvent, GatewayLink, ServiceOffer};
use vestibule::limits::SIGNAL_DEAD_AFTER;
use vestibule::relay::{CloseReason, RelayLimits};
use vestibule::wire::alpn::Hint;
use vestibule::wire::{FrameDecoder, Invitation, RefusalReason, ToServer, from_server};

use super::checks::{Check, Sight};
use super::nature::{Clock, Nature, Occurrence, ProcessId};
use super::network::{Broken, ConnectionId, End, Hello};
use super::random::Random;
use super::session::Session;

mod data;

/// A server dials, and is never dialled.
const HERE: End = End::Dialer;

/// What its operator configured, and how it behaves.
pub(super) struct ServerSettings {
    pub(super) offered: Vec<ServiceOffer>,
    /// 0: no bound.
    pub(super) capacity: u32,
    pub(super) spares: u32,
    pub(super) relay: RelayLimits,
    /// Of a hundred invitations, how many it answers in some other way than the right one.
    pub(super) sickness: usize,
}

impl ServerSettings {
    pub(super) fn new(
        index: usize,
        services: &[ServiceOffer],
        relay: RelayLimits,
        random: &mut Random,
    ) -> Self {
        // The first offers everything, so that no service is without a server for good.
        let mut offered = services.to_vec();
        if index > 0 {
            offered.retain(|_| random.percent(80));
            // Its operator has another idea of whose the agents' TLS is.
            for offer in &mut offered {
                offer.passthrough ^= random.percent(10);
            }
        }
        let bound = u32::try_from(random.between(1, 6)).expect("small");
        Self {
            offered,
            capacity: if random.percent(50) { 0 } else { bound },
            spares: *random.pick(&[0, 2, 8, 8]),
            relay,
            sickness: *random.pick(&[0, 5, 30, 100]),
        }
    }

    /// What it offers by that name.
    pub(super) fn offer(&self, service: &str) -> Option<&ServiceOffer> {
        self.offered.iter().find(|offer| offer.name == service)
    }
}

pub(super) struct Server {
    index: usize,
    life: u32,
    clock: Clock,
    settings: Rc<ServerSettings>,
    /// By gateway.
    links: Vec<Link>,
    seats_taken: u32,
    stages: BTreeMap<ConnectionId, Stage>,
    /// By the data connection.
    sessions: BTreeMap<ConnectionId, Session>,
    deadlines: BTreeMap<ConnectionId, Instant>,
    drains: bool,
    is_late: bool,
}

struct Link {
    machine: GatewayLink,
    /// The signal connection, if there is one or one is dialled.
    wire: Option<ConnectionId>,
    decoder: FrameDecoder,
    /// Last frame from the gateway on its present connection.
    heard: Option<Instant>,
    has_said_hello: bool,
    /// Spares that are wanted, with their connection if they have one.
    spares: BTreeMap<u64, Option<ConnectionId>>,
}

/// An invitation that is followed.
#[derive(Debug, Clone)]
pub(super) struct Order {
    gateway: usize,
    invitation: u64,
    ticket: Vec<u8>,
    hint: Hint,
    purpose: Purpose,
    expires: Instant,
    /// Beside the one that was asked for: a claim that is wrong, or made twice.
    is_extra: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    Session { service: String },
    Spare { life: Duration },
}

enum Stage {
    Dialing(Order),
    Claiming {
        order: Order,
        decoder: FrameDecoder,
    },
    /// A data connection whose backend is being connected.
    Delivering {
        backend: ConnectionId,
    },
    /// A backend that is being connected.
    Connecting {
        data: ConnectionId,
    },
    Joined {
        data: ConnectionId,
    },
}

/// How an invitation is answered.
#[derive(Clone, Copy)]
enum Answer {
    Claim,
    ClaimLate,
    ClaimTwice,
    ClaimWithWrongTicket,
    ClaimOfAnother,
    Decline(RefusalReason),
    Nothing,
}

impl Server {
    pub(super) fn new(
        index: usize,
        life: u32,
        gateways: usize,
        settings: &Rc<ServerSettings>,
        nature: &mut Nature,
    ) -> Self {
        let clock = Clock::new(nature.start, &mut nature.random);
        let now = clock.read(nature.now);
        let link = || {
            let ServerSettings { offered, capacity, spares, .. } = &**settings;
            Link {
                machine: GatewayLink::new(offered, *capacity, *spares, now),
                wire: None,
                decoder: FrameDecoder::default(),
                heard: None,
                has_said_hello: false,
                spares: BTreeMap::new(),
            }
        };
        Self {
            index,
            life,
            clock,
            settings: Rc::clone(settings),
            links: (0..gateways).map(|_| link()).collect(),
            seats_taken: 0,
            stages: BTreeMap::new(),
            sessions: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            drains: false,
            is_late: false,
        }
    }

    pub(super) fn id(&self) -> ProcessId {
        ProcessId::Server(self.index)
    }

    pub(super) fn life(&self) -> u32 {
        self.life
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let links = self.links.iter().filter_map(|link| link.machine.next_timeout());
        let sessions = self.sessions.values().filter_map(Session::deadline);
        let next = links.chain(sessions).chain(self.deadlines.values().copied()).min();
        next.map(|local| self.clock.when(local))
    }

    /// It was stopped, and has much to read before it looks at its clock.
    pub(super) fn resume(&mut self) {
        self.is_late = true;
    }

    pub(super) fn wake(&mut self, nature: &mut Nature) {
        self.is_late = false;
        let now = self.clock.read(nature.now);
        for link in &mut self.links {
            link.machine.handle_timeout(now, &mut |bytes| nature.random.fill(bytes));
        }
        let due = |(id, at): (&ConnectionId, &Instant)| (*at <= now).then_some(*id);
        for id in self.deadlines.iter().filter_map(due).collect::<Vec<_>>() {
            self.deadlines.remove(&id);
            self.connection_is_due(id, nature);
        }
        let timed_out = |(data, session): (&ConnectionId, &Session)| {
            session.timed_out(now).map(|ending| (*data, ending))
        };
        for (data, ending) in self.sessions.iter().filter_map(timed_out).collect::<Vec<_>>() {
            self.session_over(data, ending, nature);
        }
        let overdue = self.sessions.iter().find(|(_, session)| session.is_overdue(now));
        nature.checks.hold(Check::QuietSessionEnds, overdue.is_none(), || {
            format!("the session of connection {:?}", overdue.map(|(data, _)| data))
        });
        self.act(nature);
        let next = self.next_timeout();
        nature.checks.hold(Check::DueIsDone, next.is_none_or(|next| next > nature.now), || {
            format!("server {} has something due, and has looked", self.index)
        });
    }

    pub(super) fn dialed(&mut self, id: ConnectionId, through: bool, nature: &mut Nature) {
        if let Some(gateway) = self.link_of(id) {
            if !through {
                self.links[gateway].wire = None;
            }
            let event = if through { GatewayEvent::Dialed } else { GatewayEvent::DialFailed };
            self.handle(gateway, event, nature);
        } else {
            self.data_dialed(id, through, nature);
        }
        self.act(nature);
    }

    pub(super) fn ready(&mut self, id: ConnectionId, nature: &mut Nature) {
        match self.link_of(id) {
            Some(gateway) => self.read_signal(gateway, id, nature),
            None => self.data_ready(id, nature),
        }
        self.act(nature);
    }

    fn link_of(&self, id: ConnectionId) -> Option<usize> {
        self.links.iter().position(|link| link.wire == Some(id))
    }

    fn read_signal(&mut self, gateway: usize, id: ConnectionId, nature: &mut Nature) {
        while self.links[gateway].wire == Some(id) {
            let link = &mut self.links[gateway];
            match nature.read_message::<ToServer>(id, HERE, &mut link.decoder) {
                Ok(None) => return,
                Ok(Some(message)) => {
                    link.heard = Some(self.clock.read(nature.now));
                    self.handle(gateway, GatewayEvent::Message(message), nature);
                }
                Err(broken) => {
                    if broken == Broken::Frame {
                        nature.checks.see(Sight::GatewayRefused);
                    }
                    link.wire = None;
                    nature.close(id, HERE);
                    self.handle(gateway, GatewayEvent::Closed, nature);
                }
            }
            self.act(nature);
        }
    }

    fn handle(&mut self, gateway: usize, event: GatewayEvent, nature: &mut Nature) {
        let now = self.clock.read(nature.now);
        let machine = &mut self.links[gateway].machine;
        machine.handle(event, now, &mut |bytes| nature.random.fill(bytes));
    }

    /// Carries out what the links decided, then looks whether all is as it should be.
    fn act(&mut self, nature: &mut Nature) {
        for gateway in 0..self.links.len() {
            while let Some(action) = self.links[gateway].machine.poll_action() {
                self.carry_out(gateway, action, nature);
            }
        }
        self.check(nature);
    }

    fn carry_out(&mut self, gateway: usize, action: GatewayAction, nature: &mut Nature) {
        let link = &mut self.links[gateway];
        match action {
            GatewayAction::Dial => {
                nature.checks.hold(Check::HelloIsFirst, link.wire.is_none(), || {
                    format!("server {} dials gateway {gateway} twice", self.index)
                });
                let hello = Hello::Signal { server: self.index };
                let to = ProcessId::Gateway(gateway);
                link.wire = Some(nature.dial(ProcessId::Server(self.index), to, hello));
                link.decoder = FrameDecoder::default();
                link.heard = None;
                link.has_said_hello = false;
            }
            GatewayAction::Send(message) => {
                let is_hello =
                    matches!(message.message, Some(from_server::Message::ServerHello(_)));
                let had_said = std::mem::replace(&mut link.has_said_hello, true);
                let is_right = is_hello != had_said && link.wire.is_some();
                nature.checks.hold(Check::HelloIsFirst, is_right, || {
                    format!("server {} says {message:?} to gateway {gateway}", self.index)
                });
                if let Some(wire) = link.wire {
                    nature.say(wire, HERE, &message);
                }
            }
            GatewayAction::Close(reason) => {
                if reason != CloseReason::SignalSilent {
                    nature.checks.see(Sight::GatewayRefused);
                }
                if let Some(wire) = link.wire.take() {
                    nature.close(wire, HERE);
                }
            }
            GatewayAction::Invited { invitation, instance } => {
                self.invited(gateway, invitation, instance, nature);
            }
            GatewayAction::Withdrawn { .. }
            | GatewayAction::CrlAnswered { .. }
            | GatewayAction::OpenSuccessor => {}
            GatewayAction::CloseSpare { id } => match link.spares.get(&id).copied() {
                Some(Some(connection)) => {
                    self.data_failed(connection, CloseReason::SpareUnused, nature);
                }
                Some(None) => self.spare_ended(gateway, id, nature),
                None => {}
            },
        }
    }

    fn invited(
        &mut self,
        gateway: usize,
        invitation: Invitation,
        instance: String,
        nature: &mut Nature,
    ) {
        let is_spare = invitation.spare_for_ms > 0;
        let is_offered = is_spare || self.settings.offer(&invitation.service).is_some();
        nature.checks.hold(Check::RightDeviceAndService, is_offered, || {
            format!("server {} follows an invitation for {}", self.index, invitation.service)
        });
        let Invitation { id, ticket, service, worker, expires_in_ms, spare_for_ms } = invitation;
        if !is_spare && !self.take_seat() {
            let reason = RefusalReason::ServerFull;
            return self.handle(gateway, GatewayEvent::Decline { id, reason }, nature);
        }
        let life = Duration::from_millis(spare_for_ms.into());
        let purpose = if is_spare { Purpose::Spare { life } } else { Purpose::Session { service } };
        if is_spare {
            self.links[gateway].spares.insert(id, None);
        }
        let expires = self.clock.read(nature.now) + Duration::from_millis(expires_in_ms.into());
        let hint = Hint { instance, worker };
        let order =
            Order { gateway, invitation: id, ticket, hint, purpose, expires, is_extra: false };
        self.answer(order, nature);
    }

    fn answer(&mut self, order: Order, nature: &mut Nature) {
        let extra = Order { is_extra: true, ..order.clone() };
        let (server, life) = (self.index, self.life);
        match self.choose_answer(nature) {
            Answer::Claim => self.follow(order, nature),
            Answer::ClaimLate => {
                let follow = Occurrence::Follow { server, life, order };
                nature.after(Duration::ZERO, 12_000, follow);
            }
            Answer::ClaimTwice => {
                self.follow(order, nature);
                let follow = Occurrence::Follow { server, life, order: extra };
                nature.after(Duration::ZERO, 2_000, follow);
            }
            Answer::ClaimWithWrongTicket => {
                let mut wrong = extra;
                wrong.ticket[nature.random.below(16)] ^= 1;
                self.follow(wrong, nature);
                let follow = Occurrence::Follow { server, life, order };
                nature.after(Duration::from_millis(100), 100, follow);
            }
            Answer::ClaimOfAnother => {
                self.release(&order, nature);
                if let Some(leaked) = nature.any_leaked() {
                    let (gateway, hint) = (leaked.gateway, leaked.hint);
                    let (invitation, ticket) = (leaked.claim.id, leaked.claim.ticket);
                    self.follow(Order { gateway, invitation, ticket, hint, ..extra }, nature);
                }
            }
            Answer::Decline(reason) => {
                self.release(&order, nature);
                let id = order.invitation;
                self.handle(order.gateway, GatewayEvent::Decline { id, reason }, nature);
            }
            Answer::Nothing => self.release(&order, nature),
        }
    }

    fn choose_answer(&self, nature: &mut Nature) -> Answer {
        if nature.calm || !nature.random.percent(self.settings.sickness) {
            return Answer::Claim;
        }
        match nature.random.below(6) {
            0 => Answer::ClaimLate,
            1 => Answer::ClaimTwice,
            2 => Answer::ClaimWithWrongTicket,
            3 => Answer::ClaimOfAnother,
            4 => Answer::Decline(*nature.random.pick(&RefusalReason::ALL)),
            _ => Answer::Nothing,
        }
    }

    fn take_seat(&mut self) -> bool {
        let is_free = self.settings.capacity == 0 || self.seats_taken < self.settings.capacity;
        self.seats_taken += u32::from(is_free);
        is_free
    }

    pub(super) fn drain(&mut self, nature: &mut Nature) {
        self.drains = true;
        for gateway in 0..self.links.len() {
            self.handle(gateway, GatewayEvent::Drain, nature);
            let spares = self.links[gateway].spares.clone();
            for connection in spares.into_values().flatten() {
                self.data_failed(connection, CloseReason::SpareUnused, nature);
            }
        }
        self.act(nature);
    }

    pub(super) fn drains(&self) -> bool {
        self.drains
    }

    /// It has answered otherwise than it should, and a gateway may have drawn its conclusions.
    pub(super) fn is_sick(&self) -> bool {
        self.settings.sickness > 0
    }

    fn check(&self, nature: &mut Nature) {
        let now = self.clock.read(nature.now);
        let ServerSettings { capacity, spares, .. } = *self.settings;
        let is_within = capacity == 0 || self.seats_taken <= capacity;
        nature.checks.hold(Check::ServerIsBounded, is_within, || {
            format!("server {} has {} of {capacity} seats", self.index, self.seats_taken)
        });
        for (gateway, link) in self.links.iter().enumerate() {
            let held = link.spares.len();
            nature.checks.hold(Check::ServerIsBounded, held <= spares as usize * 2, || {
                format!("server {} holds {held} spares for gateway {gateway}", self.index)
            });
            if let Some(heard) = link.heard
                && link.machine.is_up()
                && !self.is_late
            {
                let is_alive = now <= heard + SIGNAL_DEAD_AFTER;
                nature.checks.hold(Check::DeadLinkIsNoticed, is_alive, || {
                    format!("server {} believes in gateway {gateway}", self.index)
                });
            }
        }
    }

    pub(super) fn check_nothing_left(&self, nature: &mut Nature) {
        let spares: usize = self.links.iter().map(|link| link.spares.len()).sum();
        for (what, len) in [
            ("seats", self.seats_taken as usize),
            ("sessions", self.sessions.len()),
            ("spares", spares),
            ("connections", self.stages.len()),
            ("deadlines", self.deadlines.len()),
        ] {
            nature.checks.nothing_is_left(&format!("{what} of server {}", self.index), len);
        }
    }
}
