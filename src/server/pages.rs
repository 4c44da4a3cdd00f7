//! What the telemetry listener shows of a server.

use std::cell::RefCell;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Instant;

use super::control::Control;
use super::link::Link;
use crate::engine::StartError;
use crate::sandbox;
use crate::telemetry::http::{self, Pages};
use crate::telemetry::metrics;
use crate::telemetry::status::{
    Operator, Role, SignalConnection, State, Status, Totals, Waiting, Worker,
};
use crate::wire::CrlOutcome;

/// Serves the pages, where they have a listener.
pub(super) fn serve(
    listener: Option<TcpListener>,
    control: &Rc<RefCell<Control>>,
) -> Result<(), StartError> {
    let Some(listener) = listener else { return Ok(()) };
    let may_ask = control.borrow().shared.config.telemetry.allow.clone();
    let pages = Rc::new(ServerPages { control: Rc::clone(control) });
    http::serve(listener, may_ask, pages).map_err(StartError::Kernel)?;
    Ok(())
}

struct ServerPages {
    control: Rc<RefCell<Control>>,
}

impl Pages for ServerPages {
    fn metrics(&self) -> String {
        let control = self.control.borrow();
        let outcomes = control.outcomes;
        metrics::render(metrics::Snapshot {
            role: Role::Server,
            event_loop: control.shared.platform.event_loop.word(),
            relay: control.shared.platform.relay.word(),
            workers: control.counters.clone(),
            figures: control.ledger.figures(),
            waiting_agents: 0,
            invitations: vec![
                ("received", outcomes.received),
                ("joined", outcomes.joined),
                ("declined", outcomes.declined),
                ("failed", outcomes.failed),
            ],
            signal_connections: control.signal_connections(),
            certificates: metrics::expiries(&control.shared.certificates),
            lists: Vec::new(),
            lists_brought: CrlOutcome::with_words(&control.lists_brought),
            reloads: control.history.results().to_vec(),
            configuration_read: control.history.loaded_at(),
            operator_requests: control.tally.borrow().counts(),
        })
    }

    fn readiness(&self) -> Result<(), String> {
        let control = self.control.borrow();
        if control.draining {
            Err("drains: no new sessions".to_owned())
        } else if control.links.values().any(Link::is_up) {
            Ok(())
        } else {
            Err("no signal connection to any gateway".to_owned())
        }
    }

    fn status(&self) -> Status {
        let ready = self.readiness().is_ok();
        let control = self.control.borrow();
        let now = Instant::now();
        let services = control.shared.services.iter();
        let services: Vec<String> = services.map(|service| service.name.to_string()).collect();
        let signal_connections = control.links.values().map(|link| SignalConnection {
            peer: link.gateway.address.to_string(),
            address: link.open.as_ref().map(|open| open.address),
            up_s: link.open.as_ref().map(|open| (now - open.since).as_secs()),
            services: services.clone(),
            sessions: link.sessions as u64,
            waiting: 0,
            spares: link.spares.len() as u64,
        });
        Status {
            role: Role::Server,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: control.instance.clone(),
            event_loop: control.shared.platform.event_loop.to_string(),
            relay: control.shared.platform.relay.to_string(),
            pid: std::process::id(),
            uptime_s: (now - control.started).as_secs(),
            state: match (control.draining, ready) {
                (true, _) => State::Draining,
                (false, true) => State::Ready,
                (false, false) => State::Starting,
            },
            configuration: control.history.status(now),
            listeners: Vec::new(),
            signal_connections: signal_connections.collect(),
            revocation: Vec::new(),
            waiting: Waiting::default(),
            operator: Operator::default(),
            sessions: control.ledger.sessions(now),
            totals: Totals::of(&control.counters, control.ledger.ended()),
            latencies: control.ledger.latencies(),
            workers: control.counters.iter().map(|counters| Worker::from(&**counters)).collect(),
            sandbox: sandbox::status(),
        }
    }
}

impl Control {
    /// How many stand, by gateway: two, while one process of it takes the place of another.
    fn signal_connections(&self) -> Vec<(String, u64)> {
        let mut counts = Vec::<(String, u64)>::new();
        for link in self.links.values() {
            let (address, up) = (&*link.gateway.address, u64::from(link.is_up()));
            match counts.iter_mut().find(|(counted, _)| counted == address) {
                Some((_, count)) => *count += up,
                None => counts.push((address.to_owned(), up)),
            }
        }
        counts
    }
}
