//! A gateway whose process is replaced by another: for a while there are two links to it.

use std::time::Instant;

use tracing::{info, warn};

use super::control::Control;
use super::link::{GatewayId, Link};
use crate::control::GatewayEvent;
use crate::limits::MAX_SIGNAL_CONNECTIONS_OF_SERVER;

impl Control {
    /// Dials a gateway whose next process is to answer.
    pub(super) fn open_successor(&mut self, gateway: GatewayId) {
        let Some(link) = self.links.get(&gateway) else { return };
        let same = |other: &&Link| other.configured == link.configured;
        if self.links.values().filter(same).count() >= MAX_SIGNAL_CONNECTIONS_OF_SERVER {
            let address = &link.gateway.address;
            return warn!(gateway = %address, "too many of its processes are left: dials no further one");
        }
        let Some(link) = self.links.get_mut(&gateway) else { return };
        let Some(machine) = link.machine.successor(Instant::now()) else { return };
        info!(gateway = %link.gateway.address, "another process takes over there: dials it as well");
        let id = self.next_gateway;
        self.next_gateway += 1;
        let mut successor = Link::new(id, &link.configured, machine);
        successor.predecessor = Some(gateway);
        self.links.insert(id, successor);
        self.handle(gateway, GatewayEvent::Succeeded(true));
    }

    /// Of two links to one gateway, the later stays where the earlier one ends, and goes where it led to no
    /// other process.
    pub(super) fn settle_successions(&mut self) {
        let pair = |(id, link): (&GatewayId, &Link)| Some((*id, link.predecessor?));
        let pairs: Vec<_> = self.links.iter().filter_map(pair).collect();
        for (id, predecessor) in pairs {
            let is_over = match self.links.get(&predecessor) {
                Some(before) => {
                    before.removed || before.machine.is_stopped() || before.machine.gateway_drains()
                }
                None => true,
            };
            if is_over {
                self.handle(id, GatewayEvent::PredecessorGone);
                if let Some(link) = self.links.get_mut(&id) {
                    link.predecessor = None;
                }
            } else if self.links[&id].machine.is_stopped() {
                self.links.remove(&id);
                self.handle(predecessor, GatewayEvent::Succeeded(false));
            }
        }
        // The successor of one that has stopped dials for it.
        let draining = self.draining;
        self.links.retain(|_, link| draining || !link.was_succeeded());
    }
}
