//! What a load generator has counted.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::scenario::Direction;

/// Different errors that are told apart; the rest are counted together.
const MAX_ERROR_KINDS: usize = 16;
/// Largest latency told apart, in nanoseconds: longer than any deadline of a session.
const MAX_LATENCY_NS: u64 = 600_000_000_000;
/// Digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;

/// Counts of one task, merged when it ends. Its histograms are half a megabyte.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// Sessions that ended cleanly.
    pub(super) sessions: u64,
    /// Messages that came back as they were sent.
    pub(super) messages: u64,
    /// Verified payload bytes from devices to the backend.
    pub(super) bytes_up: u64,
    /// Verified payload bytes from the backend to devices.
    pub(super) bytes_down: u64,
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    newcomers: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

/// Counts of thousands of tasks. Were each to have its own, the first messages would wait until the
/// kernel has found gigabytes for them. The tasks are on one thread, so none waits for another.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedTally(Arc<Mutex<Tally>>);

/// What the load generator says at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// From the start of the work to its end.
    pub(crate) seconds: f64,
    /// Sessions that ended cleanly.
    pub(crate) sessions: u64,
    /// Messages that came back as they were sent.
    pub(crate) messages: u64,
    /// Verified payload bytes from devices to the backend.
    pub(crate) bytes_up: u64,
    /// Verified payload bytes from the backend to devices.
    pub(crate) bytes_down: u64,
    /// Of sessions: from before the connect to the echo. Of messages: from when they were due.
    pub(crate) latency: Option<Distribution>,
    /// How late the load generator itself handed out messages that were due.
    pub(crate) lateness: Option<Distribution>,
    /// Of those that came during a storm: how long each was served.
    #[serde(default)]
    pub(crate) newcomers: Option<Distribution>,
    /// What went wrong, and how often.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// A histogram in a few figures, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Distribution {
    /// Values in it.
    pub(crate) count: u64,
    /// Median.
    pub(crate) p50_us: f64,
    /// 99 of 100 are not above.
    pub(crate) p99_us: f64,
    /// 999 of 1000 are not above.
    pub(crate) p999_us: f64,
    /// The largest.
    pub(crate) max_us: f64,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_LATENCY_NS, LATENCY_DIGITS)
            .expect("the bounds are in order and the digits few");
        Self {
            sessions: 0,
            messages: 0,
            bytes_up: 0,
            bytes_down: 0,
            latency: histogram.clone(),
            lateness: histogram.clone(),
            newcomers: histogram,
            errors: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// Counts bytes that arrived and were right.
    pub(super) fn count_bytes(&mut self, direction: Direction, bytes: u64) {
        match direction {
            Direction::Up => self.bytes_up += bytes,
            Direction::Down => self.bytes_down += bytes,
        }
    }

    /// Counts a session by how it ended.
    pub(super) fn count_end(&mut self, end: io::Result<()>) {
        match end {
            Ok(()) => self.sessions += 1,
            Err(error) => self.fail(&error),
        }
    }

    /// Counts a message that came back.
    pub(super) fn count_message(&mut self, latency: Duration) {
        self.messages += 1;
        self.note_latency(latency);
    }

    /// Counts one of a storm that was served.
    pub(super) fn count_newcomer(&mut self, latency: Duration) {
        self.newcomers.saturating_record(nanoseconds(latency));
    }

    /// Counts an error, by what it says.
    pub(super) fn fail(&mut self, what: &impl Display) {
        self.fail_often(what.to_string(), 1);
    }

    /// Notes how long a session or message took.
    fn note_latency(&mut self, latency: Duration) {
        self.latency.saturating_record(nanoseconds(latency));
    }

    /// Notes how late the load generator itself was.
    pub(super) fn note_lateness(&mut self, lateness: Duration) {
        self.lateness.saturating_record(nanoseconds(lateness));
    }

    /// Adds the counts of another task.
    pub(super) fn merge(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.messages += other.messages;
        self.bytes_up += other.bytes_up;
        self.bytes_down += other.bytes_down;
        self.latency.add(other.latency).expect("all histograms have the same bounds");
        self.lateness.add(other.lateness).expect("all histograms have the same bounds");
        self.newcomers.add(other.newcomers).expect("all histograms have the same bounds");
        for (what, count) in other.errors {
            self.fail_often(what, count);
        }
    }

    /// The end of a sample.
    pub(super) fn report(self, elapsed: Duration) -> Report {
        Report {
            seconds: elapsed.as_secs_f64(),
            sessions: self.sessions,
            messages: self.messages,
            bytes_up: self.bytes_up,
            bytes_down: self.bytes_down,
            latency: Distribution::of(&self.latency),
            lateness: Distribution::of(&self.lateness),
            newcomers: Distribution::of(&self.newcomers),
            errors: self.errors,
        }
    }

    fn fail_often(&mut self, what: String, count: u64) {
        let known = self.errors.len() < MAX_ERROR_KINDS || self.errors.contains_key(&what);
        let what = if known { what } else { "further kinds of errors".to_owned() };
        *self.errors.entry(what).or_default() += count;
    }
}

impl SharedTally {
    /// To count something.
    pub(super) fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Distribution {
    /// `None` where nothing was noted.
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let microseconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e6;
        let at = |quantile| microseconds(histogram.value_at_quantile(quantile));
        Some(Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: microseconds(histogram.max()),
        })
    }
}

/// As the files of results hold a time: enough for 500 years.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_tallies_hold_all_counts_latencies_and_errors() {
        let mut all = Tally::default();
        for task in 1..=3 {
            let mut one = Tally { sessions: 1, bytes_up: 10, ..Tally::default() };
            one.note_latency(Duration::from_micros(task * 100));
            one.fail(&"reset");
            all.merge(one);
        }
        let report = all.report(Duration::from_secs(2));
        assert_eq!(
            (report.sessions, report.bytes_up, report.errors.values().sum::<u64>()),
            (3, 30, 3)
        );
        let latency = report.latency.expect("three were noted");
        assert_eq!(latency.count, 3);
        assert!((latency.p50_us - 200.0).abs() < 1.0, "{latency:?}");
        assert_eq!(report.lateness, None);
    }

    #[test]
    fn errors_of_any_kind_are_counted_in_bounded_memory() {
        let mut tally = Tally::default();
        for number in 0..1000 {
            tally.fail(&format!("error {number}"));
        }
        let report = tally.report(Duration::ZERO);
        assert_eq!(report.errors.len(), MAX_ERROR_KINDS + 1);
        assert_eq!(report.errors.values().sum::<u64>(), 1000);
    }
}
