//! Readiness from edge-triggered epoll, as in a worker without a ring; the relay is that of the ring.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use vestibule::engine::Epoll;
use vestibule::uring::{Event, Token, Waker};

use super::Place;
use super::direct::{self, Source};

pub(super) fn serve(place: Place) -> io::Result<()> {
    // Nobody wakes it: all that happens is on its sockets.
    direct::serve(Epoll::new(Arc::new(Waker::new()?))?, place)
}

impl Source for Epoll {
    fn watch(&mut self, socket: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        Self::watch(self, socket, token);
        Ok(())
    }

    fn unwatch(&mut self, socket: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        Self::unwatch(self, socket, token);
        Ok(())
    }

    fn look(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        Self::wait(self, Some(Duration::ZERO), events)
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        Self::wait(self, None, events)
    }
}
