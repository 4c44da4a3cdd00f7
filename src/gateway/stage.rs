use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::control::{Request, ServiceId};
use crate::engine::{Connection, Urgency};
use crate::relay::{CloseReason, DataPath};
use crate::telemetry::counters::HandshakeRole;
use crate::telemetry::record::Stages;
use crate::tls::{
    CertificateId, ClientHello, HelloReader, Identity, ListenerRoles, RoleConfig, TlsVersion,
};
use crate::uring::Token;
use crate::wire::FrameDecoder;
use crate::wire::alpn::Hint;

/// The life of a connection at a gateway, until it is one leg of a session.
pub(super) enum Stage {
    /// A balancer's: the header is awaited that says whose it is.
    Prologue { listener: usize },
    /// Its ClientHello is awaited.
    Hello { listener: usize, reader: Box<HelloReader> },
    /// The handshake of the role that the ClientHello chose, with the credentials and CAs of that
    /// generation; what was `seen` of it goes in first.
    Handshake {
        listener: usize,
        kind: Kind,
        sni: String,
        hello_at: Instant,
        generation: u64,
        seen: Vec<u8>,
    },
    /// Our own agent; it is to name its service.
    Request { visitor: Box<Visitor>, decoder: FrameDecoder },
    /// An admitted agent that waits for a server.
    Waiting(Box<Waiting>),
    /// An agent whose server is connecting the backend.
    Claimed { waiting: Box<Waiting>, claim: Claim },
    /// A data connection that has not shown its ticket.
    Claiming { proven: Proven, decoder: FrameDecoder },
    /// A data connection that waits for an agent.
    Spare { proven: Proven, invitation: u64, decoder: FrameDecoder },
    /// A spare that an agent was given to; its server has not taken it.
    Offered(Offered),
    /// A data connection whose server is connecting the backend.
    Answering { proven: Proven, agent: Token, decoder: FrameDecoder },
    /// A data connection whose server has the backend, and whose TLS is about to end.
    SteppingDown { proven: Proven, agent: Token },
    /// On its way to the worker that holds its agent, or to another process of this gateway.
    Transferring { to: Elsewhere, listener: usize, seen: Vec<u8> },
    /// On its way to the control thread.
    Signalling(Proven),
}

impl Stage {
    /// Whether it counts as a handshake in flight.
    pub(super) fn is_before_admission(&self) -> bool {
        matches!(
            self,
            Self::Prologue { .. }
                | Self::Hello { .. }
                | Self::Handshake { .. }
                | Self::Request { .. }
                | Self::Claiming { .. }
        )
    }

    /// Whether it has proved nothing yet.
    pub(super) fn is_a_stranger(&self) -> bool {
        matches!(self, Self::Prologue { .. } | Self::Hello { .. } | Self::Handshake { .. })
    }

    /// Whether it is an agent that was let in.
    pub(super) fn is_admitted_agent(&self) -> bool {
        matches!(self, Self::Waiting(_) | Self::Claimed { .. })
    }

    /// `None` once it is on its way to another thread.
    pub(super) fn listener(&self) -> Option<usize> {
        match self {
            Self::Prologue { listener }
            | Self::Hello { listener, .. }
            | Self::Handshake { listener, .. } => Some(*listener),
            Self::Claiming { proven, .. }
            | Self::Spare { proven, .. }
            | Self::Offered(Offered { proven, .. })
            | Self::Answering { proven, .. }
            | Self::SteppingDown { proven, .. } => Some(proven.listener),
            Self::Request { visitor, .. } => Some(visitor.listener),
            Self::Waiting(waiting) | Self::Claimed { waiting, .. } => {
                Some(waiting.visitor.listener)
            }
            Self::Transferring { .. } | Self::Signalling(_) => None,
        }
    }

    /// What helps a peer whose handshake was refused, where that is not plain.
    pub(super) fn advice(&self, reason: CloseReason) -> Option<&'static str> {
        match self {
            Self::Handshake { kind, .. } if reason == CloseReason::TlsVersion => Some(match kind {
                Kind::Foreign(_) => {
                    "it needs TLS 1.3; with `tls_1_2_agents = true` its listener takes TLS 1.2 as well"
                }
                Kind::Signal | Kind::Data | Kind::Agent => {
                    "it needs TLS 1.3, as every server and every agent of ours speaks it"
                }
            }),
            _ => None,
        }
    }

    /// The device that an agent has proved to be.
    pub(super) fn device(&self) -> Option<&Arc<str>> {
        match self {
            Self::Request { visitor, .. } => visitor.device.as_ref(),
            Self::Waiting(waiting) | Self::Claimed { waiting, .. } => {
                waiting.visitor.device.as_ref()
            }
            _ => None,
        }
    }

    /// The server that a data connection has proved to be.
    pub(super) fn server(&self) -> Option<&Arc<str>> {
        match self {
            Self::Claiming { proven, .. }
            | Self::Spare { proven, .. }
            | Self::Offered(Offered { proven, .. })
            | Self::Answering { proven, .. }
            | Self::SteppingDown { proven, .. } => Some(&proven.server),
            _ => None,
        }
    }

    /// The service that an agent asked for.
    pub(super) fn service(&self) -> Option<ServiceId> {
        match self {
            Self::Waiting(waiting) | Self::Claimed { waiting, .. } => Some(waiting.service),
            _ => None,
        }
    }
}

/// What a handshake is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Signal,
    Data,
    Agent,
    Foreign(ServiceId),
}

