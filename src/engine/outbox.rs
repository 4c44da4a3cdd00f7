use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;

use crate::relay::Failure;
use crate::uring::Readiness;

/// What a socket did not take. Bytes go out in the order in which they came, and are never changed.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The space of an outbox with nothing in it.
    pub(super) fn space(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn send(
        &mut self,
        mut socket: &TcpStream,
        readiness: &mut Readiness,
    ) -> Result<(), Failure> {
        while self.sent < self.bytes.len() {
            match taken(socket.write(&self.bytes[self.sent..]), readiness)? {
                Some(len) => self.sent += len,
                None => return Ok(()),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
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
        for slice in slices {
            let skipped = sent.min(slice.len());
            self.bytes.extend_from_slice(&slice[skipped..]);
            sent -= skipped;
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
