//! Each receive is an operation of the ring. One that waits holds a buffer, also of a session at rest.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use vestibule::uring::{Operation, ReceiveRing};

use super::Place;
use super::ring::{self, Receiving};

/// The buffer that was used last is used first: it is in the cache.
struct Pool {
    free: Vec<Vec<u8>>,
    buffer_len: usize,
}

pub(super) fn serve(place: Place) -> io::Result<()> {
    let ring = ReceiveRing::new(place.settings.min_wait()).map_err(io::Error::other)?;
    let pool = Pool { free: Vec::new(), buffer_len: place.settings.buffer_len() };
    ring::serve(ring, pool, place)
}

impl Receiving for Pool {
    fn begin(
        &mut self,
        ring: &mut ReceiveRing,
        from: Rc<dyn AsFd>,
        token: u64,
    ) -> Option<Operation> {
        let buffer = self.free.pop().unwrap_or_else(|| vec![0; self.buffer_len]);
        ring.receive(from, token, buffer);
        None
    }

    fn take_back(&mut self, _: &mut ReceiveRing, buffer: Vec<u8>) {
        self.free.push(buffer);
    }
}
