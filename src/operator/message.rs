//! What is asked on the operator's socket, and answered: one JSON object each way.

use serde::{Deserialize, Serialize};

use super::blocks::{Block, Target};
use super::selection::Selection;

/// A verb, with who asks by its own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Who became root to ask (`SUDO_USER`), for the audit. Nobody proves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// What is asked for.
    pub request: Request,
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Which sessions live.
    Sessions(Selection),
    /// End these, and not all there are.
    End(Selection),
    /// Keep somebody out.
    Block {
        /// Whom.
        target: Target,
        /// For so long; without it until it is taken back.
        for_s: Option<u64>,
        /// For whoever reads it later.
        why: Option<String>,
    },
    /// Let somebody in again.
    Unblock {
        /// Whom.
        target: Target,
    },
    /// Who is kept out.
    Blocks,
    /// As SIGTERM.
    Drain,
    /// Give a server no new sessions.
    DrainServer {
        /// Its name on the allow-list.
        server: String,
    },
    /// Give it some again.
    UndrainServer {
        /// Its name on the allow-list.
        server: String,
    },
}

impl Request {
    /// Every verb, for the metric.
    pub const VERBS: [&'static str; 8] = [
        "sessions",
        "end",
        "block",
        "unblock",
        "blocks",
        "drain",
        "drain_server",
        "undrain_server",
    ];

    /// Whether it changes what the process goes by, and not only who is there.
    pub const fn changes_state(&self) -> bool {
        matches!(
            self,
            Self::Block { .. }
                | Self::Unblock { .. }
                | Self::DrainServer { .. }
                | Self::UndrainServer { .. }
        )
    }

    /// The one word for this verb in log and metric.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Sessions(_) => "sessions",
            Self::End(_) => "end",
            Self::Block { .. } => "block",
            Self::Unblock { .. } => "unblock",
            Self::Blocks => "blocks",
            Self::Drain => "drain",
            Self::DrainServer { .. } => "drain_server",
            Self::UndrainServer { .. } => "undrain_server",
        }
    }
}

/// What became of a request that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Of [`Request::Sessions`].
    Sessions(SessionList),
    /// Of [`Request::End`].
    Ended {
        /// How many sessions.
        sessions: u64,
    },
    /// Of [`Request::Block`].
    Blocked {
        /// Sessions that it ended.
        sessions: u64,
        /// Agents that waited.
        waiting: u64,
        /// Whether it outlives this process.
        kept: bool,
    },
    /// Of [`Request::Unblock`].
    Unblocked,
    /// Of [`Request::Blocks`].
    Blocks(Vec<Block>),
    /// Of [`Request::Drain`].
    Draining {
        /// Sessions that may finish.
        sessions: u64,
    },
    /// Of [`Request::DrainServer`].
    ServerDrained {
        /// Sessions that it still has.
        sessions: u64,
        /// Services that no other server serves at this moment.
        unserved: Vec<String>,
    },
    /// Of [`Request::UndrainServer`].
    ServerUndrained,
}

impl Answer {
    /// How many sessions and agents it hit, for the audit.
    pub const fn hit(&self) -> u64 {
        match self {
            Self::Ended { sessions } => *sessions,
            Self::Blocked { sessions, waiting, .. } => *sessions + *waiting,
            _ => 0,
        }
    }
}

/// Sessions that live, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    /// Some of them.
    pub sessions: Vec<ListedSession>,
    /// How many more there are.
    pub more: u64,
}

/// A session that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedSession {
    /// Its name in the logs.
    pub session: String,
    /// Verified identity of the device; `None` where it has none.
    pub device: Option<String>,
    /// Address of the agent, as the gateway sees it.
    pub agent: std::net::SocketAddr,
    /// Name of its service.
    pub service: String,
    /// Its server, or at a server its gateway.
    pub peer: String,
    /// How its bytes go, by [`DataPath::word`](crate::relay::DataPath::word).
    pub path: String,
    /// Seconds since it was joined.
    pub age_s: u64,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// What kind.
    pub cause: Cause,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Kinds of [`Denial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Whoever asks may not.
    Forbidden,
    /// The request is wrong, or does not fit what is there.
    Refused,
    /// Nothing is there that was named.
    NotFound,
    /// It could not be done.
    Failed,
}

impl Cause {
    /// Every result of a request, for the metric.
    pub const RESULTS: [&'static str; 5] = ["done", "forbidden", "refused", "not_found", "failed"];

    /// The one word for it, in log and metric.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::Refused => "refused",
            Self::NotFound => "not_found",
            Self::Failed => "failed",
        }
    }
}

impl Denial {
    /// A request that is wrong.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { cause: Cause::Refused, message: message.into() }
    }

    /// Nobody of that name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { cause: Cause::NotFound, message: message.into() }
    }

    /// Something in the way.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { cause: Cause::Failed, message: message.into() }
    }
}
