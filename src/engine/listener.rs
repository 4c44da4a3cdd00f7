use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;

use crate::limits::{
    FIXED_RECEIVE_LEN, LISTEN_BACKLOG, PING_INTERVAL, PORT_PATIENCE, PORT_RETRY, SIGNAL_DEAD_AFTER,
    UNSENT_LEN,
};
use crate::uring::unfix_buffers;

/// A listening socket that can't be had. The operator's to mend.
#[derive(Debug, Error)]
#[error("listener `{name}`: cannot listen on {address}: {source}{}", advice(source))]
pub struct ListenError {
    name: String,
    address: SocketAddr,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has this port (`ss -ltnp` shows which): stop it or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher port or grant it"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        _ => "",
    }
}

/// One listening socket for each worker on the same address: the kernel spreads connections over
/// them (`SO_REUSEPORT`, socket(7)). The first is bound without sharing, so that a port that
/// another process has is an error and not half of its connections.
pub fn listen(
    name: &str,
    address: SocketAddr,
    workers: usize,
) -> Result<Vec<TcpListener>, ListenError> {
    let failed = |source| ListenError { name: name.to_owned(), address, source };
    // Fails where anyone listens there, also with SO_REUSEPORT; closed before the real ones.
    let probe = bind_once_free(address).map_err(failed)?;
    let address = probe.local_addr().map_err(failed)?;
    drop(probe);
    (0..workers).map(|_| bind(address, true).map_err(failed)).collect()
}

/// A process that has just ended may still have the port, for as long as the kernel holds its rings.
fn bind_once_free(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + PORT_PATIENCE;
    loop {
        match bind(address, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(PORT_RETRY);
            }
            result => return result,
        }
    }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` stand beside each other: one listener for each family.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(LISTEN_BACKLOG)?;
    }
    Ok(socket.into())
}

/// Takes the next connection; `WouldBlock` where there is none.
pub(super) fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, address) = rustix::net::acceptfrom_with(listener.as_fd(), flags)?;
    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
    let address = address.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((socket.into(), address))
}

/// Starts a connection; the socket becomes writable when it is there or has failed.
pub fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket.into()),
        Err(error)
            if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::INPROGRESS) =>
        {
            Ok(socket.into())
        }
        Err(error) => Err(error),
    }
}

/// Has the kernel find out as soon as pings would, within 10 s, that the peer is gone.
pub fn watch_closely(socket: &impl AsFd) {
    tune_with(socket.as_fd(), PING_INTERVAL, PING_INTERVAL, SIGNAL_DEAD_AFTER);
}

/// Options of every session's socket: no delay, bounds on a peer that is gone, and on what waits for
/// one that does not read. Those of a listener are inherited by what it accepts (tcp(7)).
pub(super) fn tune(socket: &impl AsFd, keepalive: Duration, user_timeout: Duration) {
    tune_with(socket.as_fd(), keepalive, keepalive / 4, user_timeout);
}

fn tune_with(socket: BorrowedFd<'_>, idle: Duration, interval: Duration, user_timeout: Duration) {
    let socket = SockRef::from(&socket);
    let probes = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(3);
    // These fail only on a socket that has been reset already, and the next receive says so.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(user_timeout));
    let _ = socket.set_tcp_notsent_lowat(UNSENT_LEN);
}

/// Fixes the size of a socket's receive buffer, until [`unfix_receive_buffer`]. Only once it is
/// connected: before, that would bound the window that the two ends agree on for good.
pub(super) fn fix_receive_buffer(socket: &impl AsFd) {
    // Fails only on a socket that has been reset already, and the next receive says so.
    let _ = SockRef::from(socket).set_recv_buffer_size(FIXED_RECEIVE_LEN);
}

/// Lets the kernel size it again.
pub(super) fn unfix_receive_buffer(socket: &impl AsFd) {
    // The kernel lets it grow when more comes in a round trip than ever before, and meanwhile it has
    // counted what fits into the fixed one. These fail as above.
    let _ = SockRef::from(socket).set_recv_buffer_size(2 * FIXED_RECEIVE_LEN);
    let _ = unfix_buffers(socket);
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_port_that_another_process_has_is_an_error_even_if_it_shares() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let held = bind(any, true).expect("binds");
        let address = held.local_addr().expect("bound");
        let error = listen("internet", address, 2).expect_err("the port is taken");
        assert!(error.to_string().contains("another process has this port"), "{error}");
    }

    #[test]
    fn a_port_that_is_free_a_moment_later_is_taken() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let held = bind(any, true).expect("binds");
        let address = held.local_addr().expect("bound");
        let holder = std::thread::spawn(move || {
            std::thread::sleep(10 * PORT_RETRY);
            drop(held);
        });
        listen("internet", address, 2).expect("it was waited for");
        holder.join().expect("it does not panic");
    }

    #[test]
    fn an_accepted_connection_has_the_options_of_its_listener() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = bind(any, true).expect("binds");
        let (keepalive, user_timeout) = (Duration::from_secs(300), Duration::from_secs(77));
        tune(&listener, keepalive, user_timeout);
        let _peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        listener.set_nonblocking(false).expect("a socket");
        let (accepted, _) = accept(&listener).expect("a connection");
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().expect("a socket"));
        assert!(accepted.keepalive().expect("a socket"));
        assert_eq!(accepted.tcp_keepalive_time().expect("a socket"), keepalive);
        assert_eq!(accepted.tcp_keepalive_interval().expect("a socket"), keepalive / 4);
        assert_eq!(accepted.tcp_keepalive_retries().expect("a socket"), 3);
        assert_eq!(accepted.tcp_user_timeout().expect("a socket"), Some(user_timeout));
        assert_eq!(accepted.tcp_notsent_lowat().expect("a socket"), UNSENT_LEN);
    }

    /// Moves 16 MB through a socket in large pieces; returns its receive buffer afterwards.
    fn buffer_after_bulk(near: &mut TcpStream, far: &mut TcpStream) -> usize {
        let (piece, mut space) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut received = 0;
        while received < 16 << 20 {
            match far.write(&piece) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    received += near.read(&mut space).expect("bytes");
                }
                Err(error) => panic!("{error}"),
            }
        }
        SockRef::from(&*near).recv_buffer_size().expect("a socket")
    }

    #[test]
    fn a_fixed_receive_buffer_does_not_grow_and_is_larger_once_it_is_not_fixed_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (mut far, _) = listener.accept().expect("a connection");
        far.set_nonblocking(true).expect("a socket");
        fix_receive_buffer(&near);
        assert_eq!(buffer_after_bulk(&mut near, &mut far), 2 * FIXED_RECEIVE_LEN);
        unfix_receive_buffer(&near);
        assert!(buffer_after_bulk(&mut near, &mut far) > 2 * FIXED_RECEIVE_LEN);
        fix_receive_buffer(&near);
        assert_eq!(buffer_after_bulk(&mut near, &mut far), 2 * FIXED_RECEIVE_LEN);
    }

    #[test]
    fn the_workers_share_one_port() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listeners = listen("internet", any, 3).expect("binds");
        let ports: Vec<_> =
            listeners.iter().map(|l| l.local_addr().expect("bound").port()).collect();
        assert_eq!(ports, [ports[0]; 3]);
    }
}
