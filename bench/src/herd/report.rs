//! What a return cost, kept as JSON and printed as a table.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::figures::Figure;
use crate::machine::Machine;
use crate::table::{align, cell};

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HerdResults {
    pub(super) machine: Machine,
    pub(super) programs: usize,
    pub(super) down_ms: u64,
    pub(super) samples: Vec<HerdSample>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HerdSample {
    pub(super) run: usize,
    pub(super) retry_for_ms: u64,
    pub(super) started: String,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub(super) enum Outcome {
    Measured(Measured),
    Failed { what: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    /// From the start of the new gateway until half of the programs had a session again.
    pub(super) half_ns: u64,
    /// Until all had.
    pub(super) all_ns: u64,
    /// CPU time of the new gateway until then.
    pub(super) gateway_cpu_ns: u64,
    /// CPU time of the server from the loss until then.
    pub(super) server_cpu_ns: u64,
    /// Connections of programs to their agents from the loss until then.
    pub(super) dials: u64,
    /// The longest answer to a ping on a signal connection before the loss.
    pub(super) stall_at_rest_ns: u64,
    /// From the loss until all were back, on connections that stood.
    pub(super) stall_ns: u64,
}

impl HerdResults {
    pub(super) fn failed(&self) -> usize {
        let failed = |sample: &&HerdSample| matches!(sample.outcome, Outcome::Failed { .. });
        self.samples.iter().filter(failed).count()
    }

    fn of(&self, retry_for_ms: u64) -> impl Iterator<Item = &Measured> {
        let samples = self.samples.iter().filter(move |sample| sample.retry_for_ms == retry_for_ms);
        samples.filter_map(|sample| match &sample.outcome {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Failed { .. } => None,
        })
    }
}

/// Medians over the rounds, smallest and largest beside them.
pub(super) fn render(results: &HerdResults) -> String {
    let mut text = format!(
        "{}{} programs, {} ms without a gateway\n\n",
        results.machine, results.programs, results.down_ms,
    );
    let header = [
        "retry_for_ms",
        "half back, s",
        "all back, s",
        "gateway, CPU-s",
        "server, CPU-s",
        "dials a program",
        "longest ping before, ms",
        "longest ping meanwhile, ms",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let mut ways: Vec<u64> = results.samples.iter().map(|sample| sample.retry_for_ms).collect();
    ways.sort_unstable();
    ways.dedup();
    for way in ways {
        let figure = |of: fn(&Measured) -> u64, unit: f64| {
            let values = results.of(way).map(|measured| number(of(measured)) / unit);
            cell(Figure::of(values.collect()), 2)
        };
        rows.push(vec![
            way.to_string(),
            figure(|m| m.half_ns, 1e9),
            figure(|m| m.all_ns, 1e9),
            figure(|m| m.gateway_cpu_ns, 1e9),
            figure(|m| m.server_cpu_ns, 1e9),
            figure(|m| m.dials, number(results.programs as u64)),
            figure(|m| m.stall_at_rest_ns, 1e6),
            figure(|m| m.stall_ns, 1e6),
        ]);
    }
    text.push_str(&align(&rows));
    for sample in &results.samples {
        if let Outcome::Failed { what } = &sample.outcome {
            writeln!(text, "\nERROR in run {}: {what}", sample.run)
                .expect("writing to a string does not fail");
        }
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}
