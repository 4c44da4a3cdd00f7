//! What the telemetry listener shows of a gateway.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::control::Control;
use super::lists::seconds_since_1970;
use crate::config::{AllowedServer, ListenerKind};
use crate::sandbox;
use crate::telemetry::http::Pages;
use crate::telemetry::metrics;
use crate::telemetry::status::{
    Listener, Operator, Role, SignalConnection, State, Status, Totals, Waiting, Worker,
};
use crate::wire::CrlOutcome;

pub(super) struct GatewayPages {
    control: Rc<RefCell<Control>>,
}

impl GatewayPages {
    pub(super) fn new(control: Rc<RefCell<Control>>) -> Self {
        Self { control }
    }
}

impl Pages for GatewayPages {
    fn metrics(&self) -> String {
        let control = self.control.borrow();
        let snapshot = control.dispatcher.snapshot();
        let outcomes = control.outcomes;
        let count = |server: &str| snapshot.links.iter().filter(|l| l.server == server).count();
        let signal = |server: &AllowedServer| (server.name.clone(), count(&server.name) as u64);
        metrics::render(metrics::Snapshot {
            role: Role::Gateway,
            event_loop: control.shared.platform.event_loop.word(),
            relay: control.shared.platform.relay.word(),
            workers: control.counters.clone(),
            figures: control.ledger.figures(),
            waiting_agents: snapshot.waiting as u64,
            invitations: vec![
                ("sent", outcomes.sent),
                ("claimed", outcomes.claimed),
                ("withdrawn", outcomes.withdrawn),
                ("refused", outcomes.refused),
            ],
            signal_connections: control.shared.config.servers.allow.iter().map(signal).collect(),
            certificates: metrics::expiries(&control.shared.certificates),
            lists: control.list_figures(),
            lists_brought: CrlOutcome::with_words(&control.lists_brought),
            reloads: control.history.results().to_vec(),
            configuration_read: control.history.loaded_at(),
            operator_requests: control.tally.borrow().counts(),
        })
    }

    fn readiness(&self) -> Result<(), String> {
        let snapshot = self.control.borrow().dispatcher.snapshot();
        if snapshot.draining {
            Err("drains: no new sessions".to_owned())
        } else if snapshot.links.iter().all(|link| link.draining) {
            Err("no server holds a signal connection, or those that do are drained".to_owned())
        } else if let Some(missing) =
            self.control.borrow().shared.missing_list(seconds_since_1970())
        {
            Err(missing)
        } else {
            Ok(())
        }
    }

    fn status(&self) -> Status {
        let state = match self.readiness() {
            Ok(()) => State::Ready,
            Err(_) if self.control.borrow().dispatcher.snapshot().draining => State::Draining,
            Err(_) => State::Starting,
        };
        let control = self.control.borrow();
        let now = Instant::now();
        let snapshot = control.dispatcher.snapshot();
        let signal = |link: &crate::control::LinkStatus| SignalConnection {
            peer: link.server.clone(),
            address: control.links.get(&link.link).map(|open| open.peer),
            up_s: Some((now - link.since).as_secs()),
            services: link.services.clone(),
            sessions: link.sessions as u64,
            waiting: link.waiting as u64,
            spares: link.spares as u64,
        };
        Status {
            role: Role::Gateway,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: control.shared.instance.clone(),
            event_loop: control.shared.platform.event_loop.to_string(),
            relay: control.shared.platform.relay.to_string(),
            pid: std::process::id(),
            uptime_s: (now - control.started).as_secs(),
            state,
            configuration: control.history.status(now),
            listeners: control.listeners(),
            signal_connections: snapshot.links.iter().map(signal).collect(),
            revocation: control.revocation(),
            waiting: Waiting {
                agents: snapshot.waiting as u64,
                bound: control.shared.config.limits.max_waiting as u64,
            },
            operator: Operator {
                blocks: control.kept.blocks.all().len() as u64,
                drained_servers: snapshot.drained_servers.clone(),
            },
            sessions: control.ledger.sessions(now),
            totals: Totals::of(&control.counters, control.ledger.ended()),
            latencies: control.ledger.latencies(),
            workers: control.counters.iter().map(|counters| Worker::from(&**counters)).collect(),
            sandbox: sandbox::status(),
        }
    }
}

impl Control {
    fn listeners(&self) -> Vec<Listener> {
        let configured = self.shared.config.listeners.iter().enumerate();
        configured
            .map(|(index, listener)| Listener {
                name: listener.name.clone(),
                addresses: self
                    .front
                    .bound
                    .iter()
                    .filter(|(i, _)| *i == index)
                    .map(|(_, a)| *a)
                    .collect(),
                kind: match listener.kind {
                    ListenerKind::Tls { .. } => "tls".to_owned(),
                    ListenerKind::Plain { .. } => "plain".to_owned(),
                },
            })
            .collect()
    }
}
