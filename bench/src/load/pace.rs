//! The clock of what is sent whatever became of what was sent before. A message counts from when it
//! was *due*: one that had to wait for the answer to the message before it is late, and shows it
//! ("coordinated omission" would hide it).

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::tally::Tally;

/// How often something is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Times a second.
    pub(super) per_second: u64,
    /// How long.
    pub(super) seconds: u64,
}

impl Pace {
    /// How often in all.
    pub(super) fn count(self) -> u64 {
        self.per_second * self.seconds
    }

    /// When it is over.
    pub(super) fn length(self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// When `number` is due after the start, spread evenly.
    fn due(self, number: u64) -> Duration {
        Duration::from_nanos(number * 1_000_000_000 / self.per_second)
    }

    /// Tells one after the other of `clocks` that something is due, when it is. Blocks: it has a
    /// thread of its own, since tokio's timers round to a millisecond.
    pub(super) fn keep(self, start: Instant, clocks: &[mpsc::Sender<Instant>]) -> Tally {
        let mut tally = Tally::default();
        for (number, clock) in (0..self.count()).zip(clocks.iter().cycle()) {
            let due = start + self.due(number);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            tally.note_lateness(due.elapsed());
            // Fails only where the session has ended with an error, which is counted there.
            let _ = clock.try_send(due);
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_evenly_over_the_time_of_the_run() {
        let pace = Pace { per_second: 2_000, seconds: 20 };
        assert_eq!(pace.count(), 40_000);
        assert_eq!(pace.due(0), Duration::ZERO);
        assert_eq!(pace.due(1), Duration::from_micros(500));
        assert_eq!(pace.due(pace.count()), pace.length());
        // Of 500 sessions each has its next message a quarter of a second after the last.
        assert_eq!(pace.due(507), pace.due(7) + Duration::from_millis(250));
    }
}
