//! A gateway's process: the real `Dispatcher` on its control thread, its workers, its clock.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use vestibule::control::{
    Action, AgentRef, Dispatcher, DispatcherLimits, Event, LinkId, Reconfiguration, ServiceOffer,
    SessionQuota,
};
use vestibule::relay::{CloseReason, RelayLimits};
use vestibule::wire::{FrameDecoder, FromServer, Pong, ToServer, from_server, to_server};

use super::checks::{Check, Sight};
use super::ledger::{Ledger, Verdict};
use super::nature::{Clock, Nature, Occurrence, Way};
use super::network::{ConnectionId, End, Hello};
use super::planted::Planted;
use super::random::Random;
use super::worker::{Mail, Worker};

/// The gateway dials nobody.
const HERE: End = End::Acceptor;

/// What its operator configured; at first the same at every gateway.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) services: Vec<ServiceOffer>,
    /// Services that a reload took away.
    pub(super) gone: BTreeSet<usize>,
    pub(super) servers: Vec<AllowedServer>,
    pub(super) limits: DispatcherLimits,
    pub(super) relay: RelayLimits,
    pub(super) admission_timeout: Duration,
    workers: u32,
}

#[derive(Clone)]
pub(super) struct AllowedServer {
    pub(super) name: String,
    /// Whether it stands on the list still.
    pub(super) is_listed: bool,
    pub(super) services: Vec<usize>,
    pub(super) is_hostile: bool,
}

impl Settings {
    pub(super) fn new(
        services: Vec<ServiceOffer>,
        servers: Vec<AllowedServer>,
        random: &mut Random,
    ) -> Self {
        let max_links = random.between(servers.len(), 6);
        let limits = dispatcher_limits(max_links, random);
        let relay = RelayLimits {
            idle_timeout: Some(Duration::from_millis(random.between(2_000, 8_000) as u64)),
            half_closed_timeout: Duration::from_millis(random.between(1_000, 4_000) as u64),
        };
        let workers = u32::try_from(random.between(1, 3)).expect("few");
        let admission_timeout = Duration::from_secs(5);
        let gone = BTreeSet::new();
        Self { services, gone, servers, limits, relay, admission_timeout, workers }
    }

    /// What somebody may make of them for a reload.
    pub(super) fn changed(&self, random: &mut Random) -> Self {
        let mut changed = self.clone();
        changed.limits = dispatcher_limits(self.limits.max_links, random);
        changed.gone = (0..self.services.len()).filter(|_| random.percent(20)).collect();
        for service in &mut changed.services {
            service.passthrough ^= random.percent(10);
        }
        for server in &mut changed.servers {
            server.is_listed = random.percent(80);
            server.services = (0..self.services.len())
                .filter(|service| !changed.gone.contains(service) && random.percent(60))
                .collect();
        }
        changed
    }

    pub(super) fn server_of(&self, hello: &Hello) -> Option<&AllowedServer> {
        match hello {
            Hello::Signal { server } | Hello::Data { server, .. } => self.servers.get(*server),
            Hello::Agent { .. } | Hello::Backend { .. } => None,
        }
    }

    /// Whether there is such a service.
    pub(super) fn number_of(&self, service: &str) -> Option<usize> {
        let number = self.services.iter().position(|own| own.name == service);
        number.filter(|number| !self.gone.contains(number))
    }
}

/// As large as they may be, or far too small.
fn dispatcher_limits(max_links: usize, random: &mut Random) -> DispatcherLimits {
    // Whoever is refused early meets nothing else.
    let has_quotas = random.percent(20);
    DispatcherLimits {
        max_waiting: random.between(1, 24),
        invitation_timeout: Duration::from_millis(random.between(500, 8_000) as u64),
        max_links,
        max_spares: *random.pick(&[0, 2, 6, 6]),
        spare_life: Duration::from_millis(random.between(1_000, 20_000) as u64),
        devices: quota(if has_quotas { random.between(1, 2) } else { 0 }),
        services: (0..if has_quotas { 6 } else { 0 }).map(|_| quota(random.below(9))).collect(),
        takes_crls: false,
    }
}

/// 0: no bound.
fn quota(max_sessions: usize) -> SessionQuota {
    SessionQuota { max_sessions: (max_sessions > 0).then_some(max_sessions), rate: None }
}

