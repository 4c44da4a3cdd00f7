//! A reload of the gateway: what is read, what can't change, and what the control thread does with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::control::{Control, Link};
use super::lists::{BroughtList, JudgedList, judge};
use super::mail::WorkerMail;
use super::{Shared, dispatcher_limits};
use crate::check::files_of_gateway;
use crate::config::{GatewayConfig, ListenerKind, read_gateway};
use crate::control::{Event, Reconfiguration, ServiceId};
use crate::limits::MAX_SERVICE_NAMES;
use crate::reload::{Outcome, Reader, Refusal, Watch, checked};
use crate::sandbox::{self, Needs};
use crate::tls::Expiry;

/// Reads the configuration of a gateway again.
pub(super) struct GatewayReader {
    pub(super) file: PathBuf,
    pub(super) running: Arc<Shared>,
}

impl Reader for GatewayReader {
    type Loaded = Arc<Shared>;
    type Errand = BroughtList;
    type Done = JudgedList;

    fn read(&mut self, watch: &mut Watch) -> Result<Arc<Shared>, Refusal> {
        let read = read_gateway(&self.file);
        if let Ok(read) = &read {
            let missing = sandbox::missing_for(&Needs::of_gateway(&read.config, &self.file));
            if !missing.is_empty() {
                return Err(Refusal::needs_restart(missing));
            }
        }
        let config = checked(read, watch, GatewayConfig::files, files_of_gateway)?;
        let fixed = needing_restart(&self.running.config, &config);
        if !fixed.is_empty() {
            return Err(Refusal::needs_restart(fixed));
        }
        let next = self.running.next(config)?;
        if next.services.len() > MAX_SERVICE_NAMES {
            let message = format!(
                "`[[services]]`: more than {MAX_SERVICE_NAMES} names since the start; needs a restart"
            );
            return Err(Refusal::needs_restart(vec![message]));
        }
        self.running = Arc::new(next);
        Ok(Arc::clone(&self.running))
    }

    fn certificates(&self) -> &[Expiry] {
        &self.running.certificates
    }

    fn run(&mut self, errand: BroughtList) -> JudgedList {
        judge(&mut self.running, errand)
    }

    fn list_warnings(&self, now: i64) -> Vec<String> {
        self.running.list_warnings(now)
    }
}

/// What can't change while the gateway runs: its threads, and the sockets that they listen on.
fn needing_restart(before: &GatewayConfig, after: &GatewayConfig) -> Vec<String> {
    let mut changes = Vec::new();
    let mut needs = |change: String| changes.push(format!("{change} needs a restart"));
    if before.workers != after.workers {
        needs("another `workers`".to_owned());
    }
    if before.event_loop != after.event_loop {
        needs("another `event_loop`".to_owned());
    }
    if before.relay != after.relay {
        needs("another `relay`".to_owned());
    }
    if before.upgrade_socket != after.upgrade_socket {
        needs("another `socket` of `[upgrade]`".to_owned());
    }
    if before.telemetry != after.telemetry {
        needs("another `address` of `[telemetry]`".to_owned());
    }
    if before.operator != after.operator {
        needs("another `socket` or `state` of `[operator]`".to_owned());
    }
    let names = |config: &GatewayConfig| -> Vec<String> {
        config.listeners.iter().map(|listener| listener.name.clone()).collect()
    };
    if names(before) != names(after) {
        needs("another name, order or number of `[[listeners]]`".to_owned());
        return changes;
    }
    for (before, after) in before.listeners.iter().zip(&after.listeners) {
        let name = &after.name;
        if before.addresses != after.addresses {
            needs(format!("listener \"{name}\": another `addresses`"));
        }
        let is_tls = |kind: &ListenerKind| matches!(kind, ListenerKind::Tls { .. });
        if is_tls(&before.kind) != is_tls(&after.kind) {
            needs(format!("listener \"{name}\": another `kind`"));
        }
    }
    changes
}

