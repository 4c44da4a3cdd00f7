use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::core::{Connection, Core, Due, Gone, Timer};
use super::event_loop::Poller;
use super::listener;
use super::platform::Platform;
use super::session::Session;
use crate::limits::{
    ACCEPT_RETRY, ACCEPTS_PER_TURN, CONNECTIONS_PER_TURN, HANDSHAKES_PER_TURN, MAILS_PER_TURN,
    REFUSALS_PER_TURN, SESSIONS_PER_TURN,
};
use crate::relay::{CloseReason, RelayLimits};
use crate::telemetry::counters::WorkerCounters;
use crate::uring::{Event, RingError, Token, Waker};

/// What the worker of one role does with its connections. Called by the worker's loop only, and
/// never blocks.
pub trait Role: Sized {
    /// Where a connection is in its life before it is joined.
    type Stage;
    /// What is remembered of a session.
    type Record;
    /// Mail from other threads.
    type Mail;

    /// A new connection. Returns whether it was taken in; dropping its socket closes it.
    fn accepted(
        &mut self,
        core: &mut CoreOf<Self>,
        listener: usize,
        socket: TcpStream,
        peer: SocketAddr,
    ) -> bool;
    /// Nothing can be accepted, for want of descriptors or memory. Returns whether some will be free
    /// at once.
    fn accept_failed(&mut self, core: &mut CoreOf<Self>) -> bool;
    /// Something happened on a connection in one of the role's stages.
    fn ready(&mut self, core: &mut CoreOf<Self>, token: Token);
    /// The deadline of a connection has passed.
    fn timed_out(&mut self, core: &mut CoreOf<Self>, token: Token);
    /// A connection that the role gave to [`Core::hand_over`], free of the ring.
    fn handed_over(
        &mut self,
        core: &mut CoreOf<Self>,
        connection: Connection<Self::Stage>,
        stage: Self::Stage,
    );
    /// A connection to this peer is closed, and was not handed over.
    fn closed(&mut self, peer: SocketAddr);
    /// A session is over; its legs are being closed.
    fn ended(
        &mut self,
        core: &mut CoreOf<Self>,
        session: Session<Self::Record>,
        reason: CloseReason,
    );
    /// Mail.
    fn mail(&mut self, core: &mut CoreOf<Self>, mail: Self::Mail);
    /// The end of a turn: mail that is kept goes out. Returns false once the worker may stop.
    fn turn_ended(&mut self, core: &mut CoreOf<Self>) -> bool;
    /// When mail that is kept, or not announced, is to be looked after.
    fn mail_due(&self, now: Instant) -> Option<Instant>;
}

/// Settings of a worker that do not depend on its role.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// What it runs on.
    pub platform: Platform,
    /// Connections that this worker holds at once.
    pub max_connections: usize,
    /// TCP keepalive.
    pub keepalive: Duration,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout: Duration,
    /// Bounds on quiet sessions.
    pub relay: RelayLimits,
}

/// The core of a role's worker.
pub type CoreOf<R> = Core<<R as Role>::Stage, <R as Role>::Record>;

/// Tokens of listeners are above those of connections.
const LISTENERS: u32 = 0xf000_0000;

/// A data-plane thread: what it waits in, its connections, one role.
pub struct Worker<R: Role> {
    core: CoreOf<R>,
    role: R,
    mails: Receiver<R::Mail>,
    waker: Arc<Waker>,
    listeners: Vec<Option<Listening>>,
    accept_after: Option<Instant>,
    events: Vec<Event>,
}

struct Listening {
    socket: TcpListener,
    ready: bool,
    closing: bool,
}

