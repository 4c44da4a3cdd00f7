//! The control thread of a server: a link to each gateway, orders for the workers, the ledger, pages.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use super::Shared;
use super::backends::{self, Addresses};
use super::mail::{ControlMail, Order, Purpose, WorkerMail};
use super::pages::ServerPages;
use super::signal::{self, Dialled};
use crate::control::{GatewayAction, GatewayEvent, GatewayLink};
use crate::engine::{
    ControlLoop, Post, SignalEvent, SignalSender, StartError, Wakeup, WorkerThread,
    end_all_signals, end_signal, fill_random, instance_name, start_signal,
};
use crate::limits::{
    DIAL_TIMEOUT, MAILS_PER_TURN, MAX_CACHED_HINTS, MAX_SPARE_LIFE, RESOLVE_INTERVAL, SIGNAL_EVENTS,
};
use crate::relay::CloseReason;
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::ledger::Ledger;
use crate::telemetry::{http, notify};
use crate::tls::gateway_resumption;
use crate::uring::Waker;
use crate::wire::alpn::{self, Hint};
use crate::wire::{FromServer, Invitation, RefusalReason, ToServer};

/// What the control thread owns. The pages read it between two turns of its loop.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) ledger: Ledger,
    pub(super) counters: Vec<Arc<WorkerCounters>>,
    pub(super) started: Instant,
    /// Names this process on its status page.
    pub(super) instance: String,
    pub(super) links: Vec<Link>,
    pub(super) draining: bool,
    pub(super) outcomes: Outcomes,
    workers: Vec<Post<WorkerMail, Waker>>,
    next_worker: usize,
    next_attempt: u64,
    backends: Arc<Addresses>,
}

/// What became of invitations.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcomes {
    pub(super) received: u64,
    pub(super) joined: u64,
    pub(super) declined: u64,
    pub(super) failed: u64,
}

/// The signal connection to one gateway.
pub(super) struct Link {
    machine: GatewayLink,
    /// The latest attempt to connect: news of an earlier one is not taken for this one's.
    attempt: u64,
    pub(super) open: Option<Open>,
    /// Orders that have not ended.
    pub(super) sessions: usize,
    /// The worker of each spare.
    pub(super) spares: HashMap<u64, usize>,
    /// TLS of data connections by worker of the gateway, for one instance of it.
    hints: HashMap<u32, Arc<ClientConfig>>,
    /// Shared by all of those.
    resumption: Resumption,
}

impl Link {
    /// Whether invitations can come.
    pub(super) fn is_up(&self) -> bool {
        self.machine.is_up()
    }
}

/// A signal connection that stands.
pub(super) struct Open {
    sender: SignalSender<FromServer>,
    pub(super) address: SocketAddr,
    pub(super) since: Instant,
}

