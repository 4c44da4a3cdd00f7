//! The scenarios, and how much work each is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Many bytes from devices to the backend
    BulkUp,
    /// Many bytes from the backend to devices
    BulkDown,
    /// New sessions, each with a full handshake, an echo of 64 bytes and a clean end
    SessionRate,
    /// Short messages on many sessions beside two bulk ones
    Latency,
    /// Sessions that have moved a megabyte each way and then rest
    Idle,
    /// As bulk-up, from old agents that speak no TLS
    PlainUp,
    /// As bulk-down, to old agents
    PlainDown,
    /// As bulk-up, with the devices' own TLS through to the backend
    PassthroughUp,
    /// As bulk-down, with the devices' own TLS through to the backend
    PassthroughDown,
    /// As session-rate, from old agents
    PlainSessionRate,
    /// 4,000 messages a second over 500 sessions
    #[serde(rename = "messages-500")]
    #[value(name = "messages-500")]
    MessagesFew,
    /// The same over 9,000 sessions
    #[serde(rename = "messages-9000")]
    #[value(name = "messages-9000")]
    MessagesMany,
    /// Short messages on many sessions while new ones come as fast as they are served
    Storm,
    /// The same while others send a ClientHello, wait for the answer and leave
    HelloStorm,
    /// New sessions by the clock beside eight bulk ones
    SessionsBesideBulk,
    /// Messages as fast as they come back, on 64 sessions; system calls are counted
    Syscalls,
}

/// What an agent speaks to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// TLS 1.3 with a certificate on both sides, as on port 13000.
    Tls,
    /// Plain TCP, as on port 14000.
    Plain,
    /// A ClientHello as on port 13000, and behind it bytes that are for the backend alone.
    Passthrough,
}

/// How large the figures of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Size {
    /// For results that are kept.
    Full,
    /// Whether everything works, in seconds; too small for figures to be trusted.
    Quick,
}

/// Which way bulk bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// From the device to the backend.
    Up,
    /// From the backend to the device.
    Down,
}

/// What the load generator does, with every number that a figure depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "work")]
pub(crate) enum Work {
    /// All connections at once, each until its bytes are through.
    Bulk {
        /// Which way.
        direction: Direction,
        /// Sessions at once.
        connections: u64,
        /// Bytes of each.
        bytes: u64,
    },
    /// Sessions one after another, in a few rows side by side.
    SessionRate {
        /// Over all rows.
        sessions: u64,
        /// Rows.
        concurrency: u64,
    },
    /// Messages by the clock, whatever became of those before.
    Latency {
        /// Sessions with messages.
        sessions: u64,
        /// Messages a second of each session.
        rate: u64,
        /// Seconds.
        seconds: u64,
        /// Bulk sessions beside them, every other one up, the rest down.
        bulk: u64,
    },
    /// The same without bulk, by a rate over all sessions together.
    Messages {
        /// Sessions with messages.
        sessions: u64,
        /// Messages a second, over all sessions.
        per_second: u64,
        /// Seconds.
        seconds: u64,
    },
    /// Messages by the clock, while others come as fast as they are served.
    Storm {
        /// Sessions with messages.
        sessions: u64,
        /// Messages a second of each session.
        rate: u64,
        /// Seconds.
        seconds: u64,
        /// Newcomers at once.
        rows: u64,
        /// What they do.
        newcomer: Newcomer,
    },
    /// New sessions by the clock, beside bulk.
    Arrivals {
        /// New sessions a second.
        per_second: u64,
        /// Seconds.
        seconds: u64,
        /// Bulk sessions, every other one up, the rest down.
        bulk: u64,
    },
    /// The next message of a session leaves when the one before is back.
    PingPong {
        /// Sessions at once.
        sessions: u64,
        /// Messages of each.
        messages: u64,
    },
    /// Sessions opened in a few rows side by side, then left alone.
    Idle {
        /// Sessions at rest.
        sessions: u64,
        /// Bytes each way before the rest.
        bytes: u64,
        /// Rest before memory is read, in milliseconds: allocators give back late.
        rest_ms: u64,
    },
}

/// What one of a storm does before the next of its row comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Newcomer {
    /// A full handshake, an echo, a clean end.
    Session,
    /// Half a handshake: it sends a ClientHello that was made before, and leaves when the answer
    /// comes.
    Hello,
}

