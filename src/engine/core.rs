use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::event_loop::Poller;
use super::leg::Leg;
use super::listener;
use super::received::MessageError;
use super::scratch::Scratch;
use super::session::Session;
use super::slots::Slots;
use super::timers::Timers;
use super::worker::WorkerSettings;
use crate::limits::{LINGER, MAX_ANSWERS_LEN, MAX_LINGER_LEN};
use crate::telemetry::counters::WorkerCounters;
use crate::uring::{Event, Token};
use crate::wire::{FrameDecoder, Message};

mod growth;
mod ready;
mod sessions;
#[cfg(test)]
mod testing;

pub(super) use growth::Growth;
pub use ready::Urgency;

/// What a worker owns, whatever its role: what it waits in, connections, sessions, timers, buffers.
/// `S` is the role's stage of a connection, `R` its record of a session.
pub struct Core<S, R> {
    /// The time of this turn of the loop.
    pub now: Instant,
    /// Counted here, read by the control thread.
    pub counters: Arc<WorkerCounters>,
    /// As given.
    pub settings: WorkerSettings,
    /// Shared buffers.
    pub scratch: Scratch,
    poller: Poller,
    connections: Slots<Connection<S>>,
    sessions: Slots<Session<R>>,
    timers: Timers<Timer>,
    ready: ready::Ready,
    ready_sessions: VecDeque<Token>,
    /// Ready sessions whose last turn moved much: they wait for those that say little.
    bulk: VecDeque<Token>,
    /// Sessions that are not cold, those that became hot first at the front.
    hot: VecDeque<Token>,
    /// Sessions whose receive buffers may grow, the longest at the front.
    growing: VecDeque<Token>,
    accepting: bool,
    /// To be listened on from now on.
    new_listeners: Vec<TcpListener>,
    settings_changed: bool,
}

/// One TCP connection of a worker.
pub struct Connection<S> {
    /// Its socket.
    pub leg: Leg,
    /// When it was accepted or dialled.
    pub opened: Instant,
    /// The address at its other end.
    pub peer: SocketAddr,
    life: Life<S>,
    urgency: Urgency,
    deadline: Option<Instant>,
    queued: bool,
}

/// The life of a connection, from its first watch to the last event of that watch.
enum Life<S> {
    /// In the hands of its role.
    Role(S),
    /// Between two stages, while the role decides on the next.
    Deciding,
    /// One leg of this session.
    Relaying(Token),
    /// A leg of a session that has finished: what waits goes out.
    Finishing,
    /// Was told its last words: they go out, then the peer's end is awaited, for a while.
    Lingering { drained: usize },
    /// The kernel is asked to let go of the socket; it is closed or handed over after that.
    Releasing(Option<S>),
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Connection(u64),
    Session(u64),
    /// What the kernel has sealed for this connection may have been sent.
    Push(u64),
    /// A session that was held back goes on.
    Resume(u64),
}

/// A connection of which the kernel has let go.
pub(super) enum Gone<S> {
    /// It is closed; its peer had this address.
    Closed(SocketAddr),
    /// It goes on elsewhere.
    HandedOver(Connection<S>, S),
}

/// What is to be done about a connection that became ready, or whose time is over.
pub(super) enum Due {
    /// Its role goes on with it.
    Role,
    Done,
}

impl<S, R> Core<S, R> {
    pub(super) fn new(
        poller: Poller,
        settings: WorkerSettings,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        Self {
            now: Instant::now(),
            counters,
            settings,
            scratch: Scratch::default(),
            poller,
            connections: Slots::default(),
            sessions: Slots::default(),
            timers: Timers::default(),
            ready: ready::Ready::default(),
            ready_sessions: VecDeque::new(),
            bulk: VecDeque::new(),
            hot: VecDeque::new(),
            growing: VecDeque::new(),
            accepting: true,
            new_listeners: Vec::new(),
            settings_changed: false,
        }
    }

    /// Other settings, for connections and sessions that begin from now on.
    pub fn set_settings(&mut self, settings: WorkerSettings) {
        self.settings = settings;
        self.settings_changed = true;
    }

    /// Whether [`Core::set_settings`] was called since the last time.
    pub(super) fn take_settings_changed(&mut self) -> bool {
        std::mem::take(&mut self.settings_changed)
    }

    /// Connections of all stages.
    pub fn connections_len(&self) -> usize {
        self.connections.len()
    }

    /// Every connection of any stage.
    pub fn connection_tokens(&self) -> Vec<Token> {
        self.connections.tokens()
    }

    /// Listens on these as well. The role knows each by its index, behind those that it has.
    pub fn listen(&mut self, listeners: Vec<TcpListener>) {
        self.new_listeners.extend(listeners);
    }

    pub(super) fn take_new_listeners(&mut self) -> Vec<TcpListener> {
        std::mem::take(&mut self.new_listeners)
    }

    /// Has the listeners closed: whoever dials from now on is refused by the kernel.
    pub fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    pub(super) fn is_accepting(&self) -> bool {
        self.accepting
    }

