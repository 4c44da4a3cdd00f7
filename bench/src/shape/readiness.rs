//! The worker's shape: the product's own ring tells what is ready.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use vestibule::uring::{Event, Ring, Token, Waker};

use super::Place;
use super::direct::{self, Source};

struct Readiness {
    ring: Ring,
    min_wait: Duration,
}

pub(super) fn serve(place: Place) -> io::Result<()> {
    let ring = Ring::new(Arc::new(Waker::new()?)).map_err(io::Error::other)?;
    let min_wait = place.settings.min_wait();
    direct::serve(Readiness { ring, min_wait }, place)
}

impl Source for Readiness {
    fn watch(&mut self, socket: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        self.ring.watch(socket, token);
        Ok(())
    }

    fn unwatch(&mut self, _: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        self.ring.unwatch(token);
        Ok(())
    }

    fn look(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.ring.wait(Some(Duration::ZERO), events)
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.ring.wait_for_more(self.min_wait, events)
    }
}
