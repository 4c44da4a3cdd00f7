use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Words of `struct tcp_info` up to the one that is looked at (linux/tcp.h, since Linux 4.6).
const WORDS: usize = 38;
/// The place of `tcpi_min_rtt` among them.
const MIN_RTT: usize = 37;
/// The kernel's word for "not measured yet".
const UNKNOWN: u32 = u32::MAX;

/// The shortest round trip that the kernel has seen on this TCP connection; `None` where it has seen
/// none, or does not tell.
pub fn shortest_round_trip(socket: &impl AsFd) -> Option<Duration> {
    let mut info = [0_u32; WORDS];
    let all = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    let mut len = all;
    // SAFETY: the kernel writes `len` bytes at most, which `info` has, and `len` itself; both live
    // longer than the call, and the descriptor is open while `socket` is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    let micros = info[MIN_RTT];
    (result == 0 && len == all && micros != UNKNOWN && micros != 0)
        .then(|| Duration::from_micros(micros.into()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn a_connection_tells_its_round_trip_once_bytes_have_gone_there_and_back() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (mut far, _) = listener.accept().expect("a connection");
        for _ in 0..3 {
            near.write_all(b"ping").expect("room for four bytes");
            far.read_exact(&mut [0; 4]).expect("they arrive");
            far.write_all(b"pong").expect("room for four bytes");
            near.read_exact(&mut [0; 4]).expect("they arrive");
        }
        let seen = shortest_round_trip(&near).expect("a round trip was seen");
        assert!(seen < Duration::from_secs(10), "{seen:?}");
    }

    #[test]
    fn what_is_no_tcp_connection_tells_nothing() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        assert_eq!(shortest_round_trip(&socket), None);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        assert_eq!(shortest_round_trip(&listener), None);
    }
}
