use std::time::Instant;

use super::link::Link;
use super::queue::Waiting;
use crate::limits::{MAX_INVITATIONS_PER_AGENT, SIGNAL_DEAD_AFTER};
use crate::wire::RefusalReason;

/// What to do with an agent that has no invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Invite the server of the link of this number.
    Invite(u32),
    /// Let it wait in the queue.
    Wait,
    /// There is nothing to wait for.
    Refuse(RefusalReason),
}

/// The least loaded server that serves the agent's service, has room, and has not declined this
/// agent before.
///
/// Where there is none, an agent waits for room, or for a server to come back: `lost` is when one of
/// its service was last lost, and the restart of a server should go unnoticed.
pub(super) fn choose(
    waiting: &Waiting,
    links: &[Link],
    lost: Option<Instant>,
    now: Instant,
) -> Choice {
    let refusal = Choice::Refuse(waiting.last_decline.unwrap_or(RefusalReason::NoServer));
    if waiting.invitations >= MAX_INVITATIONS_PER_AGENT {
        return refusal;
    }
    let serving = || links.iter().filter(|link| link.serves(waiting.request.service));
    let open = || serving().filter(|link| !waiting.declined_by.contains(&link.number));
    let lost_lately = lost.is_some_and(|lost| now < lost + SIGNAL_DEAD_AFTER);
    match open().filter(|link| link.has_room()).reduce(better) {
        Some(link) => Choice::Invite(link.number),
        None if open().next().is_some() => Choice::Wait,
        None if serving().next().is_none() && lost_lately => Choice::Wait,
        None => refusal,
    }
}

fn better<'a>(best: &'a Link, next: &'a Link) -> &'a Link {
    match (best.greeted(), next.greeted()) {
        (Some(one), Some(other)) if other.is_better_than(one) => next,
        _ => best,
    }
}
