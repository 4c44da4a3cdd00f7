//! What must hold in every world, and the books that show it. The first check that fails ends a world.

use std::collections::{BTreeMap, BTreeSet};

use vestibule::relay::CloseReason;
use vestibule::wire::alpn::Hint;
use vestibule::wire::{Claim, RefusalReason};

use super::network::ConnectionId;
use super::program::{Device, Flow};

/// The checks by name. `ledger` holds those of a dispatcher, `server` those of a server, `world` the
/// last ones; the others are below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// An agent is neither lost nor invented: gateway and ledger agree on who waits, where, for what.
    BooksAgree,
    /// A ticket is drawn once, belongs to its invitation, and is bound to the server that gets it.
    TicketIsDrawnOnce,
    /// A ticket is honoured once.
    TicketIsHonouredOnce,
    /// A claim is honoured for the server that was invited, and for its agent alone.
    ClaimIsByWhoWasInvited,
    /// A claim that is right and in time is honoured, whatever others have tried before.
    ValidClaimIsHonoured,
    /// A server is invited only for what it offers and may serve, and while nobody drains.
    InvitedForWhatItMayServe,
    /// Invitations of an agent, and load of a server, stay within their bounds.
    InvitationsAreBounded,
    /// Agents that wait, and signal connections, stay within their bounds, and nobody is refused
    /// before that.
    QueueIsBounded,
    /// Sessions of a device and of a service, with who waits for one, stay within their bounds, and nobody is
    /// refused before that.
    QuotasAreBounded,
    /// Spares stay within the bounds of gateway and server.
    SparesAreBounded,
    /// A spare is given out once, when it is there, at its worker.
    SpareIsGivenOutOnce,
    /// A spare that has ended is not given out.
    SpareIsLookedAt,
    /// A spare that is older than its life is not given out.
    SpareIsYoung,
    /// No agent waits beyond its deadline.
    NobodyWaitsTooLong,
    /// Nobody waits for a service that a reload took away.
    NobodyWaitsInVain,
    /// There are never both an agent that waits for an invitation and a server that could have it.
    NobodyIsForgotten,
    /// A signal connection whose other end is silent is given up within the promised time.
    DeadLinkIsNoticed,
    /// What is due is done when its time has come.
    DueIsDone,
    /// Each agent that was admitted ends once, with one reason.
    SessionEndsOnce,
    /// A session reaches the service that its agent asked for, and no other device's.
    RightDeviceAndService,
    /// An agent reaches one backend.
    OneBackend,
    /// Bytes out are bytes in: all of a beginning of them, in order.
    BytesOutAreBytesIn,
    /// A clean end is that of whoever spoke, after all that it said.
    CleanEndIsWhole,
    /// Nothing is received for a leg that has bytes to send, and an end waits for them.
    BackpressureHolds,
    /// A session that is quiet ends in time.
    QuietSessionEnds,
    /// Sessions and spares of a server stay within its bounds, whatever a gateway sends.
    ServerIsBounded,
    /// A server says hello first, once, and dials only what it does not have.
    HelloIsFirst,
    /// An agent asks each gateway once, and hears of one end.
    AgentEndsOnce,
    /// Once nothing goes wrong any more, everybody is served.
    ServedAfterwards,
    /// Once everything has ended, nothing is left of it.
    AllIsFreed,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) check: Check,
    pub(super) what: String,
}

/// What is worth seeing at least once over all worlds: otherwise they are too tame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sight {
    Refused(RefusalReason),
    /// A second invitation for an agent.
    Moved,
    /// A claim by an invitation that the dispatcher has replaced.
    ClaimCrossedWithMove,
    /// A claim of an agent that the dispatcher has refused.
    ClaimCrossedWithRefusal,
    /// A session that outlives its server's signal connection.
    SessionOutlivedLink,
    /// A link closed by the dispatcher.
    LinkClosed,
    SpareTookAgent,
    SpareFailed(FailedSpare),
    /// A claim that was turned away.
    ClaimTurnedAway,
    /// A session that ended so at a gateway.
    Ended(CloseReason),
    /// An agent that got its session at a gateway that was not the first it asked.
    OtherGateway,
    /// A server that offered a service with its own TLS, or without, where the gateway has it the other way.
    OfferOfAnotherKind,
    /// A server that refused a frame or a message of a gateway.
    GatewayRefused,
    /// A process that was stopped and went on.
    Resumed,
    /// An operator drained a server at a gateway.
    ServerDrained,
    /// Both directions of a session, whole, with bytes in each.
    WholeSession,
}

