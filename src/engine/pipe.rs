use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::limits::RECEIVE_LEN;

/// A pipe, through which the kernel moves bytes from one socket to another: nobody copies them. It belongs
/// to a worker, which has one; it is empty whenever a session takes it.
pub(super) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Fails where the user has many pipes already: a small one moves less at once (pipe(7), "pipe-user-pages-soft").
        let _ = fcntl_setpipe_size(&writer, RECEIVE_LEN);
        Ok(Self { reader, writer })
    }

    /// Moves what the socket has into the pipe, `len` bytes at most. `None` where it has nothing for now, 0 at its end.
    pub(super) fn fill(&self, socket: &TcpStream, len: usize) -> io::Result<Option<usize>> {
        retried(|| splice(socket, None, &self.writer, None, len, FLAGS))
    }

    /// Moves bytes out of the pipe, as many of `len` as the socket takes for now: `None` where it takes none.
    pub(super) fn empty_into(&self, socket: &TcpStream, len: usize) -> io::Result<Option<usize>> {
        retried(|| splice(&self.reader, None, socket, None, len, FLAGS))
    }

    /// Copies bytes out of the pipe.
    pub(super) fn read(&self, space: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.reader, space)?)
    }
}

/// Without `SPLICE_F_MORE`: it would hold back the end of a message until there is more.
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

fn retried(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call().map_err(io::Error::from) {
            Ok(len) => return Ok(Some(len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
