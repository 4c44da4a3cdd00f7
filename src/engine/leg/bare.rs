//! Legs on which TLS is not all: bytes that were read before their time, the end of TLS while TCP goes on, and bytes that the
//! kernel moves from one leg to another.

use std::io::IoSlice;

use super::Leg;
use crate::engine::pipe::Pipe;
use crate::engine::scratch::Scratch;
use crate::relay::Failure;
use crate::tls::looks_like_tls;

impl Leg {
    /// From now on TLS as the first bytes of this plain leg is a failure.
    pub fn refuse_tls(&mut self) {
        self.refuses_tls = true;
    }

    /// Whether the first bytes that wait in the socket are those of TLS, which the leg refuses.
    pub fn is_offered_refused_tls(&self) -> bool {
        let mut first = [0; 2];
        self.refuses_tls && matches!(self.socket.peek(&mut first), Ok(2)) && looks_like_tls(&first)
    }

    /// Whether the peer ended its direction before it sent anything.
    pub fn is_empty_stream(&self) -> bool {
        matches!(self.socket.peek(&mut [0]), Ok(0) | Err(_))
    }

    /// Gives back bytes that were received raw: they are the first payload.
    pub fn put_back(&mut self, bytes: Vec<u8>) {
        self.unread = bytes;
    }

    /// Takes the payload that nobody has received yet.
    pub fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// Says close_notify and leaves TCP open: what follows is not ours.
    pub fn end_tls(&mut self) -> Result<(), Failure> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let mut record = Vec::new();
        tls.seal_end(&mut record).map_err(|_| Failure::Corrupt)?;
        self.send(&[IoSlice::new(&record)])
    }

    /// Whether anything stands behind the peer's close_notify.
    pub fn has_bytes_behind_tls(&self) -> bool {
        !self.pending.is_empty() || matches!(self.socket.peek(&mut [0]), Ok(1..))
    }

    /// Goes on without TLS, once both sides have said close_notify. What came behind the peer's is payload.
    pub fn leave_tls(&mut self) {
        self.tls = None;
        self.unopened = false;
        self.unread.append(&mut self.pending);
    }

    /// Whether its bytes are those of its socket: no TLS, and nothing that was read before its time.
    pub(in crate::engine) fn is_bare(&self) -> bool {
        self.tls.is_none() && self.unread.is_empty() && !self.refuses_tls
    }

    /// Receives `len` bytes at most into a pipe. `None` where there are none for now, 0 at the end.
    pub(in crate::engine) fn receive_into(
        &mut self,
        pipe: &Pipe,
        len: usize,
    ) -> Result<Option<usize>, Failure> {
        let received = pipe.fill(&self.socket, len).map_err(|_| Failure::Reset)?;
        if received.is_none() {
            self.readiness.readable = false;
        }
        Ok(received)
    }

    /// Sends the `len` bytes that are in a pipe, which is empty then, and keeps what the socket does not take.
    pub(in crate::engine) fn send_from(
        &mut self,
        pipe: &Pipe,
        len: usize,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let mut left = len;
        while left > 0 {
            match pipe.empty_into(&self.socket, left).map_err(|_| Failure::Reset)? {
                Some(sent @ 1..) => left -= sent,
                Some(0) | None => break,
            }
        }
        if left > 0 {
            scratch.remainders.lend(self.outbox.space(), left.next_power_of_two());
        }
        while left > 0 {
            let space = &mut scratch.buffer[..left];
            let read = pipe.read(space).map_err(|_| Failure::Reset)?;
            self.send(&[IoSlice::new(&scratch.buffer[..read])])?;
            left -= read;
        }
        Ok(())
    }
}
