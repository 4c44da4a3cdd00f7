//! Readiness by epoll(7), where a ring is refused: the same news in the same order.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use crate::limits::{EPOLL_EVENTS, EPOLL_WAIT_MAX};
use crate::uring::{Event, Readiness, Token, Waker};

/// Asked of every socket. Edge-triggered, as the ring's polls are.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
/// Of a socket that the kernel does not watch, for want of memory: whoever owns it takes it for lost.
const UNWATCHED: Readiness = Readiness::from_poll(EventFlags::ERR.bits());

/// An epoll instance that reports readiness, owned by one thread.
pub struct Epoll {
    instance: OwnedFd,
    waker: Arc<Waker>,
    arrived: Vec<epoll::Event>,
    /// What the kernel has no part in: watches that have ended, and those that it refused.
    own: Vec<Event>,
}

impl Epoll {
    /// Watches nothing yet but the waker.
    pub fn new(waker: Arc<Waker>) -> io::Result<Self> {
        let instance = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&instance, &*waker, EventData::new_u64(Token::WAKER), EventFlags::IN)?;
        Ok(Self { instance, waker, arrived: Vec::with_capacity(EPOLL_EVENTS), own: Vec::new() })
    }

    /// As [`crate::uring::Ring::watch`].
    pub fn watch(&mut self, socket: BorrowedFd<'_>, token: Token) {
        let data = EventData::new_u64(token.to_bits());
        if epoll::add(&self.instance, socket, data, INTEREST).is_err() {
            self.own.push(Event { token, readiness: UNWATCHED, ended: false });
        }
    }

    /// Ends a watch. Its last event follows.
    pub fn unwatch(&mut self, socket: BorrowedFd<'_>, token: Token) {
        // Fails where the kernel had refused to watch it.
        let _ = epoll::delete(&self.instance, socket);
        self.own.push(Event { token, readiness: Readiness::default(), ended: true });
    }

    /// As [`crate::uring::Ring::wait`].
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let timeout = if self.own.is_empty() { timeout } else { Some(Duration::ZERO) };
        let timeout = timeout.map(|timeout| {
            let timeout = timeout.min(EPOLL_WAIT_MAX);
            Timespec::try_from(timeout).expect("an hour at most")
        });
        self.arrived.clear();
        let space = rustix::buffer::spare_capacity(&mut self.arrived);
        match epoll::wait(&self.instance, space, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // A copy of each: the kernel's own has no alignment.
        for &epoll::Event { flags, data, .. } in &self.arrived {
            match data.u64() {
                Token::WAKER => self.waker.clear(),
                bits => {
                    let readiness = Readiness::from_poll(flags.bits());
                    events.push(Event { token: Token::from_bits(bits), readiness, ended: false });
                }
            }
        }
        events.append(&mut self.own);
        Ok(())
    }
}
