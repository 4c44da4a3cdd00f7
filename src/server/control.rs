//! The control thread of a server: a link to each gateway, orders for the workers, the ledger, pages.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use super::Shared;
use super::backends::{self, Addresses};
use super::link::{GatewayId, Link, Open};
use super::mail::{ControlMail, Order, Purpose, WorkerMail};
use super::operator::hear;
use super::pages;
use super::reload::ServerReader;
use super::signal::{self, Dialled};
use crate::control::{GatewayAction, GatewayEvent};
use crate::engine::{
    ControlLoop, Platform, Post, SignalEvent, StartError, Wakeup, WorkerThread, end_all_signals,
    end_signal, fill_random, instance_name, start_signal,
};
use crate::limits::{
    DIAL_TIMEOUT, MAILS_PER_TURN, MAX_SPARE_LIFE, RESOLVE_INTERVAL, SIGNAL_EVENTS,
};
use crate::operator::{Door, Sweeps, Tally};
use crate::relay::CloseReason;
use crate::reload::{History, Outcome, Reloads};
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::ledger::Ledger;
use crate::telemetry::notify;
use crate::uring::Waker;
use crate::wire::{CrlOutcome, FromServer, Invitation, RefusalReason, ToServer};

/// What the control thread owns. The pages read it between two turns of its loop.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) ledger: Ledger,
    pub(super) counters: Vec<Arc<WorkerCounters>>,
    pub(super) started: Instant,
    /// Names this process on its status page.
    pub(super) instance: String,
    /// In the order of the configuration, until a reload adds some.
    pub(super) links: BTreeMap<GatewayId, Link>,
    pub(super) draining: bool,
    pub(super) outcomes: Outcomes,
    pub(super) history: History,
    /// Lists that were brought, by what became of them, as in [`CrlOutcome::FINAL`].
    pub(super) lists_brought: [u64; CrlOutcome::FINAL.len()],
    pub(super) workers: Vec<Post<WorkerMail, Waker>>,
    pub(super) backends: Arc<Addresses>,
    pub(super) next_gateway: GatewayId,
    pub(super) sweeps: Sweeps,
    /// What operators asked for.
    pub(super) tally: Rc<RefCell<Tally>>,
    /// Notified where an operator asks for a drain.
    pub(super) drain_asked: Rc<Notify>,
    next_worker: usize,
    next_attempt: u64,
}

/// What became of invitations.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcomes {
    pub(super) received: u64,
    pub(super) joined: u64,
    pub(super) declined: u64,
    pub(super) failed: u64,
}

/// What the control thread waits for.
enum News {
    Wakeup(Wakeup),
    Dialled(u64, Option<Dialled>),
    Signal(u64, SignalEvent<ToServer>),
    Reload(Outcome<ServerReader>),
}

/// The ends of channels that tasks of this thread send news by.
struct Doors {
    dialled: mpsc::Sender<(u64, Option<Dialled>)>,
    signals: mpsc::Sender<(u64, SignalEvent<ToServer>)>,
}

impl Control {
    pub(super) fn new(
        shared: Arc<Shared>,
        workers: Vec<Post<WorkerMail, Waker>>,
        counters: Vec<Arc<WorkerCounters>>,
    ) -> Self {
        let mut control = Self {
            ledger: Ledger::new(shared.config.max_sessions),
            links: BTreeMap::new(),
            counters,
            started: Instant::now(),
            instance: instance_name(),
            draining: false,
            outcomes: Outcomes::default(),
            history: History::new(),
            lists_brought: [0; CrlOutcome::FINAL.len()],
            workers,
            backends: Arc::default(),
            next_gateway: 0,
            sweeps: Sweeps::default(),
            tally: Rc::default(),
            drain_asked: Rc::default(),
            next_worker: 0,
            next_attempt: 0,
            shared,
        };
        control.add_links();
        control
    }

