use std::io;
use std::net::TcpStream;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Buffers that are kept for the next outbox, as many as a worker keeps.
const SHELF_LEN: usize = 8;

/// What a socket did not take. It owns no memory while nothing waits.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

/// Memory of outboxes that were emptied.
#[derive(Default)]
pub(super) struct Shelf(Vec<Vec<u8>>);

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == self.sent
    }

    /// Sends bytes behind those that wait, and keeps what the socket does not take. Returns whether it
    /// took all.
    pub(super) fn send(
        &mut self,
        socket: &TcpStream,
        bytes: &[u8],
        spaces: &mut Shelf,
    ) -> io::Result<bool> {
        let taken = if self.is_empty() { take(socket, bytes)? } else { 0 };
        let kept = &bytes[taken..];
        if kept.is_empty() {
            return Ok(true);
        }
        if self.is_empty() {
            self.bytes = spaces.0.pop().unwrap_or_default();
        }
        self.bytes.extend_from_slice(kept);
        Ok(false)
    }

    /// Sends what waits. Returns whether the socket took all.
    pub(super) fn flush(&mut self, socket: &TcpStream, spaces: &mut Shelf) -> io::Result<bool> {
        self.sent += take(socket, &self.bytes[self.sent..])?;
        if !self.is_empty() {
            return Ok(false);
        }
        let mut emptied = std::mem::take(self).bytes;
        if spaces.0.len() < SHELF_LEN && emptied.capacity() > 0 {
            emptied.clear();
            spaces.0.push(emptied);
        }
        Ok(true)
    }
}

/// Sends until the socket would block; returns how much it took.
fn take(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send(socket, &bytes[sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(len) => sent += len,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}
