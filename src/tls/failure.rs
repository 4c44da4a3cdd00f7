use rustls::{CertificateError, Error};

use super::TlsError;
use crate::relay::CloseReason;

/// The close reason of a handshake that was refused.
pub fn handshake_failure(error: &TlsError) -> CloseReason {
    let TlsError::Rustls(error) = error else { return CloseReason::HandshakeFailed };
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
