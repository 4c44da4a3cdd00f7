//! From samples to figures: each with its unit, the median over the runs, and its range.

use serde::Deserialize;

use crate::load::{Distribution, Report};
use crate::results::{KernelMemory, Outcome, ProcessUsage, Results, Sample};
use crate::scenario::{Scenario, Work};
use crate::target::Target;
use crate::usage::Usage;

/// What a metric is computed from: one sample, and one process of it or all.
struct Reading<'a> {
    load: &'a Report,
    usage: ProcessUsage,
    machine_cpu_ns: Option<u64>,
    kernel_memory: Option<KernelMemory>,
}

/// Value of a metric; `None` where the sample has none.
type Value = fn(&Reading) -> Option<f64>;

/// A column of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    /// With its unit.
    pub(crate) title: &'static str,
    /// Decimals that are shown.
    pub(crate) decimals: usize,
    value: Value,
}

/// Whose CPU time and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// The process in the gateway's place; the floor is one.
    Gateway,
    /// The process in the server's place.
    Server,
    /// All processes of the target.
    Together,
}

/// One metric of one part of one target in one scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    /// Where it was measured.
    pub(crate) scenario: Scenario,
    /// On what.
    pub(crate) target: Target,
    /// Which processes.
    pub(crate) part: Part,
    /// What.
    pub(crate) metric: Metric,
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

pub(crate) const CPU_PER_GB: Metric =
    metric("CPU-s/GB", 3, |of| ratio(cpu_seconds(of), gigabytes(of)));
const MACHINE_PER_GB: Metric =
    metric("machine CPU-s/GB", 3, |of| ratio(machine_seconds(of)?, gigabytes(of)));
pub(crate) const THROUGHPUT: Metric = metric("GB/s", 3, |of| ratio(gigabytes(of), of.load.seconds));
const CPU_PER_SESSION: Metric =
    metric("CPU-ms/session", 3, |of| ratio(cpu_seconds(of) * 1e3, number(of.load.sessions)));
const MACHINE_PER_SESSION: Metric = metric("machine CPU-ms/session", 3, |of| {
    ratio(machine_seconds(of)? * 1e3, number(of.load.sessions))
});
const SESSION_RATE: Metric =
    metric("sessions/s", 0, |of| ratio(number(of.load.sessions), of.load.seconds));
pub(crate) const CPU_PER_MESSAGE: Metric =
    metric("CPU-µs/message", 1, |of| ratio(cpu_seconds(of) * 1e6, number(of.load.messages)));
const MACHINE_PER_MESSAGE: Metric = metric("machine CPU-µs/message", 1, |of| {
    ratio(machine_seconds(of)? * 1e6, number(of.load.messages))
});
pub(crate) const MESSAGE_RATE: Metric =
    metric("messages/s", 0, |of| ratio(number(of.load.messages), of.load.seconds));
const NEWCOMER_RATE: Metric = metric("newcomers/s", 0, |of| ratio(newcomers(of)?, of.load.seconds));
const CPU_PER_NEWCOMER: Metric =
    metric("CPU-ms/newcomer", 3, |of| ratio(cpu_seconds(of) * 1e3, newcomers(of)?));
const NEWCOMER_P50: Metric = metric("newcomer p50 ms", 1, |of| {
    of.load.newcomers.as_ref().map(|newcomers| newcomers.p50_us / 1e3)
});
const NEWCOMER_P99: Metric = metric("newcomer p99 ms", 1, |of| {
    of.load.newcomers.as_ref().map(|newcomers| newcomers.p99_us / 1e3)
});
pub(crate) const SYSCALLS: Metric =
    metric("syscalls/message", 2, |of| ratio(number(of.usage.syscalls?), number(of.load.messages)));
const CPU_PER_SECOND: Metric = metric("CPU-s/s", 3, |of| ratio(cpu_seconds(of), of.load.seconds));
const MACHINE_PER_SECOND: Metric =
    metric("machine CPU-s/s", 3, |of| ratio(machine_seconds(of)?, of.load.seconds));
