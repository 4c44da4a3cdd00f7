//! Legs on which TLS is not all: bytes that were read before their time, the end of TLS while TCP goes on, and bytes that the
//! kernel moves from one leg to another.

use std::array;
use std::io::{IoSlice, IoSliceMut, Read};

use super::kernel::is_no_payload;
use super::{Leg, RECEIVE_PLACES};
use crate::engine::pipe::Pipe;
use crate::engine::received::Received;
use crate::engine::scratch::Scratch;
use crate::relay::Failure;
use crate::tls::{Pieces, looks_like_tls};

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

    pub(super) fn receive_plain(
        &mut self,
        scratch: &mut Scratch,
        budget: usize,
    ) -> Result<Received, Failure> {
        let space = &mut scratch.buffer[..Pieces::space_for(budget)];
        let len = match self.recv_into_places(space)? {
            None => return Ok(Received::Nothing),
            Some(0) => return Ok(Received::End),
            Some(len) => len,
        };
        scratch.pieces.take_places(len);
        if std::mem::take(&mut self.refuses_tls) && len > 1 {
            let first = scratch.pieces.runs(&scratch.buffer).next().unwrap_or_default();
            if looks_like_tls(first) {
                return Err(Failure::UnexpectedTls);
            }
        }
        Ok(Received::Payload)
    }

    /// Receives plain payload so that there is room around each piece.
    fn recv_into_places(&mut self, space: &mut [u8]) -> Result<Option<usize>, Failure> {
        let mut places = Pieces::places(space);
        let mut slices: [IoSliceMut<'_>; RECEIVE_PLACES] =
            array::from_fn(|_| IoSliceMut::new(places.next().unwrap_or_default()));
        let len = slices.iter().map(|slice| slice.len()).sum();
        self.recv_with(len, |mut socket| socket.read_vectored(&mut slices))
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

    /// Receives payload into an empty pipe, `len` bytes at most. 0 where there is none for now, or something else, as
    /// [`Leg::receive`] tells.
    pub(in crate::engine) fn receive_into(
        &mut self,
        pipe: &Pipe,
        len: usize,
    ) -> Result<usize, Failure> {
        let mut received = 0;
        while received < len {
            match pipe.fill(&self.socket, len - received) {
                Ok(Some(more @ 1..)) => received += more,
                // The end, or a record of another type.
                Ok(Some(0)) => break,
                Err(error) if self.is_kernels() && is_no_payload(&error) => break,
                // Also where the pipe is full.
                Ok(None) if received > 0 => break,
                Ok(None) => {
                    self.readiness.readable = false;
                    break;
                }
                Err(error) => return Err(self.not_received(&error)),
            }
            // Of TLS it is one record each time, of a bare socket all that there is.
            if !self.is_kernels() {
                break;
            }
        }
        if received > 0 {
            self.note_opened(received)?;
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
        while left > 0 && self.may_seal()? {
            match pipe.empty_into(&self.socket, left).map_err(|_| Failure::Reset)? {
                Some(sent @ 1..) => {
                    left -= sent;
                    self.note_sealed(sent)?;
                }
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
