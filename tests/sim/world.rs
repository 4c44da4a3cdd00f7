mod faults;
mod spares;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use vestibule::control::{
    Action, AgentRef, DispatcherLimits, Event, GatewayAction, GatewayEvent, LinkId, Purpose,
    SpareFailure,
};
use vestibule::wire::{Claim, Decline, FromServer, Invitation, RefusalReason, ToServer};

use super::gateway::{Gateway, Sight};
use super::random::Random;
use super::server::{Answer, Server};
use super::worker::{Fate, Mail, Worker};
use spares::Spare;

/// How long things go wrong.
const CHAOS: Duration = Duration::from_secs(40);
/// Longer than any deadline and session, and than a dead link and the longest wait before dialing
/// again together: what is not over then never will be.
const REST: Duration = Duration::from_secs(20);

pub(super) struct World {
    now: Instant,
    random: Random,
    /// Draws reloads only: the rest of a world is as without them.
    reloads: Random,
    calendar: BTreeMap<(Instant, u64), Occurrence>,
    scheduled: u64,
    /// When the last thing sent on each ordered way arrives: the next can't overtake it.
    ways: HashMap<Way, Instant>,
    gateway: Gateway,
    workers: Vec<Worker>,
    servers: Vec<Server>,
    wires: Vec<Wire>,
    services: usize,
    agents: u64,
    claims_seen: Vec<Claim>,
    /// Every spare that was claimed.
    spares: HashMap<u64, Spare>,
    latency_ms: u64,
    invitation_timeout: Duration,
    epoch: Epoch,
    calm: bool,
    drained: bool,
}

/// A signal connection in the network.
struct Wire {
    server: usize,
    /// Swallows every packet without a word.
    cut: bool,
    gateway_end: bool,
    server_end: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    FromWorker(u32),
    ToGateway(usize),
    ToServer(usize),
}

/// Counts the restarts of the gateway: what belonged to an earlier process is gone with it.
type Epoch = u64;