/// How a spare failed its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FailedSpare {
    Gone,
    Silent,
    Refused,
}

#[derive(Default)]
pub(super) struct Checks {
    pub(super) failure: Option<Failure>,
    pub(super) seen: BTreeSet<Sight>,
    honoured: BTreeSet<Vec<u8>>,
    /// By gateway and invitation.
    expected: BTreeMap<(usize, u64), Expected>,
    /// Agents that were admitted and have not ended, and where.
    admitted: BTreeMap<ConnectionId, usize>,
    ended: BTreeMap<ConnectionId, CloseReason>,
    wishes: BTreeMap<Device, usize>,
    /// Devices whose other end, or whose own, is hostile: their bytes are anybody's.
    tainted: BTreeSet<Device>,
    said: BTreeMap<Flow, BTreeMap<ConnectionId, Said>>,
    reached: BTreeMap<Device, ConnectionId>,
}

/// A claim that a worker is to honour.
pub(super) struct Expected {
    pub(super) ticket: Vec<u8>,
    pub(super) server: String,
    pub(super) instance: String,
    pub(super) worker: u32,
    /// `None`: the place of a spare.
    pub(super) agent: Option<ConnectionId>,
}

#[derive(Default)]
struct Said {
    len: usize,
    has_ended: bool,
}

impl Checks {
    /// Notes a failure, unless there was one before.
    pub(super) fn hold(&mut self, check: Check, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.failure.is_none() {
            self.failure = Some(Failure { check, what: what() });
        }
    }

    pub(super) fn see(&mut self, sight: Sight) {
        self.seen.insert(sight);
    }
}

// ---- tickets ----

impl Checks {
    pub(super) fn note_expected(&mut self, gateway: usize, invitation: u64, expected: Expected) {
        self.expected.insert((gateway, invitation), expected);
    }

    /// An agent that left, was refused, was claimed or is invited anew.
    pub(super) fn forget_agent(&mut self, agent: ConnectionId) {
        self.expected.retain(|_, expected| expected.agent != Some(agent));
    }

    pub(super) fn forget_spare(&mut self, gateway: usize, invitation: u64) {
        let key = (gateway, invitation);
        if self.expected.get(&key).is_some_and(|expected| expected.agent.is_none()) {
            self.expected.remove(&key);
        }
    }

    fn entitled(&self, gateway: usize, claim: &Claim, server: &str) -> Option<&Expected> {
        let expected = self.expected.get(&(gateway, claim.id))?;
        (expected.ticket == claim.ticket && expected.server == server).then_some(expected)
    }

    pub(super) fn was_honoured(&self, claim: &Claim) -> bool {
        self.honoured.contains(&claim.ticket)
    }

    /// A worker honours a claim, for that agent or for a spare.
    pub(super) fn a_ticket_is_honoured_once_and_for_whom_it_was_drawn(
        &mut self,
        gateway: usize,
        claim: &Claim,
        server: &str,
        agent: Option<ConnectionId>,
    ) {
        let is_first = self.honoured.insert(claim.ticket.clone());
        self.hold(Check::TicketIsHonouredOnce, is_first, || {
            format!("gateway {gateway} honours {:x} of {server} again", claim.id)
        });
        let is_right = self.entitled(gateway, claim, server).is_some_and(|e| e.agent == agent);
        self.hold(Check::ClaimIsByWhoWasInvited, is_right, || {
            format!("gateway {gateway} gives {agent:?} to {server} by {:x}", claim.id)
        });
        self.expected.remove(&(gateway, claim.id));
    }

    /// A worker turns a claim away.
    pub(super) fn a_valid_claim_is_honoured(
        &mut self,
        gateway: usize,
        claim: &Claim,
        server: &str,
        hint: &Hint,
    ) {
        self.see(Sight::ClaimTurnedAway);
        let is_valid = self.entitled(gateway, claim, server).is_some_and(|expected| {
            expected.instance == hint.instance && expected.worker == hint.worker
        });
        self.hold(Check::ValidClaimIsHonoured, !is_valid, || {
            format!("gateway {gateway} turns the claim of {:x} by {server} away", claim.id)
        });
    }
}

