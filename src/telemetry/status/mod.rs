//! The status page: what the running process is doing, as JSON and as a page for a terminal.

mod client;
mod page;

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use client::{FetchError, fetch};
pub use page::render;
#[cfg(feature = "demo")]
pub(crate) use {client::fetch_page, page::bytes, page::grouped, page::micros};

use super::counters::WorkerCounters;

/// What a running process is doing. The JSON of `/status` and of `vestibule status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What it was started as.
    pub role: Role,
    /// Version of the software.
    pub version: String,
    /// Names this process.
    pub instance: String,
    /// What its threads wait in: `io_uring` or `epoll`.
    pub event_loop: String,
    /// Who has the records of its sessions: `userspace`, `ktls` or `ktls_splice`.
    pub relay: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Where it stands in its life.
    pub state: State,
    /// What it goes by.
    pub configuration: Configuration,
    /// Where it accepts connections; none at a server.
    pub listeners: Vec<Listener>,
    /// Every one that is up, and every gateway that a server is to hold one with.
    pub signal_connections: Vec<SignalConnection>,
    /// The CAs whose lists of revoked certificates are looked at.
    pub revocation: Vec<RevocationList>,
    /// Agents that wait for a server.
    pub waiting: Waiting,
    /// What operators have changed.
    pub operator: Operator,
    /// Those that live.
    pub sessions: Sessions,
    /// Since the start.
    pub totals: Totals,
    /// Of the stages of sessions, since the start.
    pub latencies: Vec<Latency>,
    /// One for each worker.
    pub workers: Vec<Worker>,
    /// How the process protects itself: each part once.
    pub sandbox: Vec<SandboxPart>,
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

impl Role {
    /// The subcommand of this role, and its word in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Server => "server",
        }
    }

    /// The role at the other end of its signal connections.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Gateway => Self::Server,
            Self::Server => Self::Gateway,
        }
    }
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

/// The configuration in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Seconds since it was read: at the start, or by a reload.
    pub age_s: u64,
    /// The last reload, where it was refused.
    pub refused: Option<RefusedReload>,
}

/// A reload that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedReload {
    /// Seconds since then.
    pub age_s: u64,
    /// What is wrong, with the file.
    pub reason: String,
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
    /// Spares that wait for an agent.
    pub spares: u64,
}

/// What is known of the list of revoked certificates of one CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationList {
    /// Where it counts: a listener, or `servers`.
    pub place: String,
    /// Name of the CA.
    pub ca: String,
    /// Whether it is there, and the next one is not due.
    pub is_current: bool,
    /// `None` where there is none.
    pub list: Option<ListInUse>,
}

/// A list of revoked certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListInUse {
    /// Its number in hexadecimal digits; empty where its CA does not count.
    pub number: String,
    /// Certificates that it revokes.
    pub entries: u64,
    /// When it was made, in seconds since 1970.
    pub this_update: i64,
    /// When the next one is due, in seconds since 1970.
    pub next_update: i64,
    /// Seconds until then; below 0 where it is stale.
    pub due_in_s: i64,
    /// The file, or the server that brought it.
    pub from: String,
}

/// The queue of agents that wait for a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// How many wait.
    pub agents: u64,
    /// How many may.
    pub bound: u64,
}

/// What operators have changed since the configuration was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Devices and addresses that are blocked.
    pub blocks: u64,
    /// Servers that get no new sessions.
    pub drained_servers: Vec<String>,
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
    /// How its bytes go, by [`DataPath::word`](crate::relay::DataPath::word).
    pub path: String,
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

impl Totals {
    /// The sums of all workers.
    pub fn of(workers: &[Arc<WorkerCounters>], ended: Ended) -> Self {
        let sum = |count: fn(&WorkerCounters) -> u64| workers.iter().map(|w| count(w)).sum();
        Self {
            connections: sum(|worker| worker.connections_accepted.get()),
            bytes_to_server: sum(|worker| worker.bytes_agent_to_server.get()),
            bytes_to_agent: sum(|worker| worker.bytes_server_to_agent.get()),
            ended,
        }
    }
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

/// A part of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPart {
    /// Its name.
    pub part: String,
    /// Why it is off, and what to change; `None` where it is on.
    pub why_off: Option<String>,
}