    /// Takes in a connection that was dialled.
    pub fn adopt(&mut self, socket: TcpStream, peer: SocketAddr, stage: S) -> Token {
        listener::tune(&socket, self.settings.keepalive, self.settings.user_timeout);
        self.adopt_accepted(socket, peer, stage)
    }

    /// Takes in a connection of a listener, which has the listener's options. It is looked at in this
    /// turn already, since its first bytes often come with it.
    pub fn adopt_accepted(&mut self, socket: TcpStream, peer: SocketAddr, stage: S) -> Token {
        let connection = Connection {
            leg: Leg::plain(socket),
            opened: self.now,
            peer,
            life: Life::Role(stage),
            urgency: Urgency::Cheap,
            deadline: None,
            queued: false,
        };
        let token = self.connections.insert(connection);
        if let Some(connection) = self.connections.get_mut(token) {
            self.poller.watch(connection.leg.as_fd(), token);
        }
        self.counters.connections_open.set(self.connections.len() as u64);
        token
    }

    /// Has the kernel find out within 10 s that the peer of an idle connection is gone.
    pub fn watch_closely(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token) {
            listener::watch_closely(connection.leg.socket());
        }
    }

    /// Bounds of a session again, after [`Core::watch_closely`].
    pub fn watch_gently(&mut self, token: Token) {
        let WorkerSettings { keepalive, user_timeout, .. } = self.settings;
        if let Some(connection) = self.connections.get_mut(token) {
            listener::tune(connection.leg.socket(), keepalive, user_timeout);
        }
    }

    /// The connection, while it is there.
    pub fn connection(&mut self, token: Token) -> Option<&mut Connection<S>> {
        self.connections.get_mut(token)
    }

    /// The connection and the worker's buffers.
    pub fn with_scratch(&mut self, token: Token) -> Option<(&mut Connection<S>, &mut Scratch)> {
        Some((self.connections.get_mut(token)?, &mut self.scratch))
    }

    /// The stage of a connection that is in the hands of its role.
    pub fn stage(&mut self, token: Token) -> Option<&mut S> {
        match &mut self.connections.get_mut(token)?.life {
            Life::Role(stage) => Some(stage),
            _ => None,
        }
    }

    /// Takes the stage out, to put the next one in with [`Core::enter`].
    pub fn take_stage(&mut self, token: Token) -> Option<S> {
        let life = &mut self.connections.get_mut(token)?.life;
        match std::mem::replace(life, Life::Deciding) {
            Life::Role(stage) => Some(stage),
            other => {
                *life = other;
                None
            }
        }
    }

    /// Receives a message of a connection that is in the hands of its role, which is called again where
    /// there is more than one turn allows. `None` where the connection is gone.
    pub fn receive_message<M: Message>(
        &mut self,
        token: Token,
        decoder: &mut FrameDecoder,
    ) -> Option<Result<Option<M>, MessageError>> {
        let (connection, scratch) = self.with_scratch(token)?;
        let message = connection.leg.receive_message(decoder, scratch);
        let answers = connection.leg.outbox_len();
        if matches!(message, Ok(None)) && connection.leg.has_input() && answers <= MAX_ANSWERS_LEN {
            self.requeue(token);
        }
        Some(message)
    }

    /// Puts a connection into its next stage.
    pub fn enter(&mut self, token: Token, stage: S) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.life = Life::Role(stage);
        }
    }

    /// Calls the role when this time is over, unless the deadline was moved by then.
    pub fn set_deadline(&mut self, token: Token, deadline: Option<Instant>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let before = std::mem::replace(&mut connection.deadline, deadline);
        self.timers.change(Timer::Connection(token.to_bits()), before, deadline);
    }

    /// Has the role look at a connection again, soon.
    pub fn requeue(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token)
            && !connection.queued
        {
            connection.queued = true;
            self.ready.push(token, connection.urgency);
        }
    }

    /// How the connection waits, from the next time that it becomes ready.
    pub fn set_urgency(&mut self, token: Token, urgency: Urgency) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.urgency = urgency;
        }
    }

    /// Whether it is the connection that waits for us, and not the other way round.
    pub fn is_queued(&mut self, token: Token) -> bool {
        self.connections.get_mut(token).is_some_and(|connection| connection.queued)
    }

    /// Closes a connection with a reset.
    pub fn reset(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.leg.reset_on_close();
        }
        self.release(token, None);
    }

    /// Closes once all that we had to say has gone to the kernel, which delivers it: both sides have
    /// ended, and a peer that reads slowly loses nothing.
    fn finish(&mut self, token: Token) {
        let until = self.now + self.settings.user_timeout;
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.life = Life::Finishing;
        connection.urgency = Urgency::Cheap;
        self.set_deadline(token, Some(until));
        self.requeue(token);
    }

    /// Ends our direction, and closes once the peer has heard it or [`LINGER`] has passed. Closing
    /// at once would turn our last bytes into a reset wherever the peer's are still unread.
    pub fn linger(&mut self, token: Token) {
        let until = self.now + LINGER;
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.leg.end_writing().is_err() {
            return self.reset(token);
        }
        connection.life = Life::Lingering { drained: 0 };
        connection.urgency = Urgency::Cheap;
        self.set_deadline(token, Some(until));
        self.requeue(token);
    }

    /// Lets the kernel forget a connection; its stage and leg then come to the role's `handed_over`.
    pub fn hand_over(&mut self, token: Token, stage: S) {
        self.release(token, Some(stage));
    }

    fn release(&mut self, token: Token, stage: Option<S>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if !matches!(connection.life, Life::Releasing(_)) {
            connection.life = Life::Releasing(stage);
            self.poller.unwatch(connection.leg.as_fd(), token);
            self.set_deadline(token, None);
        }
    }

    /// Takes note of one event. Returns the connection whose last it was.
    pub(super) fn note(&mut self, event: Event) -> Option<Gone<S>> {
        let token = event.token;
        let connection = self.connections.get_mut(token)?;
        connection.leg.note(event.readiness);
        if event.ended {
            if matches!(connection.life, Life::Releasing(_)) {
                return self.forget(token);
            }
            // The kernel ends a watch by itself when its queue overflows: watch again.
            self.poller.watch(connection.leg.as_fd(), token);
        }
        self.wake(token);
        None
    }

    /// Has a connection looked at by whoever has it.
    pub(super) fn wake(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        match connection.life {
            Life::Relaying(session) => self.queue_session(session),
            Life::Releasing(_) => {}
            _ => self.requeue(token),
        }
    }

    /// Looks again soon where the kernel has yet to send what it has sealed, of which there is no news.
    fn watch_push(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if let Some(at) = connection.leg.next_push_look(self.now) {
            self.timers.set(at, Timer::Push(token.to_bits()));
        }
    }

    fn forget(&mut self, token: Token) -> Option<Gone<S>> {
        let mut connection = self.connections.remove(token)?;
        self.counters.connections_open.set(self.connections.len() as u64);
        match std::mem::replace(&mut connection.life, Life::Deciding) {
            Life::Releasing(Some(stage)) => Some(Gone::HandedOver(connection, stage)),
            _ => Some(Gone::Closed(connection.peer)),
        }
    }

    /// Connections that wait for something cheap.
    pub(super) fn ready_cheap_len(&self) -> usize {
        self.ready.cheap_len()
    }

    /// The next of those.
    pub(super) fn next_cheap(&mut self) -> Option<Token> {
        let token = self.ready.next_cheap()?;
        Some(self.out_of_queue(token))
    }

    /// The next that waits for a step of its handshake.
    pub(super) fn next_handshake(&mut self) -> Option<Token> {
        let token = self.ready.next_handshake()?;
        Some(self.out_of_queue(token))
    }

    fn out_of_queue(&mut self, token: Token) -> Token {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.queued = false;
        }
        token
    }

    /// Looks after what is the engine's own; says whether the role goes on with the rest.
    pub(super) fn serve_connection(&mut self, token: Token) -> Due {
        let Some(connection) = self.connections.get_mut(token) else { return Due::Done };
        match &mut connection.life {
            Life::Role(_) => Due::Role,
            Life::Finishing => {
                let broken = connection.leg.flush().is_err();
                if broken || connection.leg.has_finished_writing() {
                    self.release(token, None);
                } else {
                    self.watch_push(token);
                }
                Due::Done
            }
            Life::Lingering { drained } => {
                let gone = connection.leg.readiness().hung_up || connection.leg.flush().is_err();
                let over = gone || {
                    let len = connection.leg.drain(&mut self.scratch);
                    *drained += len.unwrap_or(0);
                    let ended = len.is_none() && connection.leg.outbox_len() == 0;
                    ended || *drained > MAX_LINGER_LEN
                };
                if over {
                    self.release(token, None);
                } else if connection.leg.readiness().readable && connection.leg.outbox_len() == 0 {
                    self.requeue(token);
                }
                Due::Done
            }
            Life::Deciding | Life::Relaying(_) | Life::Releasing(_) => Due::Done,
        }
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(super) fn pop_timer(&mut self) -> Option<Timer> {
        self.timers.pop(self.now)
    }

    /// The deadline of a connection has come.
    pub(super) fn connection_due(&mut self, token: Token) -> Due {
        let Some(connection) = self.connections.get_mut(token) else { return Due::Done };
        connection.deadline = None;
        match connection.life {
            Life::Role(_) => Due::Role,
            Life::Finishing | Life::Lingering { .. } => {
                self.reset(token);
                Due::Done
            }
            Life::Deciding | Life::Relaying(_) | Life::Releasing(_) => Due::Done,
        }
    }

    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.ready_sessions.is_empty() || !self.bulk.is_empty()
    }

    pub(super) fn poller(&mut self) -> &mut Poller {
        &mut self.poller
    }
}