// ---- sessions ----

impl Checks {
    pub(super) fn note_admitted(&mut self, gateway: usize, agent: ConnectionId) {
        self.admitted.insert(agent, gateway);
    }

    pub(super) fn each_agent_ends_once_with_a_reason(
        &mut self,
        agent: ConnectionId,
        reason: CloseReason,
    ) {
        let was_open = self.admitted.remove(&agent).is_some();
        let before = self.ended.insert(agent, reason);
        self.hold(Check::SessionEndsOnce, was_open && before.is_none(), || {
            format!("the agent of connection {agent} ends with {reason}; before: {before:?}")
        });
        self.see(Sight::Ended(reason));
    }

    /// Its process is gone, and wrote no record.
    pub(super) fn forget_gateway(&mut self, gateway: usize) {
        self.admitted.retain(|_, at| *at != gateway);
        self.expected.retain(|(at, _), _| *at != gateway);
    }

    pub(super) fn note_wish(&mut self, device: Device, service: usize) {
        self.wishes.insert(device, service);
    }

    pub(super) fn taint(&mut self, device: Device) {
        self.tainted.insert(device);
    }

    pub(super) fn a_session_reaches_its_service(&mut self, device: Device, service: usize) {
        let wish = self.wishes.get(&device).copied();
        let is_right = wish == Some(service) || self.tainted.contains(&device);
        self.hold(Check::RightDeviceAndService, is_right, || {
            format!("{device} asked for service {wish:?} and reaches {service}")
        });
    }

    pub(super) fn an_agent_reaches_one_backend(&mut self, device: Device, backend: ConnectionId) {
        let first = *self.reached.entry(device).or_insert(backend);
        let is_one = first == backend || self.tainted.contains(&device);
        self.hold(Check::OneBackend, is_one, || {
            format!("bytes of {device} reach the backends of connections {first} and {backend}")
        });
    }
}

// ---- bytes ----

impl Checks {
    pub(super) fn note_said(&mut self, flow: Flow, by: ConnectionId, len: usize) {
        self.said.entry(flow).or_default().entry(by).or_default().len = len;
    }

    pub(super) fn note_ended(&mut self, flow: Flow, by: ConnectionId, len: usize) {
        let said = Said { len, has_ended: true };
        self.said.entry(flow).or_default().insert(by, said);
    }

    fn speakers(&self, flow: Flow) -> impl Iterator<Item = &Said> {
        self.said.get(&flow).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn bytes_out_are_bytes_in(&mut self, flow: Flow, are_right: bool, heard: usize) {
        if self.tainted.contains(&flow.device) {
            return;
        }
        let said = self.speakers(flow).map(|said| said.len).max().unwrap_or(0);
        self.hold(Check::BytesOutAreBytesIn, are_right && heard <= said, || {
            format!("{flow:?}: {heard} bytes heard of {said}; right: {are_right}")
        });
    }

    pub(super) fn a_clean_end_is_that_of_whoever_spoke(&mut self, flow: Flow, heard: usize) {
        if self.tainted.contains(&flow.device) {
            return;
        }
        let is_whole = self.speakers(flow).any(|said| said.has_ended && said.len == heard);
        self.hold(Check::CleanEndIsWhole, is_whole, || {
            format!("{flow:?} ends cleanly after {heard} bytes, and its speaker did not")
        });
    }

    pub(super) fn nothing_is_received_for_a_leg_that_is_blocked(&mut self, waiting: usize) {
        self.hold(Check::BackpressureHolds, waiting == 0, || {
            format!("bytes are received while {waiting} wait for the other leg")
        });
    }

    pub(super) fn an_end_waits_for_the_bytes_before_it(&mut self, waiting: usize) {
        self.hold(Check::BackpressureHolds, waiting == 0, || {
            format!("an end is passed on before {waiting} bytes")
        });
    }
}

// ---- the end ----

impl Checks {
    pub(super) fn every_agent_has_ended(&mut self) {
        let left = self.admitted.len();
        self.hold(Check::AllIsFreed, left == 0, || format!("{left} agents never ended"));
    }

    pub(super) fn nothing_is_left(&mut self, of_what: &str, len: usize) {
        self.hold(Check::AllIsFreed, len == 0, || format!("{len} left of {of_what}"));
    }
}