    /// Runs until every worker has ended.
    pub(super) async fn run(
        mut self,
        mails: Receiver<ControlMail>,
        mail_came: Arc<Notify>,
        threads: Vec<WorkerThread>,
        telemetry: Option<TcpListener>,
        door: Option<Door>,
        mut reloads: Reloads<ServerReader>,
    ) -> Result<(), StartError> {
        let drain_timeout = self.shared.config.drain_timeout;
        // Signals are taken before anybody is told that there is something to signal.
        let mut wakeups = ControlLoop::new(threads, Arc::clone(&mail_came), drain_timeout)?;
        wakeups.drain_on(Rc::clone(&self.drain_asked));
        let backends = backends::look_up(&self.shared.config, &Addresses::new()).await;
        self.set_backends(backends);
        let control = Rc::new(RefCell::new(self));
        pages::serve(telemetry, &control)?;
        hear(door, &control)?;
        tokio::task::spawn_local(keep_backends_fresh(Rc::clone(&control)));
        let (dialled, mut dials) = mpsc::channel(SIGNAL_EVENTS);
        let (signals, mut signal_events) = mpsc::channel(SIGNAL_EVENTS);
        let doors = Doors { dialled, signals };
        let workers = control.borrow().counters.len();
        let Platform { event_loop, relay } = control.borrow().shared.platform;
        info!(workers, %event_loop, %relay, "server runs; dials its gateways");
        notify::ready("dials its gateways");
        loop {
            let due = control.borrow().next_timeout();
            let news = tokio::select! {
                wakeup = wakeups.next(due) => News::Wakeup(wakeup),
                Some((attempt, dialled)) = dials.recv() => News::Dialled(attempt, dialled),
                Some((attempt, event)) = signal_events.recv() => News::Signal(attempt, event),
                outcome = reloads.next() => News::Reload(outcome),
            };
            // Before anything else: quiet mail is older than what woke us.
            if control.borrow_mut().read_mails(&mails) {
                mail_came.notify_one();
            }
            match news {
                News::Dialled(attempt, dialled) => {
                    control.borrow_mut().dial_ended(attempt, dialled, &doors);
                }
                News::Signal(attempt, event) => control.borrow_mut().signal_event(attempt, event),
                News::Wakeup(Wakeup::Mail) => {}
                // Every link looks at its own clock below.
                News::Wakeup(Wakeup::Due) => control.borrow_mut().time_passed(),
                News::Wakeup(Wakeup::Second) => control.borrow_mut().ledger.tick(Instant::now()),
                News::Wakeup(Wakeup::Hangup) => reloads.request(),
                News::Reload(outcome) => {
                    control.borrow_mut().reload_ended(outcome);
                    wakeups.set_drain_timeout(control.borrow().shared.config.drain_timeout);
                }
                News::Wakeup(Wakeup::Drain) => {
                    reloads.end();
                    control.borrow_mut().drain();
                }
                News::Wakeup(Wakeup::Stop) => control.borrow_mut().stop(),
                News::Wakeup(Wakeup::WorkersEnded(result)) => {
                    while control.borrow_mut().read_mails(&mails) {}
                    let open: Vec<_> = control.borrow_mut().take_open_links();
                    let senders = open.iter().map(|open| &open.sender);
                    end_all_signals(senders, &mut signal_events).await;
                    info!("stopped");
                    return result;
                }
            }
            control.borrow_mut().act(&doors);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.links.values().filter_map(|link| link.machine.next_timeout()).min()
    }

    fn time_passed(&mut self) {
        let now = Instant::now();
        for link in self.links.values_mut() {
            link.machine.handle_timeout(now, &mut fill_random);
        }
    }

    /// Returns whether there may be more.
    fn read_mails(&mut self, mails: &Receiver<ControlMail>) -> bool {
        for _ in 0..MAILS_PER_TURN {
            match mails.try_recv() {
                Ok(mail) => self.read_mail(mail),
                Err(_) => return false,
            }
        }
        true
    }

    fn read_mail(&mut self, mail: ControlMail) {
        match mail {
            ControlMail::Joined { session, live } => {
                self.outcomes.joined += 1;
                self.ledger.session_joined(session, live);
            }
            ControlMail::Swept { id, swept } => self.sweeps.part_done(id, swept),
            ControlMail::SessionEnded { gateway, record } => {
                self.session_over(gateway);
                self.ledger.session_ended(&record);
            }
            ControlMail::Failed { gateway, invitation, decline, record } => {
                self.session_over(gateway);
                self.outcomes.failed += 1;
                self.ledger.connection_ended(&record, Instant::now());
                if let Some(reason) = decline {
                    self.decline(gateway, invitation, reason);
                }
            }
            ControlMail::SpareUsed { gateway, invitation } => {
                if let Some(link) = self.links.get_mut(&gateway) {
                    link.sessions += 1;
                    link.spares.remove(&invitation);
                }
                self.handle(gateway, GatewayEvent::SpareEnded { id: invitation });
            }
            ControlMail::SpareEnded { gateway, invitation, decline, record } => {
                if let Some(link) = self.links.get_mut(&gateway) {
                    link.spares.remove(&invitation);
                }
                self.handle(gateway, GatewayEvent::SpareEnded { id: invitation });
                self.ledger.connection_ended(&record, Instant::now());
                if let Some(reason) = decline {
                    self.handle(gateway, GatewayEvent::Decline { id: invitation, reason });
                }
            }
        }
    }

    fn session_over(&mut self, gateway: GatewayId) {
        // Not there: the session outlived its gateway's place in the configuration.
        let link = self.links.get_mut(&gateway);
        self.shared.seats.give_back(link.map(|link| {
            link.sessions -= 1;
            &*link.gateway
        }));
    }

    fn set_backends(&mut self, backends: Arc<Addresses>) {
        if backends != self.backends {
            self.backends = backends;
            for worker in &mut self.workers {
                worker.send(WorkerMail::Backends(Arc::clone(&self.backends)));
            }
        }
    }

    pub(super) fn handle(&mut self, gateway: GatewayId, event: GatewayEvent) {
        if let Some(link) = self.links.get_mut(&gateway) {
            link.machine.handle(event, Instant::now(), &mut fill_random);
        }
    }

    fn decline(&mut self, gateway: GatewayId, id: u64, reason: RefusalReason) {
        self.outcomes.declined += 1;
        self.handle(gateway, GatewayEvent::Decline { id, reason });
    }

    /// The gateway of an attempt that is still the latest.
    fn gateway_of(&self, attempt: u64) -> Option<GatewayId> {
        let mut links = self.links.values();
        links.find(|link| link.attempt == Some(attempt)).map(|link| link.gateway.id)
    }

    fn dial_ended(&mut self, attempt: u64, dialled: Option<Dialled>, doors: &Doors) {
        let event_loop = self.shared.platform.event_loop;
        let Some(gateway) = self.gateway_of(attempt) else { return };
        let Some(link) = self.links.get_mut(&gateway) else { return };
        let opened = dialled.and_then(|Dialled { parts, address }| {
            let chain = parts.tls.peer_chain().to_vec();
            let sender = start_signal(parts, event_loop, attempt, doors.signals.clone()).ok()?;
            Some(Open { sender, address, since: Instant::now(), chain })
        });
        let event = if opened.is_some() { GatewayEvent::Dialed } else { GatewayEvent::DialFailed };
        link.open = opened;
        self.handle(gateway, event);
    }

    fn signal_event(&mut self, attempt: u64, event: SignalEvent<ToServer>) {
        let Some(gateway) = self.gateway_of(attempt) else { return };
        match event {
            SignalEvent::Message(message) => {
                let was_up = self.is_up(gateway);
                let untaken = self.shared.untaken(&message);
                self.handle(gateway, GatewayEvent::Message(message));
                if !was_up && self.is_up(gateway) {
                    let name = &self.links[&gateway].gateway.address;
                    info!(gateway = %name, untaken, "signal connection is up");
                }
            }
            SignalEvent::Closed(reason) => {
                self.forget(gateway, reason);
                self.handle(gateway, GatewayEvent::Closed);
            }
        }
    }

    fn is_up(&self, gateway: GatewayId) -> bool {
        self.links.get(&gateway).is_some_and(Link::is_up)
    }

    fn forget(&mut self, gateway: GatewayId, reason: CloseReason) {
        let Some(link) = self.links.get_mut(&gateway) else { return };
        link.forget_hints();
        link.attempt = None;
        if let Some(open) = link.open.take() {
            end_signal(&open.sender, reason);
            let name = &link.gateway.address;
            if reason == CloseReason::Finished {
                info!(gateway = %name, %reason, "signal connection closed");
            } else {
                warn!(gateway = %name, %reason, "signal connection closed");
            }
        }
    }

    /// Carries out what the links decided.
    fn act(&mut self, doors: &Doors) {
        for worker in &mut self.workers {
            worker.flush();
        }
        let gateways: Vec<GatewayId> = self.links.keys().copied().collect();
        for gateway in gateways {
            while let Some(action) = self.next_action(gateway) {
                match action {
                    GatewayAction::Dial => self.dial(gateway, doors),
                    GatewayAction::Send(message) => self.send(gateway, &message),
                    GatewayAction::Close(reason) => self.forget(gateway, reason),
                    GatewayAction::Invited { invitation, instance } => {
                        self.follow(gateway, invitation, &instance);
                    }
                    GatewayAction::CrlAnswered { list, outcome } => {
                        self.list_answered(gateway, list, outcome);
                    }
                    // A claim that is on its way is refused by the gateway, or was in time.
                    GatewayAction::Withdrawn { .. } => {}
                    GatewayAction::OpenSuccessor => self.open_successor(gateway),
                    GatewayAction::CloseSpare { id: invitation } => {
                        if let Some(&worker) = self.links[&gateway].spares.get(&invitation) {
                            let mail = WorkerMail::CloseSpare { gateway, invitation };
                            self.workers[worker].send(mail);
                        }
                    }
                }
            }
        }
        self.settle_successions();
        self.links.retain(|_, link| !link.removed);
    }

    fn next_action(&mut self, gateway: GatewayId) -> Option<GatewayAction> {
        self.links.get_mut(&gateway)?.machine.poll_action()
    }

    fn dial(&mut self, gateway: GatewayId, doors: &Doors) {
        let Some(link) = self.links.get_mut(&gateway) else { return };
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        link.attempt = Some(attempt);
        let (host, name) = (link.host().clone(), link.gateway.name.clone());
        let tls = Arc::clone(&self.shared.gateway_tls);
        let door = doors.dialled.clone();
        tokio::task::spawn_local(async move {
            let dial = signal::dial(&host, name, tls);
            let dialled = match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
                Ok(Ok(dialled)) => Some(dialled),
                Ok(Err(error)) => {
                    warn!(gateway = %host, %error, "no signal connection; will dial again");
                    None
                }
                Err(_) => {
                    warn!(gateway = %host, "no answer to our dial; will dial again");
                    None
                }
            };
            // Nobody listens any more where the control thread has ended.
            let _ = door.send((attempt, dialled)).await;
        });
    }

