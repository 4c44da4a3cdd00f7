//! One process of a gateway takes the place of another, without one connection lost: the old one gives its
//! listening sockets away, and both pass to each other the connections that are the other's. What happens
//! when is decided by [`Upgrade`](crate::control::Upgrade); here it is done.

mod channel;
mod door;
mod error;
mod packet;

use std::cell::RefCell;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use rustix::process::Uid;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::Sockets;
use super::control::Control;
use super::lists::seconds_since_1970;
use super::mail::{Transfer, WorkerMail};
use super::reload::GatewayReader;
use crate::control::{Event, Upgrade, UpgradeAction, UpgradeEvent, Word};
use crate::engine::{ControlLoop, StartError};
use crate::reload::Reloads;
use crate::telemetry::notify;
use crate::uring::awaited;
use channel::{Parcel, Sender};
use packet::{Content, Offer, Packet, PassedConnection, SocketKind, VERSION, word};

use door::Before;
pub use door::Start;
pub use error::UpgradeError;

/// News of another process of this gateway.
pub(super) enum UpgradeNews {
    /// One asks for our place.
    Came(OwnedFd),
    /// The one with this number said something, or hung up.
    Heard(u64, Option<Parcel>),
}

/// What the control thread is to do beside.
enum Outcome {
    /// Show its pages, and say that it is ready.
    Serves,
    /// Count the time of a drain.
    Leaves,
    /// End.
    GaveUp(UpgradeError),
}

/// What the control thread has of an upgrade.
pub(super) struct Upgrades {
    machine: Upgrade,
    /// Where the next process asks.
    door: Option<Rc<AsyncFd<OwnedFd>>>,
    user: Uid,
    asking: Option<JoinHandle<()>>,
    other: Option<(u64, Sender)>,
    others: u64,
    news: mpsc::Sender<UpgradeNews>,
    /// Copies to give away, while this process accepts.
    copies: Vec<(SocketKind, OwnedFd)>,
    /// Of each worker, which may not accept yet.
    held: Vec<Sockets>,
    inherited: bool,
    /// Services that need a server here first.
    wanted: Vec<String>,
    settled: usize,
    next_worker: usize,
    outcome: Option<Outcome>,
}

/// What an upgrade begins with, before the control thread's runtime is there.
pub(super) struct Parts {
    pub(super) door: Option<OwnedFd>,
    pub(super) user: Uid,
    pub(super) before: Option<Before>,
    /// Whether agents may have waited at the sockets before this process began.
    pub(super) inherited: bool,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) telemetry: Option<TcpListener>,
    pub(super) operator: Option<OwnedFd>,
    pub(super) held: Vec<Sockets>,
}

impl Upgrades {
    /// Inside the control thread's runtime.
    pub(super) fn new(parts: Parts, news: mpsc::Sender<UpgradeNews>) -> std::io::Result<Self> {
        let Parts { door, user, before, inherited, listeners, telemetry, operator, held } = parts;
        let copies = match &door {
            None => Vec::new(),
            Some(door) => {
                let listeners = listeners.into_iter().map(|l| (SocketKind::Listener, l.into()));
                let telemetry = telemetry.map(|l| (SocketKind::Telemetry, l.into()));
                let operator = operator.map(|socket| (SocketKind::Operator, socket));
                let door = [(SocketKind::Door, door.try_clone()?)];
                listeners.chain(telemetry).chain(operator).chain(door).collect()
            }
        };
        let mut upgrades = Self {
            machine: Upgrade::alone(),
            door: door.map(awaited).transpose()?.map(Rc::new),
            user,
            asking: None,
            other: None,
            others: 0,
            news,
            copies,
            held,
            inherited,
            wanted: Vec::new(),
            settled: 0,
            next_worker: 0,
            outcome: None,
        };
        if let Some(before) = before {
            rustix::io::ioctl_fionbio(&before.socket, true)?;
            upgrades.machine = Upgrade::taking(Instant::now());
            upgrades.wanted = before.services;
            upgrades.talk(before.socket, Vec::new());
            info!("has the sockets of the running gateway; waits for its servers");
        }
        upgrades.attend();
        Ok(upgrades)
    }

    /// Whether another process still accepts, and this one not.
    pub(super) fn is_taking(&self) -> bool {
        self.machine.is_taking()
    }

    /// Whether agents may have waited before this process accepts.
    pub(super) fn has_inherited(&self) -> bool {
        self.inherited
    }