enum Occurrence {
    /// A worker's mail reaches the control thread.
    Control(Event, Epoch),
    WorkerTurn(u32),
    /// A wire is through to the gateway, or not.
    Dialed(usize, bool),
    AtGateway(usize, Option<FromServer>),
    AtServer(usize, Option<ToServer>),
    LocalDecline(usize, Decline),
    Claim(u32, usize, Claim),
    Release(u32, u64, Epoch),
    /// A spare breaks.
    SpareDies(u64),
    SpareIsOld(u64),
    /// The server's answer to the header of that agent over a spare.
    SpareAnswer(AgentRef, u64, Result<(), SpareFailure>),
    Arrive(usize),
    Depart(AgentRef, Epoch),
    Fault,
    Reload,
    Restart(usize),
    Drain,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let services: Vec<String> =
            (0..random.between(1, 3)).map(|index| format!("service-{index}")).collect();
        let servers: Vec<Server> = (0..random.between(1, 4))
            .map(|index| Server::new(index, &services, &mut random))
            .collect();
        let limits = DispatcherLimits {
            max_waiting: random.between(1, 24),
            invitation_timeout: Duration::from_millis(random.between(500, 12_000) as u64),
            max_links: random.between(servers.len(), 6),
            max_spares: *random.pick(&[0, 2, 6]),
            spare_life: Duration::from_millis(random.between(1_000, 30_000) as u64),
        };
        let workers = (0..random.between(1, 3)).map(|_| Worker::default()).collect();
        Self {
            now: Instant::now(),
            calendar: BTreeMap::new(),
            scheduled: 0,
            ways: HashMap::new(),
            services: services.len(),
            invitation_timeout: limits.invitation_timeout,
            gateway: Gateway::new(limits, services),
            workers,
            servers,
            wires: Vec::new(),
            agents: 0,
            claims_seen: Vec::new(),
            spares: HashMap::new(),
            latency_ms: *random.pick(&[0, 5, 100, 800]),
            epoch: 0,
            calm: false,
            drained: false,
            random,
            reloads: Random::new(!seed),
        }
    }

    /// Runs to the end, and returns what was seen.
    pub(super) fn run(mut self) -> BTreeSet<Sight> {
        let end = self.now + CHAOS;
        for server in 0..self.servers.len() {
            self.servers[server].start(self.now);
        }
        for _ in 0..self.random.between(0, 60) {
            let flood = if self.random.percent(5) { 40 } else { 1 };
            self.after(Duration::from_millis(50), 40_000, Occurrence::Arrive(flood));
        }
        for _ in 0..self.random.between(0, 12) {
            self.after(Duration::ZERO, 40_000, Occurrence::Fault);
        }
        if self.random.percent(15) {
            self.after(Duration::ZERO, 40_000, Occurrence::Drain);
        }
        self.plan_reloads();
        self.run_until(end);
        self.recover();
        self.check_recovered();
        self.run_until(self.now + REST);
        self.gateway.check_nothing_left();
        self.workers.iter().for_each(Worker::check_nothing_left);
        self.gateway.seen
    }

    /// Every server is started anew and well.
    fn recover(&mut self) {
        self.calm = true;
        self.latency_ms = 5;
        self.reload_as_at_first();
        for server in 0..self.servers.len() {
            self.kill(server, false);
            self.servers[server].sickness = 0;
            self.servers[server].start(self.now);
        }
        self.run_until(self.now + REST);
    }

    /// Whatever has happened before, agents are served; none of them takes another's place.
    fn check_recovered(&mut self) {
        for _ in 0..6 {
            let first = self.agents;
            self.arrive(1);
            self.run_until(self.now + Duration::from_millis(400));
            for agent in first..self.agents {
                let fate = self.workers[self.worker_of(agent) as usize].fate(agent);
                let drained = Fate::Refused(RefusalReason::Draining);
                assert_eq!(fate, if self.drained { drained } else { Fate::Joined });
            }
        }
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            let due = self.calendar.first_key_value().map(|((due, _), _)| *due);
            let servers = self.servers.iter().filter_map(Server::next_timeout);
            let timeouts = servers.chain(self.gateway.next_timeout());
            let Some(next) = timeouts.chain(due).min().filter(|next| *next <= end) else { break };
            assert!(next >= self.now || due.is_none_or(|due| due > next), "the past comes back");
            self.now = self.now.max(next);
            match self.calendar.first_entry().filter(|entry| entry.key().0 <= self.now) {
                Some(entry) => {
                    let occurrence = entry.remove();
                    self.happen(occurrence);
                }
                None => self.wake(),
            }
        }
        self.now = end;
    }

    /// Nothing came from outside: a timeout is due.
    fn wake(&mut self) {
        self.gateway.handle_timeout(self.now, &mut self.random);
        self.carry_out_of_gateway();
        assert!(self.gateway.next_timeout() != Some(self.now), "what was due is not done");
        for server in 0..self.servers.len() {
            self.servers[server].handle_timeout(self.now, &mut self.random);
            self.carry_out_of_server(server);
            let next = self.servers[server].next_timeout();
            assert!(next != Some(self.now), "what was due is not done");
        }
    }

    fn happen(&mut self, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Control(_, epoch)
            | Occurrence::Release(_, _, epoch)
            | Occurrence::Depart(_, epoch)
                if epoch != self.epoch => {}
            Occurrence::Control(event, _) => self.control(event),
            Occurrence::WorkerTurn(worker) => {
                self.read_mails(worker);
                self.workers[worker as usize].check();
            }
            Occurrence::Dialed(wire, through) => self.dialed(wire, through),
            Occurrence::AtGateway(wire, message) => {
                if self.wires[wire].gateway_end && !self.wires[wire].cut {
                    let link = LinkId(wire as u64);
                    self.wires[wire].gateway_end = message.is_some();
                    self.control(match message {
                        Some(message) => Event::LinkMessage { link, message },
                        None => Event::LinkClosed { link },
                    });
                }
            }
            Occurrence::AtServer(wire, message) => {
                if self.wires[wire].server_end && !self.wires[wire].cut {
                    self.wires[wire].server_end = message.is_some();
                    let event = message.map_or(GatewayEvent::Closed, GatewayEvent::Message);
                    self.serve(self.wires[wire].server, event);
                }
            }
            Occurrence::LocalDecline(server, Decline { id, reason }) => {
                let reason = RefusalReason::try_from(reason).expect("one of ours");
                self.serve(server, GatewayEvent::Decline { id, reason });
            }
            Occurrence::Claim(worker, server, claim) => self.claim(worker, server, &claim),
            Occurrence::Release(worker, invitation, _) => {
                self.mail_control(worker, Event::Released { invitation });
            }
            Occurrence::SpareDies(id) => self.spare_dies(id),
            Occurrence::SpareIsOld(id) => self.spare_is_old(id),
            Occurrence::SpareAnswer(agent, id, answer) => self.spare_answers(agent, id, answer),
            Occurrence::Arrive(number) => self.arrive(number),
            Occurrence::Depart(agent, _) => {
                if self.workers[agent.worker as usize].leave(agent.connection) {
                    self.mail_control(agent.worker, Event::Leave { agent });
                }
            }
            Occurrence::Fault | Occurrence::Restart(_) if self.calm => {}
            Occurrence::Fault => self.fault(),
            Occurrence::Reload => self.reload(),
            Occurrence::Restart(server) => {
                self.kill(server, false);
                self.servers[server].start(self.now);
            }
            Occurrence::Drain => {
                self.drained = true;
                self.control(Event::Drain);
            }
        }
    }
}

