//! Where everything listens: on the usual ports, or on others where these are taken.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

/// Bound by a running demo. A second one leaves the usual ports alone: two gateways of one user may
/// listen on the same port, and each would get some of the other's connections.
const FIRST_DEMO: &[u8] = b"vestibule-demo";

/// Where everything listens.
#[derive(Debug)]
pub(super) struct Addresses {
    /// The gateway's TLS listener.
    pub(super) tls: SocketAddr,
    /// The gateway's plain listener.
    pub(super) plain: SocketAddr,
    /// The agent's forwarded port.
    pub(super) forward: SocketAddr,
    /// The gateway's telemetry.
    pub(super) gateway_telemetry: SocketAddr,
    /// The server's telemetry.
    pub(super) server_telemetry: SocketAddr,
    /// The backend.
    pub(super) backend: SocketAddr,
    /// Usual ports that were taken.
    pub(super) taken: Vec<u16>,
    /// Keeps a second demo from the usual ports.
    _first: Option<UnixListener>,
}

/// Chooses all ports; the backend's is kept open, since it is served by this process.
pub(super) fn choose() -> io::Result<(Addresses, TcpListener)> {
    // Whatever keeps us from the name, the ports of the kernel's choice are right.
    let first = UnixAddr::from_abstract_name(FIRST_DEMO).and_then(|a| UnixListener::bind_addr(&a));
    let mut taken = Vec::new();
    let mut listen = |usual: u16| {
        let preferred = if first.is_ok() { bind(usual) } else { bind(0) };
        let listener = preferred.or_else(|_| bind(0))?;
        let address = listener.local_addr()?;
        if address.port() != usual {
            taken.push(usual);
        }
        io::Result::Ok((listener, address))
    };
    // All are held until all are chosen, so that no port is chosen twice.
    let (tls, plain, forward) = (listen(13000)?, listen(14000)?, listen(8081)?);
    let (gateway_telemetry, server_telemetry) = (listen(9113)?, listen(9114)?);
    let (listener, backend) = listen(8080)?;
    let addresses = Addresses {
        tls: tls.1,
        plain: plain.1,
        forward: forward.1,
        gateway_telemetry: gateway_telemetry.1,
        server_telemetry: server_telemetry.1,
        backend,
        taken,
        _first: first.ok(),
    };
    Ok((addresses, listener))
}

fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_another() {
        let (chosen, _backend) = choose().expect("ports");
        let mut all = vec![chosen.tls, chosen.plain, chosen.forward, chosen.backend];
        all.extend([chosen.gateway_telemetry, chosen.server_telemetry]);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn a_taken_port_is_named_and_another_chosen() {
        let _taken = bind(14000);
        let (chosen, _backend) = choose().expect("ports");
        assert_ne!(chosen.plain.port(), 14000);
        assert!(chosen.taken.contains(&14000), "{:?}", chosen.taken);
    }
}
