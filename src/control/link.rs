use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU32;
use std::time::Instant;

use super::crl::Receipt;
use super::spares::Spares;
use super::{LinkId, LinkStatus, Liveness, ServiceId, ServiceOffer};
use crate::limits::{MAX_CONNECTIONS, MAX_NAME_LEN, SIGNAL_HELLO_TIMEOUT};
use crate::wire::ServerHello;

/// Bits of an invitation's id that count on its link. Those above are the link's number, so that
/// whose session it was is known without memory, however late its end is heard of.
const SERIAL_BITS: u32 = 32;

/// A signal connection at the gateway.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    /// Drawn at random: a server's answer to an earlier process of this gateway fits no invitation
    /// of this one.
    pub(super) number: u32,
    /// Name on the allow-list.
    pub(super) server: String,
    /// Services that it may serve.
    pub(super) allowed: Vec<ServiceId>,
    pub(super) stage: Stage,
}

/// How far a signal connection has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its hello is awaited.
    Greeting { deadline: Instant },
    /// Both hellos are said.
    Greeted(Box<Greeted>),
}

/// What a server said in its hello, and what it was given since.
#[derive(Debug)]
pub(super) struct Greeted {
    /// Offered and allowed.
    pub(super) services: Vec<ServiceId>,
    /// What it can serve, as it says.
    offered: HashSet<ServiceOffer>,
    capacity: Option<NonZeroU32>,
    /// Whether it knows how to follow a gateway to another process.
    successors: bool,
    software: String,
    since: Instant,
    pub(super) liveness: Liveness,
    /// Those at this server.
    pub(super) spares: Spares,
    /// Unanswered invitations and spares given out, with the position of the agent in the queue.
    pub(super) invitations: BTreeMap<u64, u64>,
    /// Claimed and not released. Those of an earlier connection of the same server are not known
    /// here; it declines what is too much for it.
    pub(super) sessions: usize,
    next_serial: u32,
    /// Number of the dispatcher's invitation that this link had last, to rotate among equals.
    pub(super) last_turn: u64,
    /// The list of revoked certificates that it brings.
    pub(super) crl: Receipt,
    draining: bool,
    /// An operator wants no new sessions there.
    drained: bool,
}

/// The number of the link that an invitation went to.
pub(super) fn link_of(invitation: u64) -> u32 {
    (invitation >> SERIAL_BITS) as u32
}

impl Link {
    pub(super) fn new(
        id: LinkId,
        number: u32,
        server: String,
        allowed: Vec<ServiceId>,
        now: Instant,
    ) -> Self {
        let stage = Stage::Greeting { deadline: now + SIGNAL_HELLO_TIMEOUT };
        Self { id, number, server, allowed, stage }
    }

    pub(super) fn greeted(&self) -> Option<&Greeted> {
        match &self.stage {
            Stage::Greeting { .. } => None,
            Stage::Greeted(greeted) => Some(&**greeted),
        }
    }

    pub(super) fn greeted_mut(&mut self) -> Option<&mut Greeted> {
        match &mut self.stage {
            Stage::Greeting { .. } => None,
            Stage::Greeted(greeted) => Some(&mut **greeted),
        }
    }

    pub(super) fn serves(&self, service: ServiceId) -> bool {
        self.greeted().is_some_and(|greeted| greeted.serves(service))
    }

    pub(super) fn has_room(&self) -> bool {
        self.greeted().is_some_and(Greeted::has_room)
    }

    /// Looks again at what the server offers and may serve; `own` are the gateway's services, by number.
    pub(super) fn agree(&mut self, own: &[ServiceOffer]) {
        let Stage::Greeted(greeted) = &mut self.stage else { return };
        let offered = |service: &&ServiceId| greeted.offered.contains(&own[**service]);
        greeted.services = self.allowed.iter().filter(offered).copied().collect();
    }

    /// The id of the next invitation to this server.
    pub(super) fn next_invitation(&mut self) -> Option<u64> {
        let number = u64::from(self.number);
        let greeted = self.greeted_mut()?;
        let serial = greeted.next_serial;
        greeted.next_serial = serial.wrapping_add(1);
        Some(number << SERIAL_BITS | u64::from(serial))
    }

    pub(super) fn next_timeout(&self) -> Instant {
        match &self.stage {
            Stage::Greeting { deadline } => *deadline,
            Stage::Greeted(greeted) => {
                let silence = greeted.liveness.next_timeout();
                greeted.spares.next_timeout().map_or(silence, |late| late.min(silence))
            }
        }
    }

    pub(super) fn status(&self, own: &[ServiceOffer]) -> Option<LinkStatus> {
        let greeted = self.greeted()?;
        Some(LinkStatus {
            link: self.id,
            server: self.server.clone(),
            services: greeted.services.iter().map(|service| own[*service].name.clone()).collect(),
            waiting: greeted.invitations.len(),
            sessions: greeted.sessions,
            spares: greeted.spares.ready_len(),
            capacity: greeted.capacity.map(NonZeroU32::get),
            software: greeted.software.clone(),
            since: greeted.since,
            draining: greeted.draining || greeted.drained,
        })
    }
}