/// What the control thread waits for.
enum News {
    Wakeup(Wakeup),
    Dialled(u64, Option<Dialled>),
    Signal(u64, SignalEvent<ToServer>),
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
        let services: Vec<String> = shared.config.services.iter().map(|s| s.name.clone()).collect();
        let capacity = u32::try_from(shared.seats.share()).unwrap_or(u32::MAX);
        let spares = u32::try_from(shared.config.max_spares).unwrap_or(u32::MAX);
        let now = Instant::now();
        let link = |name: &ServerName<'static>| Link {
            machine: GatewayLink::new(services.clone(), capacity, spares, now),
            attempt: 0,
            open: None,
            sessions: 0,
            spares: HashMap::new(),
            hints: HashMap::new(),
            resumption: gateway_resumption(name.clone()),
        };
        Self {
            ledger: Ledger::new(shared.config.max_sessions),
            links: shared.gateway_names.iter().map(link).collect(),
            counters,
            started: now,
            instance: instance_name(),
            draining: false,
            outcomes: Outcomes::default(),
            workers,
            next_worker: 0,
            next_attempt: 0,
            backends: Arc::default(),
            shared,
        }
    }

    /// Runs until every worker has ended.
    pub(super) async fn run(
        mut self,
        mails: Receiver<ControlMail>,
        mail_came: Arc<Notify>,
        threads: Vec<WorkerThread>,
        telemetry: Option<TcpListener>,
    ) -> Result<(), StartError> {
        let shared = Arc::clone(&self.shared);
        let drain_timeout = shared.config.drain_timeout;
        // Signals are taken before anybody is told that there is something to signal.
        let mut wakeups = ControlLoop::new(threads, Arc::clone(&mail_came), drain_timeout)?;
        let backends = backends::look_up(&shared.config, &Addresses::new()).await;
        self.set_backends(backends);
        let may_ask = shared.config.telemetry.allow.clone();
        let control = Rc::new(RefCell::new(self));
        if let Some(listener) = telemetry {
            let pages = Rc::new(ServerPages::new(Rc::clone(&control)));
            http::serve(listener, may_ask, pages).map_err(StartError::Kernel)?;
        }
        tokio::task::spawn_local(keep_backends_fresh(Rc::clone(&control)));
        let (dialled, mut dials) = mpsc::channel(SIGNAL_EVENTS);
        let (signals, mut signal_events) = mpsc::channel(SIGNAL_EVENTS);
        let doors = Doors { dialled, signals };
        let workers = control.borrow().counters.len();
        info!(workers, "server runs; dials its gateways");
        notify::ready("dials its gateways");
        loop {
            let due = control.borrow().next_timeout();
            let news = tokio::select! {
                wakeup = wakeups.next(due) => News::Wakeup(wakeup),
                Some((attempt, dialled)) = dials.recv() => News::Dialled(attempt, dialled),
                Some((attempt, event)) = signal_events.recv() => News::Signal(attempt, event),
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
                // Unhandled, the signal would end the process and all its sessions.
                News::Wakeup(Wakeup::Hangup) => {
                    warn!("SIGHUP ignored: a new configuration needs a restart");
                }
                News::Wakeup(Wakeup::Drain) => control.borrow_mut().drain(),
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
        self.links.iter().filter_map(|link| link.machine.next_timeout()).min()
    }

    fn time_passed(&mut self) {
        let now = Instant::now();
        for link in &mut self.links {
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
                self.links[gateway].sessions += 1;
                self.links[gateway].spares.remove(&invitation);
                self.handle(gateway, GatewayEvent::SpareEnded { id: invitation });
            }
            ControlMail::SpareEnded { gateway, invitation, decline, record } => {
                self.links[gateway].spares.remove(&invitation);
                self.handle(gateway, GatewayEvent::SpareEnded { id: invitation });
                self.ledger.connection_ended(&record, Instant::now());
                if let Some(reason) = decline {
                    self.handle(gateway, GatewayEvent::Decline { id: invitation, reason });
                }
            }
        }
    }

    fn session_over(&mut self, gateway: usize) {
        self.links[gateway].sessions -= 1;
        self.shared.seats.give_back(gateway);
    }

    fn set_backends(&mut self, backends: Arc<Addresses>) {
        if backends != self.backends {
            self.backends = backends;
            for worker in &mut self.workers {
                worker.send(WorkerMail::Backends(Arc::clone(&self.backends)));
            }
        }
    }

    fn handle(&mut self, gateway: usize, event: GatewayEvent) {
        self.links[gateway].machine.handle(event, Instant::now(), &mut fill_random);
    }

    fn decline(&mut self, gateway: usize, id: u64, reason: RefusalReason) {
        self.outcomes.declined += 1;
        self.handle(gateway, GatewayEvent::Decline { id, reason });
    }

    /// The gateway of an attempt that is still the latest.
    fn gateway_of(&self, attempt: u64) -> Option<usize> {
        self.links.iter().position(|link| link.attempt == attempt)
    }

    fn dial_ended(&mut self, attempt: u64, dialled: Option<Dialled>, doors: &Doors) {
        let Some(gateway) = self.gateway_of(attempt) else { return };
        let Some(Dialled { parts, address }) = dialled else {
            return self.handle(gateway, GatewayEvent::DialFailed);
        };
        match start_signal(parts, attempt, doors.signals.clone()) {
            Ok(sender) => {
                self.links[gateway].open = Some(Open { sender, address, since: Instant::now() });
                self.handle(gateway, GatewayEvent::Dialed);
            }
            Err(_) => self.handle(gateway, GatewayEvent::DialFailed),
        }
    }

    fn signal_event(&mut self, attempt: u64, event: SignalEvent<ToServer>) {
        let Some(gateway) = self.gateway_of(attempt) else { return };
        match event {
            SignalEvent::Message(message) => {
                let was_up = self.links[gateway].machine.is_up();
                self.handle(gateway, GatewayEvent::Message(message));
                if !was_up && self.links[gateway].machine.is_up() {
                    info!(gateway = %self.shared.gateways[gateway], "signal connection is up");
                }
            }
            SignalEvent::Closed(reason) => {
                self.forget(gateway, reason);
                self.handle(gateway, GatewayEvent::Closed);
            }
        }
    }

    fn forget(&mut self, gateway: usize, reason: CloseReason) {
        let link = &mut self.links[gateway];
        link.hints.clear();
        link.attempt = u64::MAX;
        if let Some(open) = link.open.take() {
            end_signal(&open.sender, reason);
            let name = &self.shared.gateways[gateway];
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
        for gateway in 0..self.links.len() {
            while let Some(action) = self.links[gateway].machine.poll_action() {
                match action {
                    GatewayAction::Dial => self.dial(gateway, doors),
                    GatewayAction::Send(message) => self.send(gateway, &message),
                    GatewayAction::Close(reason) => self.forget(gateway, reason),
                    GatewayAction::Invited { invitation, instance } => {
                        self.follow(gateway, invitation, &instance);
                    }
                    // A claim that is on its way is refused by the gateway, or was in time.
                    GatewayAction::Withdrawn { .. } => {}
                    GatewayAction::CloseSpare { id: invitation } => {
                        if let Some(&worker) = self.links[gateway].spares.get(&invitation) {
                            let mail = WorkerMail::CloseSpare { gateway, invitation };
                            self.workers[worker].send(mail);
                        }
                    }
                }
            }
        }
    }

    fn dial(&mut self, gateway: usize, doors: &Doors) {
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        self.links[gateway].attempt = attempt;
        let shared = Arc::clone(&self.shared);
        let door = doors.dialled.clone();
        tokio::task::spawn_local(async move {
            let host = &shared.config.gateways[gateway].address;
            let name = shared.gateway_names[gateway].clone();
            let dial = signal::dial(host, name, Arc::clone(&shared.gateway_tls));
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

    fn send(&mut self, gateway: usize, message: &FromServer) {
        let Some(open) = &self.links[gateway].open else { return };
        if open.sender.send(message).is_err() {
            self.forget(gateway, CloseReason::SignalStalled);
            self.handle(gateway, GatewayEvent::Closed);
        }
    }

    fn follow(&mut self, gateway: usize, invitation: Invitation, instance: &str) {
        // Lost since the invitation came: whom it was for is invited elsewhere.
        let Some(address) = self.links[gateway].open.as_ref().map(|open| open.address) else {
            return;
        };
        let spare_for = Duration::from_millis(invitation.spare_for_ms.into());
        if !spare_for.is_zero() {
            let purpose = Purpose::Spare { life: spare_for.min(MAX_SPARE_LIFE) };
            return self.order(gateway, address, invitation, instance, purpose);
        }
        self.outcomes.received += 1;
        let services = &self.shared.config.services;
        let service = services.iter().position(|service| service.name == invitation.service);
        let Some(service) = service else {
            return self.decline(gateway, invitation.id, RefusalReason::ServiceUnknown);
        };
        if !self.shared.seats.take(gateway) {
            return self.decline(gateway, invitation.id, RefusalReason::ServerFull);
        }
        self.links[gateway].sessions += 1;
        self.order(gateway, address, invitation, instance, Purpose::Session { service });
    }

    /// Has the next worker open a data connection.
    fn order(
        &mut self,
        gateway: usize,
        address: SocketAddr,
        invitation: Invitation,
        instance: &str,
        purpose: Purpose,
    ) {
        let worker = self.next_worker % self.workers.len();
        self.next_worker = worker + 1;
        if let Purpose::Spare { .. } = purpose {
            self.links[gateway].spares.insert(invitation.id, worker);
        }
        let now = Instant::now();
        let order = Order {
            gateway,
            address,
            tls: self.data_tls(gateway, instance, invitation.worker),
            invitation: invitation.id,
            ticket: invitation.ticket,
            purpose,
            expires: now + Duration::from_millis(u64::from(invitation.expires_in_ms)),
            received: now,
        };
        self.workers[worker].send(WorkerMail::Deliver(Box::new(order)));
    }

    /// The configuration of data connections to one worker of a gateway.
    fn data_tls(&mut self, gateway: usize, instance: &str, worker: u32) -> Arc<ClientConfig> {
        let Link { hints, resumption, .. } = &mut self.links[gateway];
        if let Some(known) = hints.get(&worker) {
            return Arc::clone(known);
        }
        let hint = Hint { instance: instance.to_owned(), worker };
        let mut config = (*self.shared.gateway_tls).clone();
        config.alpn_protocols = vec![alpn::DATA.to_vec(), hint.to_alpn()];
        config.resumption = resumption.clone();
        let config = Arc::new(config);
        if hints.len() < MAX_CACHED_HINTS {
            hints.insert(worker, Arc::clone(&config));
        }
        config
    }

    fn drain(&mut self) {
        info!("drains: no new sessions; those that live may finish");
        notify::stopping();
        self.draining = true;
        for gateway in 0..self.links.len() {
            self.handle(gateway, GatewayEvent::Drain);
        }
        for worker in &mut self.workers {
            worker.send(WorkerMail::Drain);
        }
    }

    fn take_open_links(&mut self) -> Vec<Open> {
        self.links.iter_mut().filter_map(|link| link.open.take()).collect()
    }

    fn stop(&mut self) {
        for worker in &mut self.workers {
            worker.send(WorkerMail::Stop);
        }
    }
}

async fn keep_backends_fresh(control: Rc<RefCell<Control>>) {
    let shared = Arc::clone(&control.borrow().shared);
    loop {
        tokio::time::sleep(RESOLVE_INTERVAL).await;
        let before = Arc::clone(&control.borrow().backends);
        let fresh = backends::look_up(&shared.config, &before).await;
        control.borrow_mut().set_backends(fresh);
    }
}
