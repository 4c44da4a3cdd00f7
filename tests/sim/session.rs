//! A session: the real `Relay` between two connections of the network.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use vestibule::relay::{CloseReason, Ending, Failure, Party, Relay, RelayLimits, Side, Step};

use super::nature::Nature;
use super::network::{ConnectionId, End, Received};
use super::planted::Planted;

pub(super) struct Session {
    relay: Relay,
    outer: Leg,
    inner: Leg,
    limits: RelayLimits,
    /// Beside the relay's own, for the checks.
    last_progress: Instant,
    is_half_closed: bool,
}

#[derive(Debug)]
pub(super) struct Leg {
    pub(super) connection: ConnectionId,
    end: End,
    party: Party,
    /// Bytes that the network did not take.
    outbox: VecDeque<u8>,
}

impl Leg {
    pub(super) fn new(connection: ConnectionId, end: End, party: Party) -> Self {
        Self { connection, end, party, outbox: VecDeque::new() }
    }
}

impl Session {
    pub(super) fn new(
        outer: Leg,
        inner: Leg,
        limits: RelayLimits,
        now: Instant,
        nature: &Nature,
    ) -> Self {
        let mut told = limits;
        if nature.has_planted(Planted::HalfClosedForAnHour) {
            let hour = Duration::from_secs(3_600);
            told = RelayLimits { idle_timeout: Some(hour), half_closed_timeout: hour };
        }
        Self {
            relay: Relay::new(outer.party, inner.party, told, now),
            outer,
            inner,
            limits,
            last_progress: now,
            is_half_closed: false,
        }
    }

    pub(super) fn legs(&self) -> [ConnectionId; 2] {
        [self.outer.connection, self.inner.connection]
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.relay.deadline()
    }

    pub(super) fn timed_out(&self, now: Instant) -> Option<Ending> {
        self.relay.timed_out(now)
    }

    /// Takes the session down, as its ending says.
    pub(super) fn part(&self, ending: Ending, nature: &mut Nature) {
        for leg in [&self.outer, &self.inner] {
            if ending.reset {
                nature.abort(leg.connection, leg.end);
            } else {
                nature.close(leg.connection, leg.end);
            }
        }
    }

    /// Moves what can be moved.
    pub(super) fn run(&mut self, now: Instant, nature: &mut Nature) -> Option<Ending> {
        for side in Side::BOTH {
            let leg = self.leg(side);
            let has_failed = nature.network.has_failed(leg.connection, leg.end);
            if has_failed && self.relay.next_step(side).is_none() {
                return Some(self.relay.failed(side, Failure::Reset));
            }
        }
        loop {
            let mut busy = false;
            for from in Side::BOTH {
                match self.step(from, now, nature) {
                    Ok(progressed) => busy |= progressed,
                    Err(ending) => return Some(ending),
                }
            }
            if !busy {
                return None;
            }
        }
    }

    fn step(&mut self, from: Side, now: Instant, nature: &mut Nature) -> Result<bool, Ending> {
        self.flush(from.other(), now, nature)?;
        match self.relay.next_step(from) {
            None => Ok(false),
            Some(Step::Over(ending)) => Err(ending),
            Some(Step::PassOnEnd(to)) => {
                let leg = self.leg(to);
                nature.checks.an_end_waits_for_the_bytes_before_it(leg.outbox.len());
                if nature.network.has_failed(leg.connection, leg.end) {
                    return Err(self.relay.failed(to, Failure::Reset));
                }
                nature.end_writing(leg.connection, leg.end);
                self.relay.end_passed_on(to);
                Ok(true)
            }
            Some(Step::Receive(at_most)) => self.receive(from, at_most, now, nature),
        }
    }

    fn receive(
        &mut self,
        from: Side,
        at_most: usize,
        now: Instant,
        nature: &mut Nature,
    ) -> Result<bool, Ending> {
        let waiting = self.leg(from.other()).outbox.len();
        nature.checks.nothing_is_received_for_a_leg_that_is_blocked(waiting);
        let source = self.leg(from);
        let received = nature.receive(source.connection, source.end, at_most);
        match received {
            Received::Nothing => Ok(false),
            Received::Reset => Err(self.relay.failed(from, Failure::Reset)),
            Received::Truncated if !nature.has_planted(Planted::TruncationLooksClean) => {
                Err(self.relay.failed(from, Failure::Truncated))
            }
            Received::End | Received::Truncated => {
                self.relay.source_ended(from, now);
                self.last_progress = now;
                self.is_half_closed = true;
                if nature.has_planted(Planted::HalfCloseEndsBoth) {
                    return Err(Ending { reason: CloseReason::Finished, reset: false });
                }
                Ok(true)
            }
            Received::Payload(bytes) => {
                self.relay.received(from, bytes.len(), now);
                self.last_progress = now;
                self.leg_mut(from.other()).outbox.extend(bytes);
                self.flush(from.other(), now, nature)?;
                Ok(true)
            }
        }
    }

    /// Sends what waits, as far as it goes.
    fn flush(&mut self, to: Side, now: Instant, nature: &mut Nature) -> Result<(), Ending> {
        let leg = self.leg_mut(to);
        if leg.outbox.is_empty() {
            return Ok(());
        }
        let sent = nature.send(leg.connection, leg.end, leg.outbox.make_contiguous());
        let Ok(sent) = sent else { return Err(self.relay.failed(to, Failure::Reset)) };
        leg.outbox.drain(..sent);
        let is_blocked = !leg.outbox.is_empty() && !nature.has_planted(Planted::StagesWithoutBound);
        self.relay.set_blocked(to, is_blocked);
        if sent > 0 {
            self.relay.progressed(now);
            self.last_progress = now;
        }
        Ok(())
    }

    fn leg(&self, side: Side) -> &Leg {
        match side {
            Side::Outer => &self.outer,
            Side::Inner => &self.inner,
        }
    }

    fn leg_mut(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Outer => &mut self.outer,
            Side::Inner => &mut self.inner,
        }
    }

    /// Whether it was quiet for longer than it may be.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let idle = self.limits.idle_timeout;
        let half = self.is_half_closed.then_some(self.limits.half_closed_timeout);
        let patience = [idle, half].into_iter().flatten().min();
        patience.is_some_and(|patience| now > self.last_progress + patience)
    }
}
