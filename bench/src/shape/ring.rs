//! The relay of the shapes whose receives are operations of a ring. They differ in how a receive
//! begins, and in where its buffer goes.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;

use rustix::io::Errno;
use slab::Slab;
use vestibule::uring::{Arrival, Operation, ReceiveRing};

use super::Place;
use super::outbox::{Outbox, Shelf};
use super::settings::Settings;

/// How bytes are received.
pub(super) trait Receiving {
    /// Begins to receive. What goes on by itself can be stopped: its operation is returned.
    fn begin(
        &mut self,
        ring: &mut ReceiveRing,
        from: Rc<dyn AsFd>,
        token: u64,
    ) -> Option<Operation>;
    /// The bytes of a buffer have been sent or kept.
    fn take_back(&mut self, ring: &mut ReceiveRing, buffer: Vec<u8>);
}

/// Token of the listener. Those of sessions have their kind in the lowest bit and their side in the
/// next.
const LISTENER: u64 = u64::MAX;

/// What an operation of a session was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Receive,
    Writable,
}

/// Relays until the ring fails.
pub(super) fn serve(mut ring: ReceiveRing, by: impl Receiving, place: Place) -> io::Result<()> {
    let Place { listener, backend, settings } = place;
    let listener = Rc::new(listener);
    ring.await_readable(Rc::<TcpListener>::clone(&listener), LISTENER);
    let (sessions, spaces) = (Slab::<Session>::new(), Shelf::default());
    let mut relay = Relay { ring, by, sessions, spaces };
    let mut arrivals = Vec::new();
    loop {
        relay.ring.wait(&mut arrivals)?;
        for arrival in arrivals.drain(..) {
            if arrival.token == LISTENER {
                relay.accept(&listener, &settings, backend)?;
            } else {
                relay.note(arrival);
            }
        }
    }
}

struct Relay<R> {
    ring: ReceiveRing,
    by: R,
    sessions: Slab<Session>,
    spaces: Shelf,
}

/// Two connections. Its place is given free when none of its operations is in the kernel.
struct Session {
    sockets: [Rc<TcpStream>; 2],
    /// By the end that the bytes come from.
    flows: [Flow; 2],
    operations: usize,
    broken: bool,
}

/// One direction.
#[derive(Default)]
struct Flow {
    outbox: Outbox,
    receive: Receive,
    polling: bool,
    end: End,
}

/// The receive of a direction.
#[derive(Default)]
enum Receive {
    #[default]
    None,
    /// It ends with what it receives, or was asked to end.
    Ending,
    /// It goes on by itself.
    GoesOn(Operation),
}

/// How far the end of a direction has come.
#[derive(Default, PartialEq, Eq)]
enum End {
    #[default]
    Ahead,
    /// The source has ended; once nothing waits, the target is told.
    Received,
    PassedOn,
}

impl<R: Receiving> Relay<R> {
    fn accept(
        &mut self,
        listener: &Rc<TcpListener>,
        settings: &Settings,
        backend: std::net::SocketAddr,
    ) -> io::Result<()> {
        let (agent, _) = listener.accept()?;
        let sockets = [Rc::new(agent), Rc::new(settings.connect(backend)?)];
        let flows = [Flow::default(), Flow::default()];
        let index = self.sessions.insert(Session { sockets, flows, operations: 0, broken: false });
        for from in 0..2 {
            self.go_on(index, from);
        }
        self.ring.await_readable(Rc::<TcpListener>::clone(listener), LISTENER);
        Ok(())
    }

    fn note(&mut self, arrival: Arrival) {
        let (index, from, kind) = of_token(arrival.token);
        let session = &mut self.sessions[index];
        session.operations -= usize::from(arrival.ended);
        let noted = match kind {
            _ if session.broken => Ok(()),
            Kind::Receive => session.note_receive(from, &arrival, &mut self.spaces),
            Kind::Writable => session.note_writable(from, &mut self.spaces),
        };
        if let Some(buffer) = arrival.buffer {
            self.by.take_back(&mut self.ring, buffer);
        }
        if let Err(error) = noted {
            eprintln!("{error}");
            session.broken = true;
            // What is in the kernel ends with it.
            for socket in &session.sockets {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        self.go_on(index, from);
    }

    /// Asks for what the direction needs next; forgets a session that needs nothing.
    fn go_on(&mut self, index: usize, from: usize) {
        let session = &mut self.sessions[index];
        let flow = &mut session.flows[from];
        let is_clear = flow.outbox.is_empty();
        match (&flow.receive, &flow.end) {
            _ if session.broken => {}
            _ if !is_clear => {
                if let Receive::GoesOn(operation) = flow.receive {
                    flow.receive = Receive::Ending;
                    self.ring.cancel(operation);
                }
                if !std::mem::replace(&mut flow.polling, true) {
                    session.operations += 1;
                    let target = session.sockets[1 - from].clone();
                    self.ring.await_writable(target, token(index, from, Kind::Writable));
                }
            }
            (_, End::Received) => {
                flow.end = End::PassedOn;
                // Fails only where the target is gone: its own receive says so.
                let _ = session.sockets[1 - from].shutdown(Shutdown::Write);
            }
            (Receive::None, End::Ahead) => {
                session.operations += 1;
                let source = session.sockets[from].clone();
                let token = token(index, from, Kind::Receive);
                let operation = self.by.begin(&mut self.ring, source, token);
                flow.receive = operation.map_or(Receive::Ending, Receive::GoesOn);
            }
            (Receive::Ending | Receive::GoesOn(_), End::Ahead) | (_, End::PassedOn) => {}
        }
        if session.operations == 0 {
            self.sessions.remove(index);
        }
    }
}

impl Session {
    fn note_receive(
        &mut self,
        from: usize,
        arrival: &Arrival,
        spaces: &mut Shelf,
    ) -> io::Result<()> {
        let flow = &mut self.flows[from];
        if arrival.ended {
            flow.receive = Receive::None;
        }
        match (arrival.result, &arrival.buffer) {
            (Ok(0), _) => flow.end = End::Received,
            (Ok(len), Some(buffer)) => {
                flow.outbox.send(&self.sockets[1 - from], &buffer[..len], spaces)?;
            }
            // A multishot receive was stopped, or there was no buffer at that moment.
            (Ok(_) | Err(Errno::CANCELED | Errno::NOBUFS | Errno::INTR), _) => {}
            (Err(error), _) => return Err(error.into()),
        }
        Ok(())
    }

    fn note_writable(&mut self, from: usize, spaces: &mut Shelf) -> io::Result<()> {
        let flow = &mut self.flows[from];
        flow.polling = false;
        flow.outbox.flush(&self.sockets[1 - from], spaces).map(drop)
    }
}

fn token(session: usize, from: usize, kind: Kind) -> u64 {
    (session as u64) << 2 | (from as u64) << 1 | u64::from(kind == Kind::Writable)
}

fn of_token(token: u64) -> (usize, usize, Kind) {
    let session = usize::try_from(token >> 2).expect("made of an index");
    let kind = if token & 1 == 0 { Kind::Receive } else { Kind::Writable };
    (session, usize::from(token & 2 != 0), kind)
}