    /// Whether another process takes the place of this one.
    pub(super) fn is_giving(&self) -> bool {
        self.machine.is_giving()
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.machine.next_timeout()
    }

    fn talk(&mut self, socket: OwnedFd, first: Vec<Parcel>) {
        self.others += 1;
        match channel::start(socket, self.others, first, self.news.clone()) {
            Ok(sender) => self.other = Some((self.others, sender)),
            Err(error) => warn!(%error, "cannot talk to the other process of this gateway"),
        }
    }

    /// Waits for the next who asks, while this process is alone.
    fn attend(&mut self) {
        if let Some(door) = &self.door
            && self.machine.is_alone()
            && self.asking.as_ref().is_none_or(JoinHandle::is_finished)
        {
            let (door, user, news) = (Rc::clone(door), self.user, self.news.clone());
            self.asking = Some(tokio::task::spawn_local(async move {
                let socket = channel::next_who_asks(&door, user).await;
                // Nobody listens any more where the control thread has ended.
                let _ = news.send(UpgradeNews::Came(socket)).await;
            }));
        }
    }

    /// Gives up all sockets that listen.
    fn shut(&mut self) {
        self.copies.clear();
        self.held.clear();
        self.door = None;
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }
}

impl Control {
    pub(super) fn upgrade_news(&mut self, news: UpgradeNews) {
        match news {
            UpgradeNews::Came(socket) => self.offer(socket),
            UpgradeNews::Heard(number, parcel) => {
                let is_this = self.upgrades.other.as_ref().is_some_and(|(n, _)| *n == number);
                match parcel {
                    // It was hung up, and another may be there.
                    _ if !is_this => {}
                    Some((packet, passed)) => self.hear(packet, passed),
                    None => {
                        self.upgrades.other = None;
                        self.upgrade(UpgradeEvent::Gone);
                    }
                }
            }
        }
    }

    pub(super) fn upgrade_time_passed(&mut self) {
        let actions = self.upgrades.machine.handle_timeout(Instant::now());
        self.carry_out_upgrade(&actions);
    }

    /// What the control thread is to do after its turn. The other process is told once every service has its
    /// server here, and the lists of revoked certificates without which no device is admitted have come.
    fn upgrade_outcome(&mut self) -> Option<Outcome> {
        if self.upgrades.is_taking()
            && self.dispatcher.has_servers()
            && self.dispatcher.serves_all(&self.upgrades.wanted)
            && self.shared.missing_list(seconds_since_1970()).is_none()
        {
            self.upgrade(UpgradeEvent::Served);
        }
        self.upgrades.outcome.take()
    }

    /// Has the loop of the control thread follow what an upgrade has come to. Returns why this process ends.
    pub(super) fn follow_upgrade(
        control: &Rc<RefCell<Self>>,
        reloads: &mut Reloads<GatewayReader>,
        wakeups: &mut ControlLoop,
    ) -> Result<Option<UpgradeError>, StartError> {
        let outcome = control.borrow_mut().upgrade_outcome();
        match outcome {
            None => {}
            Some(Outcome::Serves) => Self::begin_serving(control)?,
            Some(Outcome::Leaves) => {
                reloads.end();
                wakeups.begin_drain();
            }
            Some(Outcome::GaveUp(why)) => return Ok(Some(why)),
        }
        Ok(None)
    }

    /// A worker has nobody left who waits.
    pub(super) fn worker_settled(&mut self) {
        self.upgrades.settled += 1;
        if self.upgrades.settled == self.workers.len() {
            self.upgrade(UpgradeEvent::Settled);
        }
    }

    pub(super) fn drain_upgrade(&mut self) {
        self.upgrade(UpgradeEvent::Drain);
        self.upgrades.shut();
    }

    /// Passes a connection to the other process, or ends it where there is none: its owner dials again.
    pub(super) fn pass(&mut self, transfer: Transfer) {
        let Transfer { socket, peer, listener, seen, accepted } = transfer;
        let listener = &self.shared.listeners[listener];
        let passed = PassedConnection::new(listener, peer, seen, accepted.elapsed());
        let sent = self.upgrades.other.as_ref().is_some_and(|(_, other)| {
            other.send(Content::Connection(passed).into(), Some(socket.into()))
        });
        if !sent {
            info!(%peer, "closed: it was for another process of this gateway, which is gone");
        }
    }
}

// ---- small steps ----