const P50: Metric = metric("p50 ms", 2, |of| latency_ms(of, |all| all.p50_us));
const P99: Metric = metric("p99 ms", 2, |of| latency_ms(of, |all| all.p99_us));
const P999: Metric = metric("p99.9 ms", 2, |of| latency_ms(of, |all| all.p999_us));
const MAX: Metric = metric("max ms", 2, |of| latency_ms(of, |all| all.max_us));
const LATENESS: Metric = metric("generator late, p99 ms", 2, |of| {
    of.load.lateness.as_ref().map(|lateness| lateness.p99_us / 1e3)
});
pub(crate) const RSS: Metric =
    metric("RSS KB/session", 1, |of| growth_kb(of, |usage| usage.rss_bytes));
pub(crate) const KERNEL_MEMORY: Metric = metric("kernel KB/session", 2, |of| {
    let KernelMemory { before, ready } = of.kernel_memory?;
    ratio((number(ready) - number(before)) / 1e3, number(of.load.sessions))
});
const PSS: Metric = metric("PSS KB/session", 1, |of| growth_kb(of, |usage| usage.pss_bytes));
const DESCRIPTORS: Metric = metric("descriptors/session", 2, |of| {
    growth_kb(of, |usage| usage.descriptors).map(|thousands| thousands * 1e3)
});

/// The columns of a scenario. The first is what the scenario is about; it is compared with the
/// [`reference`].
pub(crate) fn metrics(scenario: Scenario) -> &'static [Metric] {
    match scenario {
        Scenario::BulkUp
        | Scenario::BulkDown
        | Scenario::PlainUp
        | Scenario::PlainDown
        | Scenario::PassthroughUp
        | Scenario::PassthroughDown => &[CPU_PER_GB, THROUGHPUT, MACHINE_PER_GB],
        Scenario::SessionRate | Scenario::PlainSessionRate => {
            &[CPU_PER_SESSION, SESSION_RATE, P50, P99, P999, MACHINE_PER_SESSION]
        }
        Scenario::Latency => {
            &[P999, P99, P50, MAX, THROUGHPUT, CPU_PER_SECOND, MACHINE_PER_SECOND, LATENESS]
        }
        Scenario::Storm | Scenario::HelloStorm => &[
            P99,
            P999,
            P50,
            MAX,
            NEWCOMER_RATE,
            CPU_PER_NEWCOMER,
            NEWCOMER_P50,
            NEWCOMER_P99,
            CPU_PER_SECOND,
            MACHINE_PER_SECOND,
            LATENESS,
        ],
        Scenario::SessionsBesideBulk => {
            &[P99, P999, P50, MAX, THROUGHPUT, CPU_PER_SECOND, MACHINE_PER_SECOND, LATENESS]
        }
        Scenario::MessagesFew | Scenario::MessagesMany => {
            &[CPU_PER_MESSAGE, P50, P99, P999, MACHINE_PER_MESSAGE, LATENESS]
        }
        Scenario::Syscalls => &[SYSCALLS, MESSAGE_RATE],
        Scenario::Idle => &[RSS, PSS, DESCRIPTORS],
    }
}

/// The column of a scenario with this title.
pub(crate) fn metric_named(scenario: Scenario, title: &str) -> Option<Metric> {
    metrics(scenario).iter().copied().find(|metric| metric.title == title)
}

/// What the others are compared with. Where builds are compared with each other alone, it is the
/// first one.
pub(crate) fn reference(scenario: Scenario, results: &Results) -> Target {
    let usual =
        if Target::Floor.listener(scenario).is_some() { Target::Floor } else { Target::Relay };
    let targets = results.targets();
    if targets.contains(&usual) { usual } else { targets.first().copied().unwrap_or(usual) }
}

impl Subject {
    /// The same of another target. The floor is one process, whatever it is compared with.
    pub(crate) fn on(self, target: Target) -> Self {
        let part = if target == Target::Floor { Part::Gateway } else { self.part };
        Self { target, part, ..self }
    }

    /// Over all valid runs; `None` where there is none.
    pub(crate) fn figure(self, results: &Results) -> Option<Figure> {
        let samples = of(results, self.scenario, self.target);
        Figure::of(samples.filter_map(|sample| self.value(sample)).collect())
    }

