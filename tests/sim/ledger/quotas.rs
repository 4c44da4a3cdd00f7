//! What each device and each service has at a gateway, and may have.

use std::collections::BTreeMap;
use std::sync::Arc;

use vestibule::control::{AgentRef, DispatcherLimits, Request, ServiceId, SessionQuota};
use vestibule::wire::RefusalReason;

use crate::sim::checks::{Check, Checks};

/// Agents that were admitted and have not ended.
#[derive(Default)]
pub(super) struct Held {
    waiting: BTreeMap<AgentRef, Request>,
    claimed: BTreeMap<u64, Request>,
    /// More than there may be: a reload found them, or a claim crossed with a refusal.
    left_over: BTreeMap<Owner, usize>,
}

/// Whose sessions are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Device(Arc<str>),
    Service(ServiceId),
}

fn owners(request: &Request) -> impl Iterator<Item = Owner> {
    let device = request.device.clone().map(Owner::Device);
    device.into_iter().chain([Owner::Service(request.service)])
}

impl Held {
    pub(super) fn admit(&mut self, agent: AgentRef, request: &Request) {
        self.waiting.insert(agent, request.clone());
    }

    pub(super) fn leave(&mut self, agent: AgentRef) {
        self.waiting.remove(&agent);
    }

    pub(super) fn claim(&mut self, agent: AgentRef, invitation: u64, request: &Request) {
        let crossed = self.waiting.remove(&agent).is_none();
        self.claimed.insert(invitation, request.clone());
        if crossed {
            self.note_left_over();
        }
    }

    pub(super) fn release(&mut self, invitation: u64) {
        self.claimed.remove(&invitation);
    }

    /// As many as there are may stay.
    pub(super) fn note_left_over(&mut self) {
        self.left_over = self.counts();
    }

    /// An agent is refused.
    pub(super) fn refuse(
        &mut self,
        agent: AgentRef,
        reason: RefusalReason,
        limits: &DispatcherLimits,
        checks: &mut Checks,
    ) {
        let Some(request) = self.waiting.get(&agent).cloned() else { return };
        let of_device = request.device.clone().map(Owner::Device);
        let owner = match reason {
            RefusalReason::DeviceFull => of_device,
            RefusalReason::ServiceFull => Some(Owner::Service(request.service)),
            _ => None,
        };
        if let Some(owner) = owner {
            // It is one of them.
            let others = self.counts().get(&owner).copied().unwrap_or(0) - 1;
            let is_full = bound(&owner, limits).is_some_and(|max| others >= max);
            checks.hold(Check::QuotasAreBounded, is_full, || {
                format!("{agent:?} is refused with {reason}, and {owner:?} has {others}")
            });
        }
        self.waiting.remove(&agent);
    }

    pub(super) fn check(&mut self, limits: &DispatcherLimits, checks: &mut Checks) {
        let counts = self.counts();
        for (owner, &count) in &counts {
            let left_over = self.left_over.get(owner).copied().unwrap_or(0);
            let within = bound(owner, limits).is_none_or(|max| count <= max.max(left_over));
            checks.hold(Check::QuotasAreBounded, within, || format!("{owner:?} has {count}"));
        }
        self.left_over.retain(|owner, count| {
            *count = counts.get(owner).map_or(0, |held| *held.min(count));
            *count > 0
        });
    }

    fn counts(&self) -> BTreeMap<Owner, usize> {
        let mut counts = BTreeMap::new();
        for owner in self.waiting.values().chain(self.claimed.values()).flat_map(owners) {
            *counts.entry(owner).or_default() += 1;
        }
        counts
    }
}

fn bound(owner: &Owner, limits: &DispatcherLimits) -> Option<usize> {
    let quota: Option<SessionQuota> = match owner {
        Owner::Device(_) => Some(limits.devices),
        Owner::Service(service) => limits.services.get(*service).copied(),
    };
    quota.and_then(|quota| quota.max_sessions)
}
