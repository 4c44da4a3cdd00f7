use crate::relay::{CloseReason, Failure, Party};
use crate::wire::FrameError;

/// What a receive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Payload, in the scratch buffer.
    Payload,
    /// Nothing for now.
    Nothing,
    /// The clean end.
    End,
    /// The leg is broken.
    Failed(Failure),
}

/// Why there is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageError {
    /// The bytes are not one.
    Frame(FrameError),
    /// The peer ended its direction.
    Ended,
    /// The leg is broken.
    Failed(Failure),
}

impl MessageError {
    /// The close reason of a connection with that party.
    pub fn close_reason(&self, party: Party) -> CloseReason {
        match self {
            Self::Frame(_) => CloseReason::FrameInvalid,
            Self::Ended => CloseReason::Truncated(party),
            Self::Failed(failure) => failure.close_reason(party),
        }
    }
}

/// Why a handshake did not come to its end.
#[derive(Debug)]
pub struct HandshakeError {
    /// The close reason of the connection.
    pub reason: CloseReason,
    /// What TLS said, for the log.
    pub detail: Option<String>,
}

impl HandshakeError {
    pub(super) fn gone() -> Self {
        Self { reason: CloseReason::HandshakeFailed, detail: None }
    }
}
