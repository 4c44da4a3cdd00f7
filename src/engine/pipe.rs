use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::limits::{MAX_PIPES, RECEIVE_LEN};

/// A pipe, through which the kernel moves bytes from one socket to another: nobody copies them.
pub(super) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Held by every pipe of the worker, so that they can be counted wherever they are.
    _count: Arc<()>,
}

impl Pipe {
    fn new(count: &Arc<()>) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Fails where the user has many pipes already: a small one moves less at once (pipe(7), "pipe-user-pages-soft").
        let _ = fcntl_setpipe_size(&writer, RECEIVE_LEN);
        Ok(Self { reader, writer, _count: Arc::clone(count) })
    }

    /// Moves what the socket has into the pipe, `len` bytes at most. `None` where it has nothing for now, 0 at its end.
    pub(super) fn fill(&self, socket: &TcpStream, len: usize) -> io::Result<Option<usize>> {
        loop {
            match splice(socket, None, &self.writer, None, len, FLAGS).map_err(io::Error::from) {
                Ok(len) => return Ok(Some(len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves bytes out of the pipe, as many of `len` as the socket takes for now.
    pub(super) fn empty_into(&self, socket: &TcpStream, len: usize) -> io::Result<usize> {
        match splice(&self.reader, None, socket, None, len, FLAGS)? {
            // It is said to hold more: waiting would be for ever.
            0 => Err(ErrorKind::WriteZero.into()),
            len => Ok(len),
        }
    }

    /// Copies bytes out of the pipe.
    pub(super) fn read(&self, space: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.reader, space)?)
    }
}

/// The pipes of a worker. Those here are empty: one with bytes of a session in it is that session's, and is closed with it.
#[derive(Default)]
pub(super) struct Pipes {
    empty: Vec<Pipe>,
    count: Arc<()>,
    /// Whether the kernel, or the sandbox, gave us none.
    refused: bool,
}

impl Pipes {
    /// Whether there is one to be lent. Where there was none once, nobody asks again.
    pub(super) fn has_one(&mut self) -> bool {
        let made = Arc::strong_count(&self.count) - 1;
        if self.empty.is_empty() && made < MAX_PIPES && !self.refused {
            match Pipe::new(&self.count) {
                Ok(pipe) => self.empty.push(pipe),
                Err(_) => self.refused = true,
            }
        }
        !self.empty.is_empty()
    }

    pub(super) fn lend(&mut self) -> Option<Pipe> {
        self.empty.pop()
    }

    /// Takes back a pipe that is empty.
    pub(super) fn take_back(&mut self, pipe: Pipe) {
        self.empty.push(pipe);
    }
}

/// Without `SPLICE_F_MORE`: it would hold back the end of a message until there is more.
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
