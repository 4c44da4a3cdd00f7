//! What was held, kept as JSON and printed as a table.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::ends::Case;
use super::sockets::Held;
use crate::machine::Machine;
use crate::table::align;

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SlowResults {
    pub(super) machine: Machine,
    pub(super) sessions: usize,
    pub(super) fast_bytes: u64,
    /// The largest buffer of devices and backend.
    pub(super) peer_buffer: u64,
    /// Of the hosts of gateway and server, below `/proc/sys/net/ipv4`.
    pub(super) settings: BTreeMap<String, String>,
    pub(super) samples: Vec<SlowSample>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SlowSample {
    pub(super) case: Case,
    pub(super) started: String,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub(super) enum Outcome {
    Measured {
        /// By name.
        roles: BTreeMap<String, Role>,
        /// Pages of TCP on the whole machine, devices and backend included.
        tcp_pages: Option<u64>,
    },
    Failed {
        what: String,
    },
}

/// What is held for one process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Role {
    /// Growth of its resident set.
    pub(super) user_bytes: u64,
    /// Sockets towards the device.
    pub(super) outer: Held,
    /// Sockets towards the backend.
    pub(super) inner: Held,
}

impl SlowResults {
    pub(super) fn failed(&self) -> usize {
        let failed = |sample: &&SlowSample| matches!(sample.outcome, Outcome::Failed { .. });
        self.samples.iter().filter(failed).count()
    }
}

/// KB a session, MB in all.
pub(super) fn render(results: &SlowResults) -> String {
    let mut text = format!(
        "{}{} sessions, {} bytes read fast, buffers of \
         peers up to {} bytes; {:?}\nKB (1,000 bytes) a session; kernel: queues of sockets.\n\n",
        results.machine,
        results.sessions,
        results.fast_bytes,
        results.peer_buffer,
        results.settings,
    );
    let header = [
        "case",
        "process",
        "user",
        "outer received",
        "outer sending",
        "inner received",
        "inner sending",
        "kernel",
        "all, MB",
        "TCP of the machine, MB",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for sample in &results.samples {
        if let Outcome::Measured { roles, tcp_pages } = &sample.outcome {
            rows.extend(
                roles
                    .iter()
                    .map(|(name, role)| row(sample.case, name, role, *tcp_pages, results.sessions)),
            );
        }
    }
    text.push_str(&align(&rows));
    for sample in &results.samples {
        if let Outcome::Failed { what } = &sample.outcome {
            writeln!(text, "\nERROR in {:?}: {what}", sample.case)
                .expect("writing to a string does not fail");
        }
    }
    text
}

fn row(
    case: Case,
    name: &str,
    role: &Role,
    tcp_pages: Option<u64>,
    sessions: usize,
) -> Vec<String> {
    let each = |bytes: u64| format!("{:.1}", number(bytes) / 1e3 / number(sessions as u64));
    let megabytes = |bytes: u64| format!("{:.0}", number(bytes) / 1e6);
    let Role { user_bytes, outer, inner } = *role;
    let kernel = outer.total() + inner.total();
    vec![
        format!("{case:?}"),
        name.to_owned(),
        each(user_bytes),
        each(outer.received),
        each(outer.sending),
        each(inner.received),
        each(inner.sending),
        each(kernel),
        megabytes(user_bytes + kernel),
        tcp_pages.map_or_else(|| "-".to_owned(), |pages| megabytes(pages * 4_096)),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}
