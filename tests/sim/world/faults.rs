use std::collections::BTreeSet;
use std::time::Duration;

use vestibule::control::{GatewayEvent, ServiceId};
use vestibule::relay::CloseReason;
use vestibule::wire::{Decline, FromServer, Goodbye, Pong, ServerHello, from_server};

use super::{Occurrence, Way, World};
use crate::sim::server::Server;
use crate::sim::worker::Worker;

impl World {
    pub(super) fn fault(&mut self) {
        if self.random.percent(10) {
            return self.restart_gateway();
        }
        let server = self.random.below(self.servers.len());
        match self.random.below(7) {
            6 => self.abandon_spares(server, true),
            0 => {
                if let Some(wire) = self.servers[server].wire {
                    self.wires[wire].cut = true;
                }
            }
            1 | 2 => {
                let silently = self.random.percent(50);
                self.kill(server, silently);
                self.after(Duration::ZERO, 12_000, Occurrence::Restart(server));
            }
            3 => {
                self.serve(server, GatewayEvent::Drain);
                self.after(Duration::from_secs(1), 5_000, Occurrence::Restart(server));
            }
            _ => self.babble(server),
        }
    }

    pub(super) fn kill(&mut self, server: usize, silently: bool) {
        self.abandon_spares(server, silently);
        if let Some(wire) = self.servers[server].stop() {
            self.wires[wire].cut |= silently;
            self.hang_up(wire);
        }
    }

    pub(super) fn plan_reloads(&mut self) {
        for _ in 0..self.reloads.below(4) {
            let due = self.now + self.reloads.millis(40_000);
            self.at(due, Occurrence::Reload);
        }
    }

    /// Takes rights and services away, or gives them back, or is less patient.
    pub(super) fn reload(&mut self) {
        let gone = if self.reloads.percent(30) {
            BTreeSet::from([self.reloads.below(self.services)])
        } else {
            BTreeSet::new()
        };
        for server in &mut self.servers {
            let reloads = &mut self.reloads;
            let allowed = server.allowed.iter().filter(|_| reloads.percent(80));
            server.allowed_now =
                allowed.copied().filter(|service| !gone.contains(service)).collect();
        }
        let patience =
            self.invitation_timeout / u32::try_from(self.reloads.between(1, 3)).expect("few");
        let Self { servers, reloads, gateway, .. } = self;
        let reload = gateway.reconfigured(gone, patience, |name| {
            if reloads.percent(10) {
                return Err(CloseReason::CertificateNotAllowed);
            }
            Ok(allowed_now(servers, name))
        });
        self.control(reload);
    }

    pub(super) fn reload_as_at_first(&mut self) {
        for server in &mut self.servers {
            server.allowed_now = server.allowed.clone();
        }
        let Self { servers, gateway, .. } = self;
        let all = |name: &str| Ok(allowed_now(servers, name));
        let reload = gateway.reconfigured(BTreeSet::new(), self.invitation_timeout, all);
        self.control(reload);
    }

    /// Every agent goes with it, and every session.
    fn restart_gateway(&mut self) {
        let silently = self.random.percent(50);
        for wire in 0..self.wires.len() {
            if std::mem::take(&mut self.wires[wire].gateway_end) {
                self.wires[wire].cut |= silently;
                self.send(Way::ToServer(wire), self.latency_ms, Occurrence::AtServer(wire, None));
            }
        }
        self.spares.clear();
        self.epoch += 1;
        self.drained = false;
        self.gateway.restart();
        self.workers.fill_with(Worker::default);
    }

    /// A frame that no sound server would send at this moment.
    fn babble(&mut self, server: usize) {
        let Some(wire) = self.servers[server].wire.filter(|wire| self.wires[*wire].server_end)
        else {
            return;
        };
        let message = match self.random.below(5) {
            0 => None,
            1 => Some(from_server::Message::ServerHello(ServerHello::default())),
            2 => Some(from_server::Message::Goodbye(Goodbye {})),
            3 => Some(from_server::Message::Pong(Pong { nonce: self.random.next() })),
            _ => {
                let ids: Vec<u64> = self.claims_seen.iter().map(|claim| claim.id).collect();
                let id = if ids.is_empty() { 0 } else { *self.random.pick(&ids) };
                Some(from_server::Message::Decline(Decline { id, reason: 6 }))
            }
        };
        self.say(wire, FromServer { message });
    }
}

/// Of the first server of that name: two of a kind have the rights of one entry.
fn allowed_now(servers: &[Server], name: &str) -> Vec<ServiceId> {
    let mut named = servers.iter().filter(|server| server.name == name);
    named.next().map(|server| server.allowed_now.clone()).unwrap_or_default()
}
