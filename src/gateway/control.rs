//! The control thread of a gateway: signal connections, the dispatcher, the ledger, signals, pages.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use super::lists::BroughtList;
use super::mail::{ControlMail, Signal, WorkerMail};
use super::operator::Kept;
use super::reload::GatewayReader;
use super::sockets::Front;
use super::stage::{Kind, Proven};
use super::upgrade::{UpgradeError, UpgradeNews, Upgrades};
use super::{Shared, dispatcher_limits};
use crate::control::{Action, Dispatcher, Event, LinkId, ServiceId};
use crate::engine::{
    ControlLoop, Post, SignalEvent, SignalParts, SignalSender, StartError, Wakeup, WorkerThread,
    end_all_signals, end_signal, fill_random, start_signal,
};
use crate::limits::{KEPT_MAIL_RETRY, MAILS_PER_TURN, SIGNAL_EVENTS};
use crate::operator::{Sweeps, Tally};
use crate::relay::{CloseReason, Party};
use crate::reload::{self, History, Reloads};
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::ledger::Ledger;
use crate::telemetry::notify;
use crate::telemetry::record::ConnectionRecord;
use crate::uring::Waker;
use crate::wire::{CrlOutcome, FromServer, ToServer, to_server};

/// What the control thread owns. The pages read it between two turns of its loop.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) dispatcher: Dispatcher,
    pub(super) ledger: Ledger,
    pub(super) counters: Vec<Arc<WorkerCounters>>,
    pub(super) front: Front,
    pub(super) started: Instant,
    pub(super) links: HashMap<LinkId, Link>,
    pub(super) outcomes: Outcomes,
    pub(super) history: History,
    /// Lists that servers brought, by what became of them, as in [`CrlOutcome::FINAL`].
    pub(super) lists_brought: [u64; CrlOutcome::FINAL.len()],
    /// Whole lists that are to be judged.
    pub(super) lists: Vec<BroughtList>,
    pub(super) workers: Vec<Post<WorkerMail, Waker>>,
    /// Who is kept out.
    pub(super) kept: Kept,
    pub(super) sweeps: Sweeps,
    /// What operators asked for.
    pub(super) tally: Rc<RefCell<Tally>>,
    /// Notified where an operator asks for a drain.
    pub(super) drain_asked: Rc<Notify>,
    /// Wakes the loop of this thread.
    pub(super) mail_came: Arc<Notify>,
    pub(super) upgrades: Upgrades,
    next_link: u64,
}

/// A signal connection as the control thread holds it.
pub(super) struct Link {
    sender: SignalSender<ToServer>,
    pub(super) peer: SocketAddr,
    pub(super) proven: Proven,
    /// What it proved that by.
    pub(super) chain: Vec<CertificateDer<'static>>,
    accepted: Instant,
}

/// What the control thread waits for.
enum News {
    Wakeup(Wakeup),
    Link(u64, SignalEvent<FromServer>),
    Reload(reload::Outcome<GatewayReader>),
    Upgrade(UpgradeNews),
}

/// What became of invitations.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcomes {
    pub(super) sent: u64,
    pub(super) claimed: u64,
    pub(super) withdrawn: u64,
    pub(super) refused: u64,
}

impl Control {
    pub(super) fn new(
        shared: Arc<Shared>,
        workers: Vec<Post<WorkerMail, Waker>>,
        counters: Vec<Arc<WorkerCounters>>,
        front: Front,
        kept: Kept,
        mail_came: Arc<Notify>,
        upgrades: Upgrades,
    ) -> Self {
        let limits = dispatcher_limits(&shared.config);
        let services = shared.offers();
        Self {
            dispatcher: Dispatcher::new(limits, services, shared.instance.clone()),
            ledger: Ledger::new(shared.config.limits.max_connections),
            counters,
            front,
            started: Instant::now(),
            links: HashMap::new(),
            outcomes: Outcomes::default(),
            history: History::new(),
            lists_brought: [0; CrlOutcome::FINAL.len()],
            lists: Vec::new(),
            workers,
            kept,
            sweeps: Sweeps::default(),
            tally: Rc::default(),
            drain_asked: Rc::default(),
            mail_came,
            upgrades,
            next_link: 0,
            shared,
        }
    }

