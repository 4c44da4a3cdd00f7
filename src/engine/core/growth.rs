//! Whose receive buffers may grow. The kernel lets one grow to megabytes where much is received, and
//! whoever stops reading at the other end of that session leaves them full. So a bounded number of
//! sessions has that, those that move much, and all others a fixed buffer.

use super::Core;
use crate::engine::listener;
use crate::limits::GROWING_SESSIONS;
use crate::uring::Token;

impl<S, R> Core<S, R> {
    /// After a turn in which a session has moved so many bytes.
    pub(super) fn let_grow(&mut self, token: Token, len: u64) {
        let Some(session) = self.sessions.get_mut(token) else { return };
        if !session.pace.moved(len, self.now) || session.grows {
            return;
        }
        if self.growing.len() >= GROWING_SESSIONS && !self.free_a_place() {
            return;
        }
        self.growing.push_back(token);
        self.set_growth(token, true);
    }

    /// Looks at the session that has its place for the longest time. It keeps it while it moves
    /// bytes, or has some that nobody takes: those are in its large buffer.
    fn free_a_place(&mut self) -> bool {
        let Some(oldest) = self.growing.pop_front() else { return true };
        if let Some(session) = self.sessions.get_mut(oldest) {
            if !session.relay.is_at_rest(self.now) {
                self.growing.push_back(oldest);
                return false;
            }
            self.set_growth(oldest, false);
        }
        true
    }

    fn set_growth(&mut self, token: Token, grows: bool) {
        let Some(session) = self.sessions.get_mut(token) else { return };
        session.grows = grows;
        let pair = self.connections.pair_mut(session.outer, session.inner);
        for connection in pair.into_iter().flat_map(|(outer, inner)| [outer, inner]) {
            let socket = connection.leg.socket();
            if grows {
                listener::unfix_receive_buffer(socket);
            } else {
                listener::fix_receive_buffer(socket);
            }
        }
    }
}
