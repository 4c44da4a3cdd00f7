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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use socket2::SockRef;

    use super::*;

    /// `SOCK_RCVBUF_LOCK`, linux/socket.h.
    const RECEIVE_BUFFER: libc::c_int = 2;

    fn locks(socket: &impl AsFd) -> libc::c_int {
        let mut locks: libc::c_int = -1;
        let mut len = libc::socklen_t::try_from(size_of_val(&locks)).expect("four bytes");
        // SAFETY: the kernel writes `len` bytes of `locks` at most, and `len` itself; both live longer
        // than the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_BUF_LOCK,
                (&raw mut locks).cast(),
                &raw mut len,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        locks
    }

    #[test]
    fn a_fixed_receive_buffer_is_the_kernels_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        SockRef::from(&socket).set_recv_buffer_size(65_536).expect("a socket");
        assert_eq!(locks(&socket), RECEIVE_BUFFER);
        unfix_buffers(&socket).expect("Linux 5.15");
        assert_eq!(locks(&socket), 0);
    }
}
