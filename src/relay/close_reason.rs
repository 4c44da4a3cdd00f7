use std::fmt;

use crate::wire::RefusalReason;

/// Who stands at the far end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    /// A Network Agent, at the gateway.
    Agent,
    /// An Administration Server, at the gateway.
    Server,
    /// The gateway, at the server and at our own agent.
    Gateway,
    /// What the server delivers a session to.
    Backend,
    /// The program beside our own agent, which connected to a forwarded port.
    Local,
}

impl Party {
    /// Everyone.
    pub const ALL: [Self; 5] =
        [Self::Agent, Self::Server, Self::Gateway, Self::Backend, Self::Local];
}

/// Why a session, or a connection that did not become one, ended. Each ends exactly once, with one of
/// these: the same word in log, metric and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseReason {
    /// Both directions ended cleanly.
    Finished,
    /// The peer reset its connection, or the kernel lost it.
    Reset(Party),
    /// The peer ended TCP without a `close_notify`: bytes may be missing.
    Truncated(Party),
    /// The peer broke the rules of TLS after the handshake, or sent a fatal alert.
    Corrupt(Party),
    /// A session over TLS 1.2, or over TLS of the kernel, has sent as many records as its key may seal.
    KeyUsedUp,
    /// A peer took a new key, and the kernel, which opens its records, can't.
    KeyUpdated,
    /// No byte in either direction for `idle_timeout_ms`.
    IdleTimeout,
    /// One direction had ended, and the other moved no byte for `half_closed_timeout_ms`.
    HalfClosedTimeout,
    /// The process ended, and the session was not finished when `drain_timeout_ms` had passed.
    DrainTimeout,
    /// The gateway's address leads nowhere, or it did not answer in time.
    GatewayUnreachable,
    /// The agent left before the session was joined.
    AgentLeft,
    /// The connection was not admitted within `admission_timeout_ms`.
    AdmissionTimeout,
    /// Bytes on a TLS listener that are not TLS.
    NotTls,
    /// TLS on a plain listener.
    UnexpectedTls,
    /// The TLS handshake failed: no common suite or group, or a fatal alert.
    HandshakeFailed,
    /// The peer offers no version of TLS that is taken there.
    TlsVersion,
    /// The peer showed no certificate, and its role needs one.
    CertificateMissing,
    /// The peer's certificate is expired or not valid yet.
    CertificateExpired,
    /// The peer's certificate is of a CA that its role does not trust, or is damaged.
    CertificateUntrusted,
    /// The peer's certificate is on its CA's list of those that are revoked.
    CertificateRevoked,
    /// There is no current list of the CA of the peer's certificate, and the policy demands one.
    RevocationUnknown,
    /// The peer's certificate is valid, and its name is not on the list.
    CertificateNotAllowed,
    /// `max_connections` is reached.
    ConnectionsFull,
    /// `max_handshakes` is reached.
    HandshakesFull,
    /// The address has as many connections, or handshakes in flight, as one may have.
    AddressFull,
    /// All addresses of its prefix together have as many as a prefix may have.
    PrefixFull,
    /// The address opens connections faster than one may.
    AddressTooFast,
    /// The address is not one of those that a plain listener takes agents from.
    AddressNotAllowed,
    /// It made the gateway wait while places had run out, and another took its own.
    TooSlow,
    /// A balancer's connection did not begin with a PROXY header.
    ProxyHeaderInvalid,
    /// An operator has blocked the address.
    AddressBlocked,
    /// An operator has ended it.
    EndedByOperator,
    /// It offered the ALPN of a server, and no server may come from its address.
    ServerAddressNotAllowed,
    /// A frame that can't be read, or is too large.
    FrameInvalid,
    /// A message that this release does not know.
    MessageUnknown,
    /// A message that has no place there.
    MessageUnexpected,
    /// The ticket is wrong, was used, is too old, or was given to another server.
    TicketInvalid,
    /// A spare ended before an agent came for it: it was too old, or not wanted any more.
    SpareUnused,
    /// A signal connection fell silent.
    SignalSilent,
    /// A signal connection could not take what was to be written to it.
    SignalStalled,
    /// There is no session, for a reason that another process gave or hears too.
    Refused(RefusalReason),
}

macro_rules! by_party {
    ($party:expr, $kind:literal) => {
        match $party {
            Party::Agent => concat!("agent_", $kind),
            Party::Server => concat!("server_", $kind),
            Party::Gateway => concat!("gateway_", $kind),
            Party::Backend => concat!("backend_", $kind),
            Party::Local => concat!("local_", $kind),
        }
    };
}