// ---- time and ways ----

impl World {
    fn after(&mut self, least: Duration, jitter_ms: u64, occurrence: Occurrence) {
        let due = self.now + least + self.random.millis(jitter_ms);
        self.at(due, occurrence);
    }

    fn at(&mut self, due: Instant, occurrence: Occurrence) {
        self.scheduled += 1;
        self.calendar.insert((due, self.scheduled), occurrence);
    }

    fn send(&mut self, way: Way, most_ms: u64, occurrence: Occurrence) {
        let arrival = self.now + self.random.millis(most_ms);
        let arrival = self.ways.get(&way).map_or(arrival, |last| arrival.max(*last));
        self.ways.insert(way, arrival);
        self.at(arrival, occurrence);
    }

    fn mail_control(&mut self, worker: u32, event: Event) {
        self.send(Way::FromWorker(worker), 20, Occurrence::Control(event, self.epoch));
    }

    fn mail_worker(&mut self, worker: u32, mail: Mail) {
        self.workers[worker as usize].post(mail);
        self.after(Duration::ZERO, 20, Occurrence::WorkerTurn(worker));
    }
}

// ---- gateway ----

impl World {
    fn control(&mut self, event: Event) {
        self.gateway.handle(event, self.now, &mut self.random);
        self.carry_out_of_gateway();
    }

    fn carry_out_of_gateway(&mut self) {
        while let Some(action) = self.gateway.poll_action() {
            match action {
                Action::Send { link, message } => {
                    let wire = usize::try_from(link.0).expect("an index");
                    let arrival = Occurrence::AtServer(wire, Some(message));
                    self.send(Way::ToServer(wire), self.latency_ms, arrival);
                }
                Action::CloseLink { link, .. } => {
                    let wire = usize::try_from(link.0).expect("an index");
                    self.wires[wire].gateway_end = false;
                    let arrival = Occurrence::AtServer(wire, None);
                    self.send(Way::ToServer(wire), self.latency_ms, arrival);
                }
                Action::Expect { agent, invitation, ticket, server } => {
                    let mail = Mail::Expect { agent: agent.connection, invitation, ticket, server };
                    self.mail_worker(agent.worker, mail);
                }
                Action::ExpectSpare { worker, invitation, ticket, server, life } => {
                    self.mail_worker(
                        worker,
                        Mail::ExpectSpare { invitation, ticket, server, life },
                    );
                }
                Action::UseSpare { agent, invitation } => {
                    let mail = Mail::UseSpare { agent: agent.connection, invitation };
                    self.mail_worker(agent.worker, mail);
                }
                Action::CloseSpare { worker, invitation } => {
                    self.mail_worker(worker, Mail::CloseSpare { invitation });
                }
                Action::Refuse { agent, reason } => {
                    let mail = Mail::Refuse { agent: agent.connection, reason };
                    self.mail_worker(agent.worker, mail);
                }
            }
        }
        self.gateway.check_after_step(self.now);
    }

    fn worker_of(&self, agent: u64) -> u32 {
        u32::try_from(agent % self.workers.len() as u64).expect("few")
    }

    fn arrive(&mut self, number: usize) {
        for _ in 0..number {
            let connection = self.agents;
            self.agents += 1;
            let agent = AgentRef { worker: self.worker_of(connection), connection };
            let service = self.random.below(self.services);
            self.workers[agent.worker as usize].arrive(connection);
            self.mail_control(agent.worker, Event::Admit { agent, service });
            if !self.calm && self.random.percent(20) {
                self.after(Duration::ZERO, 3_000, Occurrence::Depart(agent, self.epoch));
            }
        }
    }

    fn claim(&mut self, worker: u32, server: usize, claim: &Claim) {
        self.read_mails(worker);
        let held = &mut self.workers[worker as usize];
        match held.claim(claim, &self.servers[server].name) {
            Some(Purpose::Agent(connection)) => {
                self.begin_session(AgentRef { worker, connection }, claim.id);
            }
            Some(Purpose::Spare { life }) => self.keep_spare(worker, server, claim.id, life),
            None => {}
        }
    }

