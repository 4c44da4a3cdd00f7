//! A world: its processes, and what happens to them in the order of time.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use vestibule::control::ServiceOffer;

use super::agent::Agents;
use super::backend::Backends;
use super::checks::{Check, Failure, Sight};
use super::gateway::{AllowedServer, Gateway, Settings};
use super::hostile::{HostileGateway, HostileServer};
use super::nature::{Nature, Occurrence, ProcessId};
use super::network::End;
use super::planted::Planted;
use super::random::Random;
use super::server::{Server, ServerSettings};

mod faults;

/// How long things go wrong.
const CHAOS: Duration = Duration::from_secs(25);
/// Longer than any deadline and session, and than the longest dial and wait before the next together:
/// what is not over then never will be.
const REST: Duration = Duration::from_secs(20);
/// Time for one agent, once nothing goes wrong any more.
const VISIT: Duration = Duration::from_secs(5);
/// Far more than any world takes: one that goes on has a process that never waits.
const MAX_STEPS: usize = 500_000;

pub(super) struct World {
    nature: Nature,
    settings: Rc<Settings>,
    server_settings: Vec<Rc<ServerSettings>>,
    gateways: Vec<Gate>,
    servers: Vec<Lan>,
    agents: Agents,
    backends: Backends,
    /// Of those that do not run.
    conditions: BTreeMap<ProcessId, Condition>,
    /// When each process is woken next.
    wakes: BTreeMap<ProcessId, Instant>,
    lives: u32,
    steps: usize,
}

enum Gate {
    Sound(Box<Gateway>),
    Hostile(HostileGateway),
}

enum Lan {
    Sound(Box<Server>),
    Hostile(HostileServer),
}

enum Condition {
    /// By SIGSTOP: all that happens to it waits.
    Stopped(Vec<Occurrence>),
    /// Killed; `silently` where its host went with it.
    Down { silently: bool },
}

/// What a world that went well has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) seen: BTreeSet<Sight>,
    pub(super) steps: usize,
    /// Drawn at the end: two runs of one seed agree on it.
    pub(super) fingerprint: u64,
}

/// How a world went wrong.
#[derive(Debug)]
pub(super) struct Fall {
    pub(super) failure: Failure,
    pub(super) steps: usize,
    pub(super) journal: String,
}

impl World {
    pub(super) fn new(seed: u64, planted: Option<Planted>, with_journal: bool) -> Self {
        let mut random = Random::new(seed);
        let count = random.between(1, 3);
        let service = |index| ServiceOffer {
            name: format!("service-{index}"),
            passthrough: random.percent(30),
        };
        let services: Vec<_> = (0..count).map(service).collect();
        let servers = random.between(1, 4);
        let allowed = (0..servers).map(|index| AllowedServer {
            // Two of a kind now and then: a name may be connected twice.
            name: format!("lan-{}", if random.percent(10) { 0 } else { index }),
            is_listed: true,
            // The first serves everything, so that no service is without a server for good.
            services: (0..services.len()).filter(|_| index == 0 || random.percent(60)).collect(),
            is_hostile: index > 0 && random.percent(20),
        });
        let allowed = allowed.collect();
        let settings = Settings::new(services.clone(), allowed, &mut random);
        let server_settings = (0..servers)
            .map(|index| ServerSettings::new(index, &services, settings.relay, &mut random))
            .map(Rc::new)
            .collect();
        let hosts = random.between(1, 4);
        let gateways = random.between(1, 3);
        let hostile: Vec<bool> = (0..gateways).map(|g| g > 0 && random.percent(20)).collect();
        let nature = Nature::new(random, planted, with_journal);
        let mut world = Self {
            nature,
            settings: Rc::new(settings),
            server_settings,
            gateways: Vec::new(),
            servers: Vec::new(),
            agents: Agents::new(hosts),
            backends: Backends::default(),
            conditions: BTreeMap::new(),
            wakes: BTreeMap::new(),
            lives: 0,
            steps: 0,
        };
        world.populate(&hostile);
        world
    }

