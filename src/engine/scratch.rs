use super::pipe::Pipe;
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
    /// Empty; `None` while it is lent, and until one is needed.
    pipe: Option<Pipe>,
    /// Whether the kernel, or the sandbox, gave us none.
    has_no_pipes: bool,
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
            pipe: None,
            has_no_pipes: false,
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

    /// Lends the pipe. Where there was none once, nobody asks the kernel again: bytes are copied. Where it does not come back the
    /// next is another: bytes of one session that are left in it would be those of the next one.
    pub(super) fn take_pipe(&mut self) -> Option<Pipe> {
        let pipe = self.pipe.take().or_else(|| (!self.has_no_pipes).then(Pipe::new)?.ok());
        self.has_no_pipes = pipe.is_none();
        pipe
    }

    /// Takes the pipe back. It must be empty.
    pub(super) fn put_pipe(&mut self, pipe: Pipe) {
        self.pipe = Some(pipe);
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
