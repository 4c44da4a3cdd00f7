//! When refused agents come back. All that are refused at once would come back at once, again and again:
//! each is given a time of its own instead, one after another, at a rate that a worker can serve.

use std::time::{Duration, Instant};

use crate::limits::{RETURN_MAX, RETURN_MIN, RETURNS_PER_SECOND};

/// The next time that is free.
#[derive(Debug, Default)]
pub(super) struct ReturnTimes {
    next: Option<Instant>,
}

impl ReturnTimes {
    /// How long the next refused agent has to wait.
    pub(super) fn draw(&mut self, now: Instant) -> Duration {
        let earliest = now + RETURN_MIN;
        let latest = now + RETURN_MAX;
        let time = self.next.map_or(earliest, |next| next.clamp(earliest, latest));
        self.next = Some(time + Duration::from_secs(1) / RETURNS_PER_SECOND);
        time - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_is_refused_at_once_comes_back_one_after_another() {
        let now = Instant::now();
        let mut times = ReturnTimes::default();
        let waits: Vec<_> = (0..5_000).map(|_| times.draw(now)).collect();
        assert_eq!(waits[0], RETURN_MIN);
        assert!(waits.is_sorted());
        for second in 2..10u64 {
            let within = |wait: &&Duration| wait.as_secs() == second;
            let count = u32::try_from(waits.iter().filter(within).count()).expect("few");
            assert!(count.abs_diff(RETURNS_PER_SECOND) <= 1, "{count} in second {second}");
        }
    }

    #[test]
    fn a_lone_agent_waits_for_the_shortest_time() {
        let start = Instant::now();
        let mut times = ReturnTimes::default();
        assert_eq!(times.draw(start), RETURN_MIN);
        assert_eq!(times.draw(start + Duration::from_secs(1)), RETURN_MIN);
    }

    #[test]
    fn nobody_waits_longer_than_the_longest_time() {
        let now = Instant::now();
        let mut times = ReturnTimes::default();
        let longest = (0..100_000).map(|_| times.draw(now)).max();
        assert_eq!(longest, Some(RETURN_MAX));
    }
}
