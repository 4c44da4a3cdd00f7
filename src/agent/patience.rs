//! How long a local connection waits while gateways or servers are away, and when it asks again.

use std::time::{Duration, Instant};

use crate::control::backoff;

/// Of one local connection.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    failures: u32,
}

impl Patience {
    pub(super) fn new(now: Instant, retry_for: Duration) -> Self {
        Self { until: now + retry_for, failures: 0 }
    }

    /// The wait before the gateways are asked again; `None` once that is too long. A gateway that has
    /// `told` a time has kept a place for then.
    pub(super) fn next_wait(
        &mut self,
        now: Instant,
        told: Option<Duration>,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Option<Duration> {
        let wait = told.unwrap_or_else(|| backoff(self.failures, random));
        self.failures = self.failures.saturating_add(1);
        (now + wait < self.until).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{RECONNECT_MAX, RECONNECT_MIN};

    const RETRY_FOR: Duration = Duration::from_secs(30);

    fn longest(bytes: &mut [u8]) {
        bytes.fill(0xff);
    }

    #[test]
    fn waits_grow_and_end_with_the_patience() {
        let start = Instant::now();
        let mut now = start;
        let mut patience = Patience::new(start, RETRY_FOR);
        let mut waits = Vec::new();
        while let Some(wait) = patience.next_wait(now, None, &mut longest) {
            waits.push(wait);
            now += wait;
        }
        assert_eq!(waits[..2], [RECONNECT_MIN, 2 * RECONNECT_MIN]);
        assert_eq!(waits.last(), Some(&RECONNECT_MAX));
        assert!(now < start + RETRY_FOR);
    }

    #[test]
    fn a_time_that_a_gateway_told_is_kept_or_is_too_long() {
        let now = Instant::now();
        let mut patience = Patience::new(now, RETRY_FOR);
        let told = Duration::from_secs(7);
        assert_eq!(patience.next_wait(now, Some(told), &mut longest), Some(told));
        assert_eq!(patience.next_wait(now, Some(RETRY_FOR), &mut longest), None);
    }

    #[test]
    fn without_patience_nobody_asks_again() {
        let now = Instant::now();
        let mut none = |bytes: &mut [u8]| bytes.fill(0);
        assert_eq!(Patience::new(now, Duration::ZERO).next_wait(now, None, &mut none), None);
    }
}