/// What a dispatcher is told of them.
fn told(settings: &Settings, nature: &Nature) -> DispatcherLimits {
    let mut told = settings.limits.clone();
    if nature.has_planted(Planted::VisitorWaitsForEver) {
        told.invitation_timeout = Duration::from_secs(3_600);
    }
    if nature.has_planted(Planted::QueueWithoutBound) {
        told.max_waiting = usize::MAX;
    }
    told
}

pub(super) struct Gateway {
    index: usize,
    life: u32,
    clock: Clock,
    instance: String,
    settings: Rc<Settings>,
    dispatcher: Dispatcher,
    ledger: Ledger,
    workers: Vec<Worker>,
    signals: BTreeMap<ConnectionId, FrameDecoder>,
    drains: bool,
    is_late: bool,
}

impl Gateway {
    /// A new process, with a name of its own.
    pub(super) fn new(
        index: usize,
        life: u32,
        settings: &Rc<Settings>,
        nature: &mut Nature,
    ) -> Self {
        let instance = format!("{:016x}", nature.random.next());
        let told = told(settings, nature);
        let services = settings.services.clone();
        let workers = 0..settings.workers;
        Self {
            index,
            life,
            clock: Clock::new(nature.start, &mut nature.random),
            dispatcher: Dispatcher::new(told, services.clone(), instance.clone()),
            ledger: Ledger::new(settings.limits.clone(), services),
            workers: workers
                .map(|worker| Worker::new(index, life, worker, &instance, settings))
                .collect(),
            instance,
            settings: Rc::clone(settings),
            signals: BTreeMap::new(),
            drains: false,
            is_late: false,
        }
    }

    pub(super) fn life(&self) -> u32 {
        self.life
    }

    pub(super) fn drains(&self) -> bool {
        self.drains
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let workers = self.workers.iter().filter_map(Worker::next_timeout);
        let next = workers.chain(self.dispatcher.next_timeout()).min();
        next.map(|local| self.clock.when(local))
    }

    /// It was stopped, and has much to read before it looks at its clock.
    pub(super) fn resume(&mut self) {
        self.is_late = true;
        self.workers.iter_mut().for_each(|worker| worker.is_late = true);
    }

    pub(super) fn wake(&mut self, nature: &mut Nature) {
        self.is_late = false;
        let now = self.clock.read(nature.now);
        self.dispatcher.handle_timeout(now, &mut |bytes| nature.random.fill(bytes));
        self.act(now, nature);
        self.workers.iter_mut().for_each(|worker| worker.wake(now, nature));
        let next = self.next_timeout();
        nature.checks.hold(Check::DueIsDone, next.is_none_or(|next| next > nature.now), || {
            format!("gateway {} has something due, and has looked", self.index)
        });
    }

    /// A connection comes to its listeners.
    pub(super) fn knock(&mut self, id: ConnectionId, nature: &mut Nature) {
        nature.answer_dial(id, !self.drains);
        if self.drains {
            return;
        }
        let server = self.settings.server_of(nature.network.hello(id));
        if server.is_some_and(|server| !server.is_listed) {
            return nature.abort(id, HERE);
        }
        let now = self.clock.read(nature.now);
        let accepting = nature.random.below(self.workers.len());
        match nature.network.hello(id).clone() {
            Hello::Signal { .. } => {
                let (gateway, life) = (self.index, self.life);
                let worker = u32::try_from(accepting).expect("few");
                let opened = Occurrence::SignalOpened { gateway, life, connection: id };
                nature.mail(Way { gateway, worker }, opened);
            }
            Hello::Data { server, hint } => {
                let is_ours = hint.instance == self.instance;
                let hinted = usize::try_from(hint.worker).unwrap_or(usize::MAX);
                let follows = is_ours && !nature.has_planted(Planted::ClaimStaysWhereItCame);
                let is_known = follows && hinted < self.workers.len();
                let worker = if is_known { hinted } else { accepting };
                self.workers[worker].accept_data(id, server, hint, now, nature);
            }
            Hello::Agent { device } => {
                self.workers[accepting].accept_agent(id, device, now, nature);
            }
            Hello::Backend { .. } => {}
        }
    }