    fn send(&mut self, gateway: GatewayId, message: &FromServer) {
        let Some(open) = self.links.get(&gateway).and_then(|link| link.open.as_ref()) else {
            return;
        };
        if open.sender.send(message).is_err() {
            self.forget(gateway, CloseReason::SignalStalled);
            self.handle(gateway, GatewayEvent::Closed);
        }
    }

    fn follow(&mut self, gateway: GatewayId, invitation: Invitation, instance: &str) {
        // Lost since the invitation came: whom it was for is invited elsewhere.
        let Some(open) = self.links.get(&gateway).and_then(|link| link.open.as_ref()) else {
            return;
        };
        let address = open.address;
        let spare_for = Duration::from_millis(invitation.spare_for_ms.into());
        if !spare_for.is_zero() {
            let purpose = Purpose::Spare { life: spare_for.min(MAX_SPARE_LIFE) };
            return self.order(gateway, address, invitation, instance, purpose);
        }
        self.outcomes.received += 1;
        let Some(service) = self.shared.service(&invitation.service) else {
            return self.decline(gateway, invitation.id, RefusalReason::ServiceUnknown);
        };
        let service = Arc::clone(&service.name);
        let Some(link) = self.links.get_mut(&gateway) else { return };
        if !self.shared.seats.take(&link.gateway) {
            return self.decline(gateway, invitation.id, RefusalReason::ServerFull);
        }
        link.sessions += 1;
        self.order(gateway, address, invitation, instance, Purpose::Session { service });
    }

