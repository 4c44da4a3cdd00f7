//! The sessions of a core: their join, their turns, their time, their end.

use super::growth::Growth;
use super::{Core, Life, Timer};
use crate::engine::leg::Leg;
use crate::engine::session::{self, Heat, Moved, Session, Terms};
use crate::limits::{BULK_LEN, HOT_SESSION_LOOKS, HOT_SESSIONS};
use crate::relay::{Ending, Pace, Party, Relay};
use crate::uring::Token;

impl<S, R> Core<S, R> {
    /// Live sessions.
    pub fn sessions_len(&self) -> usize {
        self.sessions.len()
    }

    /// Every live session, for a drain that is over.
    pub fn session_tokens(&self) -> Vec<Token> {
        self.sessions.tokens()
    }

    /// The session.
    pub fn session(&mut self, token: Token) -> Option<&mut Session<R>> {
        self.sessions.get_mut(token)
    }

    /// Joins two connections. From now on they are the session's.
    pub fn join(
        &mut self,
        outer: (Token, Party),
        inner: (Token, Party),
        record: R,
    ) -> Option<Token> {
        let terms = Terms { relay: self.settings.relay, throttle: None };
        self.join_on(terms, outer, inner, record)
    }

    /// The same on terms of its own.
    pub fn join_on(
        &mut self,
        terms: Terms,
        outer: (Token, Party),
        inner: (Token, Party),
        record: R,
    ) -> Option<Token> {
        let relay = Relay::new(outer.1, inner.1, terms.relay, self.now);
        let timer = relay.deadline();
        let (one, two) = self.connections.pair_mut(outer.0, inner.0)?;
        let session = self.sessions.insert(Session {
            outer: outer.0,
            inner: inner.0,
            bytes: Moved::default(),
            record,
            relay,
            throttle: terms.throttle.map(Box::new),
            queued: true,
            timer,
            heat: Heat::Cold,
            is_bulk: false,
            pace: Pace::new(self.now),
            growth: Growth::None,
        });
        for (token, connection) in [(outer.0, one), (inner.0, two)] {
            connection.life = Life::Relaying(session);
            let deadline = connection.deadline.take();
            self.timers.change(Timer::Connection(token.to_bits()), deadline, None);
            connection.leg.settle(self.settings.platform.relay);
        }
        self.timers.change(Timer::Session(session.to_bits()), None, timer);
        self.ready_sessions.push_back(session);
        self.counters.sessions_open.set(self.sessions.len() as u64);
        Some(session)
    }

    /// Takes a session down. Its legs are reset, or linger until their last bytes have gone.
    pub fn part(&mut self, session: Token, reset: bool) -> Option<Session<R>> {
        let parted = self.sessions.remove(session)?;
        let resumes_at = parted.throttle.as_ref().and_then(|throttle| throttle.resumes_at());
        self.timers.change(Timer::Session(session.to_bits()), parted.timer, None);
        self.timers.change(Timer::Resume(session.to_bits()), resumes_at, None);
        self.counters.sessions_open.set(self.sessions.len() as u64);
        for leg in [parted.outer, parted.inner] {
            if reset {
                self.reset(leg);
            } else {
                self.finish(leg);
            }
        }
        Some(parted)
    }

    pub(super) fn queue_session(&mut self, token: Token) {
        if let Some(session) = self.sessions.get_mut(token)
            && !session.queued
        {
            session.queued = true;
            let queue = if session.is_bulk { &mut self.bulk } else { &mut self.ready_sessions };
            queue.push_back(token);
        }
    }

    /// Ready sessions that say little.
    pub(in crate::engine) fn ready_sessions_len(&self) -> usize {
        self.ready_sessions.len()
    }

    /// The next of those that say little.
    pub(in crate::engine) fn next_ready_session(&mut self) -> Option<Token> {
        self.ready_sessions.pop_front()
    }

    /// The next of those that move much.
    pub(in crate::engine) fn next_bulk_session(&mut self) -> Option<Token> {
        self.bulk.pop_front()
    }

