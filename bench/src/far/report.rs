//! The results of a run over a long link, kept as JSON and printed as a table.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::Way;
use super::line::Shape;
use super::link::Carried;
use crate::figures::Figure;
use crate::machine::Machine;
use crate::scenario::Direction;
use crate::table::{align, cell};

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FarResults {
    pub(super) machine: Machine,
    pub(super) link: Shape,
    pub(super) mtu: u16,
    pub(super) congestion: String,
    /// What was set in both hosts, below `/proc/sys/net`.
    pub(super) settings: BTreeMap<String, String>,
    pub(super) samples: Vec<FarSample>,
}

/// One transfer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FarSample {
    pub(super) run: usize,
    pub(super) way: Way,
    pub(super) direction: Direction,
    pub(super) sessions: u64,
    /// Over all sessions.
    pub(super) bytes: u64,
    pub(super) started: String,
    pub(super) outcome: Figures,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub(super) enum Figures {
    Measured(Measured),
    Failed { what: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    /// Until the last byte had arrived.
    pub(super) whole_ns: u64,
    /// For the second half of the bytes.
    pub(super) second_half_ns: u64,
    /// From the device's end of the link.
    pub(super) link_up: Carried,
    /// Towards it.
    pub(super) link_down: Carried,
    /// CPU time of gateway and server.
    pub(super) cpu_ns: BTreeMap<String, u64>,
}

impl FarResults {
    /// Samples without figures.
    pub(super) fn failed(&self) -> usize {
        self.samples.iter().filter(|sample| sample.measured().is_none()).count()
    }

    fn of(&self, row: Row) -> impl Iterator<Item = (&FarSample, &Measured)> {
        let samples = self.samples.iter().filter(move |sample| Row::of(sample) == row);
        samples.filter_map(|sample| Some((sample, sample.measured()?)))
    }

    /// The sample without Vestibule that was taken beside this one.
    fn direct_beside(&self, sample: &FarSample) -> Option<&Measured> {
        let row = Row { way: Way::Direct, ..Row::of(sample) };
        let mut beside = self.of(row).filter(|(other, _)| other.run == sample.run);
        beside.next().map(|(_, measured)| measured)
    }
}

impl FarSample {
    fn measured(&self) -> Option<&Measured> {
        match &self.outcome {
            Figures::Measured(measured) => Some(measured),
            Figures::Failed { .. } => None,
        }
    }
}

/// What one row of the table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    way: Way,
    direction: Direction,
    sessions: u64,
}

impl Row {
    fn of(sample: &FarSample) -> Self {
        Self { way: sample.way, direction: sample.direction, sessions: sample.sessions }
    }
}

/// Medians over the rounds, and everything that went wrong.
pub(super) fn render(results: &FarResults) -> String {
    let mut text = format!(
        "{}{:?}, MTU {}, there TCP {}, {:?}\n\n",
        results.machine, results.link, results.mtu, results.congestion, results.settings,
    );
    let header = [
        "sessions",
        "direction",
        "way",
        "MB/s",
        "÷ direct",
        "second half, MB/s",
        "÷ direct",
        "lost packets",
        "gateway CPU-s/GB",
        "server CPU-s/GB",
    ];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    let mut rows: Vec<Row> = Vec::new();
    for sample in &results.samples {
        if !rows.contains(&Row::of(sample)) {
            rows.push(Row::of(sample));
        }
    }
    rows.sort_by_key(|row| (row.sessions, row.direction == Direction::Down, row.way));
    table.extend(rows.into_iter().map(|row| cells(results, row)));
    text.push_str(&align(&table));
    for sample in &results.samples {
        if let Figures::Failed { what } = &sample.outcome {
            writeln!(text, "\nERROR in {:?}, run {}: {what}", Row::of(sample), sample.run + 1)
                .expect("writing to a string does not fail");
        }
    }
    text
}

fn cells(results: &FarResults, row: Row) -> Vec<String> {
    let figure = |of: &dyn Fn(&FarSample, &Measured) -> Option<f64>| {
        Figure::of(results.of(row).filter_map(|(sample, measured)| of(sample, measured)).collect())
    };
    let over_direct = |time: fn(&Measured) -> u64| {
        move |sample: &FarSample, measured: &Measured| {
            let direct = results.direct_beside(sample)?;
            Some(number(time(direct)) / number(time(measured)))
        }
    };
    let whole = figure(&|sample, measured| Some(rate(sample.bytes, measured.whole_ns)));
    let half = figure(&|sample, measured| Some(rate(sample.bytes / 2, measured.second_half_ns)));
    let lost = figure(&|sample, measured| {
        Some(number(match sample.direction {
            Direction::Up => measured.link_up.lost_packets,
            Direction::Down => measured.link_down.lost_packets,
        }))
    });
    let cpu = |name: &'static str| {
        move |sample: &FarSample, measured: &Measured| {
            Some(number(*measured.cpu_ns.get(name)?) / number(sample.bytes))
        }
    };
    vec![
        row.sessions.to_string(),
        format!("{:?}", row.direction).to_lowercase(),
        match row.way {
            Way::Direct => "direct",
            Way::FarDevice => "device far",
            Way::FarServer => "server far",
        }
        .to_owned(),
        cell(whole, 1),
        cell(figure(&over_direct(|measured| measured.whole_ns)), 3),
        cell(half, 1),
        cell(figure(&over_direct(|measured| measured.second_half_ns)), 3),
        cell(lost, 0),
        cell(figure(&cpu("gateway")), 2),
        cell(figure(&cpu("server")), 2),
    ]
}

/// In MB/s.
fn rate(bytes: u64, nanos: u64) -> f64 {
    number(bytes) * 1e3 / number(nanos)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}
