//! The metrics, as OpenMetrics text.

use std::sync::Arc;

use super::counters::WorkerCounters;
use super::ledger::Figures;
use super::status::Role;

/// Every number of the process at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// What the process was started as: the peers of its signal connections are the other role's.
    pub role: Role,
    /// In the order of the workers.
    pub workers: Vec<Arc<WorkerCounters>>,
    /// Of the ledger.
    pub figures: Figures,
    /// Agents that wait for a server.
    pub waiting_agents: u64,
    /// Invitations by what became of them; the words are the control plane's.
    pub invitations: Vec<(&'static str, u64)>,
    /// Signal connections that are up, by the name of the server or gateway.
    pub signal_connections: Vec<(String, u64)>,
    /// Certificate files in use, and when each expires, in seconds since 1970.
    pub certificates: Vec<(String, i64)>,
}