    /// Something came on a connection.
    pub(super) fn ready(&mut self, id: ConnectionId, nature: &mut Nature) {
        if self.signals.contains_key(&id) {
            return self.read_signal(id, nature);
        }
        let now = self.clock.read(nature.now);
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.holds(id)) {
            worker.ready(id, now, nature);
            worker.check(nature);
        }
    }

    pub(super) fn worker_turn(&mut self, worker: u32, nature: &mut Nature) {
        let now = self.clock.read(nature.now);
        self.workers[worker as usize].read_mails(now, nature);
        self.workers[worker as usize].check(nature);
    }

    pub(super) fn signal_opened(&mut self, id: ConnectionId, nature: &mut Nature) {
        let Some(allowed) = self.settings.server_of(nature.network.hello(id)) else { return };
        if !allowed.is_listed {
            return nature.close(id, HERE);
        }
        let opened = Event::LinkOpened {
            link: link_of(id),
            server: allowed.name.clone(),
            allowed: allowed.services.clone(),
        };
        self.signals.insert(id, FrameDecoder::default());
        self.handle(opened, nature);
        self.read_signal(id, nature);
    }

    fn read_signal(&mut self, id: ConnectionId, nature: &mut Nature) {
        let link = link_of(id);
        while let Some(decoder) = self.signals.get_mut(&id) {
            match nature.read_message::<FromServer>(id, HERE, decoder) {
                Ok(None) => return,
                Ok(Some(message)) => self.handle(Event::LinkMessage { link, message }, nature),
                Err(_) => {
                    self.signals.remove(&id);
                    nature.close(id, HERE);
                    self.handle(Event::LinkClosed { link }, nature);
                }
            }
        }
    }

    pub(super) fn handle(&mut self, mut event: Event, nature: &mut Nature) {
        let now = self.clock.read(nature.now);
        self.ledger.enter(&event, now, &mut nature.checks);
        if nature.has_planted(Planted::PassthroughIsNotCompared) {
            agree_on_passthrough(&mut event, &self.settings);
        }
        self.dispatcher.handle(event, now, &mut |bytes| nature.random.fill(bytes));
        self.act(now, nature);
    }

    pub(super) fn drain(&mut self, nature: &mut Nature) {
        self.drains = true;
        self.handle(Event::Drain, nature);
    }

    /// An operator drains a server, or undrains it.
    pub(super) fn toggle_server(&mut self, server: &str, nature: &mut Nature) {
        let server = server.to_owned();
        let is_drained = self.dispatcher.snapshot().drained_servers.contains(&server);
        let event = if is_drained {
            Event::UndrainServer { server }
        } else {
            nature.checks.see(Sight::ServerDrained);
            Event::DrainServer { server }
        };
        self.handle(event, nature);
    }

    pub(super) fn undrain_servers(&mut self, nature: &mut Nature) {
        for server in self.dispatcher.snapshot().drained_servers {
            self.handle(Event::UndrainServer { server }, nature);
        }
    }

    /// The workers hear of it before anything that follows from it.
    pub(super) fn reload(&mut self, settings: &Rc<Settings>, nature: &mut Nature) {
        self.settings = Rc::clone(settings);
        for worker in 0..settings.workers {
            self.post(worker, Mail::Reload(Rc::clone(settings)), nature);
        }
        let verdict = |id: &ConnectionId| {
            let server = settings.server_of(nature.network.hello(*id)).expect("of a server");
            let allowed = server.is_listed.then(|| server.services.clone());
            (link_of(*id), allowed.ok_or(CloseReason::CertificateNotAllowed))
        };
        let mut links: Vec<Verdict> = self.signals.keys().map(verdict).collect();
        let now = self.clock.read(nature.now);
        self.ledger.note_reload(settings, &links, now);
        if nature.has_planted(Planted::ReloadKeepsOldTrust) {
            links.retain(|(_, verdict)| verdict.is_ok());
        }
        let changed = Reconfiguration {
            limits: told(settings, nature),
            services: settings.services.clone(),
            gone: settings.gone.clone(),
            links,
        };
        self.handle(Event::Reconfigured(changed), nature);
    }

    /// The process ends in good order, as far as it can.
    pub(super) fn stop(&mut self, nature: &mut Nature) {
        self.workers.iter_mut().for_each(|worker| worker.stop(nature));
        for id in std::mem::take(&mut self.signals).into_keys() {
            nature.close(id, HERE);
        }
    }

    fn act(&mut self, now: Instant, nature: &mut Nature) {
        let mut asked = Vec::new();
        let mut swallows = false;
        while let Some(action) = self.dispatcher.poll_action() {
            if std::mem::take(&mut swallows) {
                continue;
            }
            swallows = nature.has_planted(Planted::LostInvitationIsNotRenewed)
                && matches!(&action, Action::Expect { agent, .. }
                    if self.ledger.invitations_of(*agent) > 0);
            if swallows {
                continue;
            }
            self.ledger.check_action(&action, &mut nature.checks);
            asked.extend(pinged(&action));
            self.carry_out(action, nature);
        }
        if nature.has_planted(Planted::SignalIsWrittenOnly) {
            for link in asked {
                // The ping went out: it is taken for a sign of life.
                let pong = from_server::Message::Pong(Pong { nonce: 0 });
                let message = FromServer { message: Some(pong) };
                let event = Event::LinkMessage { link, message };
                self.dispatcher.handle(event, now, &mut |bytes| nature.random.fill(bytes));
            }
        }
        let snapshot = self.dispatcher.snapshot();
        self.ledger.check_after_step(&snapshot, self.is_late, now, &mut nature.checks);
    }

    fn carry_out(&mut self, action: Action, nature: &mut Nature) {
        match action {
            Action::Send { link, message } => {
                nature.say(connection_of(link), HERE, &message);
            }
            Action::CloseLink { link, .. } => {
                self.signals.remove(&connection_of(link));
                nature.close(connection_of(link), HERE);
            }
            Action::Expect { agent, invitation, ticket, server } => {
                let AgentRef { worker, connection } = agent;
                let agent = usize::try_from(connection).expect("one of ours");
                self.post(worker, Mail::Expect { agent, invitation, ticket, server }, nature);
            }
            Action::ExpectSpare { worker, invitation, ticket, server, life } => {
                self.post(worker, Mail::ExpectSpare { invitation, ticket, server, life }, nature);
            }
            Action::UseSpare { agent: AgentRef { worker, connection }, invitation } => {
                let agent = usize::try_from(connection).expect("one of ours");
                self.post(worker, Mail::UseSpare { agent, invitation }, nature);
            }
            Action::CloseSpare { worker, invitation } => {
                self.post(worker, Mail::CloseSpare { invitation }, nature);
            }
            // No gateway of this simulation takes lists.
            Action::JudgeCrl { .. } => {}
            Action::Refuse { agent: AgentRef { worker, connection }, reason } => {
                let agent = usize::try_from(connection).expect("one of ours");
                self.post(worker, Mail::Refuse { agent, reason }, nature);
            }
        }
    }

    fn post(&mut self, worker: u32, mail: Mail, nature: &mut Nature) {
        self.workers[worker as usize].post(mail, nature);
    }

    /// It drains, and everyone has gone.
    pub(super) fn check_nothing_left(&self, nature: &mut Nature) {
        self.workers.iter().for_each(|worker| worker.check_nothing_left(nature));
        let snapshot = self.dispatcher.snapshot();
        let of_links: usize =
            snapshot.links.iter().map(|link| link.waiting + link.sessions + link.spares).sum();
        let what = format!("the dispatcher of gateway {}", self.index);
        nature.checks.nothing_is_left(&what, of_links + snapshot.waiting);
    }
}

fn link_of(id: ConnectionId) -> LinkId {
    LinkId(id as u64)
}

fn connection_of(link: LinkId) -> ConnectionId {
    usize::try_from(link.0).expect("one of ours")
}

fn pinged(action: &Action) -> Option<LinkId> {
    match action {
        Action::Send { link, message: ToServer { message: Some(to_server::Message::Ping(_)) } } => {
            Some(*link)
        }
        _ => None,
    }
}

/// Has a server say of each service what the gateway thinks of it.
fn agree_on_passthrough(event: &mut Event, settings: &Settings) {
    let Event::LinkMessage { message, .. } = event else { return };
    let Some(from_server::Message::ServerHello(hello)) = &mut message.message else { return };
    let goes_through =
        |name: &str| settings.services.iter().any(|own| own.passthrough && own.name == name);
    let places = (0..).zip(&hello.services).filter(|(_, name)| goes_through(name));
    hello.passthrough = places.map(|(place, _)| place).collect();
}