    fn populate(&mut self, hostile_gateways: &[bool]) {
        for (index, is_hostile) in hostile_gateways.iter().enumerate() {
            let gate = if *is_hostile {
                let idea = Occurrence::Act(ProcessId::Gateway(index), 0);
                self.nature.after(Duration::ZERO, 1_000, idea);
                Gate::Hostile(HostileGateway::new(index))
            } else {
                self.sound_gateway(index)
            };
            self.gateways.push(gate);
        }
        for index in 0..self.server_settings.len() {
            let lan = if self.settings.servers[index].is_hostile {
                let idea = Occurrence::Act(ProcessId::Server(index), 0);
                self.nature.after(Duration::ZERO, 1_000, idea);
                Lan::Hostile(HostileServer::new(index, self.settings.services.clone()))
            } else {
                self.sound_server(index)
            };
            self.servers.push(lan);
        }
        for process in self.processes() {
            self.wake_in_time(process);
        }
    }

    fn sound_gateway(&mut self, index: usize) -> Gate {
        self.lives += 1;
        Gate::Sound(Box::new(Gateway::new(index, self.lives, &self.settings, &mut self.nature)))
    }

    fn sound_server(&mut self, index: usize) -> Lan {
        self.lives += 1;
        let gateways = self.gateways.len();
        let settings = Rc::clone(&self.server_settings[index]);
        let server = Server::new(index, self.lives, gateways, &settings, &mut self.nature);
        Lan::Sound(Box::new(server))
    }