impl Control {
    /// Everything was read again.
    pub(super) fn reload_ended(&mut self, outcome: Outcome<GatewayReader>) {
        match outcome {
            Outcome::Loaded(shared) => {
                self.apply(shared);
                self.history.note_applied();
            }
            Outcome::Refused(refusal) => self.history.note_refused(&refusal),
            Outcome::Done(judged) => self.list_judged(judged),
        }
    }

    /// Applies what was read. The workers hear of it before anything that follows from it.
    pub(super) fn apply(&mut self, shared: Arc<Shared>) {
        self.shared = shared;
        for worker in &mut self.workers {
            worker.send(WorkerMail::Reload(Arc::clone(&self.shared)));
        }
        self.ledger.set_max_live(self.shared.config.limits.max_connections);
        let (config, known) = (&self.shared.config, &self.shared.services);
        let is_gone = |service: &ServiceId| config.service(*service).is_none();
        let verdict = |link: &Link| self.verdict(&link.proven, &link.chain);
        let changed = Reconfiguration {
            limits: dispatcher_limits(config),
            services: self.shared.offers(),
            gone: (0..known.len()).filter(is_gone).collect(),
            links: self.links.iter().map(|(id, link)| (*id, verdict(link))).collect(),
        };
        self.handle(Event::Reconfigured(changed), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse_gateway;

    const CONFIG: &str = r#"
        workers = 1
        [[listeners]]
        name = "internet"
        addresses = ["127.0.0.1:13000"]
        kind = "tls"
        certificate = "gw.crt"
        key = "gw.key"
        device_certificates = "required"
        device_ca = "devices.crt"
        [servers]
        ca = "servers.crt"
        [[servers.allow]]
        name = "admin.example.com"
        services = "all"
        [[services]]
        name = "web"
        [telemetry]
        address = "127.0.0.1:9113"
    "#;

    /// What stands in the way of a reload where `old` is replaced by `new` in the file.
    fn changes(old: &str, new: &str) -> Vec<String> {
        assert!(CONFIG.contains(old), "{old}");
        let parse = |text: &str| {
            parse_gateway(text, Path::new("gateway.toml")).expect("well-formed").config
        };
        needing_restart(&parse(CONFIG), &parse(&CONFIG.replace(old, new)))
    }

    #[test]
    fn threads_and_sockets_need_a_restart_and_their_key_is_named() {
        let second = "[[listeners]]\nname = \"two\"\naddresses = [\"127.0.0.1:1\"]\nkind = \"tls\"\n\
                      certificate = \"gw.crt\"\nkey = \"gw.key\"\ndevice_certificates = \"required\"\n\
                      device_ca = \"devices.crt\"\n[servers]\n";
        for (old, new, key) in [
            ("workers = 1", "workers = 2", "`workers`"),
            ("workers = 1", "workers = 1\nevent_loop = \"epoll\"", "`event_loop`"),
            ("127.0.0.1:9113", "127.0.0.1:9115", "`[telemetry]`"),
            ("[telemetry]", "[operator]\nsocket = \"gw.sock\"\n[telemetry]", "`[operator]`"),
            ("127.0.0.1:13000", "127.0.0.1:13001", "listener \"internet\": another `addresses`"),
            ("name = \"internet\"", "name = \"wan\"", "`[[listeners]]`"),
            ("[servers]\n", second, "`[[listeners]]`"),
        ] {
            let found = changes(old, new);
            let named = found.len() == 1 && found[0].contains(key);
            assert!(named && found[0].ends_with("needs a restart"), "{new}: {found:?}");
        }
    }

    #[test]
    fn everything_else_may_change() {
        for (old, new) in [
            ("gw.crt", "other.crt"),
            ("\"required\"", "\"optional\""),
            ("servers.crt", "other.crt"),
            ("admin.example.com", "other.example.com"),
            ("[[services]]\n", "[[services]]\nname = \"new\"\n[[services]]\n"),
            (
                "[telemetry]",
                "[limits]\nmax_connections = 100\nmax_waiting = 50\nkeepalive_ms = 5000\n[telemetry]",
            ),
        ] {
            assert_eq!(changes(old, new), Vec::<String>::new(), "{new}");
        }
    }
}
