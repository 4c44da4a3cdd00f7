//! Hostile servers at a gateway: whatever they say on their signal connections, and whatever tickets they
//! show, the control plane keeps to its bounds, refuses or gives each agent once, and honours a ticket
//! once, for the server that it was sent to.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use vestibule::control::{
    Action, AgentRef, Dispatcher, DispatcherLimits, Event, LinkId, Purpose, Request, ServiceOffer,
    SessionQuota, SessionRate, SpareFailure, Ticket, Tickets,
};
use vestibule::limits::{MAX_CRL_LEN, MAX_FRAME_LEN};
use vestibule::wire::{
    Claim, Crl, CrlOutcome, Decline, FrameDecoder, FromServer, Goodbye, Invitation, Ping, Pong,
    RefusalReason, ServerHello, ToServer, from_server, to_server,
};

const SERVICES: [&str; 3] = ["web", "ssh", "sync"];
/// Services that each server may serve.
const SERVERS: [(&str, &[usize]); 3] = [("lan-1", &[0, 1, 2]), ("lan-2", &[0]), ("lan-3", &[1])];
const WORKERS: u32 = 2;
const MAX_WAITING: usize = 6;
const MAX_LINKS: usize = 3;
const MAX_SPARES: usize = 4;
/// Of one device, and of the first service.
const MAX_SESSIONS: [usize; 2] = [2, 3];
const DEVICES: u8 = 4;

/// Numbers choose among what is there.
#[derive(Debug, Arbitrary)]
enum Step {
    Open {
        server: u8,
    },
    /// A frame comes on a signal connection, of these bytes.
    Bytes {
        link: u8,
        bytes: Vec<u8>,
    },
    Say {
        link: u8,
        said: Said,
    },
    Close {
        link: u8,
    },
    /// Of one of the devices; numbers above stand for an agent without an identity.
    Admit {
        worker: u8,
        service: u8,
        device: u8,
    },
    Leave {
        agent: u8,
    },
    /// A data connection of a server shows the ticket of an invitation, or one bit of it changed.
    Claim {
        server: u8,
        worker: u8,
        invitation: u8,
        changed: Option<u8>,
    },
    /// The answer to the session header on a spare.
    Answer {
        offer: u8,
        answer: Answer,
    },
    EndSpare {
        worker: u8,
        in_time: bool,
    },
    Release {
        session: u8,
    },
    /// A list that came whole was judged.
    Judge {
        list: u8,
    },
    Pass {
        ms: u16,
    },
    Drain,
}

#[derive(Debug, Arbitrary)]
enum Said {
    Hello { services: u8, capacity: u8, spares: u32 },
    Decline { invitation: u8, reason: i32 },
    DeclineAny { id: u64, reason: i32 },
    Ping { nonce: u64 },
    Pong { nonce: u64 },
    Goodbye,
    List { transfer: u8, offset: u32, total: u32, piece: Vec<u8> },
}

#[derive(Debug, Arbitrary)]
enum Answer {
    Taken,
    Gone,
    Silent,
    Refused { reason: i32 },
}

/// The workers, and what was sent: all that the dispatcher must agree with.
struct World {
    dispatcher: Dispatcher,
    now: Instant,
    drawn: u64,
    next: u64,
    /// Signal connections that are open, each with its server.
    links: BTreeMap<LinkId, usize>,
    workers: [Worker; WORKERS as usize],
    /// The mail that announces the next invitation.
    announced: Option<(u64, Ticket, String)>,
    /// All invitations, each with the name of its server.
    sent: Vec<(Invitation, String)>,
    /// Spares that were given out and have not answered.
    offers: Vec<(AgentRef, u64)>,
    /// Lists that are being judged.
    judging: Vec<(LinkId, u32)>,
    sessions: Vec<(u64, Request)>,
}

#[derive(Default)]
struct Worker {
    tickets: Tickets,
    waiting: BTreeMap<u64, Request>,
    /// Spares that were asked for and have not come.
    asked: BTreeSet<u64>,
    spares: BTreeSet<u64>,
}

fn choose<T>(items: impl ExactSizeIterator<Item = T>, number: u8) -> Option<T> {
    let len = items.len().max(1);
    items.into_iter().nth(usize::from(number) % len)
}

