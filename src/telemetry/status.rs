//! The status page: what the running process is doing, as JSON and as a page for a terminal.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a running process is doing. The JSON of `/status` and of `vestibule status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What it was started as.
    pub role: Role,
    /// Version of the software.
    pub version: String,
    /// Names this process.
    pub instance: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Where it stands in its life.
    pub state: State,
    /// Where it accepts connections; none at a server.
    pub listeners: Vec<Listener>,
    /// Every one that is up, and every gateway that a server is to hold one with.
    pub signal_connections: Vec<SignalConnection>,
    /// Agents that wait for a server.
    pub waiting: Waiting,
    /// Those that live.
    pub sessions: Sessions,
    /// Since the start.
    pub totals: Totals,
    /// Of the stages of sessions, since the start.
    pub latencies: Vec<Latency>,
    /// One for each worker.
    pub workers: Vec<Worker>,
}

/// The roles that have a status page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// In the DMZ.
    Gateway,
    /// In the LAN.
    Server,
}

/// Where a process stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No session is possible yet: a listener or every signal connection is missing.
    Starting,
    /// Sessions are possible.
    Ready,
    /// No new sessions; those that live are let finish.
    Draining,
}

/// Where connections are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: String,
    /// As bound.
    pub addresses: Vec<SocketAddr>,
    /// `tls` or `plain`.
    pub kind: String,
    /// Held at this moment.
    pub connections: u64,
}

/// A signal connection, or the lack of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalConnection {
    /// The server's name, or the gateway's.
    pub peer: String,
    /// The other end; `None` while there is no connection.
    pub address: Option<SocketAddr>,
    /// Seconds that it has been up; `None` while there is no connection.
    pub up_s: Option<u64>,
    /// Services that it carries invitations for.
    pub services: Vec<String>,
    /// Sessions that live by its invitations.
    pub sessions: u64,
    /// Invitations that were sent and not answered.
    pub waiting: u64,
}

/// The queue of agents that wait for a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// How many wait.
    pub agents: u64,
    /// How many may.
    pub bound: u64,
}

/// The sessions that live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// All of them.
    pub live: u64,
    /// Some of them, the oldest first.
    pub oldest: Vec<Session>,
}

/// A session that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Verified identity of the device, or the address of the agent where it has none.
    pub who: String,
    /// Name of the service.
    pub service: String,
    /// Seconds since it was joined.
    pub age_s: u64,
}

/// Sums since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Payload from agents to servers, in bytes.
    pub bytes_to_server: u64,
    /// Payload from servers to agents, in bytes.
    pub bytes_to_agent: u64,
    /// What ended and why.
    pub ended: Ended,
}

/// What ended, by reason, the most frequent first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Sessions.
    pub sessions: Vec<Count>,
    /// Connections that became no session.
    pub connections: Vec<Count>,
}

/// How often something ended for a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The word of the close reason.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// Quantiles of one stage of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The word of the stage.
    pub stage: String,
    /// Times noted.
    pub count: u64,
    /// Half are not above, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 are not above, in microseconds.
    pub p99_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

/// What one worker holds and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Connections held, sessions included.
    pub connections: u64,
    /// Sessions that live.
    pub sessions: u64,
    /// Payload relayed in both directions, in bytes.
    pub bytes: u64,
}
