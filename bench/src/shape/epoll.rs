//! Readiness from edge-triggered epoll; the relay is that of the ring.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use vestibule::uring::{Event, Readiness, Token};

use super::Place;
use super::direct::{self, Source};

/// Events taken at once: as many as the ring has entries.
const EVENTS: usize = 1024;

struct Epoll {
    instance: OwnedFd,
    taken: Vec<epoll::Event>,
    /// Watches that have ended and were not reported yet: a ring reports them as well.
    ended: Vec<Token>,
}

pub(super) fn serve(place: Place) -> io::Result<()> {
    let instance = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let taken = Vec::with_capacity(EVENTS);
    direct::serve(Epoll { instance, taken, ended: Vec::new() }, place)
}

impl Source for Epoll {
    fn watch(&mut self, socket: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        let interest = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET;
        epoll::add(&self.instance, socket, epoll::EventData::new_u64(token.to_bits()), interest)?;
        Ok(())
    }

    fn unwatch(&mut self, socket: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        epoll::delete(&self.instance, socket)?;
        self.ended.push(token);
        Ok(())
    }

    fn look(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.take(Some(&Timespec::default()), events)
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let at_once = Timespec::default();
        let timeout = (!self.ended.is_empty()).then_some(&at_once);
        self.take(timeout, events)
    }
}

impl Epoll {
    fn take(&mut self, timeout: Option<&Timespec>, events: &mut Vec<Event>) -> io::Result<()> {
        self.taken.clear();
        match epoll::wait(&self.instance, spare_capacity(&mut self.taken), timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        events.extend(self.taken.iter().map(event));
        let ended = |token| Event { token, readiness: Readiness::default(), ended: true };
        events.extend(self.ended.drain(..).map(ended));
        Ok(())
    }
}

fn event(event: &epoll::Event) -> Event {
    use epoll::EventFlags as Flags;
    let (flags, bits) = (event.flags, event.data.u64());
    let hung_up = flags.intersects(Flags::ERR | Flags::HUP);
    let readiness = Readiness {
        readable: hung_up || flags.intersects(Flags::IN | Flags::RDHUP),
        writable: hung_up || flags.contains(Flags::OUT),
        read_closed: hung_up || flags.contains(Flags::RDHUP),
        hung_up,
        failed: flags.contains(Flags::ERR),
    };
    Event { token: Token::from_bits(bits), readiness, ended: false }
}
