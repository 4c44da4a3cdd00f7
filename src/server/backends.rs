//! The addresses of backends: names are looked up ahead of need, so that no session waits for it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, mpsc};
use std::thread;

use tracing::warn;

use crate::config::{Backend, HostPort, ServedService, ServerConfig};
use crate::limits::RESOLVE_TIMEOUT;

/// What each backend's name led to when it was last looked up.
pub(super) type Addresses = HashMap<HostPort, Vec<SocketAddr>>;

/// The backend of a service for agents that speak `alpn`.
pub(super) fn choose<'c>(service: &'c ServedService, alpn: &str) -> &'c Backend {
    let special = service.backend_by_alpn.iter().find(|(name, _)| name == alpn);
    special.map_or(&service.backend, |(_, backend)| backend)
}

/// Looks every backend up once. A name that can't be looked up keeps the addresses that it had.
pub(super) async fn look_up(config: &ServerConfig, before: &Addresses) -> Arc<Addresses> {
    let mut addresses = Addresses::new();
    for name in names(config) {
        let lookup = tokio::net::lookup_host((name.host.as_str(), name.port));
        let found = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
            Ok(Ok(found)) => found.collect(),
            Ok(Err(error)) => {
                warn!(backend = %name, %error, "backend's name leads nowhere; its addresses stay");
                before.get(&name).cloned().unwrap_or_default()
            }
            Err(_) => {
                warn!(backend = %name, "name servers are silent; the backend's addresses stay");
                before.get(&name).cloned().unwrap_or_default()
            }
        };
        addresses.insert(name, found);
    }
    Arc::new(addresses)
}

/// The same on a thread that is no tokio's, for a configuration that is new. A name that can't be looked up
/// has no address.
pub(super) fn look_up_here(config: &ServerConfig) -> Addresses {
    let look_up = |name: HostPort| {
        let found = look_up_one(&name).unwrap_or_else(|error| {
            warn!(backend = %name, %error, "backend's name leads nowhere; its addresses stay");
            Vec::new()
        });
        (name, found)
    };
    names(config).into_iter().map(look_up).collect()
}

/// On one more thread, since the system's resolver has no bound of ours.
fn look_up_one(name: &HostPort) -> io::Result<Vec<SocketAddr>> {
    let (answer, answered) = mpsc::channel();
    let HostPort { host, port } = name.clone();
    let look_up = move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Nobody waits any more where it took too long.
        let _ = answer.send(found);
    };
    thread::Builder::new().name("look-up".to_owned()).spawn(look_up)?;
    let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "name servers are silent");
    answered.recv_timeout(RESOLVE_TIMEOUT).map_err(silent)?
}

fn names(config: &ServerConfig) -> HashSet<HostPort> {
    let of_service = |service: &ServedService| {
        let special = service.backend_by_alpn.iter().map(|(_, backend)| backend.address.clone());
        special.chain([service.backend.address.clone()]).collect::<Vec<_>>()
    };
    config.services.iter().flat_map(of_service).collect()
}