    /// Lets a session have its turn. Returns its ending if that was its last.
    pub(in crate::engine) fn serve_session(&mut self, token: Token) -> Option<Ending> {
        let session = self.sessions.get_mut(token)?;
        let legs = [session.outer, session.inner];
        session.queued = false;
        let (outer, inner) = self.connections.pair_mut(session.outer, session.inner)?;
        if let Some(throttle) = &mut session.throttle {
            let has_input = outer.leg.has_input() || inner.leg.has_input();
            let was_to_resume = throttle.resumes_at();
            session.relay.set_allowance(throttle.allowance(has_input, self.now));
            let resumes_at = throttle.resumes_at().filter(|at| was_to_resume != Some(*at));
            if let Some(at) = resumes_at {
                self.timers.set(at, Timer::Resume(token.to_bits()));
                self.counters.throttle_pauses.inc();
            }
        }
        let before = session.bytes;
        let kernels = |legs: [&Leg; 2]| legs.into_iter().filter(|leg| leg.is_kernels()).count();
        let kernels_before = kernels([&outer.leg, &inner.leg]);
        let turn = session::run(
            &mut session.relay,
            &mut session.bytes,
            &mut outer.leg,
            &mut inner.leg,
            &mut self.scratch,
            self.now,
        );
        let given = kernels([&outer.leg, &inner.leg]) - kernels_before;
        self.counters.kernel_tls_legs.add(given as u64);
        let (inward, outward) =
            (session.bytes.inward - before.inward, session.bytes.outward - before.outward);
        self.counters.bytes_agent_to_server.add(inward);
        self.counters.bytes_server_to_agent.add(outward);
        session.is_bulk = inward + outward >= BULK_LEN;
        let mut is_used_up = false;
        if let Some(throttle) = &mut session.throttle {
            throttle.moved(inward + outward, self.now);
            is_used_up = throttle.resumes_at().is_none() && session.relay.is_held_back();
        }
        self.let_grow(token, inward + outward);
        self.keep_hot(token);
        match turn {
            session::Turn::Over(ending) => return Some(ending),
            session::Turn::Again => self.queue_session(token),
            // There may be more, and its next turn says when.
            session::Turn::Waits if is_used_up => self.queue_session(token),
            session::Turn::Waits => {
                for leg in legs {
                    self.watch_push(leg);
                }
                self.set_session_timer(token);
            }
        }
        None
    }

    /// The pause of a session that was held back is over.
    pub(in crate::engine) fn resume_session(&mut self, token: Token) {
        self.queue_session(token);
    }

    /// Keeps a bounded number of sessions hot, those that had a turn lately: another one takes less
    /// room, until its next turn.
    fn keep_hot(&mut self, token: Token) {
        let Some(session) = self.sessions.get_mut(token) else { return };
        if std::mem::replace(&mut session.heat, Heat::Hot) == Heat::Cold {
            self.hot.push_back(token);
        }
        let mut looks = HOT_SESSION_LOOKS;
        while self.hot.len() > HOT_SESSIONS
            && let Some(oldest) = self.hot.pop_front()
            && let Some(session) = self.sessions.get_mut(oldest)
        {
            looks -= 1;
            if session.heat == Heat::Hot && looks > 0 {
                session.heat = Heat::Cooling;
                self.hot.push_back(oldest);
                continue;
            }
            session.heat = Heat::Cold;
            let pair = self.connections.pair_mut(session.outer, session.inner);
            if let Some((outer, inner)) = pair {
                outer.leg.cool();
                inner.leg.cool();
            }
        }
    }

    /// A deadline may have come nearer (half-closed); one that moved away is set when it fires.
    fn set_session_timer(&mut self, token: Token) {
        let Some(session) = self.sessions.get_mut(token) else { return };
        if let Some(at) = session.relay.deadline()
            && session.timer.is_none_or(|set| at < set)
        {
            let before = session.timer.replace(at);
            self.timers.change(Timer::Session(token.to_bits()), before, Some(at));
        }
    }

    /// The ending of a session whose time is over.
    pub(in crate::engine) fn session_due(&mut self, token: Token) -> Option<Ending> {
        let session = self.sessions.get_mut(token)?;
        session.timer = None;
        if session.throttle.as_ref().is_some_and(|throttle| throttle.resumes_at().is_some()) {
            // It is we who hold it back.
            session.relay.progressed(self.now);
        }
        let ending = session.relay.timed_out(self.now);
        if ending.is_none() {
            self.set_session_timer(token);
        }
        ending
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    use super::super::testing::{core, join};

    #[test]
    fn what_has_ended_leaves_no_timer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let mut core = core();
        let hours = Duration::from_secs(3 * 3600);
        core.settings.relay.idle_timeout = Some(hours);

        let (broken, _far) = join(&mut core, &listener);
        assert_eq!(core.next_timer(), Some(core.now + hours));
        core.part(broken, true).expect("it lives");
        assert_eq!(core.next_timer(), None);

        let (finished, _far) = join(&mut core, &listener);
        let parted = core.part(finished, false).expect("it lives");
        assert_eq!(core.next_timer(), Some(core.now + core.settings.user_timeout));
        core.reset(parted.outer);
        core.reset(parted.inner);
        assert_eq!(core.next_timer(), None);
    }

    #[test]
    fn a_deadline_that_moves_leaves_no_timer_behind() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let mut core = core();
        let (session, _far) = join(&mut core, &listener);
        let connection = core.session(session).expect("it lives").outer;
        let [soon, later] = [1, 2].map(|seconds| core.now + Duration::from_secs(seconds));
        for deadline in [Some(soon), Some(later), Some(soon), None] {
            core.set_deadline(connection, deadline);
            assert_eq!(core.next_timer(), deadline);
        }
    }
}
