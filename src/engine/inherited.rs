//! Listening sockets that another process has opened: systemd, or the one that this one succeeds.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{AddressFamily, SocketType, getsockname};
use thiserror::Error;

/// A descriptor that is of no use here.
#[derive(Debug, Error)]
#[error("a descriptor that was passed to this process is no TCP socket that listens")]
pub struct NotAListener;

/// Sockets by the address that they listen on; there may be several for one.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<(SocketAddr, TcpListener)>);

impl InheritedSockets {
    /// Takes one in, if it is what it should be.
    pub fn add(&mut self, socket: OwnedFd) -> Result<(), NotAListener> {
        self.0.push(listening(socket).ok_or(NotAListener)?);
        Ok(())
    }

    /// Those of an address, which are then used.
    pub fn take(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let (taken, left) =
            std::mem::take(&mut self.0).into_iter().partition(|(bound, _)| *bound == address);
        self.0 = left;
        let taken: Vec<(SocketAddr, TcpListener)> = taken;
        taken.into_iter().map(|(_, socket)| socket).collect()
    }

    /// Addresses of those that nobody took.
    pub fn left(&self) -> Vec<SocketAddr> {
        let mut left: Vec<_> = self.0.iter().map(|(address, _)| *address).collect();
        left.dedup();
        left
    }
}

fn listening(socket: OwnedFd) -> Option<(SocketAddr, TcpListener)> {
    let address = getsockname(socket.as_fd()).ok()?;
    let is_inet = matches!(address.address_family(), AddressFamily::INET | AddressFamily::INET6);
    let is_stream = socket_type(socket.as_fd()) == Ok(SocketType::STREAM);
    if !is_inet || !is_stream || socket_acceptconn(socket.as_fd()) != Ok(true) {
        return None;
    }
    let socket = TcpListener::from(socket);
    socket.set_nonblocking(true).ok()?;
    Some((socket.local_addr().ok()?, socket))
}

/// Deals sockets of one address out to the workers. Each worker gets one at least: two may accept from the
/// same. No socket is left out, since the kernel goes on to put connections into it.
pub fn deal(sockets: &[TcpListener], workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut dealt: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for index in 0..workers.max(sockets.len()) {
        dealt[index % workers].push(sockets[index % sockets.len()].try_clone()?);
    }
    Ok(dealt)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")
    }

    #[test]
    fn every_socket_is_dealt_out_and_no_worker_is_without() {
        let sockets = [listener(), listener(), listener()];
        let address = |socket: &TcpListener| socket.local_addr().expect("bound");
        for workers in [1, 2, 3, 5] {
            let dealt = deal(&sockets, workers).expect("descriptors");
            assert_eq!(dealt.len(), workers);
            assert!(dealt.iter().all(|own| !own.is_empty()), "{workers}");
            for socket in &sockets {
                assert!(dealt.iter().flatten().any(|own| address(own) == address(socket)));
            }
        }
    }

    #[test]
    fn only_what_listens_is_taken_in_and_only_by_its_address() {
        let mut inherited = InheritedSockets::default();
        let socket = listener();
        let address = socket.local_addr().expect("bound");
        inherited.add(socket.into()).expect("it listens");
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        inherited.add(udp.into()).expect_err("it is UDP");
        let file = std::fs::File::open("/dev/null").expect("it is there");
        inherited.add(file.into()).expect_err("it is a file");
        assert_eq!(inherited.left(), [address]);
        assert_eq!(inherited.take((Ipv4Addr::LOCALHOST, 1).into()).len(), 0);
        assert_eq!(inherited.take(address).len(), 1);
        assert_eq!(inherited.left(), []);
    }
}
