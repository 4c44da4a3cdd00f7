//! Whose receive buffers may grow. The kernel lets one grow to megabytes where much is received, and
//! whoever stops reading at the other end of that session leaves them full. So a bounded number of
//! sessions that move much has that; when there are more, theirs are fixed.

use super::Core;
use crate::engine::listener;
use crate::limits::GROWING_SESSIONS;
use crate::uring::Token;

/// What the receive buffers of a session do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Growth {
    /// Nothing yet: they are the kernel's, and what is received slowly does not make them grow.
    None,
    /// They grow as the kernel likes.
    Free,
    /// They stay.
    Fixed,
}

impl<S, R> Core<S, R> {
    /// After a turn in which a session has moved so many bytes.
    pub(super) fn let_grow(&mut self, token: Token, len: u64) {
        let Some(session) = self.sessions.get_mut(token) else { return };
        if !session.pace.moved(len, self.now) || session.growth == Growth::Free {
            return;
        }
        if self.growing.len() < GROWING_SESSIONS || self.free_a_place() {
            self.growing.push_back(token);
            self.set_growth(token, Growth::Free);
        } else {
            self.set_growth(token, Growth::Fixed);
        }
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
            self.set_growth(oldest, Growth::Fixed);
        }
        true
    }

    fn set_growth(&mut self, token: Token, growth: Growth) {
        let Some(session) = self.sessions.get_mut(token) else { return };
        let before = std::mem::replace(&mut session.growth, growth);
        let pair = self.connections.pair_mut(session.outer, session.inner);
        for connection in pair.into_iter().flat_map(|(outer, inner)| [outer, inner]) {
            let socket = connection.leg.socket();
            match (before, growth) {
                (Growth::Fixed, Growth::Free) => listener::unfix_receive_buffer(socket),
                (Growth::None | Growth::Free, Growth::Fixed) => {
                    listener::fix_receive_buffer(socket);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use socket2::SockRef;

    use super::super::testing::{TestCore, core, join};
    use super::*;
    use crate::limits::{FIXED_RECEIVE_LEN, REST_TIME, SWIFT_LEN};
    use crate::relay::Side;

    fn growth(core: &mut TestCore, session: Token) -> Growth {
        let session = core.sessions.get_mut(session).expect("it lives");
        let (growth, legs) = (session.growth, (session.outer, session.inner));
        let (outer, inner) = core.connections.pair_mut(legs.0, legs.1).expect("they live");
        for leg in [&outer.leg, &inner.leg] {
            let len = SockRef::from(leg.socket()).recv_buffer_size().expect("a socket");
            assert_eq!(len == 2 * FIXED_RECEIVE_LEN, growth == Growth::Fixed);
        }
        growth
    }

    #[test]
    fn a_place_to_grow_goes_to_who_moves_bytes_and_only_one_at_rest_gives_it_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let mut core = core();
        let start = core.now;
        let sessions: Vec<_> = (0..=GROWING_SESSIONS).map(|_| join(&mut core, &listener)).collect();
        let (first, late) = (sessions[0].0, sessions[GROWING_SESSIONS].0);
        core.let_grow(first, SWIFT_LEN - 1);
        assert_eq!(growth(&mut core, first), Growth::None);
        for (session, _) in &sessions {
            core.let_grow(*session, SWIFT_LEN);
        }
        assert_eq!(growth(&mut core, first), Growth::Free);
        assert_eq!(growth(&mut core, late), Growth::Fixed);

        // The first has been looked at for the last one, and is at the end now.
        let [second, third] = [sessions[1].0, sessions[2].0];
        core.now = start + REST_TIME;
        let relay = &mut core.sessions.get_mut(second).expect("it lives").relay;
        relay.set_blocked(Side::Outer, true);
        core.let_grow(late, SWIFT_LEN);
        assert_eq!(growth(&mut core, late), Growth::Fixed, "who is blocked holds what came");
        core.let_grow(late, SWIFT_LEN);
        assert_eq!(growth(&mut core, late), Growth::Free);
        assert_eq!(growth(&mut core, second), Growth::Free);
        assert_eq!(growth(&mut core, third), Growth::Fixed);
        assert_eq!(core.growing.len(), GROWING_SESSIONS);
    }
}
