use std::fmt;

/// Why there is no session: one closed list for every hop of the wire.
///
/// The numbers are those of `vestibule.proto`; the words are the same in log, metric and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RefusalReason {
    /// The sender named no reason, or one that this release does not know.
    Unspecified = 0,
    /// The gateway has no service of that name for this listener.
    ServiceUnknown = 1,
    /// This device may not reach that service.
    DeviceNotAllowed = 2,
    /// No server is connected that serves it.
    NoServer = 3,
    /// Too many agents wait already.
    QueueFull = 4,
    /// The server was invited and did not come in time.
    InvitationTimeout = 5,
    /// The server is at its capacity.
    ServerFull = 6,
    /// The backend refused the connection.
    BackendRefused = 7,
    /// The backend did not answer in time.
    BackendTimeout = 8,
    /// The backend's name or address leads nowhere.
    BackendUnreachable = 9,
    /// TLS with the backend failed.
    BackendTlsFailed = 10,
    /// The ticket is wrong, was used, or is too old.
    TicketInvalid = 11,
    /// The gateway or the server shuts down.
    Draining = 12,
    /// A message came that has no place there, or that nobody knows.
    ProtocolError = 13,
    /// The agent left before the session was joined.
    AgentLeft = 14,
    /// Something failed inside; the log of the sender says what.
    InternalError = 15,
    /// The device has as many sessions as one may have.
    DeviceFull = 16,
    /// The device begins sessions faster than one may.
    DeviceTooFast = 17,
    /// The service has as many sessions as it may have.
    ServiceFull = 18,
    /// Sessions of the service begin faster than they may.
    ServiceTooFast = 19,
    /// An operator of the gateway has blocked this device, or its address.
    DeviceBlocked = 20,
    /// Gateway and server do not agree on where the agents' TLS ends.
    PassthroughMismatch = 21,
}

impl RefusalReason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 22] = [
        Self::Unspecified,
        Self::ServiceUnknown,
        Self::DeviceNotAllowed,
        Self::NoServer,
        Self::QueueFull,
        Self::InvitationTimeout,
        Self::ServerFull,
        Self::BackendRefused,
        Self::BackendTimeout,
        Self::BackendUnreachable,
        Self::BackendTlsFailed,
        Self::TicketInvalid,
        Self::Draining,
        Self::ProtocolError,
        Self::AgentLeft,
        Self::InternalError,
        Self::DeviceFull,
        Self::DeviceTooFast,
        Self::ServiceFull,
        Self::ServiceTooFast,
        Self::DeviceBlocked,
        Self::PassthroughMismatch,
    ];

    /// The one word for this reason, in log, metric and status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "refused",
            Self::ServiceUnknown => "service_unknown",
            Self::DeviceNotAllowed => "device_not_allowed",
            Self::NoServer => "no_server",
            Self::QueueFull => "queue_full",
            Self::InvitationTimeout => "invitation_timeout",
            Self::ServerFull => "server_full",
            Self::BackendRefused => "backend_refused",
            Self::BackendTimeout => "backend_timeout",
            Self::BackendUnreachable => "backend_unreachable",
            Self::BackendTlsFailed => "backend_tls_failed",
            Self::TicketInvalid => "ticket_invalid",
            Self::Draining => "draining",
            Self::ProtocolError => "protocol_error",
            Self::AgentLeft => "agent_left",
            Self::InternalError => "internal_error",
            Self::DeviceFull => "device_full",
            Self::DeviceTooFast => "device_too_fast",
            Self::ServiceFull => "service_full",
            Self::ServiceTooFast => "service_too_fast",
            Self::DeviceBlocked => "device_blocked",
            Self::PassthroughMismatch => "passthrough_mismatch",
        }
    }

    /// Whether the same request may succeed later without anyone changing a configuration.
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::NoServer
                | Self::QueueFull
                | Self::InvitationTimeout
                | Self::ServerFull
                | Self::BackendRefused
                | Self::BackendTimeout
                | Self::BackendUnreachable
                | Self::Draining
                | Self::DeviceFull
                | Self::DeviceTooFast
                | Self::ServiceFull
                | Self::ServiceTooFast
        )
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
