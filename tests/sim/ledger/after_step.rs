//! The checks of a dispatcher after each step, once its actions are carried out.

use std::collections::BTreeMap;
use std::time::Instant;

use vestibule::control::{LinkId, LinkStatus, Snapshot};
use vestibule::limits::SIGNAL_DEAD_AFTER;

use super::{Ledger, Link, Waiting};
use crate::sim::checks::{Check, Checks};

impl Ledger {
    /// `is_late`: the process was stopped, and has not looked at its clock yet.
    pub(in crate::sim) fn check_after_step(
        &mut self,
        snapshot: &Snapshot,
        is_late: bool,
        now: Instant,
        checks: &mut Checks,
    ) {
        self.queue_is_bounded(snapshot, checks);
        self.nobody_is_forgotten(snapshot, checks);
        self.nobody_waits_in_vain(checks);
        if !is_late {
            self.nobody_waits_too_long(now, checks);
            self.dead_links_are_noticed(now, checks);
        }
        self.load_is_bounded(snapshot, checks);
        self.spares_are_bounded(snapshot, checks);
        self.held.check(&self.limits, checks);
        self.books_agree(snapshot, checks);
        self.invited.clear();
    }

    fn queue_is_bounded(&mut self, snapshot: &Snapshot, checks: &mut Checks) {
        let most = self.limits.max_waiting.max(self.left_over.waiting);
        self.left_over.waiting = self.left_over.waiting.min(snapshot.waiting);
        let are_few = snapshot.waiting <= most && self.links.len() <= self.limits.max_links;
        checks.hold(Check::QueueIsBounded, are_few, || {
            format!("{} wait of {most}; {} links", snapshot.waiting, self.links.len())
        });
    }

    fn nobody_waits_too_long(&self, now: Instant, checks: &mut Checks) {
        let late = self.waiting.iter().find(|(_, waiting)| now > waiting.deadline);
        checks.hold(Check::NobodyWaitsTooLong, late.is_none(), || {
            format!("{:?} waits beyond its deadline", late.map(|(agent, _)| agent))
        });
    }

    fn nobody_waits_in_vain(&self, checks: &mut Checks) {
        let is_in_vain =
            |waiting: &Waiting| self.gone.contains(&waiting.service) || waiting.is_of_the_old_way;
        let in_vain = self.waiting.iter().find(|(_, waiting)| is_in_vain(waiting));
        checks.hold(Check::NobodyWaitsInVain, in_vain.is_none(), || {
            let agent = in_vain.map(|(agent, _)| agent);
            format!("{agent:?} waits for a service that is gone, or ends the TLS elsewhere now")
        });
    }

    fn dead_links_are_noticed(&self, now: Instant, checks: &mut Checks) {
        let silent = self.links.iter().find(|(_, link)| now > link.heard + SIGNAL_DEAD_AFTER);
        checks.hold(Check::DeadLinkIsNoticed, silent.is_none(), || {
            format!("{:?} was silent for too long", silent.map(|(_, link)| &link.server))
        });
    }

    fn load_is_bounded(&self, snapshot: &Snapshot, checks: &mut Checks) {
        for status in &snapshot.links {
            let load = status.waiting + status.sessions;
            let within = status.capacity.is_none_or(|capacity| load <= capacity as usize);
            let may = within || !self.invited.contains(&status.link);
            checks.hold(Check::InvitationsAreBounded, may, || {
                format!("{} was invited beyond its capacity: {load}", status.server)
            });
        }
        let invited: usize = snapshot.links.iter().map(|link| link.waiting).sum();
        checks.hold(Check::InvitationsAreBounded, invited <= snapshot.waiting, || {
            format!("{invited} invitations for {} agents", snapshot.waiting)
        });
    }

    fn spares_are_bounded(&mut self, snapshot: &Snapshot, checks: &mut Checks) {
        let mut by_link: BTreeMap<LinkId, (usize, usize)> = BTreeMap::new();
        for (id, spare) in &self.spares {
            let link = self.links.get(&spare.link);
            let is_kept = link.is_some_and(|link| !self.is_closed(link));
            checks.hold(Check::SparesAreBounded, is_kept, || {
                format!("spare {id:x} is held without its server")
            });
            let (held, ready) = by_link.entry(spare.link).or_default();
            *held += 1;
            *ready += usize::from(spare.ready);
        }
        let by_worker = self.spares_by_worker();
        for (worker, held) in &by_worker {
            let left_over = self.left_over.spares.get(worker).copied().unwrap_or(0);
            let most = self.limits.max_spares.max(left_over);
            checks.hold(Check::SparesAreBounded, *held <= most, || {
                format!("{held} spares at worker {worker}, of {most}")
            });
        }
        self.left_over.spares.retain(|worker, count| {
            *count = by_worker.get(worker).map_or(0, |held| *held.min(count));
            *count > 0
        });
        for status in &snapshot.links {
            let (held, ready) = by_link.get(&status.link).copied().unwrap_or_default();
            let bound = self.links.get(&status.link).map_or(0, |link| link.spares);
            checks.hold(Check::SparesAreBounded, held <= bound && status.spares == ready, || {
                format!("{}: {held} of {bound} spares, {ready} ready", status.server)
            });
        }
    }

    fn books_agree(&self, snapshot: &Snapshot, checks: &mut Checks) {
        let mut by_service = vec![0; self.services.len()];
        for waiting in self.waiting.values() {
            by_service[waiting.service] += 1;
        }
        let told = snapshot.services.iter().map(|service| service.waiting);
        let links = snapshot.links.len() + snapshot.greeting;
        let sessions = |status: &LinkStatus| {
            self.links.get(&status.link).is_some_and(|link| link.sessions == status.sessions)
        };
        let agree = snapshot.waiting == self.waiting.len()
            && told.eq(by_service.iter().copied())
            && links == self.links.len()
            && snapshot.links.iter().all(sessions)
            && !(self.draining && snapshot.waiting > 0);
        checks.hold(Check::BooksAgree, agree, || {
            format!("{} wait by service {by_service:?}, not as in {snapshot:?}", self.waiting.len())
        });
    }

    fn nobody_is_forgotten(&self, snapshot: &Snapshot, checks: &mut Checks) {
        let has_room = |status: &&LinkStatus| {
            let load = status.waiting + status.sessions;
            status.capacity.is_none_or(|capacity| load < capacity as usize)
        };
        let open: Vec<LinkId> =
            snapshot.links.iter().filter(has_room).map(|link| link.link).collect();
        for (agent, waiting) in &self.waiting {
            if self.is_invited(waiting) {
                continue;
            }
            let could_have_it = open.iter().find(|id| self.could_have(**id, waiting));
            checks.hold(Check::NobodyIsForgotten, could_have_it.is_none(), || {
                format!("{agent:?} waits, and {could_have_it:?} could have it")
            });
        }
    }

    fn could_have(&self, id: LinkId, waiting: &Waiting) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        let service = &self.services[waiting.service];
        link.serves(waiting.service, service)
            && !link.disowned.contains(&waiting.service)
            && !self.is_closed(link)
            && !waiting.declined_by.contains(&id)
    }

    fn is_invited(&self, waiting: &Waiting) -> bool {
        let Some(last) = waiting.last else { return false };
        let link = self.links.get(&self.invitations[&last]);
        let serves = |link: &Link| !link.draining && link.allowed.contains(&waiting.service);
        !waiting.declined && link.is_some_and(serves)
    }
}
