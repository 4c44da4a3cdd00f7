//! Fatal alerts (RFC 8446 §6.2): how a peer hears of its mistake, and how a foreign agent, which knows
//! nothing of our messages, hears a refusal.

use crate::relay::CloseReason;
use crate::wire::RefusalReason;

/// What a fatal alert can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// A record or message that has no place where it came.
    UnexpectedMessage = 10,
    /// A record that does not open.
    BadRecordMac = 20,
    /// A record or message that is too large.
    RecordOverflow = 22,
    /// A certificate is revoked.
    CertificateRevoked = 44,
    /// A certificate is expired or not valid yet.
    CertificateExpired = 45,
    /// A value outside those allowed.
    IllegalParameter = 47,
    /// A certificate is of a CA that is not trusted here.
    UnknownCa = 48,
    /// The device may not reach that service, or any.
    AccessDenied = 49,
    /// A message that can't be read.
    DecodeError = 50,
    /// No version of TLS in common.
    ProtocolVersion = 70,
    /// There is no session now, through no fault of the agent.
    InternalError = 80,
    /// No service of that name.
    UnrecognizedName = 112,
    /// A certificate is needed, and none was shown.
    CertificateRequired = 116,
}

impl From<RefusalReason> for Alert {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::DeviceNotAllowed | RefusalReason::DeviceBlocked => Self::AccessDenied,
            RefusalReason::ServiceUnknown => Self::UnrecognizedName,
            _ => Self::InternalError,
        }
    }
}

impl From<CloseReason> for Alert {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::CertificateMissing => Self::CertificateRequired,
            CloseReason::CertificateExpired => Self::CertificateExpired,
            CloseReason::CertificateRevoked => Self::CertificateRevoked,
            // As rustls says it in a handshake.
            CloseReason::CertificateUntrusted | CloseReason::RevocationUnknown => Self::UnknownCa,
            other => other.refusal().into(),
        }
    }
}

const FATAL: u8 = 2;

impl Alert {
    /// Of the record that holds an alert.
    pub const CONTENT_TYPE: u8 = 21;

    /// What is in it.
    pub fn content(self) -> [u8; 2] {
        [FATAL, self as u8]
    }

    /// The record of this alert before any keys are agreed.
    pub fn unprotected_record(self) -> [u8; 7] {
        [Self::CONTENT_TYPE, 3, 3, 0, 2, FATAL, self as u8]
    }
}
