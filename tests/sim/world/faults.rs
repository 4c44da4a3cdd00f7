//! What goes wrong in a world, and how it ends.

use std::collections::btree_map::Entry;
use std::rc::Rc;
use std::time::Duration;

use super::{Condition, Gate, Lan, World};
use crate::sim::checks::Sight;
use crate::sim::nature::{Occurrence, ProcessId};
use crate::sim::network::{ConnectionId, Cut, End, Hello};

/// Longest time for which a process is stopped, or a connection stalls.
const STOP_MS: u64 = 12_000;
/// Longest time until a process that died is back.
const ABSENCE_MS: u64 = 8_000;

impl World {
    pub(super) fn fault(&mut self) {
        if self.nature.calm {
            return;
        }
        match self.nature.random.below(15) {
            0..=2 => self.cut_somewhere(),
            3 | 4 => self.stall_somewhere(),
            5 | 6 => {
                let process = self.any_process();
                if !self.is_hostile(process) {
                    let silently = self.nature.random.percent(50);
                    self.kill(process, silently);
                    self.nature.after(Duration::ZERO, ABSENCE_MS, Occurrence::Start(process));
                }
            }
            7 | 8 => self.stop_any(),
            9 | 10 => self.reload_any(),
            11 | 12 => self.drain_a_server_at_a_gateway(),
            _ => self.drain_any(),
        }
    }

    fn any_process(&mut self) -> ProcessId {
        let processes = self.processes();
        *self.nature.random.pick(&processes)
    }

    /// Whoever is hostile lives as long as things go wrong.
    fn is_hostile(&self, process: ProcessId) -> bool {
        match process {
            ProcessId::Gateway(index) => matches!(self.gateways[index], Gate::Hostile(_)),
            ProcessId::Server(index) => matches!(self.servers[index], Lan::Hostile(_)),
            ProcessId::Agent(_) | ProcessId::Backends => false,
        }
    }

    fn any_connection(&mut self) -> Option<ConnectionId> {
        let network = &self.nature.network;
        let mut live = network.live();
        match self.nature.random.below(4) {
            0 | 1 => live.retain(|id| matches!(network.hello(*id), Hello::Signal { .. })),
            2 => live.retain(|id| matches!(network.hello(*id), Hello::Data { .. })),
            _ => {}
        }
        (!live.is_empty()).then(|| *self.nature.random.pick(&live))
    }

    fn cut_somewhere(&mut self) {
        let Some(id) = self.any_connection() else { return };
        let how = match self.nature.random.below(4) {
            0 => Cut::Reset,
            1 => Cut::OneWay(*self.nature.random.pick(&End::BOTH)),
            _ => Cut::Silent,
        };
        // Sometimes while somebody is on the way to it, who must not be given what is gone.
        if self.nature.random.percent(30) {
            self.arrive(3);
            self.nature.after(Duration::ZERO, 300, Occurrence::Cut(id, how));
        } else {
            self.nature.cut(id, how);
        }
    }

    fn stall_somewhere(&mut self) {
        let Some(id) = self.any_connection() else { return };
        self.nature.note(|| format!("connection {id} stalls"));
        for end in End::BOTH {
            if self.nature.random.percent(70) {
                self.nature.stall(id, end, STOP_MS);
            }
        }
    }

    fn stop_any(&mut self) {
        let process = self.any_process();
        if let Entry::Vacant(running) = self.conditions.entry(process) {
            running.insert(Condition::Stopped(Vec::new()));
            self.nature.note(|| format!("{process:?} is stopped"));
            self.nature.after(Duration::ZERO, STOP_MS, Occurrence::Resume(process));
        }
    }

    /// Everything that came meanwhile is there at once, and the clock has moved on.
    pub(super) fn resume(&mut self, process: ProcessId) {
        let Some(Condition::Stopped(held)) = self.conditions.get_mut(&process) else { return };
        let held = std::mem::take(held);
        self.conditions.remove(&process);
        self.nature.checks.see(Sight::Resumed);
        match process {
            ProcessId::Gateway(index) => {
                if let Gate::Sound(gateway) = &mut self.gateways[index] {
                    gateway.resume();
                }
            }
            ProcessId::Server(index) => {
                if let Lan::Sound(server) = &mut self.servers[index] {
                    server.resume();
                }
            }
            ProcessId::Agent(_) | ProcessId::Backends => {}
        }
        for occurrence in held {
            self.nature.at(self.nature.now, occurrence);
        }
        self.nature.at(self.nature.now, Occurrence::Wake(process));
    }

