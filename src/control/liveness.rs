use std::time::Instant;

use crate::limits::{PING_INTERVAL, SIGNAL_DEAD_AFTER};

/// Whether the other end of a signal connection lives; the same for both ends.
///
/// Every message heard is a sign of life. After [`PING_INTERVAL`] without one we ask for it, and
/// again after each further interval; [`SIGNAL_DEAD_AFTER`] without one is death. An end that has
/// much to say is not asked, and one that only listens hears our pings: both ends know.
#[derive(Debug, Clone)]
pub struct Liveness {
    heard: Instant,
    /// Last sign of life, or last ping since then.
    asked: Instant,
    pings: u64,
}

/// What is due on a signal connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vital {
    /// Send a ping.
    Ping {
        /// Counts the pings of this connection.
        nonce: u64,
    },
    /// The other end is dead: close.
    Dead,
}

impl Liveness {
    /// Begins with a sign of life: the other end's hello.
    pub fn new(now: Instant) -> Self {
        Self { heard: now, asked: now, pings: 0 }
    }

    /// A message came, whichever.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = now;
    }

    /// What is due now, if anything.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Vital> {
        if now >= self.heard + SIGNAL_DEAD_AFTER {
            return Some(Vital::Dead);
        }
        if now < self.asked + PING_INTERVAL {
            return None;
        }
        self.asked = now;
        self.pings += 1;
        Some(Vital::Ping { nonce: self.pings })
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn next_timeout(&self) -> Instant {
        (self.asked + PING_INTERVAL).min(self.heard + SIGNAL_DEAD_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_silent_peer_is_asked_twice_and_then_dead_within_ten_seconds() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let mut seen = Vec::new();
        while seen.last() != Some(&Vital::Dead) {
            let due = liveness.next_timeout();
            assert!(due < start + Duration::from_secs(10), "dead by then: {seen:?}");
            seen.extend(liveness.handle_timeout(due));
        }
        assert_eq!(seen, [Vital::Ping { nonce: 1 }, Vital::Ping { nonce: 2 }, Vital::Dead]);
    }

    #[test]
    fn a_peer_that_talks_is_not_asked() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        for second in 1..60 {
            let now = start + Duration::from_secs(second);
            liveness.heard(now);
            assert_eq!(liveness.handle_timeout(now), None);
        }
    }

    #[test]
    fn each_answer_puts_death_off() {
        let mut liveness = Liveness::new(Instant::now());
        for nonce in 1..10 {
            let due = liveness.next_timeout();
            assert_eq!(liveness.handle_timeout(due), Some(Vital::Ping { nonce }));
            liveness.heard(due);
        }
    }
}
