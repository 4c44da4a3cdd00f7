//! A reload: who may serve what from now on, and who waits in vain.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Dispatcher, send};
use crate::control::{Action, LinkId, Reconfiguration, ServiceId, ServiceOffer};
use crate::wire::{RefusalReason, Withdraw, to_server};

impl Dispatcher {
    /// In two steps, so that nobody is invited by what held before: first all that may no longer be, then
    /// new places for those whose invitation that made void.
    pub(super) fn reconfigure(
        &mut self,
        changed: Reconfiguration,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]),
    ) {
        let Reconfiguration { limits, services, gone, links } = changed;
        self.queue.grow(services.len());
        self.queue.bound_deadlines(now + limits.invitation_timeout);
        self.quotas.grow(services.len());
        self.lost.resize(services.len(), None);
        self.limits = limits;
        let before = std::mem::replace(&mut self.services, services);
        self.gone = gone;
        let mut homeless = Vec::new();
        for (id, verdict) in links {
            match verdict {
                Ok(allowed) => homeless.extend(self.allow(id, allowed)),
                Err(reason) => {
                    self.push(Action::CloseLink { link: id, reason });
                    homeless.extend(self.forget_link(id, now));
                }
            }
        }
        for waiting in self.queue.take_for(&self.closed_to_waiting(&before)) {
            self.refuse_waiting(&waiting, RefusalReason::ServiceUnknown, now);
            self.withdraw(&waiting, now, random);
        }
        for position in homeless {
            self.place(position, now, random);
        }
        let numbers: Vec<u32> = self.links.iter().map(|link| link.number).collect();
        for number in numbers {
            self.refill(number, now, random);
        }
    }

    /// Services that nobody who waits for them can reach any more: those that are gone, and those whose TLS ends
    /// elsewhere now. An agent has spoken TLS as it was before: no server can mend that, and none is to be tried.
    fn closed_to_waiting(&self, before: &[ServiceOffer]) -> BTreeSet<ServiceId> {
        let pairs = before.iter().zip(&self.services).enumerate();
        let turned = pairs.filter(|(_, (before, now))| before != now).map(|(service, _)| service);
        self.gone.iter().copied().chain(turned).collect()
    }

    /// Lets a server serve these services and no others. Returns the positions of agents whose invitations
    /// are now void.
    fn allow(&mut self, id: LinkId, allowed: Vec<ServiceId>) -> Vec<u64> {
        let Some(link) = self.links.iter_mut().find(|link| link.id == id) else {
            return Vec::new();
        };
        link.allowed = allowed;
        link.agree(&self.services);
        let Some(greeted) = link.greeted_mut() else { return Vec::new() };
        let queue = &self.queue;
        let serves = |position: u64| {
            queue
                .get(position)
                .is_some_and(|waiting| greeted.services.contains(&waiting.request.service))
        };
        let void: Vec<(u64, u64)> = greeted
            .invitations
            .iter()
            .filter(|(_, position)| !serves(**position))
            .map(|(invitation, position)| (*invitation, *position))
            .collect();
        for (invitation, _) in &void {
            greeted.invitations.remove(invitation);
            let withdraw = Withdraw { id: *invitation };
            self.actions.push_back(send(id, to_server::Message::Withdraw(withdraw)));
        }
        void.into_iter().map(|(_, position)| position).collect()
    }
}
