//! Receives that go on by themselves, into buffers that the kernel takes when bytes are there.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use vestibule::uring::{Operation, ReceiveRing};

use super::Place;
use super::ring::{self, Receiving};

/// Buffers that are provided. All come back within one turn of the loop: what a socket does not take
/// is copied, so that a slow reader keeps none of them.
const BUFFERS: usize = 32;

struct Multishot;

pub(super) fn serve(place: Place) -> io::Result<()> {
    let mut ring = ReceiveRing::new(place.settings.min_wait()).map_err(io::Error::other)?;
    for _ in 0..BUFFERS {
        ring.provide(vec![0; place.settings.buffer_len()]);
    }
    ring::serve(ring, Multishot, place)
}

impl Receiving for Multishot {
    fn begin(
        &mut self,
        ring: &mut ReceiveRing,
        from: Rc<dyn AsFd>,
        token: u64,
    ) -> Option<Operation> {
        Some(ring.receive_on(from, token))
    }

    fn take_back(&mut self, ring: &mut ReceiveRing, buffer: Vec<u8>) {
        ring.provide(buffer);
    }
}
