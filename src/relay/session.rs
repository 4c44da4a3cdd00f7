use std::time::{Duration, Instant};

use super::{CloseReason, Party};
use crate::limits::{MIN_RECEIVE_LEN, RECEIVE_LEN, REST_TIME};

/// One of the two legs of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Towards the agent: the agent itself at the gateway, the data connection at the server.
    Outer,
    /// Towards the backend: the data connection at the gateway, the backend at the server.
    Inner,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Outer, Self::Inner];

    /// The one across.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Outer => Self::Inner,
            Self::Inner => Self::Outer,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Outer => 0,
            Self::Inner => 1,
        }
    }
}

/// How a leg broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// RST, or lost by the kernel (keepalive, user timeout).
    Reset,
    /// FIN without close_notify.
    Truncated,
    /// Bytes that are not TLS, or a fatal alert.
    Corrupt,
    /// TLS where only plain bytes are taken.
    UnexpectedTls,
    /// Its key has sealed as many records as one may, and its TLS can't make another.
    KeyUsedUp,
    /// It took another key, and the kernel, which opens its records, can't.
    KeyUpdated,
}

impl Failure {
    /// The close reason of a connection with that party.
    pub const fn close_reason(self, party: Party) -> CloseReason {
        match self {
            Self::Reset => CloseReason::Reset(party),
            Self::Truncated => CloseReason::Truncated(party),
            Self::Corrupt => CloseReason::Corrupt(party),
            Self::UnexpectedTls => CloseReason::UnexpectedTls,
            Self::KeyUsedUp => CloseReason::KeyUsedUp,
            Self::KeyUpdated => CloseReason::KeyUpdated,
        }
    }
}

/// Bounds on quiet sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// No byte either way; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// No byte while one direction has ended.
    pub half_closed_timeout: Duration,
}

/// The bytes that come from one side, and their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// More may come.
    Open,
    /// The source ended cleanly; the other side has not been told yet.
    Ending,
    /// The other side has been told.
    Ended,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Receive so many bytes of payload at most from the side that was asked about, and send them to the
    /// other; then call [`Relay::received`].
    Receive(usize),
    /// Everything from the other side has been sent to this one: end its direction (close_notify and
    /// FIN), then call [`Relay::end_passed_on`].
    PassOnEnd(Side),
    /// The session is over.
    Over(Ending),
}

/// How a session is to be taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The one reason.
    pub reason: CloseReason,
    /// Whether the legs are reset, so that what was cut short never looks like a clean end.
    pub reset: bool,
}

/// The decisions of one session: what to move next, and when it is over. Holds no bytes.
#[derive(Debug)]
pub struct Relay {
    flows: [Flow; 2],
    /// By the side that the bytes wait for.
    blocked: [bool; 2],
    /// By the side that the bytes come from.
    appetites: [Appetite; 2],
    parties: [Party; 2],
    limits: RelayLimits,
    last_progress: Instant,
    /// Bytes that may be received, from both sides together.
    allowance: u64,
}

/// How much to receive at once: as much as the other side has shown that it takes. What a slow reader
/// does not take waits with us, so it is to be little; bulk is best moved in large receives.
#[derive(Debug)]
struct Appetite {
    next: usize,
    /// Bytes that were received since the other side was blocked last.
    taken: usize,
}

impl Appetite {
    const START: Self = Self { next: MIN_RECEIVE_LEN, taken: 0 };

    fn received(&mut self, len: usize) {
        self.taken = self.taken.saturating_add(len);
        // Headers, and the beginning of a record at the end, are no payload.
        if len > self.next / 2 {
            self.next = (self.next * 2).min(RECEIVE_LEN);
        }
    }

    fn blocked(&mut self) {
        self.next = self.taken.clamp(MIN_RECEIVE_LEN, RECEIVE_LEN);
        self.taken = 0;
    }
}

impl Relay {
    /// A session that begins. `outer` and `inner` name the parties in its close reason.
    pub fn new(outer: Party, inner: Party, limits: RelayLimits, now: Instant) -> Self {
        Self {
            flows: [Flow::Open; 2],
            blocked: [false; 2],
            appetites: [Appetite::START; 2],
            parties: [outer, inner],
            limits,
            last_progress: now,
            allowance: u64::MAX,
        }
    }

