//! The results of a run, as they are kept: every sample with all its raw figures. The table is
//! derived from them and can be printed again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::load::Report;
use crate::machine::Machine;
use crate::scenario::{Direction, Scenario, Size, Work};
use crate::target::Target;
use crate::usage::Usage;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Where and with what.
    pub(crate) machine: Machine,
    /// Peers and builds, each with its version and where it stands apart.
    #[serde(default)]
    pub(crate) peers: BTreeMap<String, String>,
    /// Whether the figures are to be trusted.
    pub(crate) size: Size,
    /// In the order in which they were taken.
    pub(crate) samples: Vec<Sample>,
}

/// One scenario on one target, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// What was measured.
    pub(crate) scenario: Scenario,
    /// On what.
    pub(crate) target: Target,
    /// Samples of the same run were taken side by side, and are compared with each other.
    pub(crate) run: usize,
    /// When, RFC 3339.
    pub(crate) started: String,
    /// What the load generator was asked to do.
    pub(crate) work: Work,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// What came of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub(crate) enum Outcome {
    /// The work came to its end, perhaps with errors.
    Measured {
        /// What the load generator saw.
        load: Box<Report>,
        /// What each process used.
        processes: Vec<ProcessUsage>,
        /// Time for which the cores of the machine were busy during the work, whoever kept them so.
        #[serde(default)]
        machine_cpu_ns: Option<u64>,
        /// Memory of the kernel, of whatever runs on the machine; `None` where root alone may read it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kernel_memory: Option<KernelMemory>,
        /// What went wrong after the figures were taken: a process that did not end, for example.
        afterwards: Option<String>,
    },
    /// It did not.
    Failed {
        /// Why.
        what: String,
    },
}

/// Bytes of objects in the kernel's slabs that were in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KernelMemory {
    /// After the warm-up, before the load generator connects.
    pub(crate) before: u64,
    /// When the load generator is ready; idle sessions are open and at rest.
    pub(crate) ready: u64,
}

/// What one process had used at three moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessUsage {
    /// `gateway`, `server` or `floor`; a peer in the place of one has its name.
    pub(crate) name: String,
    /// After the warm-up, before the load generator connects.
    pub(crate) before: Usage,
    /// When the load generator is ready; idle sessions are open and at rest.
    pub(crate) ready: Usage,
    /// When the work is done.
    pub(crate) end: Usage,
    /// System calls during the work, where they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) syscalls: Option<u64>,
}

/// Writes JSON for programs and for the diff of a repository.
pub(crate) fn write(results: &impl Serialize, path: &Path) -> Result<(), BenchError> {
    let mut text = serde_json::to_vec_pretty(results)
        .map_err(|error| BenchError::File { path: path.to_owned(), what: error.to_string() })?;
    text.push(b'\n');
    std::fs::write(path, text).map_err(BenchError::io(format!("writing {}", path.display())))
}

/// Reads what [`write`] has written.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, BenchError> {
    let text =
        std::fs::read(path).map_err(BenchError::io(format!("reading {}", path.display())))?;
    serde_json::from_slice(&text).map_err(|error| BenchError::File {
        path: path.to_owned(),
        what: format!("not such results of this bench: {error}"),
    })
}

impl Results {
    /// Reads a file that [`Results::write`] has written.
    pub(crate) fn read(path: &Path) -> Result<Self, BenchError> {
        read(path)
    }

    /// See [`write`].
    pub(crate) fn write(&self, path: &Path) -> Result<(), BenchError> {
        write(self, path)
    }

    /// Those with samples: first those of [`Target::ALL`], then builds in the order of their samples.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let taken: BTreeSet<Target> = self.samples.iter().map(|sample| sample.target).collect();
        let mut targets = Target::ALL.to_vec();
        targets.retain(|target| taken.contains(target));
        for sample in &self.samples {
            if !targets.contains(&sample.target) {
                targets.push(sample.target);
            }
        }
        targets
    }

    /// Samples that are not clean.
    pub(crate) fn unclean(&self) -> usize {
        self.samples.iter().filter(|sample| !sample.is_clean()).count()
    }

    /// An error where any sample is not clean.
    pub(crate) fn expect_clean(&self) -> Result<(), BenchError> {
        match self.unclean() {
            0 => Ok(()),
            unclean => Err(BenchError::Unclean(unclean)),
        }
    }
}

impl Sample {
    /// Whether nothing went wrong afterwards either.
    pub(crate) fn is_clean(&self) -> bool {
        self.complaints().is_empty()
    }

    /// What went wrong.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.outcome.complaints(&self.work)
    }
}

impl Outcome {
    /// Whether all of that work was done and nothing went wrong meanwhile. Only then its figures are
    /// figures.
    pub(crate) fn is_valid(&self, work: &Work) -> bool {
        match self {
            Self::Measured { load, .. } => load.errors.is_empty() && is_done(work, load),
            Self::Failed { .. } => false,
        }
    }

    /// What went wrong.
    pub(crate) fn complaints(&self, work: &Work) -> Vec<String> {
        match self {
            Self::Failed { what } => vec![what.clone()],
            Self::Measured { load, afterwards, .. } => {
                let errors = load.errors.iter().map(|(what, count)| format!("{count} × {what}"));
                let undone = !is_done(work, load);
                let undone = undone.then(|| "not all of the work was done".to_owned());
                errors.chain(undone).chain(afterwards.clone()).collect()
            }
        }
    }
}

impl ProcessUsage {
    /// Both together.
    pub(crate) fn plus(self, other: &Self) -> Self {
        let syscalls = self.syscalls.zip(other.syscalls);
        Self {
            name: "together".to_owned(),
            before: self.before.plus(other.before),
            ready: self.ready.plus(other.ready),
            end: self.end.plus(other.end),
            syscalls: syscalls.map(|(one, other)| one + other),
        }
    }
}

/// Whether the counts of a report are exactly those of the work.
fn is_done(work: &Work, load: &Report) -> bool {
    match *work {
        Work::Bulk { direction, connections, bytes } => {
            let moved = match direction {
                Direction::Up => load.bytes_up,
                Direction::Down => load.bytes_down,
            };
            load.sessions == connections && moved == connections * bytes
        }
        Work::SessionRate { sessions, .. } => {
            load.sessions == sessions && load.messages == sessions
        }
        Work::Latency { sessions, rate, seconds, bulk } => {
            load.sessions == sessions + bulk && load.messages == sessions * rate * seconds
        }
        Work::Messages { sessions, per_second, seconds } => {
            load.sessions == sessions && load.messages == per_second * seconds
        }
        Work::Storm { sessions, rate, seconds, .. } => {
            load.sessions == sessions
                && load.messages == sessions * rate * seconds
                && load.newcomers.as_ref().is_some_and(|newcomers| newcomers.count > 0)
        }
        Work::Arrivals { per_second, seconds, bulk } => {
            let arrivals = per_second * seconds;
            load.sessions == arrivals + bulk && load.messages == arrivals
        }
        Work::PingPong { sessions, messages } => {
            load.sessions == sessions && load.messages == sessions * messages
        }
        Work::Idle { sessions, bytes, .. } => {
            let all = sessions * bytes;
            load.sessions == sessions && load.bytes_up == all && load.bytes_down == all
        }
    }
}