impl Scenario {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 16] = [
        Self::BulkUp,
        Self::BulkDown,
        Self::PlainUp,
        Self::PlainDown,
        Self::PassthroughUp,
        Self::PassthroughDown,
        Self::SessionRate,
        Self::PlainSessionRate,
        Self::Latency,
        Self::MessagesFew,
        Self::MessagesMany,
        Self::Storm,
        Self::HelloStorm,
        Self::SessionsBesideBulk,
        Self::Syscalls,
        Self::Idle,
    ];

    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BulkUp => "bulk-up",
            Self::BulkDown => "bulk-down",
            Self::PlainUp => "plain-up",
            Self::PlainDown => "plain-down",
            Self::PassthroughUp => "passthrough-up",
            Self::PassthroughDown => "passthrough-down",
            Self::SessionRate => "session-rate",
            Self::PlainSessionRate => "plain-session-rate",
            Self::Latency => "latency",
            Self::MessagesFew => "messages-500",
            Self::MessagesMany => "messages-9000",
            Self::Storm => "storm",
            Self::HelloStorm => "hello-storm",
            Self::SessionsBesideBulk => "sessions-beside-bulk",
            Self::Syscalls => "syscalls",
            Self::Idle => "idle",
        }
    }

    /// Where its sessions connect, unless a target has no such listener.
    pub(crate) fn listener(self) -> Listener {
        match self {
            Self::PlainUp | Self::PlainDown | Self::PlainSessionRate => Listener::Plain,
            Self::PassthroughUp | Self::PassthroughDown => Listener::Passthrough,
            _ => Listener::Tls,
        }
    }

    /// The work of one sample.
    pub(crate) fn work(self, size: Size) -> Work {
        let full = size == Size::Full;
        match self {
            Self::BulkUp | Self::PlainUp | Self::PassthroughUp => bulk(Direction::Up, size),
            Self::BulkDown | Self::PlainDown | Self::PassthroughDown => bulk(Direction::Down, size),
            // p99.9 needs some sessions above it.
            Self::SessionRate | Self::PlainSessionRate if full => {
                Work::SessionRate { sessions: 5_000, concurrency: 16 }
            }
            Self::SessionRate | Self::PlainSessionRate => {
                Work::SessionRate { sessions: 200, concurrency: 8 }
            }
            Self::Latency if full => Work::Latency { sessions: 500, rate: 4, seconds: 20, bulk: 2 },
            Self::Latency => Work::Latency { sessions: 50, rate: 4, seconds: 3, bulk: 2 },
            Self::MessagesFew => messages(500, size),
            // A process may have 20,000 descriptors, and a gateway has two for each session.
            Self::MessagesMany => messages(9_000, size),
            Self::Storm => storm(Newcomer::Session, size),
            Self::HelloStorm => storm(Newcomer::Hello, size),
            Self::SessionsBesideBulk if full => {
                Work::Arrivals { per_second: 40, seconds: 25, bulk: 8 }
            }
            Self::SessionsBesideBulk => Work::Arrivals { per_second: 40, seconds: 3, bulk: 4 },
            Self::Syscalls if full => Work::PingPong { sessions: 64, messages: 1_000 },
            Self::Syscalls => Work::PingPong { sessions: 64, messages: 50 },
            Self::Idle if full => Work::Idle { sessions: 4_000, bytes: 1_000_000, rest_ms: 5_000 },
            Self::Idle => Work::Idle { sessions: 200, bytes: 1_000_000, rest_ms: 2_000 },
        }
    }
}

impl Work {
    /// What comes before every sample, so that code is paged in and allocators are warm.
    pub(crate) fn warm_up() -> Self {
        Self::SessionRate { sessions: 64, concurrency: 8 }
    }

    /// Longest time that a sample may take once it is ready: something hangs when it takes longer.
    pub(crate) fn deadline(&self) -> Duration {
        // Ten times as long as the slowest of our machines needs.
        let seconds = match self {
            Self::Latency { seconds, .. }
            | Self::Messages { seconds, .. }
            | Self::Storm { seconds, .. }
            | Self::Arrivals { seconds, .. } => 120 + seconds,
            Self::Bulk { .. }
            | Self::SessionRate { .. }
            | Self::PingPong { .. }
            | Self::Idle { .. } => 300,
        };
        Duration::from_secs(seconds)
    }
}

fn bulk(direction: Direction, size: Size) -> Work {
    let bytes = if size == Size::Full { 256_000_000 } else { 16_000_000 };
    Work::Bulk { direction, connections: 8, bytes }
}

/// As many at once as rows of a fleet that dials again; more only wait longer.
fn storm(newcomer: Newcomer, size: Size) -> Work {
    match size {
        Size::Full => Work::Storm { sessions: 500, rate: 4, seconds: 10, rows: 64, newcomer },
        Size::Quick => Work::Storm { sessions: 50, rate: 4, seconds: 3, rows: 16, newcomer },
    }
}

/// The rate is the same, however many sessions share it.
fn messages(sessions: u64, size: Size) -> Work {
    match size {
        Size::Full => Work::Messages { sessions, per_second: 4_000, seconds: 15 },
        Size::Quick => Work::Messages { sessions: sessions / 10, per_second: 1_000, seconds: 3 },
    }
}
