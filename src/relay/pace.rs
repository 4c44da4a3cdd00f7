use std::time::Instant;

use crate::limits::{PACE_TIME, SWIFT_LEN};

/// How fast a session moves bytes, roughly: enough to know who needs large windows.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    len: u64,
}

impl Pace {
    /// A session that begins.
    pub const fn new(now: Instant) -> Self {
        Self { since: now, len: 0 }
    }

    /// So many bytes were moved; returns whether that is fast.
    pub fn moved(&mut self, len: u64, now: Instant) -> bool {
        if now >= self.since + PACE_TIME {
            *self = Self::new(now);
        }
        self.len += len;
        self.len >= SWIFT_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_within_a_short_time_count() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(!pace.moved(SWIFT_LEN - 1, start));
        assert!(!pace.moved(1, start + PACE_TIME));
        assert!(pace.moved(SWIFT_LEN - 1, start + PACE_TIME * 3 / 2));
    }
}
