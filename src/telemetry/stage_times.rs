//! The times of one stage of sessions: exact quantiles for people, buckets for the metrics.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::record::Stage;
use super::status::Latency;

/// Longest time that a stage's histogram tells apart; what took longer counts as this.
const LONGEST: Duration = Duration::from_secs(3600);
/// Digits that a histogram keeps: any quantile is right to a thousandth, in 190 KB for each stage.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Upper bounds of the exported buckets, in microseconds: from a near agent's `ClientHello` to beyond the
/// default timeouts. The exact quantiles are on the status page.
const BUCKET_BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000, 60_000_000,
];

/// How long one stage took, of every session that had it.
#[derive(Debug)]
pub(super) struct StageTimes {
    /// In microseconds.
    histogram: Histogram<u64>,
    sum: Duration,
}

impl StageTimes {
    pub(super) fn new() -> Self {
        let longest_us = micros(LONGEST);
        let histogram = Histogram::new_with_bounds(1, longest_us, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that hdrhistogram takes");
        Self { histogram, sum: Duration::ZERO }
    }

    pub(super) fn note(&mut self, took: Duration) {
        self.histogram.saturating_record(micros(took));
        self.sum += took.min(LONGEST);
    }

    pub(super) fn figures(&self, stage: Stage) -> StageFigures {
        let mut counts = [0; BUCKET_BOUNDS_US.len() + 1];
        for value in self.histogram.iter_recorded() {
            let bucket =
                BUCKET_BOUNDS_US.partition_point(|&bound| bound < value.value_iterated_to());
            counts[bucket] += value.count_at_value();
        }
        let bounds = BUCKET_BOUNDS_US.iter().map(|&us| Duration::from_micros(us).as_secs_f64());
        StageFigures {
            stage,
            count: self.histogram.len(),
            sum_s: self.sum.as_secs_f64(),
            buckets: bounds.chain([f64::INFINITY]).zip(counts).collect(),
        }
    }

    /// For the status page; `None` where no session had the stage.
    pub(super) fn latency(&self, stage: Stage) -> Option<Latency> {
        (!self.histogram.is_empty()).then(|| Latency {
            stage: stage.word().to_owned(),
            count: self.histogram.len(),
            p50_us: self.histogram.value_at_quantile(0.5),
            p99_us: self.histogram.value_at_quantile(0.99),
            max_us: self.histogram.max(),
        })
    }
}

/// The times of one stage, in buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct StageFigures {
    /// Which one.
    pub stage: Stage,
    /// Times noted.
    pub count: u64,
    /// All of them together, in seconds.
    pub sum_s: f64,
    /// Upper bound in seconds, and how many lie above the bound before it and not above this one. The
    /// last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(us: u64) -> f64 {
        Duration::from_micros(us).as_secs_f64()
    }

    proptest! {
        #[test]
        fn every_time_is_in_one_bucket_and_not_above_its_bound(
            times_us in proptest::collection::vec(0u64..10_000_000_000, 0..200),
        ) {
            let mut times = StageTimes::new();
            for &us in &times_us {
                times.note(Duration::from_micros(us));
            }
            let figures = times.figures(Stage::Handshake);
            let counted: u64 = figures.buckets.iter().map(|(_, count)| count).sum();
            prop_assert_eq!(counted, times_us.len() as u64);
            prop_assert_eq!(figures.count, counted);
            let mut below = 0;
            for (bound_s, count) in figures.buckets {
                below += count;
                // A histogram of three digits may lift a time over a bound by a thousandth.
                let surely = times_us.iter().filter(|&&us| seconds(us) * 1.001 < bound_s);
                let perhaps = times_us.iter().filter(|&&us| seconds(us) <= bound_s * 1.001);
                prop_assert!(surely.count() as u64 <= below && below <= perhaps.count() as u64);
            }
        }
    }
}
