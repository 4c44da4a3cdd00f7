use std::io;
use std::os::fd::AsFd;

use super::socket_option::set_option;

/// Lets the kernel size the buffers of a socket again, after `SO_RCVBUF` has fixed one (`SO_BUF_LOCK`,
/// Linux 5.15).
pub fn unfix_buffers(socket: &impl AsFd) -> io::Result<()> {
    let locks: libc::c_int = 0;
    set_option(socket, libc::SOL_SOCKET, libc::SO_BUF_LOCK, &locks.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use socket2::SockRef;

    use super::super::socket_option::get_option;
    use super::*;

    /// `SOCK_RCVBUF_LOCK`, linux/socket.h.
    const RECEIVE_BUFFER: libc::c_int = 2;

    fn locks(socket: &impl AsFd) -> libc::c_int {
        let mut locks = (-1 as libc::c_int).to_ne_bytes();
        let len = get_option(socket, libc::SOL_SOCKET, libc::SO_BUF_LOCK, &mut locks);
        assert_eq!(len.expect("Linux 5.15"), locks.len());
        libc::c_int::from_ne_bytes(locks)
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