impl World {
    fn new() -> Self {
        let limits = DispatcherLimits {
            max_waiting: MAX_WAITING,
            invitation_timeout: Duration::from_secs(10),
            max_links: MAX_LINKS,
            max_spares: MAX_SPARES,
            spare_life: Duration::from_secs(60),
            takes_crls: true,
            devices: SessionQuota {
                max_sessions: Some(MAX_SESSIONS[0]),
                rate: Some(SessionRate { per_s: 1, burst: 3 }),
            },
            services: vec![SessionQuota { max_sessions: Some(MAX_SESSIONS[1]), rate: None }],
        };
        let services = SERVICES.map(ServiceOffer::new).into();
        Self {
            dispatcher: Dispatcher::new(limits, services, "00112233445566ff".to_owned()),
            now: Instant::now(),
            drawn: 0,
            next: 0,
            links: BTreeMap::new(),
            workers: Default::default(),
            announced: None,
            sent: Vec::new(),
            offers: Vec::new(),
            sessions: Vec::new(),
            judging: Vec::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn waiting(&self) -> Vec<AgentRef> {
        let of = |(worker, at): (u32, &Worker)| {
            at.waiting.keys().map(move |&connection| AgentRef { worker, connection }).collect()
        };
        (0..).zip(&self.workers).flat_map::<Vec<_>, _>(of).collect()
    }

    fn handle(&mut self, event: Event) {
        let drawn = &mut self.drawn;
        self.dispatcher.handle(event, self.now, &mut |bytes| draw(drawn, bytes));
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.dispatcher.poll_action() {
            let announced = self.announced.take();
            self.carry_out(action, announced);
        }
        assert!(self.announced.is_none(), "what is announced is sent");
        let snapshot = self.dispatcher.snapshot();
        assert_eq!(snapshot.waiting, self.waiting().len());
        assert!(snapshot.waiting <= MAX_WAITING);
        assert_eq!(snapshot.links.len() + snapshot.greeting, self.links.len());
        assert!(self.links.len() <= MAX_LINKS);
        for worker in &self.workers {
            assert!(worker.asked.len() + worker.spares.len() <= MAX_SPARES);
        }
        self.check_quotas();
    }

    /// Who waits counts as well.
    fn check_quotas(&self) {
        let waiting = self.workers.iter().flat_map(|worker| worker.waiting.values());
        let requests: Vec<_> =
            waiting.chain(self.sessions.iter().map(|(_, request)| request)).collect();
        assert!(requests.iter().filter(|request| request.service == 0).count() <= MAX_SESSIONS[1]);
        for device in (0..DEVICES).map(name_of) {
            let held = requests.iter().filter(|request| request.device == device).count();
            assert!(held <= MAX_SESSIONS[0], "{held} of {device:?}");
        }
    }

    fn carry_out(&mut self, action: Action, announced: Option<(u64, Ticket, String)>) {
        match action {
            Action::Send { link, message: ToServer { message } } => {
                assert!(self.links.contains_key(&link), "nothing is sent on what is closed");
                if let Some(to_server::Message::Invitation(invitation)) = message {
                    self.send(link, invitation, announced);
                }
            }
            Action::CloseLink { link, .. } => {
                assert!(self.links.remove(&link).is_some(), "a link is closed once");
            }
            Action::Expect { agent, invitation, ticket, server } => {
                let worker = &mut self.workers[agent.worker as usize];
                assert!(worker.waiting.contains_key(&agent.connection), "nobody waits any more");
                let connection = agent.connection;
                worker.tickets.expect(invitation, ticket.clone(), server.clone(), connection);
                self.offers.retain(|(offered, _)| *offered != agent);
                self.announced = Some((invitation, ticket, server));
            }
            Action::ExpectSpare { worker, invitation, ticket, server, life } => {
                let worker = &mut self.workers[worker as usize];
                worker.tickets.expect_spare(invitation, ticket.clone(), server.clone(), life);
                worker.asked.insert(invitation);
                self.announced = Some((invitation, ticket, server));
            }
            Action::UseSpare { agent, invitation } => {
                let worker = &mut self.workers[agent.worker as usize];
                assert!(worker.waiting.contains_key(&agent.connection), "nobody waits any more");
                assert!(worker.spares.remove(&invitation), "a spare is given out once");
                worker.tickets.forget(agent.connection);
                self.offers.retain(|(offered, _)| *offered != agent);
                self.offers.push((agent, invitation));
            }
            Action::CloseSpare { worker, invitation } => {
                let worker = &mut self.workers[worker as usize];
                worker.tickets.forget_spare(invitation);
                worker.asked.remove(&invitation);
                worker.spares.remove(&invitation);
            }
            Action::JudgeCrl { link, transfer, list } => {
                assert!(self.links.contains_key(&link) && list.len() <= MAX_CRL_LEN);
                self.judging.push((link, transfer));
            }
            Action::Refuse { agent, .. } => {
                let worker = &mut self.workers[agent.worker as usize];
                assert!(worker.waiting.remove(&agent.connection).is_some(), "refused once");
                worker.tickets.forget(agent.connection);
                self.offers.retain(|(offered, _)| *offered != agent);
            }
        }
    }

    fn send(
        &mut self,
        link: LinkId,
        invitation: Invitation,
        announced: Option<(u64, Ticket, String)>,
    ) {
        let (id, ticket, server) = announced.expect("its worker knows before its server");
        let (name, allowed) = SERVERS[self.links[&link]];
        assert!(id == invitation.id && ticket.as_bytes() == invitation.ticket && server == name);
        let is_allowed = |&service: &usize| SERVICES[service] == invitation.service;
        assert!(invitation.spare_for_ms > 0 || allowed.iter().any(is_allowed));
        assert!(self.sent.iter().all(|(earlier, _)| earlier.id != id), "an id is given once");
        self.sent.push((invitation, server));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open { server } => {
                let server = usize::from(server) % SERVERS.len();
                let link = LinkId(self.number());
                self.links.insert(link, server);
                let (name, allowed) = SERVERS[server];
                let (server, allowed) = (name.to_owned(), allowed.to_vec());
                self.handle(Event::LinkOpened { link, server, allowed });
            }
            Step::Bytes { link, bytes } => self.receive(link, &bytes),
            Step::Say { link, said } => {
                let message = FromServer { message: Some(self.message(said)) };
                if let Some(link) = choose(self.links.keys().copied(), link) {
                    self.handle(Event::LinkMessage { link, message });
                }
            }
            Step::Close { link } => {
                if let Some(link) = choose(self.links.keys().copied(), link) {
                    self.links.remove(&link);
                    self.handle(Event::LinkClosed { link });
                }
            }
            Step::Admit { worker, service, device } => {
                let agent =
                    AgentRef { worker: u32::from(worker) % WORKERS, connection: self.number() };
                let service = usize::from(service) % (SERVICES.len() + 1);
                let request = Request { service, device: name_of(device % (DEVICES + 1)) };
                let worker = &mut self.workers[agent.worker as usize];
                worker.waiting.insert(agent.connection, request.clone());
                self.handle(Event::Admit { agent, request });
            }
            Step::Leave { agent } => {
                if let Some(agent) = choose(self.waiting().into_iter(), agent) {
                    self.forget(agent);
                    self.handle(Event::Leave { agent });
                }
            }
            Step::Claim { server, worker, invitation, changed } => {
                self.claim(usize::from(server) % SERVERS.len(), worker, invitation, changed);
            }
            Step::Answer { offer, answer } => self.answer(offer, answer),
            Step::EndSpare { worker, in_time } => {
                let worker = &mut self.workers[usize::from(worker) % WORKERS as usize];
                if let Some(invitation) = worker.spares.pop_first() {
                    self.handle(Event::SpareEnded { invitation, in_time });
                }
            }
            Step::Release { session } => {
                if let Some(at) = choose(0..self.sessions.len(), session) {
                    let (invitation, _) = self.sessions.swap_remove(at);
                    self.handle(Event::Released { invitation });
                }
            }
            Step::Judge { list } => {
                if let Some(at) = choose(0..self.judging.len(), list) {
                    let (link, transfer) = self.judging.swap_remove(at);
                    let outcome = CrlOutcome::Taken;
                    self.handle(Event::CrlJudged { link, transfer, outcome });
                }
            }
            Step::Pass { ms } => {
                self.now += Duration::from_millis(ms.into());
                let drawn = &mut self.drawn;
                self.dispatcher.handle_timeout(self.now, &mut |bytes| draw(drawn, bytes));
                self.act();
            }
            Step::Drain => self.handle(Event::Drain),
        }
    }

    fn receive(&mut self, link: u8, bytes: &[u8]) {
        let Some(link) = choose(self.links.keys().copied(), link) else { return };
        let bytes = &bytes[..bytes.len().min(MAX_FRAME_LEN)];
        let len = u32::try_from(bytes.len()).expect("bounded above").to_be_bytes();
        let frame = [&len, bytes].concat();
        match FrameDecoder::default().decode(&mut &frame[..]) {
            Ok(message) => {
                let message = message.expect("the frame is whole");
                self.handle(Event::LinkMessage { link, message });
            }
            Err(_) => {
                self.links.remove(&link);
                self.handle(Event::LinkClosed { link });
            }
        }
    }

    fn message(&self, said: Said) -> from_server::Message {
        match said {
            Said::Hello { services, capacity, spares } => {
                let names = SERVICES.iter().chain(&["payroll"]).enumerate();
                let offered = names.filter(|(bit, _)| services >> bit & 1 == 1);
                from_server::Message::ServerHello(ServerHello {
                    services: offered.map(|(_, name)| (*name).to_owned()).collect(),
                    capacity: capacity.into(),
                    software: String::new(),
                    spares,
                    successors: spares % 2 == 1,
                    // The highest bits: places of some services, and of none.
                    passthrough: (0..3).filter(|place| services >> (5 + place) & 1 == 1).collect(),
                })
            }
            Said::Decline { invitation, reason } => {
                let id = choose(self.sent.iter(), invitation).map_or(0, |(sent, _)| sent.id);
                from_server::Message::Decline(Decline { id, reason })
            }
            Said::DeclineAny { id, reason } => {
                from_server::Message::Decline(Decline { id, reason })
            }
            Said::Ping { nonce } => from_server::Message::Ping(Ping { nonce }),
            Said::Pong { nonce } => from_server::Message::Pong(Pong { nonce }),
            Said::Goodbye => from_server::Message::Goodbye(Goodbye {}),
            Said::List { transfer, offset, total, piece } => {
                from_server::Message::Crl(Crl { transfer: transfer.into(), offset, total, piece })
            }
        }
    }

    fn claim(&mut self, server: usize, worker: u8, invitation: u8, changed: Option<u8>) {
        let Some((sent, invited)) = choose(self.sent.iter(), invitation).cloned() else { return };
        let (name, _) = SERVERS[server];
        let mut ticket = sent.ticket;
        if let Some(bit) = changed {
            ticket[usize::from(bit) / 8 % 16] ^= 1 << (bit % 8);
        }
        let index = u32::from(worker) % WORKERS;
        let worker = &mut self.workers[index as usize];
        let claim = Claim { id: sent.id, ticket };
        let Ok(purpose) = worker.tickets.claim(&claim, name) else { return };
        assert!(changed.is_none() && invited == name && sent.worker == index);
        match purpose {
            Purpose::Agent(connection) => {
                let agent = AgentRef { worker: index, connection };
                self.claimed(agent, sent.id);
            }
            Purpose::Spare { .. } => {
                assert!(worker.asked.remove(&sent.id), "a ticket counts once");
                worker.spares.insert(sent.id);
                self.handle(Event::SpareReady { invitation: sent.id });
            }
        }
    }

    fn claimed(&mut self, agent: AgentRef, invitation: u64) {
        let request = self.forget(agent).expect("an agent is given to one server");
        self.sessions.push((invitation, request.clone()));
        self.handle(Event::Claimed { agent, invitation, request });
    }

    /// The agent waits no more; what it asked for, if it did.
    fn forget(&mut self, agent: AgentRef) -> Option<Request> {
        let worker = &mut self.workers[agent.worker as usize];
        worker.tickets.forget(agent.connection);
        self.offers.retain(|(offered, _)| *offered != agent);
        worker.waiting.remove(&agent.connection)
    }

    fn answer(&mut self, offer: u8, answer: Answer) {
        let Some(at) = choose(0..self.offers.len(), offer) else { return };
        let (agent, invitation) = self.offers.swap_remove(at);
        let failure = match answer {
            Answer::Taken => return self.claimed(agent, invitation),
            Answer::Gone => SpareFailure::Gone,
            Answer::Silent => SpareFailure::Silent,
            Answer::Refused { reason } => {
                let reason = RefusalReason::try_from(reason);
                SpareFailure::Refused(reason.unwrap_or(RefusalReason::Unspecified))
            }
        };
        self.handle(Event::SpareFailed { agent, invitation, failure });
    }
}

fn name_of(device: u8) -> Option<Arc<str>> {
    (device < DEVICES).then(|| device.to_string().into())
}

/// Different bytes each time, and the same in each run.
fn draw(drawn: &mut u64, bytes: &mut [u8]) {
    for byte in bytes {
        *drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (*drawn >> 56) as u8;
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    for step in steps {
        world.step(step);
    }
});
