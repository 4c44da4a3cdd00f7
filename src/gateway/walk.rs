//! All who are at a worker, to be looked at some in each turn of its loop.

use super::worker::GatewayCore;
use crate::uring::Token;

/// Connections first. Sessions are taken once no connection is left, since any of those may have become one
/// meanwhile.
pub(super) struct Walk {
    connections: Vec<Token>,
    sessions: Option<Vec<Token>>,
}

/// Who is looked at. May be gone by now.
pub(super) enum Met {
    Connection(Token),
    Session(Token),
}

impl Walk {
    pub(super) fn over_all(core: &GatewayCore) -> Self {
        Self { connections: core.connection_tokens(), sessions: None }
    }

    pub(super) fn over_sessions() -> Self {
        Self { connections: Vec::new(), sessions: None }
    }

    /// `None` where it is over.
    pub(super) fn next(&mut self, core: &GatewayCore) -> Option<Met> {
        if let Some(token) = self.connections.pop() {
            return Some(Met::Connection(token));
        }
        let sessions = self.sessions.get_or_insert_with(|| core.session_tokens());
        sessions.pop().map(Met::Session)
    }
}
