//! A reload of the server: what is read, what can't change, and what the control thread does with it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::Shared;
use super::backends::{self, Addresses};
use super::control::Control;
use super::link::{Gateway, GatewayId, Link};
use super::mail::WorkerMail;
use crate::check::files_of_server;
use crate::config::{self, ServerConfig, read_server};
use crate::control::GatewayEvent;
use crate::relay::CloseReason;
use crate::reload::{Outcome, Reader, Refusal, Watch, checked};
use crate::sandbox::{self, Needs};
use crate::tls::{Expiry, handshake_failure};

/// Reads the configuration of a server again.
pub(super) struct ServerReader {
    pub(super) file: PathBuf,
    pub(super) running: Arc<Shared>,
}

/// What a reload brings: the names of backends are looked up before anyone needs them.
pub(super) type Loaded = (Arc<Shared>, Addresses);

impl Reader for ServerReader {
    type Loaded = Loaded;
    type Errand = Infallible;
    type Done = Infallible;

    fn run(&mut self, errand: Infallible) -> Infallible {
        errand
    }

    fn read(&mut self, watch: &mut Watch) -> Result<Loaded, Refusal> {
        let read = read_server(&self.file);
        if let Ok(read) = &read {
            let missing = sandbox::missing_for(&Needs::of_server(&read.config, &self.file));
            if !missing.is_empty() {
                return Err(Refusal::needs_restart(missing));
            }
        }
        let config = checked(read, watch, ServerConfig::files, files_of_server)?;
        let fixed = needing_restart(&self.running.config, &config);
        if !fixed.is_empty() {
            return Err(Refusal::needs_restart(fixed));
        }
        self.running = Arc::new(self.running.next(config)?);
        Ok((Arc::clone(&self.running), backends::look_up_here(&self.running.config)))
    }

    fn certificates(&self) -> &[Expiry] {
        &self.running.certificates
    }

    fn list_warnings(&self, now: i64) -> Vec<String> {
        self.running.lists.iter().filter_map(|list| list.warning(now)).collect()
    }
}

/// What can't change while the server runs: its threads, and the socket of its telemetry.
fn needing_restart(before: &ServerConfig, after: &ServerConfig) -> Vec<String> {
    let mut changes = Vec::new();
    if before.workers != after.workers {
        changes.push("another `workers` needs a restart".to_owned());
    }
    if before.event_loop != after.event_loop {
        changes.push("another `event_loop` needs a restart".to_owned());
    }
    if before.relay != after.relay {
        changes.push("another `relay` needs a restart".to_owned());
    }
    if before.telemetry != after.telemetry {
        changes.push("another `address` of `[telemetry]` needs a restart".to_owned());
    }
    if before.operator != after.operator {
        changes.push("another `socket` of `[operator]` needs a restart".to_owned());
    }
    changes
}

impl Shared {
    /// Whether a gateway's chain, which an earlier configuration found good, still is.
    pub(super) fn verify(
        &self,
        gateway: &Gateway,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), CloseReason> {
        let (leaf, rest) = chain.split_first().ok_or(CloseReason::CertificateMissing)?;
        let now = UnixTime::now();
        self.verifier
            .verify_server_cert(leaf, rest, &gateway.name, &[], now)
            .map(|_| ())
            .map_err(|error| handshake_failure(&error))
    }
}

impl Control {
    /// Everything was read again.
    pub(super) fn reload_ended(&mut self, outcome: Outcome<ServerReader>) {
        match outcome {
            Outcome::Loaded((shared, found)) => self.reload(shared, found),
            Outcome::Refused(refusal) => self.history.note_refused(&refusal),
            Outcome::Done(nothing) => match nothing {},
        }
    }

