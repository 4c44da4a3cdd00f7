//! Another process takes the gateway over: servers are told to connect to it as well, and leave this one
//! once no agent waits here.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Dispatcher, Greeted, send};
use crate::control::Action;
use crate::relay::CloseReason;
use crate::wire::{Successor, to_server};

impl Dispatcher {
    /// Names of the services whose servers can follow to another process: it is ready once it has them.
    pub fn services_that_follow(&self) -> BTreeSet<&str> {
        let following = self.links.iter().filter_map(|link| link.greeted());
        let services = following.filter(|greeted| greeted.follows()).flat_map(|g| &g.services);
        services.map(|service| &*self.services[*service].name).collect()
    }

    /// Whether every one of these services, of those that this gateway has, has a server here.
    pub fn serves_all<'s>(&self, services: impl IntoIterator<Item = &'s String>) -> bool {
        let mut known = services.into_iter().filter_map(|name| {
            let index = self.services.iter().position(|known| known.name == *name)?;
            (!self.gone.contains(&index)).then_some(index)
        });
        known.all(|service| self.is_served(service))
    }

    /// Whether some server holds a signal connection.
    pub fn has_servers(&self) -> bool {
        self.links.iter().filter_map(|link| link.greeted()).any(|greeted| !greeted.is_draining())
    }

    pub(super) fn set_moving(&mut self, moving: bool) {
        self.moving = moving;
        if moving {
            (0..self.links.len()).for_each(|index| self.tell_of_successor(index));
        }
    }

    /// Says nothing to one that does not know the word.
    pub(super) fn tell_of_successor(&mut self, index: usize) {
        let link = &self.links[index];
        if link.greeted().is_some_and(Greeted::follows) {
            let message = to_server::Message::Successor(Successor {});
            self.push(send(link.id, message));
        }
    }

    /// Ends what is new here. A server that could not follow dials again once its connection ends.
    pub(super) fn moved(&mut self, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        let left = self.links.iter().filter(|link| !link.greeted().is_some_and(Greeted::follows));
        let left: Vec<_> = left.map(|link| link.id).collect();
        self.drain(now, random);
        for link in left {
            self.push(Action::CloseLink { link, reason: CloseReason::Finished });
            self.lose_link(link, now, random);
        }
    }
}