    /// What to do about the bytes that come from `from`: `None` while nothing can be done before
    /// something happens.
    pub fn next_step(&self, from: Side) -> Option<Step> {
        if self.flows == [Flow::Ended; 2] {
            let ending = Ending { reason: CloseReason::Finished, reset: false };
            return Some(Step::Over(ending));
        }
        if self.blocked[from.other().index()] {
            return None;
        }
        match self.flows[from.index()] {
            Flow::Open if self.allowance == 0 => None,
            Flow::Open => {
                // Less than a record would not be worth a call, and could not be opened.
                let allowed = usize::try_from(self.allowance).unwrap_or(usize::MAX);
                let at_most = self.appetites[from.index()].next;
                Some(Step::Receive(at_most.min(allowed.max(MIN_RECEIVE_LEN))))
            }
            Flow::Ending => Some(Step::PassOnEnd(from.other())),
            Flow::Ended => None,
        }
    }

    /// So many bytes came from `from` in one receive.
    pub fn received(&mut self, from: Side, len: usize, now: Instant) {
        self.appetites[from.index()].received(len);
        self.allowance = self.allowance.saturating_sub(len as u64);
        self.last_progress = now;
    }

    /// How many bytes may be received from now on: with 0 nothing is, and all else goes on.
    pub fn set_allowance(&mut self, allowance: u64) {
        self.allowance = allowance;
    }

    /// Whether nothing may be received before [`Relay::set_allowance`] is called again.
    pub fn is_held_back(&self) -> bool {
        self.allowance == 0
    }

    /// Bytes that waited to be sent have gone.
    pub fn progressed(&mut self, now: Instant) {
        self.last_progress = now;
    }

    /// Bytes wait to be sent to `to`, or no longer: while they wait, nothing more is received for it.
    pub fn set_blocked(&mut self, to: Side, blocked: bool) {
        if blocked && !self.blocked[to.index()] {
            self.appetites[to.other().index()].blocked();
        }
        self.blocked[to.index()] = blocked;
    }

    /// The clean end of what comes from `from`. What it had sent goes first.
    pub fn source_ended(&mut self, from: Side, now: Instant) {
        if self.flows[from.index()] == Flow::Open {
            self.flows[from.index()] = Flow::Ending;
            self.last_progress = now;
        }
    }

    /// `to` was told of the end of the other side.
    pub fn end_passed_on(&mut self, to: Side) {
        self.flows[to.other().index()] = Flow::Ended;
    }

    /// Whether the end of what comes from `from` has been seen.
    pub fn has_ended(&self, from: Side) -> bool {
        self.flows[from.index()] != Flow::Open
    }

    /// Whether nothing waits, and nothing has moved for a while.
    pub fn is_at_rest(&self, now: Instant) -> bool {
        self.blocked == [false; 2] && now >= self.last_progress + REST_TIME
    }

    /// A leg broke: what it had to say is lost, and the other leg must not take it for an end.
    pub fn failed(&self, side: Side, failure: Failure) -> Ending {
        let reason = failure.close_reason(self.parties[side.index()]);
        Ending { reason, reset: true }
    }

    /// When to ask [`Relay::timed_out`] again, if nothing moves until then.
    pub fn deadline(&self) -> Option<Instant> {
        self.patience().map(|(patience, _)| self.last_progress + patience)
    }

    /// The end of a session that was quiet for too long.
    pub fn timed_out(&self, now: Instant) -> Option<Ending> {
        let (patience, reason) = self.patience()?;
        (now >= self.last_progress + patience).then_some(Ending { reason, reset: true })
    }