    fn reload(&mut self, shared: Arc<Shared>, mut found: Addresses) {
        shared.seats.set_bound(shared.config.max_sessions, shared.config.gateways.len());
        self.ledger.set_max_live(shared.config.max_sessions);
        // A name that can't be looked up keeps the addresses that it had.
        for (name, addresses) in found.iter_mut().filter(|(_, found)| found.is_empty()) {
            *addresses = self.backends.get(name).cloned().unwrap_or_default();
        }
        self.backends = Arc::new(found);
        let same_names = self.shared.own_names == shared.own_names;
        self.shared = shared;
        for worker in &mut self.workers {
            let (shared, backends) = (Arc::clone(&self.shared), Arc::clone(&self.backends));
            worker.send(WorkerMail::Reload { shared, backends });
        }
        let ids: Vec<GatewayId> = self.links.keys().copied().collect();
        for id in ids {
            self.renew_link(id, same_names);
        }
        self.add_links();
        self.history.note_applied();
    }

    /// A link goes on where nothing is against it; one that is lost dials again by itself.
    fn renew_link(&mut self, id: GatewayId, same_names: bool) {
        let (shared, hello) = (Arc::clone(&self.shared), self.shared.hello());
        let Some(link) = self.links.get_mut(&id) else { return };
        link.forget_tls();
        if !shared.config.gateways.contains(&link.configured) {
            link.removed = true;
            return self.handle(id, GatewayEvent::Removed);
        }
        let outdated = match &link.open {
            // The gateway knows this server by its names, and data connections must bear the same.
            _ if !same_names => Some(CloseReason::Finished),
            Some(open) => shared.verify(&link.gateway, &open.chain).err(),
            // An attempt under way goes by what was before.
            None => Some(CloseReason::Finished),
        };
        if let Some(reason) = outdated {
            self.handle(id, GatewayEvent::Outdated(reason));
        }
        let (services, capacity, spares) = hello;
        self.handle(id, GatewayEvent::Reconfigured { services, capacity, spares });
        self.handle(id, GatewayEvent::Crls(shared.own_lists()));
    }

    /// Links to the gateways of the configuration that have none.
    pub(super) fn add_links(&mut self) {
        let shared = Arc::clone(&self.shared);
        let linked = |control: &Self, gateway: &config::Gateway| {
            control.links.values().any(|link| !link.removed && link.configured == *gateway)
        };
        for gateway in &shared.config.gateways {
            if !linked(self, gateway) {
                let id = self.next_gateway;
                self.next_gateway += 1;
                self.links.insert(id, Link::new(id, gateway, shared.new_link()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse_server;

    const CONFIG: &str = "workers = 1\ncertificate = \"lan.crt\"\nkey = \"lan.key\"\n\
        gateway_ca = \"gateways.crt\"\n\
        [[gateways]]\naddress = \"gw.example.com:13000\"\n\
        [[services]]\nname = \"web\"\nbackend = \"127.0.0.1:80\"\n\
        [telemetry]\naddress = \"127.0.0.1:9114\"\n";

    fn changes(old: &str, new: &str) -> Vec<String> {
        assert!(CONFIG.contains(old), "{old}");
        let parse =
            |text: &str| parse_server(text, Path::new("server.toml")).expect("well-formed").config;
        needing_restart(&parse(CONFIG), &parse(&CONFIG.replace(old, new)))
    }

    #[test]
    fn threads_and_telemetry_need_a_restart_and_nothing_else_does() {
        assert_eq!(changes("workers = 1", "workers = 2"), ["another `workers` needs a restart"]);
        let telemetry = changes("127.0.0.1:9114", "127.0.0.1:9115");
        assert_eq!(telemetry, ["another `address` of `[telemetry]` needs a restart"]);
        for (old, new) in [
            ("lan.crt", "other.crt"),
            ("gateways.crt", "other.crt"),
            ("gw.example.com:13000", "gw2.example.com:13000"),
            ("name = \"web\"", "name = \"ssh\""),
            ("127.0.0.1:80", "127.0.0.1:8080"),
            ("[telemetry]", "[limits]\nmax_sessions = 20\n[telemetry]"),
        ] {
            assert_eq!(changes(old, new), Vec::<String>::new(), "{new}");
        }
    }
}