    fn begin_session(&mut self, agent: AgentRef, invitation: u64) {
        self.mail_control(agent.worker, Event::Claimed { agent, invitation });
        let length_ms = if self.calm { 50 } else { 5_000 };
        let release = Occurrence::Release(agent.worker, invitation, self.epoch);
        self.after(Duration::ZERO, length_ms, release);
    }
}

// ---- servers ----

impl World {
    fn serve(&mut self, server: usize, event: GatewayEvent) {
        self.servers[server].handle(event, self.now, &mut self.random);
        self.carry_out_of_server(server);
    }

    fn carry_out_of_server(&mut self, server: usize) {
        while let Some(action) = self.servers[server].poll_action() {
            match action {
                GatewayAction::Dial => self.dial(server),
                GatewayAction::Send(message) => {
                    let wire = self.servers[server].wire.expect("checked when polled");
                    self.say(wire, message);
                }
                GatewayAction::Close(_) => {
                    if let Some(wire) = self.servers[server].wire.take() {
                        self.hang_up(wire);
                    }
                }
                GatewayAction::Invited { invitation, .. } => self.invited(server, invitation),
                GatewayAction::Withdrawn { .. } => {}
                GatewayAction::CloseSpare { id } => {
                    self.after(Duration::ZERO, self.latency_ms, Occurrence::SpareDies(id));
                }
            }
        }
        self.servers[server].check(self.now);
    }

    fn dial(&mut self, server: usize) {
        let wire = self.wires.len();
        let cut = !self.calm && self.random.percent(5);
        self.wires.push(Wire { server, cut, gateway_end: false, server_end: false });
        self.servers[server].wire = Some(wire);
        let through = self.calm || !self.random.percent(10);
        self.after(Duration::ZERO, self.latency_ms, Occurrence::Dialed(wire, through));
    }

    fn dialed(&mut self, wire: usize, through: bool) {
        let server = self.wires[wire].server;
        if self.servers[server].wire != Some(wire) || self.wires[wire].cut {
            return;
        }
        if !through {
            return self.serve(server, GatewayEvent::DialFailed);
        }
        self.wires[wire].gateway_end = true;
        self.wires[wire].server_end = true;
        let name = self.servers[server].name.clone();
        let allowed = self.servers[server].allowed_now.clone();
        self.control(Event::LinkOpened { link: LinkId(wire as u64), server: name, allowed });
        self.serve(server, GatewayEvent::Dialed);
    }

    fn say(&mut self, wire: usize, message: FromServer) {
        let arrival = Occurrence::AtGateway(wire, Some(message));
        self.send(Way::ToGateway(wire), self.latency_ms, arrival);
    }

    fn hang_up(&mut self, wire: usize) {
        self.wires[wire].server_end = false;
        let arrival = Occurrence::AtGateway(wire, None);
        self.send(Way::ToGateway(wire), self.latency_ms, arrival);
    }

    fn invited(&mut self, server: usize, invitation: Invitation) {
        let Invitation { id, ticket, worker, .. } = invitation;
        let claim = Claim { id, ticket };
        self.claims_seen.push(claim.clone());
        let prompt = Duration::ZERO;
        match self.servers[server].answer(&mut self.random) {
            Answer::Claim => self.after(prompt, 100, Occurrence::Claim(worker, server, claim)),
            Answer::ClaimLate => {
                self.after(prompt, 15_000, Occurrence::Claim(worker, server, claim));
            }
            Answer::ClaimTwice => {
                self.after(prompt, 100, Occurrence::Claim(worker, server, claim.clone()));
                self.after(prompt, 2_000, Occurrence::Claim(worker, server, claim));
            }
            Answer::ClaimWithWrongTicket => {
                let mut wrong = claim.clone();
                wrong.ticket[self.random.below(16)] ^= 1;
                self.after(prompt, 100, Occurrence::Claim(worker, server, wrong));
                self.after(
                    Duration::from_millis(100),
                    100,
                    Occurrence::Claim(worker, server, claim),
                );
            }
            Answer::ClaimOfAnother => {
                let other = self.random.pick(&self.claims_seen).clone();
                let worker = self.random.below(self.workers.len());
                let worker = u32::try_from(worker).expect("few");
                self.after(prompt, 100, Occurrence::Claim(worker, server, other));
            }
            Answer::Decline(reason) => {
                let decline = Decline { id, reason: reason.into() };
                self.after(prompt, 300, Occurrence::LocalDecline(server, decline));
            }
            Answer::Nothing => {}
        }
    }
}