    fn patience(&self) -> Option<(Duration, CloseReason)> {
        let half_closed = self.flows.iter().any(|&flow| flow != Flow::Open);
        let idle = self.limits.idle_timeout.map(|timeout| (timeout, CloseReason::IdleTimeout));
        let half = (self.limits.half_closed_timeout, CloseReason::HalfClosedTimeout);
        match idle {
            Some(idle) if !half_closed || idle.0 < half.0 => Some(idle),
            _ if half_closed => Some(half),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RelayLimits = RelayLimits {
        idle_timeout: Some(Duration::from_secs(100)),
        half_closed_timeout: Duration::from_secs(10),
    };

    fn relay(now: Instant) -> Relay {
        Relay::new(Party::Agent, Party::Server, LIMITS, now)
    }

    #[test]
    fn half_close_keeps_the_return_path_open() {
        let now = Instant::now();
        let mut relay = relay(now);
        relay.source_ended(Side::Outer, now);
        assert_eq!(relay.next_step(Side::Outer), Some(Step::PassOnEnd(Side::Inner)));
        relay.end_passed_on(Side::Inner);
        assert_eq!(relay.next_step(Side::Outer), None);
        assert_eq!(relay.next_step(Side::Inner), Some(Step::Receive(MIN_RECEIVE_LEN)));
    }

    #[test]
    fn both_ends_finish_the_session_without_a_reset() {
        let now = Instant::now();
        let mut relay = relay(now);
        for side in Side::BOTH {
            relay.source_ended(side, now);
            relay.end_passed_on(side.other());
        }
        let over = Step::Over(Ending { reason: CloseReason::Finished, reset: false });
        assert_eq!(relay.next_step(Side::Outer), Some(over));
    }

    #[test]
    fn an_end_waits_for_the_bytes_before_it() {
        let now = Instant::now();
        let mut relay = relay(now);
        relay.set_blocked(Side::Inner, true);
        relay.source_ended(Side::Outer, now);
        assert_eq!(relay.next_step(Side::Outer), None);
        relay.set_blocked(Side::Inner, false);
        assert_eq!(relay.next_step(Side::Outer), Some(Step::PassOnEnd(Side::Inner)));
    }

    #[test]
    fn nothing_is_received_while_the_other_leg_is_blocked() {
        let mut relay = relay(Instant::now());
        relay.set_blocked(Side::Inner, true);
        assert_eq!(relay.next_step(Side::Outer), None);
        assert_eq!(relay.next_step(Side::Inner), Some(Step::Receive(MIN_RECEIVE_LEN)));
    }

    #[test]
    fn without_an_allowance_nothing_is_received_and_ends_are_passed_on() {
        let now = Instant::now();
        let mut relay = relay(now);
        relay.set_allowance(1);
        assert_eq!(relay.next_step(Side::Outer), Some(Step::Receive(MIN_RECEIVE_LEN)));
        relay.received(Side::Outer, MIN_RECEIVE_LEN, now);
        assert!(relay.is_held_back());
        assert_eq!((relay.next_step(Side::Outer), relay.next_step(Side::Inner)), (None, None));
        relay.source_ended(Side::Outer, now);
        assert_eq!(relay.next_step(Side::Outer), Some(Step::PassOnEnd(Side::Inner)));
        relay.set_allowance(u64::MAX);
        assert_eq!(relay.next_step(Side::Inner), Some(Step::Receive(MIN_RECEIVE_LEN)));
    }

    #[test]
    fn a_receive_grows_with_what_the_other_side_takes_and_shrinks_for_a_slow_reader() {
        let now = Instant::now();
        let mut relay = relay(now);
        let next = |relay: &Relay| match relay.next_step(Side::Outer) {
            Some(Step::Receive(len)) => len,
            other => panic!("not a receive: {other:?}"),
        };
        for _ in 0..10 {
            let len = next(&relay);
            relay.received(Side::Outer, len, now);
        }
        assert_eq!(next(&relay), RECEIVE_LEN);
        for _ in 0..2 {
            relay.set_blocked(Side::Inner, true);
            relay.set_blocked(Side::Inner, false);
        }
        assert_eq!(next(&relay), MIN_RECEIVE_LEN);
    }

    #[test]
    fn a_session_is_at_rest_when_nothing_waits_and_nothing_has_moved_for_a_while() {
        let start = Instant::now();
        let mut relay = relay(start);
        assert!(!relay.is_at_rest(start));
        assert!(relay.is_at_rest(start + REST_TIME));
        relay.set_blocked(Side::Outer, true);
        assert!(!relay.is_at_rest(start + REST_TIME * 100));
        relay.set_blocked(Side::Outer, false);
        relay.received(Side::Inner, 1, start + REST_TIME);
        assert!(!relay.is_at_rest(start + REST_TIME));
    }

    #[test]
    fn a_broken_leg_resets_and_names_its_party() {
        let relay = relay(Instant::now());
        let ending = relay.failed(Side::Inner, Failure::Truncated);
        assert_eq!(ending, Ending { reason: CloseReason::Truncated(Party::Server), reset: true });
    }

    #[test]
    fn a_half_closed_session_is_bounded_by_its_own_timeout() {
        let start = Instant::now();
        let mut relay = relay(start);
        assert_eq!(relay.deadline(), Some(start + Duration::from_secs(100)));
        relay.source_ended(Side::Outer, start);
        assert_eq!(relay.deadline(), Some(start + Duration::from_secs(10)));
        relay.progressed(start + Duration::from_secs(9));
        assert_eq!(relay.timed_out(start + Duration::from_secs(18)), None);
        let ending = relay.timed_out(start + Duration::from_secs(19));
        assert_eq!(ending.map(|e| e.reason), Some(CloseReason::HalfClosedTimeout));
    }

    #[test]
    fn without_an_idle_timeout_an_open_session_lives_for_ever() {
        let now = Instant::now();
        let limits = RelayLimits { idle_timeout: None, ..LIMITS };
        let relay = Relay::new(Party::Agent, Party::Server, limits, now);
        assert_eq!(relay.deadline(), None);
        assert_eq!(relay.timed_out(now + Duration::from_secs(1 << 30)), None);
    }
}
