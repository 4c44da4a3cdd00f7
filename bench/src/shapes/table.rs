//! The results as two tables: the shapes, and the worker's shape with other settings.

use std::fmt::Write;

use super::case::{Case, Trial};
use super::results::{ShapeResults, ShapeSample};
use crate::figures::{
    CPU_PER_GB, CPU_PER_MESSAGE, Figure, KERNEL_MEMORY, MESSAGE_RATE, Metric, Part, RSS, SYSCALLS,
    THROUGHPUT, ratio,
};
use crate::table::{align, cell, explanation};

/// A column: what it shows of which trial.
#[derive(Clone, Copy)]
struct Column {
    trial: Trial,
    metric: Metric,
    /// Whether it shows the multiple of the reference.
    relative: bool,
}

/// Of each trial the metric that it is about first.
const COLUMNS: [Column; 12] = [
    of(Trial::BulkUp, CPU_PER_GB),
    multiple(Trial::BulkUp, CPU_PER_GB),
    of(Trial::BulkUp, THROUGHPUT),
    of(Trial::BulkDown, CPU_PER_GB),
    multiple(Trial::BulkDown, CPU_PER_GB),
    of(Trial::BulkDown, THROUGHPUT),
    of(Trial::Messages, CPU_PER_MESSAGE),
    multiple(Trial::Messages, CPU_PER_MESSAGE),
    of(Trial::Messages, MESSAGE_RATE),
    of(Trial::Syscalls, SYSCALLS),
    of(Trial::Idle, RSS),
    of(Trial::Idle, KERNEL_MEMORY),
];

const fn of(trial: Trial, metric: Metric) -> Column {
    Column { trial, metric, relative: false }
}

const fn multiple(trial: Trial, metric: Metric) -> Column {
    Column { trial, metric, relative: true }
}

/// Both tables, and everything that went wrong.
pub(crate) fn render(results: &ShapeResults) -> String {
    let mut cases: Vec<&Case> = Vec::new();
    for sample in &results.samples {
        if !cases.contains(&&sample.case) {
            cases.push(&sample.case);
        }
    }
    cases.sort_by_key(|case| (case.shape, !case.is_plain()));
    let (plain, mut changed): (Vec<&Case>, Vec<&Case>) =
        cases.into_iter().partition(|case| case.is_plain());
    let reference = Case::reference();
    if !changed.is_empty() {
        changed.insert(0, &reference);
    }
    let mut text = results.machine.to_string();
    text.push_str(&explanation(results.size));
    for (heading, cases) in [("The shapes", plain), ("With one setting changed", changed)] {
        if !cases.is_empty() {
            write!(text, "\n### {heading}\n\n{}", table(results, &cases))
                .expect("writing to a string does not fail");
        }
    }
    for sample in &results.samples {
        for complaint in sample.complaints() {
            let (trial, run) = (sample.trial.name(), sample.run + 1);
            writeln!(text, "\nERROR in {trial} on {}, run {run}: {complaint}", sample.case)
                .expect("writing to a string does not fail");
        }
    }
    text
}

/// Columns without any figure are left out.
fn table(results: &ShapeResults, cases: &[&Case]) -> String {
    let is_filled =
        |column: &Column| cases.iter().any(|case| column.figure(results, case).is_some());
    let columns: Vec<Column> = COLUMNS.into_iter().filter(is_filled).collect();
    let mut header = vec!["case".to_owned()];
    header.extend(columns.iter().map(|column| column.title()));
    header.push("clean runs".to_owned());
    let mut rows = vec![header];
    for case in cases {
        let mut row = vec![case.to_string()];
        row.extend(columns.iter().map(|column| column.cell(results, case)));
        let of_case = || results.samples.iter().filter(|sample| sample.case == **case);
        let clean = of_case().filter(|sample| sample.complaints().is_empty()).count();
        row.push(format!("{clean} of {}", of_case().count()));
        rows.push(row);
    }
    align(&rows)
}

impl Column {
    fn title(self) -> String {
        if self.relative {
            return format!("÷ {}", Case::reference());
        }
        format!("{}: {}", self.trial.name(), self.metric.title)
    }

    fn cell(self, results: &ShapeResults, case: &Case) -> String {
        cell(self.figure(results, case), if self.relative { 2 } else { self.metric.decimals })
    }

    fn figure(self, results: &ShapeResults, case: &Case) -> Option<Figure> {
        let values = results.of(self.trial, case).filter_map(|sample| {
            let value = self.value(sample)?;
            if !self.relative {
                return Some(value);
            }
            let reference = Case::reference();
            let beside =
                results.of(self.trial, &reference).find(|other| other.run == sample.run)?;
            ratio(value, self.value(beside)?)
        });
        Figure::of(values.collect())
    }

    fn value(self, sample: &ShapeSample) -> Option<f64> {
        self.metric.read(&sample.work, &sample.outcome, Part::Gateway)
    }
}