impl CloseReason {
    /// Every reason, with every party. Two of them may share a word.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_a_party = [Self::Reset, Self::Truncated, Self::Corrupt];
        let of_a_party = of_a_party.into_iter().flat_map(|reason| Party::ALL.map(reason));
        let refused = RefusalReason::ALL.into_iter().map(Self::Refused);
        ALONE.into_iter().chain(of_a_party).chain(refused)
    }

    /// The one word for this reason.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Reset(party) => by_party!(party, "reset"),
            Self::Truncated(party) => by_party!(party, "truncated"),
            Self::Corrupt(party) => by_party!(party, "corrupt"),
            Self::KeyUsedUp => "key_used_up",
            Self::KeyUpdated => "key_updated",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfClosedTimeout => "half_closed_timeout",
            Self::DrainTimeout => "drain_timeout",
            Self::GatewayUnreachable => "gateway_unreachable",
            Self::AgentLeft => "agent_left",
            Self::AdmissionTimeout => "admission_timeout",
            Self::NotTls => "not_tls",
            Self::UnexpectedTls => "unexpected_tls",
            Self::HandshakeFailed => "handshake_failed",
            Self::TlsVersion => "tls_version",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::CertificateRevoked => "certificate_revoked",
            Self::RevocationUnknown => "revocation_unknown",
            Self::CertificateNotAllowed => "certificate_not_allowed",
            Self::ConnectionsFull => "connections_full",
            Self::HandshakesFull => "handshakes_full",
            Self::AddressFull => "address_full",
            Self::PrefixFull => "prefix_full",
            Self::AddressTooFast => "address_too_fast",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::TooSlow => "too_slow",
            Self::ProxyHeaderInvalid => "proxy_header_invalid",
            Self::AddressBlocked => "address_blocked",
            Self::EndedByOperator => "ended_by_operator",
            Self::ServerAddressNotAllowed => "server_address_not_allowed",
            Self::FrameInvalid => "frame_invalid",
            Self::MessageUnknown => "message_unknown",
            Self::MessageUnexpected => "message_unexpected",
            Self::TicketInvalid => "ticket_invalid",
            Self::SpareUnused => "spare_unused",
            Self::SignalSilent => "signal_silent",
            Self::SignalStalled => "signal_stalled",
            Self::Refused(reason) => reason.word(),
        }
    }

    /// What the peer of a session that was never joined is told.
    pub const fn refusal(self) -> RefusalReason {
        match self {
            Self::Refused(reason) => reason,
            Self::AgentLeft | Self::Reset(Party::Agent) | Self::Truncated(Party::Agent) => {
                RefusalReason::AgentLeft
            }
            Self::CertificateMissing
            | Self::CertificateExpired
            | Self::CertificateUntrusted
            | Self::CertificateRevoked
            | Self::CertificateNotAllowed => RefusalReason::DeviceNotAllowed,
            Self::AddressBlocked => RefusalReason::DeviceBlocked,
            Self::ConnectionsFull => RefusalReason::QueueFull,
            Self::TicketInvalid => RefusalReason::TicketInvalid,
            Self::DrainTimeout => RefusalReason::Draining,
            Self::FrameInvalid | Self::MessageUnknown | Self::MessageUnexpected => {
                RefusalReason::ProtocolError
            }
            // The agent may try again, and meet another server.
            Self::Reset(Party::Server) | Self::Truncated(Party::Server) => RefusalReason::NoServer,
            Self::Reset(Party::Backend) => RefusalReason::BackendRefused,
            _ => RefusalReason::InternalError,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The reasons that hold nothing more.
const ALONE: [CloseReason; 37] = [
    CloseReason::Finished,
    CloseReason::KeyUsedUp,
    CloseReason::KeyUpdated,
    CloseReason::IdleTimeout,
    CloseReason::HalfClosedTimeout,
    CloseReason::DrainTimeout,
    CloseReason::GatewayUnreachable,
    CloseReason::AgentLeft,
    CloseReason::AdmissionTimeout,
    CloseReason::NotTls,
    CloseReason::UnexpectedTls,
    CloseReason::HandshakeFailed,
    CloseReason::TlsVersion,
    CloseReason::CertificateMissing,
    CloseReason::CertificateExpired,
    CloseReason::CertificateUntrusted,
    CloseReason::CertificateRevoked,
    CloseReason::RevocationUnknown,
    CloseReason::CertificateNotAllowed,
    CloseReason::ConnectionsFull,
    CloseReason::HandshakesFull,
    CloseReason::AddressFull,
    CloseReason::PrefixFull,
    CloseReason::AddressTooFast,
    CloseReason::AddressNotAllowed,
    CloseReason::TooSlow,
    CloseReason::ProxyHeaderInvalid,
    CloseReason::AddressBlocked,
    CloseReason::EndedByOperator,
    CloseReason::ServerAddressNotAllowed,
    CloseReason::FrameInvalid,
    CloseReason::MessageUnknown,
    CloseReason::MessageUnexpected,
    CloseReason::TicketInvalid,
    CloseReason::SpareUnused,
    CloseReason::SignalSilent,
    CloseReason::SignalStalled,
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::mem::discriminant;

    use super::*;

    #[test]
    fn all_leaves_no_variant_out() {
        let source = include_str!("close_reason.rs");
        let (_, variants) = source.split_once("pub enum CloseReason {").expect("it is above");
        let (variants, _) = variants.split_once("\n}\n").expect("it ends");
        let is_variant = |line: &&str| line.trim_start().starts_with(char::is_uppercase);
        let declared = variants.lines().filter(is_variant).count();
        let listed: HashSet<_> = CloseReason::all().map(|reason| discriminant(&reason)).collect();
        assert_eq!(listed.len(), declared);
    }
}
