use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;

use rustix::net::{SendFlags, send};

use crate::relay::Failure;
use crate::uring::Readiness;

/// What a socket did not take. Bytes go out in the order in which they came, and are never changed.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// The bytes wait for those that follow them, and not for the socket.
    held: bool,
}

impl Outbox {
    /// Bytes that wait for the socket.
    pub(super) fn len(&self) -> usize {
        if self.held { 0 } else { self.bytes.len() - self.sent }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == self.sent
    }

    /// Keeps bytes that nobody waits for, to send them with the next ones.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.held |= self.is_empty() && !bytes.is_empty();
        self.bytes.extend_from_slice(bytes);
    }

    /// The space of an outbox with nothing in it.
    pub(super) fn space(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn send(
        &mut self,
        socket: &TcpStream,
        readiness: &mut Readiness,
        flags: SendFlags,
    ) -> Result<(), Failure> {
        self.held = false;
        while self.sent < self.bytes.len() {
            let sent = send(socket, &self.bytes[self.sent..], flags | SendFlags::NOSIGNAL);
            match taken(sent.map_err(io::Error::from), readiness)? {
                Some(len) => self.sent += len,
                None => return Ok(()),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }

    /// Keeps all of `slices` behind what waits.
    pub(super) fn keep(&mut self, slices: &[IoSlice<'_>]) {
        self.keep_behind(slices, 0);
    }

    fn keep_behind(&mut self, slices: &[IoSlice<'_>], mut sent: usize) {
        for slice in slices {
            let skipped = sent.min(slice.len());
            self.bytes.extend_from_slice(&slice[skipped..]);
            sent -= skipped;
        }
    }

    /// Sends `slices` behind what waits, and keeps what the socket does not take.
    pub(super) fn send_behind(
        &mut self,
        mut socket: &TcpStream,
        readiness: &mut Readiness,
        slices: &[IoSlice<'_>],
    ) -> Result<(), Failure> {
        let total = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let mut sent = 0;
        while self.is_empty() && sent < total {
            let written = if sent == 0 {
                socket.write_vectored(slices)
            } else {
                socket.write(first_unsent(slices, sent))
            };
            match taken(written, readiness)? {
                Some(len) => sent += len,
                None => break,
            }
        }
        self.keep_behind(slices, sent);
        if self.held && total > 0 {
            return self.send(socket, readiness, SendFlags::empty());
        }
        Ok(())
    }
}

/// The rest of the slice in which the first byte after `sent` is.
fn first_unsent<'s>(slices: &'s [IoSlice<'_>], mut sent: usize) -> &'s [u8] {
    for slice in slices {
        if sent < slice.len() {
            return &slice[sent..];
        }
        sent -= slice.len();
    }
    &[]
}

/// The bytes that a send took; `None` where the socket takes no more for now.
fn taken(result: io::Result<usize>, readiness: &mut Readiness) -> Result<Option<usize>, Failure> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Some(0)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            readiness.writable = false;
            Ok(None)
        }
        Err(_) => Err(Failure::Reset),
    }
}