    /// As a multiple of another, each run against the same run.
    pub(crate) fn over(self, other: Self, results: &Results) -> Option<Figure> {
        let values = of(results, self.scenario, self.target).filter_map(|sample| {
            let beside =
                of(results, other.scenario, other.target).find(|other| other.run == sample.run)?;
            ratio(self.value(sample)?, other.value(beside)?)
        });
        Figure::of(values.collect())
    }

    fn value(self, sample: &Sample) -> Option<f64> {
        self.metric.read(&sample.work, &sample.outcome, self.part)
    }
}

impl Metric {
    /// `None` unless the sample is valid: a figure from work that went wrong would be a wrong one.
    pub(crate) fn read(self, work: &Work, outcome: &Outcome, part: Part) -> Option<f64> {
        match outcome {
            Outcome::Measured { load, processes, machine_cpu_ns, kernel_memory, .. }
                if outcome.is_valid(work) =>
            {
                let usage = part.usage(processes)?;
                let (machine_cpu_ns, kernel_memory) = (*machine_cpu_ns, *kernel_memory);
                (self.value)(&Reading { load, usage, machine_cpu_ns, kernel_memory })
            }
            Outcome::Measured { .. } | Outcome::Failed { .. } => None,
        }
    }
}

impl Part {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::Gateway, Self::Server, Self::Together];

    /// What it has used; `None` where there is no such process.
    pub(crate) fn usage(self, processes: &[ProcessUsage]) -> Option<ProcessUsage> {
        match self {
            Self::Gateway => processes.first().cloned(),
            Self::Server => processes.get(1).cloned(),
            Self::Together => processes.iter().cloned().reduce(|sum, one| sum.plus(&one)),
        }
    }
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
    /// Of samples of one kind; `None` where there are none.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
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

fn gigabytes(of: &Reading) -> f64 {
    number(of.load.bytes_up + of.load.bytes_down) / 1e9
}

fn cpu_seconds(of: &Reading) -> f64 {
    number(of.usage.end.cpu_ns.saturating_sub(of.usage.ready.cpu_ns)) / 1e9
}

fn newcomers(of: &Reading) -> Option<f64> {
    of.load.newcomers.as_ref().map(|newcomers| number(newcomers.count))
}

fn machine_seconds(of: &Reading) -> Option<f64> {
    of.machine_cpu_ns.map(|ns| number(ns) / 1e9)
}

fn latency_ms(of: &Reading, quantile: fn(&Distribution) -> f64) -> Option<f64> {
    of.load.latency.as_ref().map(|latency| quantile(latency) / 1e3)
}

/// For each session, in thousands of bytes.
fn growth_kb(of: &Reading, held: fn(&Usage) -> u64) -> Option<f64> {
    let grown = number(held(&of.usage.ready)) - number(held(&of.usage.before));
    ratio(grown / 1e3, number(of.load.sessions))
}

/// `None` for what can't be divided.
pub(crate) fn ratio(dividend: f64, divisor: f64) -> Option<f64> {
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

    #[test]
    fn the_processes_of_a_target_are_told_apart_by_their_place_and_added() {
        let usage = |cpu_ns| Usage { cpu_ns, rss_bytes: 1, pss_bytes: 1, descriptors: 1 };
        let process = |name: &str, cpu_ns, syscalls| ProcessUsage {
            name: name.to_owned(),
            before: usage(0),
            ready: usage(0),
            end: usage(cpu_ns),
            syscalls,
        };
        let both = [process("gateway", 3, Some(30)), process("server", 4, Some(40))];
        let of = |part: Part| part.usage(&both).map(|usage| (usage.end.cpu_ns, usage.syscalls));
        assert_eq!(of(Part::Gateway), Some((3, Some(30))));
        assert_eq!(of(Part::Server), Some((4, Some(40))));
        assert_eq!(of(Part::Together), Some((7, Some(70))));
        let floor = [process("floor", 5, None)];
        assert_eq!(Part::Server.usage(&floor), None);
        assert_eq!(Part::Together.usage(&floor), Some(floor[0].clone()));
    }
}
