//! From samples to figures: each with its unit, the median over the runs, and its range.

use crate::load::{Distribution, Report};
use crate::results::{Outcome, ProcessUsage, Results, Sample};
use crate::scenario::Scenario;
use crate::target::Target;

/// Value of a metric in one sample for one process; `None` where the sample has none.
type Value = fn(&Report, &ProcessUsage) -> Option<f64>;

/// A column of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    /// With its unit.
    pub(crate) title: &'static str,
    /// Decimals that are shown.
    pub(crate) decimals: usize,
    value: Value,
}

/// A metric over all valid runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    /// The middle one, or the mean of the middle two.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

const CPU_PER_GB: Metric = metric("CPU-s/GB", 3, |load, usage| {
    ratio(cpu_seconds(usage), number(load.bytes_up + load.bytes_down) / 1e9)
});
const THROUGHPUT: Metric =
    metric("GB/s", 3, |load, _| ratio(number(load.bytes_up + load.bytes_down) / 1e9, load.seconds));
const CPU_PER_SESSION: Metric = metric("CPU-ms/session", 3, |load, usage| {
    ratio(cpu_seconds(usage) * 1e3, number(load.sessions))
});
const SESSION_RATE: Metric =
    metric("sessions/s", 0, |load, _| ratio(number(load.sessions), load.seconds));
const CPU_PER_SECOND: Metric =
    metric("CPU-s/s", 3, |load, usage| ratio(cpu_seconds(usage), load.seconds));
const P50: Metric = metric("p50 ms", 2, |load, _| latency_ms(load, |all| all.p50_us));
const P99: Metric = metric("p99 ms", 2, |load, _| latency_ms(load, |all| all.p99_us));
const P999: Metric = metric("p99.9 ms", 2, |load, _| latency_ms(load, |all| all.p999_us));
const MAX: Metric = metric("max ms", 2, |load, _| latency_ms(load, |all| all.max_us));
const LATENESS: Metric = metric("generator late, p99 ms", 2, |load, _| {
    load.lateness.as_ref().map(|lateness| lateness.p99_us / 1e3)
});
const RSS: Metric = metric("RSS KiB/session", 1, |load, usage| {
    growth_kib(usage.before.rss_bytes, usage.ready.rss_bytes, load.sessions)
});
const PSS: Metric = metric("PSS KiB/session", 1, |load, usage| {
    growth_kib(usage.before.pss_bytes, usage.ready.pss_bytes, load.sessions)
});
const DESCRIPTORS: Metric = metric("descriptors/session", 2, |load, usage| {
    let grown = number(usage.ready.descriptors) - number(usage.before.descriptors);
    ratio(grown, number(load.sessions))
});

/// The columns of a scenario. The first is what the scenario is about; it is compared with the
/// [`reference`].
pub(crate) fn metrics(scenario: Scenario) -> &'static [Metric] {
    match scenario {
        Scenario::BulkUp | Scenario::BulkDown => &[CPU_PER_GB, THROUGHPUT],
        Scenario::SessionRate => &[CPU_PER_SESSION, SESSION_RATE, P50, P99, P999],
        Scenario::Latency => &[P999, P99, P50, MAX, THROUGHPUT, CPU_PER_SECOND, LATENESS],
        Scenario::Idle => &[RSS, PSS, DESCRIPTORS],
    }
}

/// What the others are compared with.
pub(crate) fn reference(scenario: Scenario) -> Target {
    if scenario.has_floor() { Target::Floor } else { Target::Relay }
}

/// A metric of one process of a target, over all valid runs; `None` where there is none.
pub(crate) fn figure(
    results: &Results,
    scenario: Scenario,
    target: Target,
    process: &str,
    metric: Metric,
) -> Option<Figure> {
    let samples = of(results, scenario, target);
    Figure::of(samples.filter_map(|sample| value(sample, process, metric)).collect())
}

/// The first metric as a multiple of the reference, each run against the same run.
pub(crate) fn multiple(
    results: &Results,
    scenario: Scenario,
    target: Target,
    process: &str,
) -> Option<Figure> {
    let metric = *metrics(scenario).first()?;
    let reference = reference(scenario);
    // The floor is one process, whatever it is compared with.
    let counterpart = if reference == Target::Floor { "floor" } else { process };
    let values = of(results, scenario, target).filter_map(|sample| {
        let beside = of(results, scenario, reference).find(|other| other.run == sample.run)?;
        ratio(value(sample, process, metric)?, value(beside, counterpart, metric)?)
    });
    Figure::of(values.collect())
}

/// All samples of a scenario on a target.
pub(crate) fn of(
    results: &Results,
    scenario: Scenario,
    target: Target,
) -> impl Iterator<Item = &Sample> {
    let fits = move |sample: &&Sample| sample.scenario == scenario && sample.target == target;
    results.samples.iter().filter(fits)
}

/// The processes of a sample, in their order; none where it failed.
pub(crate) fn processes(sample: &Sample) -> &[ProcessUsage] {
    match &sample.outcome {
        Outcome::Measured { processes, .. } => processes,
        Outcome::Failed { .. } => &[],
    }
}

impl Figure {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }
}

const fn metric(title: &'static str, decimals: usize, value: Value) -> Metric {
    Metric { title, decimals, value }
}

/// `None` unless the sample is valid: a figure from work that went wrong would be a wrong figure.
fn value(sample: &Sample, process: &str, metric: Metric) -> Option<f64> {
    match &sample.outcome {
        Outcome::Measured { load, processes, .. } if sample.is_valid() => {
            let usage = processes.iter().find(|usage| usage.name == process)?;
            (metric.value)(load, usage)
        }
        Outcome::Measured { .. } | Outcome::Failed { .. } => None,
    }
}

fn cpu_seconds(usage: &ProcessUsage) -> f64 {
    number(usage.end.cpu_ns.saturating_sub(usage.ready.cpu_ns)) / 1e9
}

fn latency_ms(load: &Report, quantile: fn(&Distribution) -> f64) -> Option<f64> {
    load.latency.as_ref().map(|latency| quantile(latency) / 1e3)
}

fn growth_kib(before: u64, ready: u64, sessions: u64) -> Option<f64> {
    ratio((number(ready) - number(before)) / 1024.0, number(sessions))
}

/// `None` for what can't be divided.
fn ratio(dividend: f64, divisor: f64) -> Option<f64> {
    (divisor > 0.0).then(|| dividend / divisor)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_middle_two() {
        let of = |values: &[f64]| Figure::of(values.to_vec());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Figure { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(of(&[4.0, 1.0]), Some(Figure { median: 2.5, min: 1.0, max: 4.0 }));
    }
}
