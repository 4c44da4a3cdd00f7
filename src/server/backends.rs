//! The addresses of backends: names are looked up ahead of need, so that no session waits for it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

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

/// The same on a thread that is no tokio's, for a configuration that is new.
pub(super) fn look_up_here(config: &ServerConfig) -> Addresses {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        // The next look-up is soon, and until then what is known by now holds.
        return names(config).into_iter().map(|name| (name, Vec::new())).collect();
    };
    let addresses = runtime.block_on(look_up(config, &Addresses::new()));
    // Not by a drop, which would wait for name servers that are silent.
    runtime.shutdown_background();
    Arc::unwrap_or_clone(addresses)
}

fn names(config: &ServerConfig) -> HashSet<HostPort> {
    let of_service = |service: &ServedService| {
        let special = service.backend_by_alpn.iter().map(|(_, backend)| backend.address.clone());
        special.chain([service.backend.address.clone()]).collect::<Vec<_>>()
    };
    config.services.iter().flat_map(of_service).collect()
}