    /// Runs until every worker has ended.
    pub(super) async fn run(
        self,
        mails: Receiver<ControlMail>,
        threads: Vec<WorkerThread>,
        mut reloads: Reloads<GatewayReader>,
        mut upgrade_news: mpsc::Receiver<UpgradeNews>,
    ) -> Result<Result<(), UpgradeError>, StartError> {
        let drain_timeout = self.shared.config.limits.drain_timeout;
        let (mail_came, drain_asked) = (Arc::clone(&self.mail_came), Rc::clone(&self.drain_asked));
        let control = Rc::new(RefCell::new(self));
        let (to_control, mut link_events) = mpsc::channel(SIGNAL_EVENTS);
        // Signals are taken before anybody is told that there is something to signal.
        let mut wakeups = ControlLoop::new(threads, Arc::clone(&mail_came), drain_timeout)?;
        wakeups.drain_on(drain_asked);
        if !control.borrow().upgrades.is_taking() {
            Self::begin_serving(&control)?;
        }
        loop {
            let due = control.borrow().next_timeout();
            let news = tokio::select! {
                wakeup = wakeups.next(due) => News::Wakeup(wakeup),
                Some((link, event)) = link_events.recv() => News::Link(link, event),
                outcome = reloads.next() => News::Reload(outcome),
                Some(news) = upgrade_news.recv() => News::Upgrade(news),
            };
            // Before anything else: quiet mail is older than what woke us.
            if control.borrow_mut().read_mails(&mails, &to_control) {
                mail_came.notify_one();
            }
            match news {
                News::Link(link, event) => control.borrow_mut().link_event(link, event),
                News::Upgrade(news) => control.borrow_mut().upgrade_news(news),
                News::Wakeup(Wakeup::Mail) => {}
                News::Wakeup(Wakeup::Due) => control.borrow_mut().time_passed(),
                News::Wakeup(Wakeup::Second) => {
                    control.borrow_mut().ledger.tick(Instant::now());
                    control.borrow_mut().expire_blocks();
                }
                News::Wakeup(Wakeup::Hangup) => reloads.request(),
                News::Reload(outcome) => {
                    control.borrow_mut().reload_ended(outcome);
                    let limits = control.borrow().shared.config.limits.clone();
                    wakeups.set_drain_timeout(limits.drain_timeout);
                }
                News::Wakeup(Wakeup::Drain) => {
                    reloads.end();
                    control.borrow_mut().drain();
                }
                News::Wakeup(Wakeup::Stop) => control.borrow_mut().stop(),
                News::Wakeup(Wakeup::WorkersEnded(result)) => {
                    control.borrow_mut().read_last_mails(&mails, &to_control);
                    let links = std::mem::take(&mut control.borrow_mut().links);
                    let senders = links.values().map(|link| &link.sender);
                    end_all_signals(senders, &mut link_events).await;
                    info!("stopped");
                    return result.map(Ok);
                }
            }
            if let Some(why) = Self::follow_upgrade(&control, &mut reloads, &mut wakeups)? {
                return Ok(Err(why));
            }
            Self::act_on_all(&control, &reloads).await;
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let upgrade = self.upgrades.next_timeout();
        self.dispatcher.next_timeout().into_iter().chain(upgrade).min()
    }

    /// Carries out what was decided, and what follows from it.
    async fn act_on_all(control: &Rc<RefCell<Self>>, reloads: &Reloads<GatewayReader>) {
        loop {
            while !Self::act(control) {
                // A worker's mailbox is full: its invitations must not overtake its mail.
                tokio::time::sleep(KEPT_MAIL_RETRY).await;
            }
            if control.borrow_mut().have_lists_judged(reloads) {
                return;
            }
        }
    }

    /// Returns whether there may be more.
    fn read_mails(
        &mut self,
        mails: &Receiver<ControlMail>,
        events: &mpsc::Sender<(u64, SignalEvent<FromServer>)>,
    ) -> bool {
        for _ in 0..MAILS_PER_TURN {
            match mails.try_recv() {
                Ok(mail) => self.read_mail(mail, events),
                Err(_) => return false,
            }
        }
        true
    }

    fn read_mail(
        &mut self,
        mail: ControlMail,
        events: &mpsc::Sender<(u64, SignalEvent<FromServer>)>,
    ) {
        let now = Instant::now();
        match mail {
            ControlMail::Admit { agent, request } => {
                self.handle(Event::Admit { agent, request }, now);
            }
            ControlMail::Leave { agent } => self.handle(Event::Leave { agent }, now),
            ControlMail::Claimed { agent, invitation, request } => {
                self.outcomes.claimed += 1;
                self.handle(Event::Claimed { agent, invitation, request }, now);
            }
            ControlMail::Taken { agent, invitation, request } => {
                self.handle(Event::Claimed { agent, invitation, request }, now);
            }
            ControlMail::SpareFailed { agent, invitation, failure } => {
                self.handle(Event::SpareFailed { agent, invitation, failure }, now);
            }
            ControlMail::SpareReady { invitation } => {
                self.handle(Event::SpareReady { invitation }, now);
            }
            ControlMail::SpareEnded { invitation, in_time } => {
                self.handle(Event::SpareEnded { invitation, in_time }, now);
            }
            ControlMail::Joined { session, live } => self.ledger.session_joined(session, live),
            ControlMail::SessionEnded { invitation, record } => {
                self.ledger.session_ended(&record);
                self.handle(Event::Released { invitation }, now);
            }
            ControlMail::Released { invitation } => {
                self.handle(Event::Released { invitation }, now);
            }
            ControlMail::ConnectionEnded(record) => self.ledger.connection_ended(&record, now),
            ControlMail::TurnedAway { record, count } => {
                self.ledger.turned_away(&record, count, now);
            }
            ControlMail::Swept { id, swept } => self.sweeps.part_done(id, swept),
            ControlMail::Pass(transfer) => self.pass(transfer),
            ControlMail::Settled => self.worker_settled(),
            ControlMail::Signal(signal) => self.open_link(*signal, now, events.clone()),
        }
    }

    fn open_link(
        &mut self,
        signal: Signal,
        now: Instant,
        events: mpsc::Sender<(u64, SignalEvent<FromServer>)>,
    ) {
        let Signal { socket, peer, tls, pending, proven, accepted } = signal;
        let chain = tls.peer_chain().to_vec();
        // A reload may have come since its worker let it in.
        let allowed = match self.verdict(&proven, &chain) {
            Ok(allowed) => allowed,
            Err(reason) => return self.record_link_end(peer, &proven, accepted, reason),
        };
        let link = self.next_link;
        self.next_link += 1;
        let parts = SignalParts { socket, tls, pending, party: Party::Server };
        let server = proven.server.to_string();
        match start_signal(parts, self.shared.platform.event_loop, link, events) {
            Ok(sender) => {
                info!(%server, %peer, "signal connection opened");
                let link = LinkId(link);
                self.links.insert(link, Link { sender, peer, proven, chain, accepted });
                self.handle(Event::LinkOpened { link, server, allowed }, now);
            }
            Err(error) => warn!(%server, %peer, %error, "signal connection lost"),
        }
    }

    /// What a server may serve that proved this, or why its signal connection ends.
    pub(super) fn verdict(
        &self,
        proven: &Proven,
        chain: &[CertificateDer<'_>],
    ) -> Result<Vec<ServiceId>, CloseReason> {
        self.shared.prove(proven, &Kind::Signal, chain).map(|allowed| allowed.services.clone())
    }

    fn link_event(&mut self, link: u64, event: SignalEvent<FromServer>) {
        let link = LinkId(link);
        // After we closed it, its last words mean nothing any more.
        if !self.links.contains_key(&link) {
            return;
        }
        let now = Instant::now();
        match event {
            SignalEvent::Message(message) => self.handle(Event::LinkMessage { link, message }, now),
            SignalEvent::Closed(reason) => {
                self.forget_link(link, reason);
                self.handle(Event::LinkClosed { link }, now);
            }
        }
    }

    fn forget_link(&mut self, link: LinkId, reason: CloseReason) {
        let Some(Link { sender, peer, proven, accepted, .. }) = self.links.remove(&link) else {
            return;
        };
        end_signal(&sender, reason);
        let server = &proven.server;
        if reason == CloseReason::Finished {
            info!(%server, %peer, %reason, "signal connection closed");
        } else {
            warn!(%server, %peer, %reason, "signal connection closed");
        }
        self.record_link_end(peer, &proven, accepted, reason);
    }

    fn record_link_end(
        &mut self,
        peer: SocketAddr,
        proven: &Proven,
        accepted: Instant,
        reason: CloseReason,
    ) {
        let now = Instant::now();
        let record = ConnectionRecord {
            peer,
            identity: Some((Party::Server, Arc::clone(&proven.server))),
            place: Arc::clone(&self.shared.listeners[proven.listener]),
            service: None,
            duration: now - accepted,
            reason,
        };
        self.ledger.connection_ended(&record, now);
    }

    pub(super) fn handle(&mut self, event: Event, now: Instant) {
        self.dispatcher.handle(event, now, &mut fill_random);
    }

    fn time_passed(&mut self) {
        self.dispatcher.handle_timeout(Instant::now(), &mut fill_random);
        self.upgrade_time_passed();
    }

    fn drain(&mut self) {
        info!("drains: no new sessions; those that live may finish");
        notify::stopping();
        self.drain_upgrade();
        self.handle(Event::Drain, Instant::now());
        for worker in &mut self.workers {
            worker.send(WorkerMail::Drain);
        }
    }

    /// The workers' last mails are the records of what they ended.
    fn read_last_mails(
        &mut self,
        mails: &Receiver<ControlMail>,
        events: &mpsc::Sender<(u64, SignalEvent<FromServer>)>,
    ) {
        while self.read_mails(mails, events) {}
    }

    fn stop(&mut self) {
        for worker in &mut self.workers {
            worker.send(WorkerMail::Stop);
        }
    }

    /// Carries out what the dispatcher decided. False where a mailbox is full; to be called again.
    fn act(control: &Rc<RefCell<Self>>) -> bool {
        let mut this = control.borrow_mut();
        loop {
            // Not `all`: every worker's mail is to be tried.
            let full = this.workers.iter_mut().filter_map(|w| (!w.flush()).then_some(())).count();
            if full > 0 {
                return false;
            }
            match this.dispatcher.poll_action() {
                None => return true,
                Some(action) => this.carry_out(action),
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Send { link, message } => self.send(link, &message),
            Action::CloseLink { link, reason } => self.forget_link(link, reason),
            Action::Expect { agent, invitation, ticket, server } => {
                let mail = WorkerMail::Expect {
                    agent: agent.connection,
                    invitation,
                    ticket,
                    server: server.into(),
                };
                self.workers[agent.worker as usize].send(mail);
            }
            Action::ExpectSpare { worker, invitation, ticket, server, life } => {
                let server = server.into();
                let mail = WorkerMail::ExpectSpare { invitation, ticket, server, life };
                self.workers[worker as usize].send(mail);
            }
            Action::UseSpare { agent, invitation } => {
                let mail = WorkerMail::UseSpare { agent: agent.connection, invitation };
                self.workers[agent.worker as usize].send(mail);
            }
            Action::CloseSpare { worker, invitation } => {
                self.workers[worker as usize].send(WorkerMail::CloseSpare { invitation });
            }
            Action::JudgeCrl { link, transfer, list } => {
                if let Some(open) = self.links.get(&link) {
                    let server = Arc::clone(&open.proven.server);
                    self.lists.push(BroughtList { link, transfer, server, list });
                }
            }
            Action::Refuse { agent, reason } => {
                self.outcomes.refused += 1;
                let mail = WorkerMail::Refuse { agent: agent.connection, reason };
                self.workers[agent.worker as usize].send(mail);
            }
        }
    }

    fn send(&mut self, link: LinkId, message: &ToServer) {
        match &message.message {
            Some(to_server::Message::Invitation(invitation)) if invitation.spare_for_ms == 0 => {
                self.outcomes.sent += 1;
            }
            Some(to_server::Message::Withdraw(_)) => self.outcomes.withdrawn += 1,
            _ => {}
        }
        let Some(open) = self.links.get(&link) else { return };
        if open.sender.send(message).is_err() {
            self.forget_link(link, CloseReason::SignalStalled);
            self.handle(Event::LinkClosed { link }, Instant::now());
        }
    }
}