impl From<&WorkerCounters> for Worker {
    fn from(counters: &WorkerCounters) -> Self {
        Self {
            connections: counters.connections_open.get(),
            sessions: counters.sessions_open.get(),
            bytes: counters.bytes_agent_to_server.get() + counters.bytes_server_to_agent.get(),
        }
    }
}

/// A gateway with one server and two of its sessions listed.
#[cfg(test)]
pub(super) fn sample() -> Status {
    let address = |text: &str| text.parse().expect("an address");
    let count = |reason: &str, count| Count { reason: reason.to_owned(), count };
    let session = |who: &str, path: &str, age_s| Session {
        who: who.to_owned(),
        service: "web".to_owned(),
        path: path.to_owned(),
        age_s,
    };
    let latency = |stage: &str, p50_us| Latency {
        stage: stage.to_owned(),
        count: 1_300,
        p50_us,
        p99_us: p50_us * 4,
        max_us: p50_us * 9,
    };
    Status {
        role: Role::Gateway,
        version: "0.1.0".to_owned(),
        instance: "00ff00ff00ff00ff".to_owned(),
        event_loop: "io_uring".to_owned(),
        relay: "userspace".to_owned(),
        pid: 4242,
        uptime_s: 11_520,
        state: State::Ready,
        configuration: Configuration { age_s: 7_200, refused: None },
        listeners: sample_listeners(),
        signal_connections: vec![SignalConnection {
            peer: "server-1.lan".to_owned(),
            address: Some(address("10.0.0.5:55432")),
            up_s: Some(11_400),
            services: vec!["files".to_owned(), "web".to_owned()],
            sessions: 1_310,
            waiting: 2,
            spares: 4,
        }],
        revocation: sample_lists(),
        waiting: Waiting { agents: 2, bound: 4_096 },
        operator: Operator { blocks: 3, drained_servers: vec!["server-2.lan".to_owned()] },
        sessions: Sessions {
            live: 1_310,
            oldest: vec![
                session("dns:laptop-7.example.com", "tls", 9_000),
                session("192.0.2.7:50000", "plain", 42),
            ],
        },
        totals: Totals {
            connections: 2_650,
            bytes_to_server: 12_345_678_901,
            bytes_to_agent: 987_654,
            ended: Ended {
                sessions: vec![count("finished", 1_290), count("agent_reset", 10)],
                connections: vec![count("not_tls", 40)],
            },
        },
        latencies: vec![latency("handshake", 1_250), latency("accept_to_joined", 8_400)],
        workers: vec![
            Worker { connections: 700, sessions: 655, bytes: 6_000_000_000 },
            Worker { connections: 613, sessions: 655, bytes: 6_345_678_901 },
        ],
        sandbox: sample_sandbox(),
    }
}

#[cfg(test)]
fn sample_listeners() -> Vec<Listener> {
    let address = |text: &str| text.parse().expect("an address");
    vec![
        Listener {
            name: "agents".to_owned(),
            addresses: vec![address("0.0.0.0:13000"), address("[::]:13000")],
            kind: "tls".to_owned(),
        },
        Listener {
            name: "old".to_owned(),
            addresses: vec![address("0.0.0.0:14000")],
            kind: "plain".to_owned(),
        },
    ]
}

#[cfg(test)]
fn sample_sandbox() -> Vec<SandboxPart> {
    vec![
        SandboxPart { part: "capabilities".to_owned(), why_off: None },
        SandboxPart { part: "files".to_owned(), why_off: None },
        SandboxPart {
            part: "tcp".to_owned(),
            why_off: Some(
                "Landlock has TCP rules from Linux 6.7 on: take a newer kernel".to_owned(),
            ),
        },
    ]
}

#[cfg(test)]
fn sample_lists() -> Vec<RevocationList> {
    vec![
        RevocationList {
            place: "agents".to_owned(),
            ca: "CN=Devices".to_owned(),
            is_current: true,
            list: Some(ListInUse {
                number: "1F".to_owned(),
                entries: 1_203,
                this_update: 1_790_000_000,
                next_update: 1_790_604_800,
                due_in_s: 90_000,
                from: "server-1.lan".to_owned(),
            }),
        },
        RevocationList {
            place: "servers".to_owned(),
            ca: "CN=Servers".to_owned(),
            is_current: false,
            list: None,
        },
    ]
}
