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

impl Scenario {
    /// All, in the order of a run.
    pub(crate) const ALL: [Self; 5] =
        [Self::BulkUp, Self::BulkDown, Self::SessionRate, Self::Latency, Self::Idle];

    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BulkUp => "bulk-up",
            Self::BulkDown => "bulk-down",
            Self::SessionRate => "session-rate",
            Self::Latency => "latency",
            Self::Idle => "idle",
        }
    }

    /// The floor does no handshakes and is not fair: it says something about bulk only.
    pub(crate) fn has_floor(self) -> bool {
        matches!(self, Self::BulkUp | Self::BulkDown)
    }

    /// The work of one sample.
    pub(crate) fn work(self, size: Size) -> Work {
        match (self, size) {
            (Self::BulkUp, Size::Full) => bulk(Direction::Up, 256_000_000),
            (Self::BulkUp, Size::Quick) => bulk(Direction::Up, 16_000_000),
            (Self::BulkDown, Size::Full) => bulk(Direction::Down, 256_000_000),
            (Self::BulkDown, Size::Quick) => bulk(Direction::Down, 16_000_000),
            // p99.9 needs some sessions above it.
            (Self::SessionRate, Size::Full) => {
                Work::SessionRate { sessions: 5_000, concurrency: 16 }
            }
            (Self::SessionRate, Size::Quick) => Work::SessionRate { sessions: 200, concurrency: 8 },
            (Self::Latency, Size::Full) => {
                Work::Latency { sessions: 500, rate: 4, seconds: 20, bulk: 2 }
            }
            (Self::Latency, Size::Quick) => {
                Work::Latency { sessions: 50, rate: 4, seconds: 3, bulk: 2 }
            }
            // A process may have 20,000 descriptors, and a gateway has two for each session.
            (Self::Idle, Size::Full) => {
                Work::Idle { sessions: 4_000, bytes: 1_000_000, rest_ms: 5_000 }
            }
            (Self::Idle, Size::Quick) => {
                Work::Idle { sessions: 200, bytes: 1_000_000, rest_ms: 2_000 }
            }
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
            Self::Latency { seconds, .. } => 120 + seconds,
            Self::Bulk { .. } | Self::SessionRate { .. } | Self::Idle { .. } => 300,
        };
        Duration::from_secs(seconds)
    }
}

fn bulk(direction: Direction, bytes: u64) -> Work {
    Work::Bulk { direction, connections: 8, bytes }
}
