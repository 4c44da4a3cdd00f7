use std::time::Instant;

use super::core::Growth;
use super::leg::Leg;
use super::received::Received;
use super::scratch::Scratch;
use crate::limits::{MAX_ANSWERS_LEN, SPLICE_LEN, STEPS_PER_TURN, TURN_LEN};
use crate::relay::{Ending, Failure, Pace, Relay, RelayLimits, Side, Step, Throttle};
use crate::uring::Token;

/// Two joined connections. `record` is the role's: who they are, for the log.
pub struct Session<R> {
    /// The connection towards the agent.
    pub outer: Token,
    /// The connection towards the backend.
    pub inner: Token,
    /// Payload bytes that went inward and outward.
    pub bytes: Moved,
    /// What the role remembers.
    pub record: R,
    pub(super) relay: Relay,
    /// Where a limit on its bandwidth holds.
    pub(super) throttle: Option<Box<Throttle>>,
    pub(super) queued: bool,
    pub(super) timer: Option<Instant>,
    pub(super) heat: Heat,
    /// Whether its last turn moved much.
    pub(super) is_bulk: bool,
    pub(super) pace: Pace,
    pub(super) growth: Growth,
}

/// What holds for a session as long as it lives.
#[derive(Debug)]
pub struct Terms {
    /// Bounds on a quiet one.
    pub relay: RelayLimits,
    /// How fast it may move bytes; `None`: as fast as it can.
    pub throttle: Option<Throttle>,
}

/// Whether a session is ready to move bytes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heat {
    /// It had a turn lately.
    Hot,
    /// It had none since it was looked at last.
    Cooling,
    /// It takes as little room as it can.
    Cold,
}

/// Payload bytes by direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// From the agent to the backend.
    pub inward: u64,
    /// From the backend to the agent.
    pub outward: u64,
}

/// Why a turn of a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing to do until something happens.
    Waits,
    /// There is more, and others have their turn first.
    Again,
    Over(Ending),
}

/// Lets one session move bytes, as many as its turn allows.
pub(super) fn run(
    relay: &mut Relay,
    moved: &mut Moved,
    outer: &mut Leg,
    inner: &mut Leg,
    scratch: &mut Scratch,
    now: Instant,
) -> Turn {
    let turn = run_steps(relay, moved, outer, inner, scratch, now);
    outer.rest(scratch);
    inner.rest(scratch);
    turn
}

fn run_steps(
    relay: &mut Relay,
    moved: &mut Moved,
    outer: &mut Leg,
    inner: &mut Leg,
    scratch: &mut Scratch,
    now: Instant,
) -> Turn {
    for (side, leg) in [(Side::Outer, &mut *outer), (Side::Inner, &mut *inner)] {
        if let Err(failure) = leg.give_to_kernel() {
            return Turn::Over(relay.failed(side, failure));
        }
    }
    // A receive would tell, but nothing is received while the other leg is blocked.
    for (side, leg) in [(Side::Outer, &*outer), (Side::Inner, &*inner)] {
        if leg.readiness().failed && relay.next_step(side).is_none() {
            return Turn::Over(relay.failed(side, Failure::Reset));
        }
    }
    let start = moved.inward + moved.outward;
    for _ in 0..STEPS_PER_TURN {
        let mut busy = false;
        for from in Side::BOTH {
            let (source, target, count) = match from {
                Side::Outer => (&mut *outer, &mut *inner, &mut moved.inward),
                Side::Inner => (&mut *inner, &mut *outer, &mut moved.outward),
            };
            match step(relay, from, source, target, scratch, count, now) {
                Ok(progressed) => busy |= progressed,
                Err(ending) => return Turn::Over(ending),
            }
        }
        if !busy {
            return Turn::Waits;
        }
        if moved.inward + moved.outward - start >= TURN_LEN {
            break;
        }
    }
    Turn::Again
}

/// One step of what comes from one side. `Ok(true)` where another may follow at once.
fn step(
    relay: &mut Relay,
    from: Side,
    source: &mut Leg,
    target: &mut Leg,
    scratch: &mut Scratch,
    count: &mut u64,
    now: Instant,
) -> Result<bool, Ending> {
    let to = from.other();
    if target.outbox_len() > 0 && target.readiness().writable {
        let before = target.outbox_len();
        let flushed = target.flush().map_err(|failure| relay.failed(to, failure))?;
        relay.set_blocked(to, !flushed);
        if target.outbox_len() < before {
            relay.progressed(now);
        }
    }
    match relay.next_step(from) {
        None => Ok(false),
        Some(Step::Over(ending)) => Err(ending),
        Some(Step::PassOnEnd(to)) => {
            target.end_writing().map_err(|failure| relay.failed(to, failure))?;
            relay.end_passed_on(to);
            Ok(true)
        }
        // A peer that makes us answer (KeyUpdate) and does not read is not read from either.
        Some(Step::Receive(_)) if !source.has_input() || source.outbox_len() > MAX_ANSWERS_LEN => {
            Ok(false)
        }
        Some(Step::Receive(at_most)) => {
            match splice(relay, from, (&mut *source, &mut *target), scratch, at_most, now)? {
                0 => copy(relay, from, (source, target), scratch, (count, at_most), now),
                spliced => {
                    *count += spliced as u64;
                    Ok(true)
                }
            }
        }
    }
}

/// Receives into a buffer of ours what comes from one side, and sends it to the other.
fn copy(
    relay: &mut Relay,
    from: Side,
    (source, target): (&mut Leg, &mut Leg),
    scratch: &mut Scratch,
    (count, at_most): (&mut u64, usize),
    now: Instant,
) -> Result<bool, Ending> {
    if !source.has_input() {
        return Ok(false);
    }
    let to = from.other();
    match source.receive(scratch, at_most) {
        Received::Nothing => Ok(source.has_input()),
        Received::End => {
            relay.source_ended(from, now);
            Ok(true)
        }
        Received::Failed(failure) => Err(relay.failed(from, failure)),
        Received::Payload => {
            let len = scratch.payload_len();
            *count += len as u64;
            relay.received(from, len, now);
            target.send_payload(scratch).map_err(|failure| relay.failed(to, failure))?;
            relay.set_blocked(to, target.outbox_len() > 0);
            Ok(true)
        }
    }
}

/// Has the kernel move what comes from one side to the other, where it can and where that is worth it. Returns how many
/// bytes it were: after 0 there are none, or they are to be received.
fn splice(
    relay: &mut Relay,
    from: Side,
    (source, target): (&mut Leg, &mut Leg),
    scratch: &mut Scratch,
    at_most: usize,
    now: Instant,
) -> Result<usize, Ending> {
    let is_much = at_most >= SPLICE_LEN || source.is_kernels();
    if !is_much || !source.is_spliced() || !target.is_spliced() || !source.readiness().readable {
        return Ok(0);
    }
    let Some(pipe) = scratch.take_pipe() else { return Ok(0) };
    let to = from.other();
    let len = source.receive_into(&pipe, at_most).map_err(|failure| relay.failed(from, failure))?;
    if len > 0 {
        relay.received(from, len, now);
        target.send_from(&pipe, len, scratch).map_err(|failure| relay.failed(to, failure))?;
        relay.set_blocked(to, target.outbox_len() > 0);
    }
    scratch.put_pipe(pipe);
    Ok(len)
}

#[cfg(test)]
mod tests;