impl<R: Role> Worker<R> {
    /// Must be called on the thread that runs it. `listeners` are this worker's own sockets; the
    /// role knows each by its index.
    pub fn new(
        role: R,
        settings: WorkerSettings,
        listeners: Vec<TcpListener>,
        mails: Receiver<R::Mail>,
        waker: Arc<Waker>,
        counters: Arc<WorkerCounters>,
    ) -> Result<Self, RingError> {
        let poller = Poller::new(settings.platform.event_loop, Arc::clone(&waker))?;
        let mut worker = Self {
            core: Core::new(poller, settings, counters),
            role,
            mails,
            waker,
            listeners: Vec::new(),
            accept_after: None,
            events: Vec::new(),
        };
        worker.listen(listeners);
        Ok(worker)
    }

    fn listen(&mut self, listeners: Vec<TcpListener>) {
        for socket in listeners {
            let index = u32::try_from(self.listeners.len()).expect("listeners are few");
            let token = Token { index: LISTENERS + index, generation: 0 };
            self.core.poller().watch(socket.as_fd(), token);
            self.listeners.push(Some(Listening { socket, ready: false, closing: false }));
        }
        self.tune_listeners();
    }

    /// Runs until the role says that it may stop. An error is the kernel's refusal to go on.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            self.core.now = Instant::now();
            self.core.counters.turns.add(1);
            let more_mail = self.read_mails();
            let listeners = self.core.take_new_listeners();
            if !listeners.is_empty() {
                self.listen(listeners);
            }
            if self.core.take_settings_changed() {
                self.tune_listeners();
            }
            self.accept();
            // A claim must not overtake the mail that announces it.
            if !more_mail {
                self.serve_connections();
            }
            self.serve_sessions();
            self.fire_timers();
            if !self.role.turn_ended(&mut self.core) {
                return Ok(());
            }
            self.sleep(more_mail)?;
        }
    }

    fn read_mails(&mut self) -> bool {
        for _ in 0..MAILS_PER_TURN {
            match self.mails.try_recv() {
                Ok(mail) => self.role.mail(&mut self.core, mail),
                Err(_) => return false,
            }
        }
        true
    }

    /// What is accepted inherits the options: six calls less for each connection.
    fn tune_listeners(&self) {
        let WorkerSettings { keepalive, user_timeout, .. } = self.core.settings;
        for listening in self.listeners.iter().flatten() {
            listener::tune(&listening.socket, keepalive, user_timeout);
        }
    }

    fn accept(&mut self) {
        if !self.core.is_accepting() {
            return self.close_listeners();
        }
        if self.accept_after.is_some_and(|after| after > self.core.now) {
            return;
        }
        self.accept_after = None;
        let Self { core, role, listeners, accept_after, .. } = self;
        for (index, listening) in listeners.iter_mut().enumerate() {
            let Some(listening) = listening else { continue };
            let (mut taken_in, mut refused) = (0, 0);
            while listening.ready && taken_in < ACCEPTS_PER_TURN && refused < REFUSALS_PER_TURN {
                match listener::accept(&listening.socket) {
                    Ok((socket, peer)) => {
                        core.counters.connections_accepted.add(1);
                        let is_in = role.accepted(core, index, socket, peer);
                        *(if is_in { &mut taken_in } else { &mut refused }) += 1;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listening.ready = false;
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(_) => {
                        core.counters.accepts_failed.add(1);
                        if !role.accept_failed(core) {
                            // Trying again at once would only spin.
                            *accept_after = Some(core.now + ACCEPT_RETRY);
                        }
                        return;
                    }
                }
            }
        }
    }

    /// Asks the kernel to let go of the listeners; each is closed with its last event.
    fn close_listeners(&mut self) {
        for (index, listening) in (0u32..).zip(&mut self.listeners) {
            if let Some(listening) = listening
                && !listening.closing
            {
                listening.closing = true;
                let token = Token { index: LISTENERS + index, generation: 0 };
                self.core.poller().unwatch(listening.socket.as_fd(), token);
            }
        }
    }

    fn serve_connections(&mut self) {
        for _ in 0..self.core.ready_cheap_len().min(CONNECTIONS_PER_TURN) {
            let token = self.core.next_cheap();
            self.serve_connection(token);
        }
        for _ in 0..HANDSHAKES_PER_TURN {
            let token = self.core.next_handshake();
            self.serve_connection(token);
        }
    }

    fn serve_connection(&mut self, token: Option<Token>) {
        let Some(token) = token else { return };
        // Those before this one have taken their time.
        self.core.now = Instant::now();
        if let Due::Role = self.core.serve_connection(token) {
            self.role.ready(&mut self.core, token);
        }
    }

    /// Sessions that say little, then one that moves much. Those that become ready meanwhile wait until
    /// the ring has been asked for news.
    fn serve_sessions(&mut self) {
        for _ in 0..self.core.ready_sessions_len().min(SESSIONS_PER_TURN) {
            let token = self.core.next_ready_session();
            self.serve_session(token);
        }
        let token = self.core.next_bulk_session();
        self.serve_session(token);
    }

    fn serve_session(&mut self, token: Option<Token>) {
        let Some(token) = token else { return };
        if let Some(ending) = self.core.serve_session(token) {
            self.end(token, ending.reason, ending.reset);
        }
    }

    fn fire_timers(&mut self) {
        while let Some(timer) = self.core.pop_timer() {
            match timer {
                Timer::Connection(bits) => {
                    let token = Token::from_bits(bits);
                    if let Due::Role = self.core.connection_due(token) {
                        self.role.timed_out(&mut self.core, token);
                    }
                }
                Timer::Push(bits) => self.core.wake(Token::from_bits(bits)),
                Timer::Resume(bits) => self.core.resume_session(Token::from_bits(bits)),
                Timer::Session(bits) => {
                    let token = Token::from_bits(bits);
                    if let Some(ending) = self.core.session_due(token) {
                        self.end(token, ending.reason, ending.reset);
                    }
                }
            }
        }
    }

    fn end(&mut self, token: Token, reason: CloseReason, reset: bool) {
        if let Some(session) = self.core.part(token, reset) {
            self.role.ended(&mut self.core, session, reason);
        }
    }

    fn sleep(&mut self, more_mail: bool) -> io::Result<()> {
        let accepting =
            self.accept_after.is_none() && self.listeners.iter().flatten().any(|l| l.ready);
        let timeout = if more_mail || accepting || self.core.has_work() {
            Some(Duration::ZERO)
        } else {
            self.patience()
        };
        if timeout != Some(Duration::ZERO) {
            self.waker.fall_asleep();
        }
        // A mail that came before we fell asleep has woken nobody: look once more.
        let timeout = match self.mails.try_recv() {
            Ok(mail) => {
                self.role.mail(&mut self.core, mail);
                Some(Duration::ZERO)
            }
            Err(_) => timeout,
        };
        let mut events = std::mem::take(&mut self.events);
        self.core.poller().wait(timeout, &mut events)?;
        self.waker.stand_up();
        for event in events.drain(..) {
            self.note(event);
        }
        self.events = events;
        Ok(())
    }

    /// How long nothing is to be done, unless something happens.
    fn patience(&self) -> Option<Duration> {
        let mail = self.role.mail_due(self.core.now);
        let next = [self.core.next_timer(), self.accept_after, mail].into_iter().flatten().min()?;
        // A zero would be the busy case: the loop reads the clock again and finds the timer due.
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn note(&mut self, event: Event) {
        if event.token.index >= LISTENERS {
            let index = (event.token.index - LISTENERS) as usize;
            let Some(place) = self.listeners.get_mut(index) else { return };
            let Some(listening) = place else { return };
            listening.ready = true;
            match (event.ended, listening.closing) {
                (false, _) => {}
                (true, false) => self.core.poller().watch(listening.socket.as_fd(), event.token),
                (true, true) => *place = None,
            }
        } else {
            match self.core.note(event) {
                None => {}
                Some(Gone::Closed(peer)) => self.role.closed(peer),
                Some(Gone::HandedOver(connection, stage)) => {
                    self.role.handed_over(&mut self.core, connection, stage);
                }
            }
        }
    }
}
