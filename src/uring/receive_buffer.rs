use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Lets the kernel size the buffers of a socket again, after `SO_RCVBUF` has fixed one (`SO_BUF_LOCK`,
/// Linux 5.15).
pub fn unfix_buffers(socket: &impl AsFd) -> io::Result<()> {
    let locks: libc::c_int = 0;
    let len = libc::socklen_t::try_from(size_of_val(&locks)).expect("four bytes");
    // SAFETY: the kernel reads `len` bytes of `locks`, which lives longer than the call, and the
    // descriptor is open while `socket` is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BUF_LOCK,
            (&raw const locks).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
