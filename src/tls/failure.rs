use rustls::{CertificateError, Error};

use crate::relay::CloseReason;

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
        Error::InvalidCertificate(_) => CloseReason::CertificateUntrusted,
        _ => CloseReason::HandshakeFailed,
    }
}
