//! What an operator says of a server: none of the new sessions go to it, or they do again.

use std::time::Instant;

use super::{Dispatcher, send};
use crate::wire::{Withdraw, to_server};

impl Dispatcher {
    /// A server gets no invitations and no agents over spares until it is undrained, also if it connects
    /// anew. Its sessions live on; who waits for it goes elsewhere.
    pub(super) fn drain_server(
        &mut self,
        server: &str,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        if !self.drained.insert(server.to_owned()) {
            return;
        }
        let mut homeless = Vec::new();
        for index in 0..self.links.len() {
            if self.links[index].server != server {
                continue;
            }
            let link = self.links[index].id;
            let Some(greeted) = self.links[index].greeted_mut() else { continue };
            greeted.set_drained(true);
            for service in &greeted.services {
                self.lost[*service] = Some(now);
            }
            let spares = greeted.spares.take_all();
            let invitations = std::mem::take(&mut greeted.invitations);
            let ids = invitations.keys().copied().chain(spares.iter().map(|(id, _)| *id));
            for id in ids {
                self.actions.push_back(send(link, to_server::Message::Withdraw(Withdraw { id })));
            }
            self.close_spares(spares);
            homeless.extend(invitations.into_values());
        }
        for position in homeless {
            self.place(position, now, random);
        }
    }

    /// A server gets its share of new sessions again.
    pub(super) fn undrain_server(
        &mut self,
        server: &str,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        self.drained.remove(server);
        let mut numbers = Vec::new();
        for link in self.links.iter_mut().filter(|link| link.server == server) {
            numbers.push(link.number);
            if let Some(greeted) = link.greeted_mut() {
                greeted.set_drained(false);
            }
        }
        for number in numbers {
            self.refill(number, now, random);
        }
    }
}
