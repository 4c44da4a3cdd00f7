use rustls::{CertificateError, Error};

use super::TlsError;
use crate::relay::CloseReason;

impl TlsError {
    /// The close reason of a handshake that came to this.
    pub fn handshake_failure(&self) -> CloseReason {
        match self {
            Self::Rustls(error) => handshake_failure(error),
            Self::Record(_) => CloseReason::HandshakeFailed,
        }
    }
}

/// The close reason of a handshake that rustls refused.
pub fn handshake_failure(error: &Error) -> CloseReason {
    match error {
        Error::NoCertificatesPresented => CloseReason::CertificateMissing,
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => CloseReason::CertificateExpired,
        Error::InvalidCertificate(CertificateError::Revoked) => CloseReason::CertificateRevoked,
        Error::InvalidCertificate(
            CertificateError::UnknownRevocationStatus | CertificateError::ExpiredRevocationList,
        ) => CloseReason::RevocationUnknown,
        Error::InvalidCertificate(_) => CloseReason::CertificateUntrusted,
        _ => CloseReason::HandshakeFailed,
    }
}