    /// Has the next worker open a data connection.
    fn order(
        &mut self,
        gateway: GatewayId,
        address: SocketAddr,
        invitation: Invitation,
        instance: &str,
        purpose: Purpose,
    ) {
        let Some(link) = self.links.get_mut(&gateway) else { return };
        let worker = self.next_worker % self.workers.len();
        self.next_worker = worker + 1;
        if let Purpose::Spare { .. } = purpose {
            link.spares.insert(invitation.id, worker);
        }
        let now = Instant::now();
        let order = Order {
            gateway: Arc::clone(&link.gateway),
            address,
            tls: Some(link.data_tls(&self.shared.gateway_tls, instance, invitation.worker)),
            invitation: invitation.id,
            ticket: invitation.ticket,
            purpose,
            expires: now + Duration::from_millis(u64::from(invitation.expires_in_ms)),
            received: now,
        };
        self.workers[worker].send(WorkerMail::Deliver(Box::new(order)));
    }

    fn drain(&mut self) {
        info!("drains: no new sessions; those that live may finish");
        notify::stopping();
        self.draining = true;
        for link in self.links.values_mut() {
            link.machine.handle(GatewayEvent::Drain, Instant::now(), &mut fill_random);
        }
        for worker in &mut self.workers {
            worker.send(WorkerMail::Drain);
        }
    }

    fn take_open_links(&mut self) -> Vec<Open> {
        self.links.values_mut().filter_map(|link| link.open.take()).collect()
    }

    fn stop(&mut self) {
        for worker in &mut self.workers {
            worker.send(WorkerMail::Stop);
        }
    }
}

async fn keep_backends_fresh(control: Rc<RefCell<Control>>) {
    loop {
        tokio::time::sleep(RESOLVE_INTERVAL).await;
        let shared = Arc::clone(&control.borrow().shared);
        let before = Arc::clone(&control.borrow().backends);
        let fresh = backends::look_up(&shared.config, &before).await;
        // After a reload these are the backends of before.
        if Arc::ptr_eq(&shared, &control.borrow().shared) {
            control.borrow_mut().set_backends(fresh);
        }
    }
}