impl Control {
    fn offer(&mut self, socket: OwnedFd) {
        let copies = self.upgrades.copies.iter();
        let sockets: Vec<Parcel> = copies
            .filter_map(|(kind, copy)| {
                Some((Content::Socket((*kind).into()).into(), Some(copy.try_clone().ok()?)))
            })
            .collect();
        let services = self.dispatcher.services_that_follow();
        let offer = Offer {
            version: VERSION,
            instance: self.shared.instance.clone(),
            services: services.into_iter().map(str::to_owned).collect(),
            sockets: u32::try_from(sockets.len()).unwrap_or(u32::MAX),
        };
        let mut first = vec![(Content::Offer(offer).into(), None)];
        first.extend(sockets);
        self.upgrades.talk(socket, first);
        info!("another process takes over: it has the sockets, and waits for its servers");
        self.upgrade(UpgradeEvent::Came);
    }

    fn hear(&mut self, packet: Packet, passed: Option<OwnedFd>) {
        match (packet.content, passed) {
            (Some(Content::Word(number)), _) => {
                if let Some(word) = word(number) {
                    self.upgrade(UpgradeEvent::Said(word));
                }
            }
            (Some(Content::Connection(connection)), Some(socket)) => {
                self.take_in(connection, socket);
            }
            // Of another release, and nothing for us.
            _ => {}
        }
    }

    fn take_in(&mut self, passed: PassedConnection, socket: OwnedFd) {
        let listener = self.shared.listeners.iter().position(|name| **name == *passed.listener);
        let (Some(listener), Some(peer)) = (listener, passed.peer()) else {
            return info!(listener = %passed.listener, "closed: it came to no listener of ours");
        };
        let (accepted, socket) = (passed.accepted(Instant::now()), TcpStream::from(socket));
        let transfer = Transfer { socket, peer, listener, seen: passed.seen, accepted };
        let worker = self.upgrades.next_worker % self.workers.len();
        self.upgrades.next_worker = worker + 1;
        self.workers[worker].send(WorkerMail::Passed(transfer));
    }

    fn upgrade(&mut self, event: UpgradeEvent) {
        let actions = self.upgrades.machine.handle(event, Instant::now());
        if event == UpgradeEvent::Gone {
            self.tell_workers(|| WorkerMail::PredecessorGone);
        }
        if event == UpgradeEvent::Said(Word::Abandoned) {
            self.upgrades.outcome = Some(Outcome::GaveUp(UpgradeError::Abandoned));
        }
        self.carry_out_upgrade(&actions);
    }

    fn carry_out_upgrade(&mut self, actions: &[UpgradeAction]) {
        for action in actions {
            match action {
                UpgradeAction::Say(word) => {
                    if let Some((_, other)) = &self.upgrades.other {
                        other.send(Packet::word(*word), None);
                    }
                }
                UpgradeAction::HangUp => self.upgrades.other = None,
                UpgradeAction::PassSignals(passes) => {
                    if !passes {
                        warn!("the other process did not take over: this one goes on");
                    }
                    self.tell_workers(|| WorkerMail::PassSignals(*passes));
                    self.handle(Event::Moving(*passes), Instant::now());
                }
                UpgradeAction::Serve => self.serve(),
                UpgradeAction::Leave => self.leave(),
                UpgradeAction::Drain => {
                    self.handle(Event::Moved, Instant::now());
                    self.tell_workers(|| WorkerMail::Drain);
                }
                UpgradeAction::GiveUp => {
                    let why = Outcome::GaveUp(UpgradeError::NoServers);
                    self.upgrades.outcome.get_or_insert(why);
                }
            }
        }
        self.upgrades.attend();
    }

    fn serve(&mut self) {
        for (worker, sockets) in
            self.workers.iter_mut().zip(std::mem::take(&mut self.upgrades.held))
        {
            worker.send(WorkerMail::Listen(sockets));
        }
        self.upgrades.outcome = Some(Outcome::Serves);
    }

    fn leave(&mut self) {
        info!("another process has taken over: no new connections here; who is in is served");
        notify::stopping();
        self.tell_workers(|| WorkerMail::Leave);
        self.upgrades.shut();
        for listening in self.front.listening.drain(..) {
            listening.abort();
        }
        self.upgrades.outcome = Some(Outcome::Leaves);
    }

    fn tell_workers(&mut self, mail: impl Fn() -> WorkerMail) {
        for worker in &mut self.workers {
            worker.send(mail());
        }
    }
}