    fn processes(&self) -> Vec<ProcessId> {
        let gateways = (0..self.gateways.len()).map(ProcessId::Gateway);
        gateways.chain((0..self.servers.len()).map(ProcessId::Server)).collect()
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Result<Report, Fall> {
        let most = *self.nature.random.pick(&[10, 20, 30, 60]);
        for _ in 0..self.nature.random.between(0, most) {
            let is_flood = self.nature.random.percent(3);
            let number = if is_flood { 30 } else { 1 };
            self.nature.after(Duration::from_millis(50), 25_000, Occurrence::Arrive(number));
        }
        for _ in 0..self.nature.random.between(0, 12) {
            self.nature.after(Duration::ZERO, 25_000, Occurrence::Fault);
        }
        for act in [Self::recover, Self::everybody_is_served, Self::drain_all, Self::all_is_freed] {
            self.run_for(if self.nature.calm { REST } else { CHAOS });
            if self.nature.checks.failure.is_none() {
                act(&mut self);
            }
        }
        match self.nature.checks.failure.take() {
            None => Ok(Report {
                seen: self.nature.checks.seen,
                steps: self.steps,
                fingerprint: self.nature.random.next(),
            }),
            Some(failure) => {
                Err(Fall { failure, steps: self.steps, journal: self.nature.journal() })
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.nature.now + time;
        while self.nature.checks.failure.is_none()
            && let Some(occurrence) = self.nature.next(end)
        {
            self.steps += 1;
            let is_endless = self.steps > MAX_STEPS;
            self.nature.checks.hold(Check::DueIsDone, !is_endless, || "no end in sight".to_owned());
            self.nature.note(|| format!("{occurrence:?}"));
            self.happen(occurrence);
        }
        if self.nature.checks.failure.is_none() {
            self.nature.now = end;
        }
    }

    /// Whatever has happened before, agents are served; none of them takes another's place.
    fn everybody_is_served(&mut self) {
        for _ in 0..4 {
            let first = self.agents.len();
            self.arrive(1);
            self.run_for(VISIT);
            for agent in first..self.agents.len() {
                let is_served = self.agents.has_finished(agent);
                let end = self.agents.end_of(agent);
                self.nature.checks.hold(Check::ServedAfterwards, is_served, || {
                    format!("agent {agent} came when all was well, and ended with {end:?}")
                });
            }
        }
    }

    fn drain_all(&mut self) {
        for gate in &mut self.gateways {
            if let Gate::Sound(gateway) = gate {
                gateway.drain(&mut self.nature);
            }
        }
    }

    fn all_is_freed(&mut self) {
        let nature = &mut self.nature;
        nature.checks.every_agent_has_ended();
        nature.checks.nothing_is_left("agents", self.agents.unended());
        nature.checks.nothing_is_left("backends' connections", self.backends.len());
        for gate in &self.gateways {
            if let Gate::Sound(gateway) = gate {
                gateway.check_nothing_left(nature);
            }
        }
        for lan in &self.servers {
            if let Lan::Sound(server) = lan {
                server.check_nothing_left(nature);
            }
        }
    }

    fn arrive(&mut self, number: usize) {
        let (gateways, services) = (self.gateways.len(), self.settings.services.len());
        for _ in 0..number {
            self.agents.arrive(gateways, services, &mut self.nature);
        }
    }
}

// ---- what happens ----

impl World {
    fn happen(&mut self, occurrence: Occurrence) {
        let process = self.process_of(&occurrence);
        if let Some(Condition::Stopped(held)) =
            process.and_then(|process| self.conditions.get_mut(&process))
        {
            held.push(occurrence);
            return;
        }
        match occurrence {
            Occurrence::Arrive(number) => self.arrive(number),
            Occurrence::Leave(agent) => self.agents.leave(agent, &mut self.nature),
            Occurrence::Fault => self.fault(),
            Occurrence::Cut(id, how) if !self.nature.calm => self.nature.cut(id, how),
            Occurrence::Start(process) if !self.nature.calm => self.start(process),
            Occurrence::Resume(process) => self.resume(process),
            Occurrence::Knock(id) => self.knock(id),
            Occurrence::Dialed(id, through) => self.dialed(id, through),
            Occurrence::Packet(id, end, packet) => {
                if self.nature.deliver(id, end, packet) {
                    self.tell_of(id, end);
                }
            }
            Occurrence::News(id, end) => self.ready(id, end),
            Occurrence::Wake(process) => self.wake(process),
            Occurrence::Act(process, id) => self.act(process, id),
            other => self.inside(other),
        }
        if let Some(process) = process {
            self.wake_in_time(process);
        }
    }

    /// Within one process.
    fn inside(&mut self, occurrence: Occurrence) {
        if self.process_of(&occurrence).is_some_and(|process| self.is_down(process)) {
            return;
        }
        let nature = &mut self.nature;
        match occurrence {
            Occurrence::ControlMail { gateway, life, event } => {
                if let Some(gateway) = sound_gateway(&mut self.gateways, gateway, life) {
                    gateway.handle(event, nature);
                }
            }
            Occurrence::WorkerTurn { gateway, life, worker } => {
                if let Some(gateway) = sound_gateway(&mut self.gateways, gateway, life) {
                    gateway.worker_turn(worker, nature);
                }
            }
            Occurrence::SignalOpened { gateway, life, connection } => {
                if let Some(gateway) = sound_gateway(&mut self.gateways, gateway, life) {
                    gateway.signal_opened(connection, nature);
                }
            }
            Occurrence::Follow { server, life, order } => {
                if let Lan::Sound(server) = &mut self.servers[server]
                    && server.life() == life
                {
                    server.follow(order, nature);
                }
            }
            _ => {}
        }
    }

    fn process_of(&self, occurrence: &Occurrence) -> Option<ProcessId> {
        let network = &self.nature.network;
        match occurrence {
            Occurrence::Knock(id) => Some(network.owner(*id, End::Acceptor)),
            Occurrence::Dialed(id, _) => Some(network.owner(*id, End::Dialer)),
            Occurrence::Packet(id, end, _) | Occurrence::News(id, end) => {
                Some(network.owner(*id, *end))
            }
            Occurrence::ControlMail { gateway, .. }
            | Occurrence::WorkerTurn { gateway, .. }
            | Occurrence::SignalOpened { gateway, .. } => Some(ProcessId::Gateway(*gateway)),
            Occurrence::Follow { server, .. } => Some(ProcessId::Server(*server)),
            Occurrence::Wake(process) | Occurrence::Act(process, _) => Some(*process),
            Occurrence::Arrive(_)
            | Occurrence::Leave(_)
            | Occurrence::Fault
            | Occurrence::Cut(..)
            | Occurrence::Start(_)
            | Occurrence::Resume(_) => None,
        }
    }

    fn knock(&mut self, id: usize) {
        let nature = &mut self.nature;
        if !nature.network.is_open(id, End::Dialer) {
            return;
        }
        let process = nature.network.owner(id, End::Acceptor);
        match self.conditions.get(&process) {
            Some(Condition::Down { silently: true }) => return,
            Some(Condition::Down { silently: false }) => return nature.answer_dial(id, false),
            _ => {}
        }
        match process {
            ProcessId::Gateway(index) => match &mut self.gateways[index] {
                Gate::Sound(gateway) => gateway.knock(id, nature),
                Gate::Hostile(gateway) => gateway.knock(id, nature),
            },
            ProcessId::Backends => self.backends.accept(id, nature),
            ProcessId::Server(_) | ProcessId::Agent(_) => {}
        }
    }

    fn dialed(&mut self, id: usize, through: bool) {
        let nature = &mut self.nature;
        if !nature.network.is_open(id, End::Dialer) {
            return;
        }
        match nature.network.owner(id, End::Dialer) {
            ProcessId::Server(index) => match &mut self.servers[index] {
                Lan::Sound(server) => server.dialed(id, through, nature),
                Lan::Hostile(server) => server.dialed(id, through, nature),
            },
            ProcessId::Agent(index) => self.agents.dialed(index, id, through, nature),
            ProcessId::Gateway(_) | ProcessId::Backends => {}
        }
    }

    /// The kernel has something for a process, which now and then is busy with something else first.
    fn tell_of(&mut self, id: usize, end: End) {
        if self.nature.random.percent(10) {
            self.nature.after(Duration::ZERO, 30, Occurrence::News(id, end));
        } else {
            self.ready(id, end);
        }
    }

    fn ready(&mut self, id: usize, end: End) {
        if self.is_down(self.nature.network.owner(id, end)) {
            return;
        }
        let nature = &mut self.nature;
        match nature.network.owner(id, end) {
            ProcessId::Gateway(index) => match &mut self.gateways[index] {
                Gate::Sound(gateway) => gateway.ready(id, nature),
                Gate::Hostile(gateway) => gateway.ready(id, nature),
            },
            ProcessId::Server(index) => match &mut self.servers[index] {
                Lan::Sound(server) => server.ready(id, nature),
                Lan::Hostile(server) => server.ready(id, nature),
            },
            ProcessId::Agent(index) => self.agents.ready(index, id, nature),
            ProcessId::Backends => self.backends.ready(id, nature),
        }
    }

    fn act(&mut self, process: ProcessId, id: usize) {
        if self.is_down(process) {
            return;
        }
        let nature = &mut self.nature;
        match process {
            ProcessId::Agent(index) => self.agents.act(index, id, nature),
            ProcessId::Backends => self.backends.act(id, nature),
            ProcessId::Gateway(index) => {
                if let Gate::Hostile(gateway) = &mut self.gateways[index] {
                    gateway.act(nature);
                }
            }
            ProcessId::Server(index) => {
                let gateways = self.gateways.len();
                match &mut self.servers[index] {
                    Lan::Sound(server) => server.tire_of_spare(id, nature),
                    Lan::Hostile(server) => server.act(gateways, nature),
                }
            }
        }
    }

    fn wake(&mut self, process: ProcessId) {
        if self.wakes.get(&process).is_some_and(|at| *at <= self.nature.now) {
            self.wakes.remove(&process);
        }
        if self.is_down(process) {
            return;
        }
        match process {
            ProcessId::Gateway(index) => {
                if let Gate::Sound(gateway) = &mut self.gateways[index] {
                    gateway.wake(&mut self.nature);
                }
            }
            ProcessId::Server(index) => {
                if let Lan::Sound(server) = &mut self.servers[index] {
                    server.wake(&mut self.nature);
                }
            }
            ProcessId::Agent(_) | ProcessId::Backends => {}
        }
    }

    /// Sees to it that a process is woken when it has something to do.
    fn wake_in_time(&mut self, process: ProcessId) {
        let next = match process {
            ProcessId::Gateway(index) => match &self.gateways[index] {
                Gate::Sound(gateway) => gateway.next_timeout(),
                Gate::Hostile(_) => None,
            },
            ProcessId::Server(index) => match &self.servers[index] {
                Lan::Sound(server) => server.next_timeout(),
                Lan::Hostile(_) => None,
            },
            ProcessId::Agent(_) | ProcessId::Backends => None,
        };
        let Some(next) = next.filter(|_| !self.is_down(process)) else { return };
        if self.wakes.get(&process).is_none_or(|at| next < *at) {
            self.wakes.insert(process, next);
            self.nature.at(next, Occurrence::Wake(process));
        }
    }

    fn is_down(&self, process: ProcessId) -> bool {
        matches!(self.conditions.get(&process), Some(Condition::Down { .. }))
    }
}

fn sound_gateway(gateways: &mut [Gate], index: usize, life: u32) -> Option<&mut Gateway> {
    match &mut gateways[index] {
        Gate::Sound(gateway) if gateway.life() == life => Some(gateway),
        _ => None,
    }
}
