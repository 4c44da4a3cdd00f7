use std::collections::BTreeSet;
use std::time::Duration;

use super::{AgentRef, LinkId, Request, ServiceId, ServiceOffer, SessionQuota, Ticket};
use crate::relay::CloseReason;
use crate::wire::{CrlOutcome, FromServer, RefusalReason, ToServer};

/// Bounds of a [`Dispatcher`](super::Dispatcher).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DispatcherLimits {
    /// Agents that wait.
    pub max_waiting: usize,
    /// From admitted to joined.
    pub invitation_timeout: Duration,
    /// Signal connections at once.
    pub max_links: usize,
    /// Spares of all servers at one worker.
    pub max_spares: usize,
    /// How long a spare may wait for an agent.
    pub spare_life: Duration,
    /// What each device may have, over all services.
    pub devices: SessionQuota,
    /// What each service may have, by its number; there is no bound on one that is not there.
    pub services: Vec<SessionQuota>,
    /// Whether servers may bring lists of revoked certificates.
    pub takes_crls: bool,
}

/// What a [`Dispatcher`](super::Dispatcher) goes by after a reload.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconfiguration {
    /// Bounds.
    pub limits: DispatcherLimits,
    /// Services by number: those of before, and new ones behind them.
    pub services: Vec<ServiceOffer>,
    /// Services that are in the configuration no more.
    pub gone: BTreeSet<ServiceId>,
    /// Every signal connection: which services it may serve, or why it ends.
    pub links: Vec<(LinkId, Result<Vec<ServiceId>, CloseReason>)>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A server's signal connection has done its handshake.
    LinkOpened {
        /// The caller's number for it.
        link: LinkId,
        /// Its name on the allow-list.
        server: String,
        /// Services that it may serve.
        allowed: Vec<ServiceId>,
    },
    /// A frame came on a signal connection.
    LinkMessage {
        /// On which.
        link: LinkId,
        /// What it held.
        message: FromServer,
    },
    /// A signal connection ended. Not needed after [`Action::CloseLink`], and harmless.
    LinkClosed {
        /// Which.
        link: LinkId,
    },
    /// A worker admitted an agent, which now waits for a server.
    Admit {
        /// Who waits.
        agent: AgentRef,
        /// For what.
        request: Request,
    },
    /// An agent left while it waited.
    Leave {
        /// Which.
        agent: AgentRef,
    },
    /// A spare that was asked for was claimed.
    SpareReady {
        /// The invitation that asked for it.
        invitation: u64,
    },
    /// A spare ended before it was given out.
    SpareEnded {
        /// Which.
        invitation: u64,
        /// Whether it had lived as long as it may; otherwise it broke.
        in_time: bool,
    },
    /// A spare that was given out did not take its agent, which waits again.
    SpareFailed {
        /// Who waits.
        agent: AgentRef,
        /// Which spare.
        invitation: u64,
        /// Why.
        failure: SpareFailure,
    },
    /// A worker gave an agent to the data connection that claimed it.
    Claimed {
        /// The agent; it waits no more, and is its worker's affair.
        agent: AgentRef,
        /// The invitation of the claim: not always the last one for that agent.
        invitation: u64,
        /// As at its admission: it may have been refused while this was on its way here.
        request: Request,
    },
    /// A session that was `Claimed` ended, joined or not.
    Released {
        /// The invitation of its claim.
        invitation: u64,
    },
    /// A list that a server brought was judged, and is in use from now on or is not.
    CrlJudged {
        /// Over which.
        link: LinkId,
        /// Its server's number for the list.
        transfer: u32,
        /// What became of it.
        outcome: CrlOutcome,
    },
    /// A reload was applied. The workers know already.
    Reconfigured(Reconfiguration),
    /// An operator wants no new sessions at a server, whether it is connected or not.
    DrainServer {
        /// Its name on the allow-list.
        server: String,
    },
    /// An operator wants them there again.
    UndrainServer {
        /// Its name on the allow-list.
        server: String,
    },
    /// Another process is to take this one's place, so that servers are to connect to it as well; or it
    /// is not any more.
    Moving(bool),
    /// This process accepts at sockets that were there before it, and its servers may be on their way: an agent without one
    /// waits for them as if they had been lost just now.
    TookOver,
    /// Another process has taken this one's place, and no agent waits here.
    Moved,
    /// The gateway takes part in no new sessions from now on.
    Drain,
}

/// Why a spare did not take its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpareFailure {
    /// It had ended, or broke.
    Gone,
    /// No answer came in time.
    Silent,
    /// The server said so.
    Refused(RefusalReason),
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write a frame to a signal connection.
    Send {
        /// To which.
        link: LinkId,
        /// What.
        message: ToServer,
    },
    /// Judge a list that a server brought whole; [`Event::CrlJudged`] is awaited.
    JudgeCrl {
        /// Over which.
        link: LinkId,
        /// Its server's number for the list.
        transfer: u32,
        /// As it came.
        list: Vec<u8>,
    },
    /// End a signal connection. The dispatcher has forgotten it already.
    CloseLink {
        /// Which.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
    /// Mail the agent's worker, before the invitation is sent: see
    /// [`Tickets::expect`](super::Tickets::expect).
    Expect {
        /// Who may be claimed.
        agent: AgentRef,
        /// By which invitation.
        invitation: u64,
        /// With which secret.
        ticket: Ticket,
        /// By whom: a name on the allow-list.
        server: String,
    },
    /// Mail a worker, before the invitation is sent: see
    /// [`Tickets::expect_spare`](super::Tickets::expect_spare).
    ExpectSpare {
        /// Where the spare is to wait.
        worker: u32,
        /// By which invitation.
        invitation: u64,
        /// With which secret.
        ticket: Ticket,
        /// By whom: a name on the allow-list.
        server: String,
        /// How long it may wait.
        life: Duration,
    },
    /// Mail the agent's worker to give it a spare. From then on all is as if a server was invited with
    /// [`Expect`](Self::Expect), and a spare that takes the agent is a claim.
    UseSpare {
        /// Who.
        agent: AgentRef,
        /// Which spare of that worker.
        invitation: u64,
    },
    /// Mail a worker that a spare is not wanted, whether it is there or not.
    CloseSpare {
        /// Where.
        worker: u32,
        /// Which.
        invitation: u64,
    },
    /// Mail the agent's worker that there is no session. Where a claim crosses with this mail, the
    /// claim was first: the worker ignores a refusal of an agent that no longer waits.
    Refuse {
        /// Who.
        agent: AgentRef,
        /// Why.
        reason: RefusalReason,
    },
}