impl Kind {
    /// `None` where the listener does not take it.
    pub(super) fn config<'r>(&self, roles: &'r ListenerRoles) -> Option<&'r RoleConfig> {
        match self {
            Self::Signal => roles.signal.as_ref(),
            Self::Data => roles.data.as_ref(),
            Self::Agent => Some(&roles.agent),
            Self::Foreign(service) => roles.foreign.get(service),
        }
    }

    /// The same for whoever says this.
    pub(super) fn config_for<'r>(
        &self,
        roles: &'r ListenerRoles,
        hello: &ClientHello,
    ) -> Option<&'r RoleConfig> {
        match self {
            Self::Foreign(service) => roles.of_foreign(*service, hello.offers_tls_1_3),
            Self::Signal | Self::Data | Self::Agent => self.config(roles),
        }
    }

    /// Who goes first among those who want a handshake.
    pub(super) fn urgency(&self, hello: &ClientHello) -> Urgency {
        match self {
            Self::Signal | Self::Data => Urgency::Server,
            Self::Agent | Self::Foreign(_) if hello.resumes => Urgency::Resuming,
            Self::Agent | Self::Foreign(_) => Urgency::Full,
        }
    }

    /// What it is counted as.
    pub(super) fn counted_as(&self) -> HandshakeRole {
        match self {
            Self::Signal => HandshakeRole::Signal,
            Self::Data => HandshakeRole::Data,
            Self::Agent => HandshakeRole::Agent,
            Self::Foreign(_) => HandshakeRole::Foreign,
        }
    }
}

/// What a server's connection has proved to be.
pub(super) struct Proven {
    pub(super) listener: usize,
    /// Its name on the allow-list.
    pub(super) server: Arc<str>,
    /// By which configuration: where it is not that in use, this is to be proved again.
    pub(super) generation: u64,
}

/// An agent, from its handshake on.
pub(super) struct Visitor {
    pub(super) listener: usize,
    /// By which configuration it was let in: where it is not that in use, it is to be judged again.
    pub(super) generation: u64,
    pub(super) address: SocketAddr,
    pub(super) accepted: Instant,
    pub(super) speaks: Speech,
    /// Verified identity.
    pub(super) device: Option<Arc<str>>,
    /// All its names, where it has several.
    pub(super) aliases: Option<Box<Identity>>,
    /// Those of its chain.
    pub(super) certificates: Box<[CertificateId]>,
    pub(super) sni: String,
    pub(super) alpn: String,
    pub(super) stages: Stages,
}

impl Visitor {
    /// An agent that has proved nothing but its address.
    pub(super) fn unproven(
        listener: usize,
        generation: u64,
        connection: &Connection<Stage>,
        speaks: Speech,
    ) -> Self {
        Self {
            listener,
            generation,
            address: connection.peer,
            accepted: connection.opened,
            speaks,
            device: None,
            aliases: None,
            certificates: Box::default(),
            sni: String::new(),
            alpn: String::new(),
            stages: Stages::default(),
        }
    }
}

/// How an agent hears of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    /// Our own agent: by a message.
    Messages,
    /// A foreign agent: by an alert.
    Tls(TlsVersion),
    /// An old one on plain TCP: by a reset.
    Plain,
    /// A foreign agent whose own TLS goes to its server: by an alert before that has a key.
    Unread,
}

impl Speech {
    /// How the bytes of its session go.
    pub(super) const fn path(self) -> DataPath {
        match self {
            Self::Messages | Self::Tls(TlsVersion::Current) => DataPath::Tls,
            Self::Tls(TlsVersion::Older) => DataPath::OlderTls,
            Self::Plain => DataPath::Plain,
            Self::Unread => DataPath::Passthrough,
        }
    }
}

/// An agent that was admitted.
pub(super) struct Waiting {
    pub(super) visitor: Visitor,
    pub(super) service: ServiceId,
    pub(super) admitted: Instant,
    /// When a server was invited last, or a spare was there.
    pub(super) invited: Option<Instant>,
    /// The spare that it was given to and that has not taken it.
    pub(super) offered: Option<Token>,
}

impl Waiting {
    /// What it asks for, as the dispatcher knows it.
    pub(super) fn request(&self) -> Request {
        Request { service: self.service, device: self.visitor.device.clone() }
    }
}

/// A spare on which the session header was sent.
pub(super) struct Offered {
    pub(super) proven: Proven,
    pub(super) invitation: u64,
    pub(super) agent: Token,
    pub(super) decoder: FrameDecoder,
}

/// The data connection that claimed an agent.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) data: Token,
    pub(super) invitation: u64,
    /// Its name on the allow-list.
    pub(super) server: Arc<str>,
    /// Those that it has proved that by.
    pub(super) certificates: Box<[CertificateId]>,
    pub(super) at: Instant,
}

/// What is remembered of a session.
pub(super) struct Record {
    pub(super) waiting: Box<Waiting>,
    pub(super) claim: Claim,
    pub(super) joined: Instant,
}

/// Where a connection belongs that does not belong here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// With another worker.
    Worker(usize),
    /// With the other process, of which one takes the place of the other.
    Process,
}

/// Where a data connection belongs, if not here.
pub(super) fn elsewhere(
    hint: Option<&Hint>,
    instance: &str,
    predecessor: Option<&str>,
    own: usize,
    workers: usize,
) -> Option<Elsewhere> {
    let hint = hint?;
    if Some(&*hint.instance) == predecessor {
        return Some(Elsewhere::Process);
    }
    let worker = usize::try_from(hint.worker).ok()?;
    (hint.instance == instance && worker != own && worker < workers)
        .then_some(Elsewhere::Worker(worker))
}