impl Greeted {
    /// Serves nothing until [`Link::agree`].
    pub(super) fn new(hello: &ServerHello, now: Instant) -> Self {
        Self {
            services: Vec::new(),
            offered: ServiceOffer::all_of(hello),
            capacity: NonZeroU32::new(hello.capacity),
            successors: hello.successors,
            software: printable(&hello.software),
            since: now,
            liveness: Liveness::new(now),
            spares: Spares::new(hello.spares),
            invitations: BTreeMap::new(),
            sessions: 0,
            next_serial: 0,
            last_turn: 0,
            crl: Receipt::default(),
            draining: false,
            drained: false,
        }
    }

    /// Whether an operator wants no new sessions there.
    pub(super) fn set_drained(&mut self, drained: bool) {
        self.drained = drained;
    }

    /// Its server was reloaded, and says hello again.
    pub(super) fn renew(&mut self, hello: &ServerHello) {
        self.offered = ServiceOffer::all_of(hello);
        self.capacity = NonZeroU32::new(hello.capacity);
        self.software = printable(&hello.software);
        self.successors = hello.successors;
        self.spares.set_bound(hello.spares);
    }

    /// It declined a service that it had offered.
    pub(super) fn disown(&mut self, service: ServiceId, offer: &ServiceOffer) {
        self.services.retain(|served| *served != service);
        self.offered.remove(offer);
    }

    /// Whether it may be invited for a service.
    pub(super) fn serves(&self, service: ServiceId) -> bool {
        !self.draining && !self.drained && self.services.contains(&service)
    }

    /// No more invitations. Returns the agents whose invitations are now void.
    pub(super) fn drain(&mut self) -> Vec<u64> {
        self.draining = true;
        std::mem::take(&mut self.invitations).into_values().collect()
    }

    /// Whether it can be told of another process.
    pub(super) fn follows(&self) -> bool {
        self.successors && !self.draining
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether it may be invited at this moment.
    pub(super) fn has_room(&self) -> bool {
        let within = |capacity: NonZeroU32| self.load() < u64::from(capacity.get());
        !self.draining && !self.drained && self.capacity.is_none_or(within)
    }

    /// Whether the next agent should rather come here than to `other`: the share of the capacity
    /// that would be in use then decides, and among equals, who was invited longer ago.
    pub(super) fn is_better_than(&self, other: &Self) -> bool {
        let mine = (self.load() + 1).saturating_mul(other.assumed_capacity());
        let others = (other.load() + 1).saturating_mul(self.assumed_capacity());
        (mine, self.last_turn) < (others, other.last_turn)
    }

    fn load(&self) -> u64 {
        (self.invitations.len() + self.sessions) as u64
    }

    /// A server that states no bound is weighed like one of the default size.
    fn assumed_capacity(&self) -> u64 {
        self.capacity.map_or(MAX_CONNECTIONS.default, |capacity| u64::from(capacity.get()))
    }
}

/// What a server calls itself, as it may stand in the log.
fn printable(software: &str) -> String {
    let is_printable = |letter: &char| letter.is_ascii_graphic() || *letter == ' ';
    software.chars().filter(is_printable).take(MAX_NAME_LEN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeted(capacity: u32, sessions: usize) -> Greeted {
        let hello = ServerHello { capacity, ..ServerHello::default() };
        Greeted { sessions, ..Greeted::new(&hello, Instant::now()) }
    }

    #[test]
    fn a_server_of_twice_the_capacity_is_given_twice_the_sessions() {
        let (mut small, mut large) = (greeted(10, 0), greeted(20, 0));
        for _ in 0..15 {
            let chosen = if small.is_better_than(&large) { &mut small } else { &mut large };
            chosen.sessions += 1;
        }
        assert_eq!((small.sessions, large.sessions), (5, 10));
    }

    #[test]
    fn among_equals_the_one_invited_longer_ago_is_better() {
        let (mut first, mut second) = (greeted(0, 3), greeted(0, 3));
        (first.last_turn, second.last_turn) = (8, 7);
        assert!(second.is_better_than(&first));
        assert!(!first.is_better_than(&second));
    }

    #[test]
    fn a_server_at_its_stated_capacity_has_no_room() {
        assert!(greeted(4, 3).has_room());
        assert!(!greeted(4, 4).has_room());
        assert!(greeted(0, 1_000_000).has_room());
    }

    #[test]
    fn what_a_server_calls_itself_cannot_forge_a_line_of_the_log() {
        let software = format!("v\u{1b}[2J\n{}", "x".repeat(10_000));
        let hello = ServerHello { software, ..ServerHello::default() };
        let shown = Greeted::new(&hello, Instant::now()).software;
        assert_eq!(shown, format!("v[2J{}", "x".repeat(MAX_NAME_LEN - 4)));
    }
}
