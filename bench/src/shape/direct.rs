//! The relay of all shapes that learn what is ready and receive themselves: one hot buffer, a turn
//! for each session, as the worker has them.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use slab::Slab;
use vestibule::limits::{MIN_RECEIVE_LEN, STEPS_PER_TURN};
use vestibule::uring::{Event, Readiness, Token};

use super::Place;
use super::outbox::{Outbox, Shelf};

/// Tells what is ready, edge-triggered.
pub(super) trait Source {
    /// Begins to report. The caller keeps the socket open until the event that has `ended`.
    fn watch(&mut self, socket: BorrowedFd<'_>, token: Token) -> io::Result<()>;
    /// Ends a watch; an event that has `ended` follows.
    fn unwatch(&mut self, socket: BorrowedFd<'_>, token: Token) -> io::Result<()>;
    /// What there is, without a wait.
    fn look(&mut self, events: &mut Vec<Event>) -> io::Result<()>;
    /// Waits for something.
    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()>;
}

/// Its index is above those of all connections.
const LISTENER: Token = Token { index: 0xf000_0000, generation: 0 };

/// Relays until the source fails.
pub(super) fn serve<S: Source>(mut source: S, place: Place) -> io::Result<()> {
    source.watch(place.listener.as_fd(), LISTENER)?;
    place.listener.set_nonblocking(true)?;
    let buffer = vec![0; place.settings.buffer_len()];
    let turn_len = place.settings.turn_len();
    let steps = STEPS_PER_TURN * turn_len.div_ceil(buffer.len());
    let (sessions, ready, spaces) = (Slab::new(), VecDeque::new(), Shelf::default());
    Direct { source, place, sessions, ready, buffer, turn_len, steps, spaces }.run()
}

struct Direct<S> {
    source: S,
    place: Place,
    sessions: Slab<Session>,
    ready: VecDeque<usize>,
    buffer: Vec<u8>,
    turn_len: usize,
    steps: usize,
    spaces: Shelf,
}

/// Two connections. Its place is given free with the last event of their watches, so that no event is
/// taken for one of the next session there.
struct Session {
    ends: [End; 2],
    /// By the end that the bytes come from.
    flows: [Flow; 2],
    watched: usize,
    queued: bool,
    over: bool,
}

struct End {
    socket: TcpStream,
    readiness: Readiness,
}

/// One direction.
struct Flow {
    outbox: Outbox,
    ended: bool,
    appetite: usize,
    /// Bytes that were received since the target was blocked last.
    taken: usize,
}

/// What a step did.
enum Step {
    Nothing,
    Moved(usize),
}

impl<S: Source> Direct<S> {
    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::new();
        loop {
            if self.ready.is_empty() {
                self.source.wait(&mut events)?;
            } else {
                self.source.look(&mut events)?;
            }
            for event in events.drain(..) {
                self.note(event)?;
            }
            for _ in 0..self.ready.len() {
                if let Some(index) = self.ready.pop_front() {
                    self.turn(index)?;
                }
            }
        }
    }

    fn note(&mut self, event: Event) -> io::Result<()> {
        if event.token == LISTENER {
            return self.accept();
        }
        let (index, side) = (event.token.index as usize / 2, event.token.index as usize % 2);
        let Some(session) = self.sessions.get_mut(index) else { return Ok(()) };
        session.ends[side].note(event.readiness);
        if event.ended && !session.over {
            // The kernel ends a watch by itself when its queue overflows: watch again.
            return self.source.watch(session.ends[side].socket.as_fd(), event.token);
        }
        session.watched -= usize::from(event.ended);
        if session.watched == 0 {
            self.sessions.remove(index);
        } else if !session.queued && !session.over {
            session.queued = true;
            self.ready.push_back(index);
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let agent = match self.place.listener.accept() {
                Ok((agent, _)) => agent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let backend = self.place.settings.connect(self.place.backend)?;
            let ends =
                [agent, backend].map(|socket| End { socket, readiness: Readiness::default() });
            let flows = [Flow::new(), Flow::new()];
            let session = Session { ends, flows, watched: 2, queued: false, over: false };
            let index = self.sessions.insert(session);
            for (side, end) in self.sessions[index].ends.iter().enumerate() {
                self.source.watch(end.socket.as_fd(), token(index, side))?;
            }
        }
    }

    /// Lets one session move bytes, as many as its turn allows.
    fn turn(&mut self, index: usize) -> io::Result<()> {
        let Self { sessions, buffer, spaces, turn_len, steps, .. } = self;
        let session = &mut sessions[index];
        session.queued = false;
        let again = session.turn(buffer, *turn_len, *steps, spaces).unwrap_or_else(|error| {
            eprintln!("{error}");
            session.over = true;
            false
        });
        if session.over {
            for (side, end) in session.ends.iter().enumerate() {
                self.source.unwatch(end.socket.as_fd(), token(index, side))?;
            }
        } else if again {
            session.queued = true;
            self.ready.push_back(index);
        }
        Ok(())
    }
}

fn token(session: usize, side: usize) -> Token {
    let index = u32::try_from(2 * session + side).expect("descriptors are fewer");
    Token { index, generation: 0 }
}

impl Session {
    /// Returns whether there is more to do.
    fn turn(
        &mut self,
        buffer: &mut [u8],
        turn_len: usize,
        steps: usize,
        spaces: &mut Shelf,
    ) -> io::Result<bool> {
        let mut moved = 0;
        for _ in 0..steps {
            let mut busy = false;
            for from in 0..2 {
                if let Step::Moved(len) = self.step(from, buffer, spaces)? {
                    moved += len;
                    busy = true;
                }
            }
            self.over = self.flows.iter().all(|flow| flow.ended);
            if !busy || self.over {
                return Ok(false);
            }
            if moved >= turn_len {
                break;
            }
        }
        Ok(true)
    }

    /// One receive and one send of what comes from one side.
    fn step(&mut self, from: usize, buffer: &mut [u8], spaces: &mut Shelf) -> io::Result<Step> {
        let [first, second] = &mut self.ends;
        let (source, target) = if from == 0 { (first, second) } else { (second, first) };
        let flow = &mut self.flows[from];
        if !flow.outbox.is_empty() {
            if !target.readiness.writable {
                return Ok(Step::Nothing);
            }
            target.readiness.writable = flow.outbox.flush(&target.socket, spaces)?;
            if !target.readiness.writable {
                return Ok(Step::Nothing);
            }
        }
        if flow.ended {
            return Ok(Step::Nothing);
        }
        match source.receive(&mut buffer[..flow.appetite])? {
            None => Ok(Step::Nothing),
            Some(0) => {
                flow.ended = true;
                target.socket.shutdown(Shutdown::Write)?;
                Ok(Step::Moved(0))
            }
            Some(len) => {
                flow.received(len, buffer.len());
                if !flow.outbox.send(&target.socket, &buffer[..len], spaces)? {
                    target.readiness.writable = false;
                    flow.blocked(buffer.len());
                }
                Ok(Step::Moved(len))
            }
        }
    }
}

impl End {
    /// Edge-triggered: what it was ready for, it still is.
    fn note(&mut self, news: Readiness) {
        self.readiness.readable |= news.readable;
        self.readiness.writable |= news.writable;
        self.readiness.read_closed |= news.read_closed;
    }

    /// `None` where nothing is there; 0 is the end.
    fn receive(&mut self, space: &mut [u8]) -> io::Result<Option<usize>> {
        let space_len = space.len();
        while self.readiness.readable {
            match recv(&self.socket, &mut *space, RecvFlags::DONTWAIT) {
                Ok((_, len)) => {
                    // A short read has emptied the socket, unless an end stands behind the bytes.
                    if len != 0 && len < space_len && !self.readiness.read_closed {
                        self.readiness.readable = false;
                    }
                    return Ok(Some(len));
                }
                Err(Errno::AGAIN) => self.readiness.readable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

impl Flow {
    fn new() -> Self {
        Self { outbox: Outbox::default(), ended: false, appetite: MIN_RECEIVE_LEN, taken: 0 }
    }

    /// What is received at once is learnt from what the target takes: see `relay::session`.
    fn received(&mut self, len: usize, buffer_len: usize) {
        self.taken = self.taken.saturating_add(len);
        if len > self.appetite / 2 {
            self.appetite = (self.appetite * 2).min(buffer_len);
        }
    }

    fn blocked(&mut self, buffer_len: usize) {
        self.appetite = self.taken.clamp(MIN_RECEIVE_LEN.min(buffer_len), buffer_len);
        self.taken = 0;
    }
}