    fn drain_any(&mut self) {
        let process = self.any_process();
        if self.conditions.contains_key(&process) || self.is_hostile(process) {
            return;
        }
        match process {
            ProcessId::Gateway(index) => {
                if let Gate::Sound(gateway) = &mut self.gateways[index] {
                    gateway.drain(&mut self.nature);
                }
            }
            ProcessId::Server(index) => {
                if let Lan::Sound(server) = &mut self.servers[index] {
                    server.drain(&mut self.nature);
                }
            }
            ProcessId::Agent(_) | ProcessId::Backends => {}
        }
        self.wake_in_time(process);
        self.nature.note(|| format!("{process:?} drains"));
        self.nature.after(Duration::from_secs(1), ABSENCE_MS, Occurrence::Start(process));
    }

    fn reload_any(&mut self) {
        let process = self.any_process();
        let ProcessId::Gateway(index) = process else { return };
        if self.conditions.contains_key(&process) {
            return;
        }
        let Gate::Sound(gateway) = &mut self.gateways[index] else { return };
        let settings = Rc::new(self.settings.changed(&mut self.nature.random));
        gateway.reload(&settings, &mut self.nature);
        self.nature.note(|| format!("gateway {index} reloads"));
        self.wake_in_time(process);
    }

    fn drain_a_server_at_a_gateway(&mut self) {
        let process = self.any_process();
        let ProcessId::Gateway(index) = process else { return };
        if self.conditions.contains_key(&process) {
            return;
        }
        let server = self.nature.random.below(self.settings.servers.len());
        let Gate::Sound(gateway) = &mut self.gateways[index] else { return };
        let name = &self.settings.servers[server].name;
        gateway.toggle_server(name, &mut self.nature);
        self.nature.note(|| format!("an operator of gateway {index} drains {name} or undrains it"));
        self.wake_in_time(process);
    }

    fn kill(&mut self, process: ProcessId, silently: bool) {
        self.nature.note(|| format!("{process:?} dies; silently: {silently}"));
        self.nature.drop_sockets(process, silently);
        if let ProcessId::Gateway(index) = process {
            self.nature.checks.forget_gateway(index);
        }
        self.conditions.insert(process, Condition::Down { silently });
    }

    /// A new process in the place of the one that died, or of one that is still there.
    pub(super) fn start(&mut self, process: ProcessId) {
        if let ProcessId::Gateway(index) = process
            && let Gate::Sound(gateway) = &mut self.gateways[index]
            && gateway.drains()
            && !self.conditions.contains_key(&process)
        {
            gateway.stop(&mut self.nature);
        }
        if !self.is_down(process) {
            self.kill(process, false);
        }
        self.conditions.remove(&process);
        self.wakes.remove(&process);
        self.nature.host_returns(process);
        match process {
            ProcessId::Gateway(index) => {
                if let Gate::Sound(_) = self.gateways[index] {
                    self.gateways[index] = self.sound_gateway(index);
                }
            }
            ProcessId::Server(index) => {
                if let Lan::Sound(_) = self.servers[index] {
                    self.servers[index] = self.sound_server(index);
                }
            }
            ProcessId::Agent(_) | ProcessId::Backends => {}
        }
        self.wake_in_time(process);
    }

    /// From now on nothing goes wrong. Who is down, drains, is sick or hostile is replaced; the others go
    /// on as they are, with whatever they remember.
    pub(super) fn recover(&mut self) {
        self.nature.calm = true;
        self.nature.network.latency_ms = 5;
        self.nature.heal();
        for process in self.processes() {
            self.resume(process);
            let needs_help = match process {
                ProcessId::Gateway(index) => match &mut self.gateways[index] {
                    Gate::Sound(gateway) => gateway.drains(),
                    Gate::Hostile(_) => {
                        self.gateways[index] = self.sound_gateway(index);
                        true
                    }
                },
                ProcessId::Server(index) => match &mut self.servers[index] {
                    Lan::Sound(server) => server.drains() || server.is_sick(),
                    Lan::Hostile(_) => {
                        self.servers[index] = self.sound_server(index);
                        true
                    }
                },
                ProcessId::Agent(_) | ProcessId::Backends => false,
            };
            if needs_help || self.is_down(process) {
                self.start(process);
            } else if let ProcessId::Gateway(index) = process
                && let Gate::Sound(gateway) = &mut self.gateways[index]
            {
                gateway.reload(&self.settings, &mut self.nature);
                gateway.undrain_servers(&mut self.nature);
                self.wake_in_time(process);
            }
        }
    }
}
