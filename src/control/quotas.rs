use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ServiceId;
use crate::limits::{MAX_RESTING_DEVICES, RESTED_DEVICES_PER_ADMISSION};
use crate::wire::RefusalReason;

/// What one device, or one service, may have. The default is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionQuota {
    /// Sessions at once, agents that wait for one included.
    pub max_sessions: Option<usize>,
    /// New ones.
    pub rate: Option<SessionRate>,
}

/// How often sessions may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRate {
    /// In the long run.
    pub per_s: u32,
    /// At once, after a rest.
    pub burst: u32,
}

/// What an agent asks for, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// For this service.
    pub service: ServiceId,
    /// The identity that it has proved; without one it counts for its service only.
    pub device: Option<Arc<str>>,
}

/// What each device and each service has. Exact, since the one thread that owns it hears of every agent:
/// from its admission until it is refused, leaves, or its session has ended.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    /// Those that have a session, or are [resting](Self::resting).
    devices: HashMap<Arc<str>, Holding>,
    /// Devices without a session whose bucket is not full again, by when it will be.
    resting: BTreeSet<(Instant, Arc<str>)>,
    services: Vec<Holding>,
    /// By invitation: sessions, and claims that may become one.
    claimed: HashMap<u64, Request>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Holding {
    sessions: usize,
    /// When the bucket of new sessions is full again (GCRA, ITU-T I.371).
    full_at: Option<Instant>,
}

impl Quotas {
    /// Makes room for services that were added.
    pub(super) fn grow(&mut self, services: usize) {
        self.services.resize_with(services, Holding::default);
    }

    /// Takes an agent in, or says what stands against it. A refused one costs no token.
    pub(super) fn admit(
        &mut self,
        request: &Request,
        of_device: SessionQuota,
        of_service: SessionQuota,
        now: Instant,
    ) -> Result<(), RefusalReason> {
        self.forget_rested(now);
        let device = request.device.as_ref();
        let held = device.and_then(|device| self.devices.get(device)).copied().unwrap_or_default();
        let served = self.services[request.service];
        if device.is_some() && !held.has_room(of_device) {
            return Err(RefusalReason::DeviceFull);
        }
        if !served.has_room(of_service) {
            return Err(RefusalReason::ServiceFull);
        }
        let of_device = of_device.rate.filter(|_| device.is_some());
        let held = held.with_one_more(of_device, now).ok_or(RefusalReason::DeviceTooFast)?;
        let served = served.with_one_more(of_service.rate, now);
        self.services[request.service] = served.ok_or(RefusalReason::ServiceTooFast)?;
        if let Some(device) = device
            && let Some(Holding { sessions: 0, full_at: Some(full_at) }) =
                self.devices.insert(Arc::clone(device), held)
        {
            self.resting.remove(&(full_at, Arc::clone(device)));
        }
        Ok(())
    }

    /// An agent that was taken in was refused, or left.
    pub(super) fn release(&mut self, request: &Request, now: Instant) {
        let served = &mut self.services[request.service];
        served.sessions = served.sessions.saturating_sub(1);
        let Some(device) = &request.device else { return };
        let Some(held) = self.devices.get_mut(device) else { return };
        held.sessions = held.sessions.saturating_sub(1);
        match *held {
            Holding { sessions: 1.., .. } => {}
            Holding { full_at: Some(full_at), .. } if full_at > now => {
                self.resting.insert((full_at, Arc::clone(device)));
                self.bound_resting();
            }
            Holding { .. } => drop(self.devices.remove(device)),
        }
    }

    /// An agent that was taken in belongs to this invitation from now on, until it is released.
    pub(super) fn claim(&mut self, invitation: u64, request: Request, now: Instant) {
        if let Some(earlier) = self.claimed.insert(invitation, request) {
            self.release(&earlier, now);
        }
    }

    /// An agent that was refused while its claim was on its way here: the claim was first, whatever the
    /// bounds say.
    pub(super) fn claim_again(&mut self, invitation: u64, request: Request, now: Instant) {
        let none = SessionQuota::default();
        if self.admit(&request, none, none, now).is_ok() {
            self.claim(invitation, request, now);
        }
    }

    /// The session of a claim has ended, or there was none.
    pub(super) fn release_claim(&mut self, invitation: u64, now: Instant) {
        if let Some(request) = self.claimed.remove(&invitation) {
            self.release(&request, now);
        }
    }

    fn forget_rested(&mut self, now: Instant) {
        for _ in 0..RESTED_DEVICES_PER_ADMISSION {
            if self.resting.first().is_some_and(|(full_at, _)| *full_at <= now) {
                self.forget_first();
            }
        }
    }

    /// The one that is nearest to a full bucket is forgiven the rest.
    fn bound_resting(&mut self) {
        if self.resting.len() > MAX_RESTING_DEVICES {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, device)) = self.resting.pop_first() {
            self.devices.remove(&device);
        }
    }
}

impl Holding {
    fn has_room(self, quota: SessionQuota) -> bool {
        quota.max_sessions.is_none_or(|max| self.sessions < max)
    }

    /// `None` where that would be too fast.
    fn with_one_more(self, rate: Option<SessionRate>, now: Instant) -> Option<Self> {
        let sessions = self.sessions + 1;
        let Some(SessionRate { per_s, burst }) = rate else {
            return Some(Self { sessions, ..self });
        };
        let token = Duration::from_secs(1) / per_s.max(1);
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + token;
        (full_at - now <= token * burst).then_some(Self { sessions, full_at: Some(full_at) })
    }
}

#[cfg(test)]
mod tests;
