use super::pipe::Pipes;
use crate::limits::{MAX_PENDING_LEN, RECEIVE_LEN, SHELF_LEN};
use crate::tls::Pieces;

/// What was pending, and one receive behind it.
const SCRATCH_LEN: usize = MAX_PENDING_LEN + Pieces::space_for(RECEIVE_LEN);

/// The buffers of a worker, shared by all its connections and hot in its cache. Nothing stays in
/// them between two calls.
pub struct Scratch {
    /// What was received, and payload where it lies.
    pub(super) buffer: Box<[u8]>,
    /// Where the payload of the last receive is.
    pub(super) pieces: Pieces,
    /// What TLS itself wants to say.
    pub(super) outgoing: Vec<u8>,
    /// Space for beginnings of records.
    pub(super) beginnings: Shelf,
    /// Space for what sockets did not take.
    pub(super) remainders: Shelf,
    /// For bytes that the kernel moves itself.
    pub(super) pipes: Pipes,
}

impl Default for Scratch {
    fn default() -> Self {
        let buffer = vec![0; SCRATCH_LEN].into_boxed_slice();
        Self {
            buffer,
            pieces: Pieces::default(),
            outgoing: Vec::new(),
            beginnings: Shelf::default(),
            remainders: Shelf::default(),
            pipes: Pipes::default(),
        }
    }
}

impl Scratch {
    /// The first bytes of the last [`Leg::receive_raw`].
    pub fn raw(&self, len: usize) -> &[u8] {
        &self.buffer[..len]
    }

    /// Bytes of payload of the last receive.
    pub fn payload_len(&self) -> usize {
        self.pieces.total_len()
    }

    pub(super) fn copy_payload(&self) -> Vec<u8> {
        self.pieces.runs(&self.buffer).collect::<Vec<_>>().concat()
    }
}

/// Empty buffers of a worker, lent to the sessions in which bytes wait.
#[derive(Default)]
pub(super) struct Shelf {
    buffers: Vec<Vec<u8>>,
}

impl Shelf {
    /// Gives `buffer` space for `len` bytes, if it has none.
    pub(super) fn lend(&mut self, buffer: &mut Vec<u8>, len: usize) {
        if buffer.capacity() == 0 {
            *buffer = self.buffers.pop().unwrap_or_default();
            buffer.reserve_exact(len);
        }
    }

    /// Takes the space of an empty buffer.
    pub(super) fn take_back(&mut self, buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0 {
            return;
        }
        let space = std::mem::take(buffer);
        if self.buffers.len() < SHELF_LEN {
            self.buffers.push(space);
        }
    }
}
