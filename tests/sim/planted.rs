//! Bugs that peers had, planted between the pure code and a world: the simulation has to find each.
//! None of them is in the product. The numbers are those of the peers' issues.

use super::checks::Check;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planted {
    /// rathole #470: the control connection is written and never read. A heartbeat that could be sent
    /// counts as a sign of life, and a peer that is gone stays for ever.
    SignalIsWrittenOnly,
    /// rathole: a visitor waits for a data connection without a deadline.
    VisitorWaitsForEver,
    /// rathole, konnectivity #789: visitors wait without a bound, until memory ends.
    QueueWithoutBound,
    /// rathole: a pooled connection is handed out without a look at it, and it is dead.
    SpareIsNotLookedAt,
    /// wstunnel #364: pooled connections are never replaced, and middleboxes end the idle ones.
    SpareLivesForEver,
    /// frp, rathole: what a connection is claimed with is honoured again: a replay.
    TicketIsKept,
    /// Envoy #41536: the tunnel is looked for on the worker that accepted, and it is on another.
    ClaimStaysWhereItCame,
    /// rathole: who waits for a server whose control connection is lost is not given to another.
    LostInvitationIsNotRenewed,
    /// cloudflared, chisel #535: the end of one direction drops the other.
    HalfCloseEndsBoth,
    /// Envoy #45198: a half-closed session is kept until an idle timeout of an hour.
    HalfClosedForAnHour,
    /// Relays that copy streams: TCP ends without `close_notify`, and the other leg ends cleanly.
    TruncationLooksClean,
    /// Envoy's io_uring: what a slow reader does not take is staged without a bound.
    StagesWithoutBound,
    /// No peer's: a reload takes a server off the list, and its signal connection stays in use.
    ReloadKeepsOldTrust,
    /// No peer's: a service is the same by its name, whoever ends the TLS of its agents.
    PassthroughIsNotCompared,
}

impl Planted {
    pub(super) const ALL: [Self; 14] = [
        Self::SignalIsWrittenOnly,
        Self::VisitorWaitsForEver,
        Self::QueueWithoutBound,
        Self::SpareIsNotLookedAt,
        Self::SpareLivesForEver,
        Self::TicketIsKept,
        Self::ClaimStaysWhereItCame,
        Self::LostInvitationIsNotRenewed,
        Self::HalfCloseEndsBoth,
        Self::HalfClosedForAnHour,
        Self::TruncationLooksClean,
        Self::StagesWithoutBound,
        Self::ReloadKeepsOldTrust,
        Self::PassthroughIsNotCompared,
    ];

    /// The checks, one of which is to find it.
    pub(super) const fn is_caught_by(self) -> &'static [Check] {
        match self {
            Self::SignalIsWrittenOnly => &[Check::DeadLinkIsNoticed],
            Self::VisitorWaitsForEver => &[Check::NobodyWaitsTooLong],
            Self::QueueWithoutBound => &[Check::QueueIsBounded],
            Self::SpareIsNotLookedAt => &[Check::SpareIsLookedAt],
            Self::SpareLivesForEver => &[Check::SpareIsYoung],
            Self::TicketIsKept => &[Check::TicketIsHonouredOnce],
            Self::ClaimStaysWhereItCame => &[Check::ValidClaimIsHonoured],
            Self::LostInvitationIsNotRenewed => &[Check::NobodyIsForgotten],
            Self::HalfCloseEndsBoth | Self::TruncationLooksClean => &[Check::CleanEndIsWhole],
            Self::HalfClosedForAnHour => &[Check::QuietSessionEnds],
            Self::StagesWithoutBound => &[Check::BackpressureHolds],
            // An agent that it gives to such a server could have another.
            Self::ReloadKeepsOldTrust => &[Check::BooksAgree, Check::NobodyIsForgotten],
            Self::PassthroughIsNotCompared => &[Check::InvitedForWhatItMayServe],
        }
    }
}
