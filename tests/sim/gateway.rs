//! A gateway's process: the real `Dispatcher` on its control thread, its workers, its clock.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use vestibule::control::{Action, AgentRef, Dispatcher, DispatcherLimits, Event, LinkId};
use vestibule::relay::RelayLimits;
use vestibule::wire::{FrameDecoder, FromServer, Pong, ToServer, from_server, to_server};

use super::checks::Check;
use super::ledger::Ledger;
use super::nature::{Clock, Nature, Occurrence, Way};
use super::network::{ConnectionId, End, Hello};
use super::planted::Planted;
use super::random::Random;
use super::worker::{Mail, Worker};

/// The gateway dials nobody.
const HERE: End = End::Acceptor;

/// What its operator configured; the same at every gateway.
pub(super) struct Settings {
    pub(super) services: Vec<String>,
    pub(super) servers: Vec<AllowedServer>,
    pub(super) limits: DispatcherLimits,
    pub(super) relay: RelayLimits,
    pub(super) admission_timeout: Duration,
    workers: u32,
}

pub(super) struct AllowedServer {
    pub(super) name: String,
    pub(super) services: Vec<usize>,
    pub(super) is_hostile: bool,
}

impl Settings {
    pub(super) fn new(
        services: Vec<String>,
        servers: Vec<AllowedServer>,
        random: &mut Random,
    ) -> Self {
        let limits = DispatcherLimits {
            max_waiting: random.between(1, 24),
            invitation_timeout: Duration::from_millis(random.between(500, 8_000) as u64),
            max_links: random.between(servers.len(), 6),
            max_spares: *random.pick(&[0, 2, 6, 6]),
            spare_life: Duration::from_millis(random.between(1_000, 20_000) as u64),
        };
        let relay = RelayLimits {
            idle_timeout: Some(Duration::from_millis(random.between(2_000, 8_000) as u64)),
            half_closed_timeout: Duration::from_millis(random.between(1_000, 4_000) as u64),
        };
        let workers = u32::try_from(random.between(1, 3)).expect("few");
        let admission_timeout = Duration::from_secs(5);
        Self { services, servers, limits, relay, admission_timeout, workers }
    }

    pub(super) fn server_of(&self, hello: &Hello) -> Option<&AllowedServer> {
        match hello {
            Hello::Signal { server } | Hello::Data { server, .. } => self.servers.get(*server),
            Hello::Agent { .. } | Hello::Backend { .. } => None,
        }
    }
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
        let mut told = settings.limits.clone();
        if nature.has_planted(Planted::VisitorWaitsForEver) {
            told.invitation_timeout = Duration::from_secs(3_600);
        }
        if nature.has_planted(Planted::QueueWithoutBound) {
            told.max_waiting = usize::MAX;
        }
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
        let Hello::Signal { server } = *nature.network.hello(id) else { return };
        let allowed = &self.settings.servers[server];
        let opened = Event::LinkOpened {
            link: LinkId(id as u64),
            server: allowed.name.clone(),
            allowed: allowed.services.clone(),
        };
        self.signals.insert(id, FrameDecoder::default());
        self.handle(opened, nature);
        self.read_signal(id, nature);
    }

    fn read_signal(&mut self, id: ConnectionId, nature: &mut Nature) {
        let link = LinkId(id as u64);
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

    pub(super) fn handle(&mut self, event: Event, nature: &mut Nature) {
        let now = self.clock.read(nature.now);
        self.ledger.enter(&event, now, &mut nature.checks);
        self.dispatcher.handle(event, now, &mut |bytes| nature.random.fill(bytes));
        self.act(now, nature);
    }

    pub(super) fn drain(&mut self, nature: &mut Nature) {
        self.drains = true;
        self.handle(Event::Drain, nature);
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
