use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::{Alert, RecordError, TlsError};
use crate::relay::{CloseReason, Failure};

impl TlsError {
    /// The close reason of a handshake that came to this.
    pub fn handshake_failure(&self) -> CloseReason {
        match self {
            Self::Rustls(error) => handshake_failure(error),
            Self::Record(_) => CloseReason::HandshakeFailed,
        }
    }

    /// How a leg broke that can't seal its payload.
    pub fn sealing_failure(&self) -> Failure {
        match self {
            // rustls has no other use for it.
            Self::Rustls(Error::EncryptError) | Self::Record(RecordError::KeyUsedUp) => {
                Failure::KeyUsedUp
            }
            _ => Failure::Corrupt,
        }
    }

    /// What the peer is told of its record.
    pub fn alert(&self) -> Option<Alert> {
        match self {
            Self::Record(error) => error.alert(),
            Self::Rustls(_) => None,
        }
    }

    /// How a leg broke that can't open what came.
    pub fn opening_failure(&self) -> Failure {
        match self {
            Self::Record(RecordError::KeyUpdated) => Failure::KeyUpdated,
            _ => Failure::Corrupt,
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
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => CloseReason::TlsVersion,
        _ => CloseReason::HandshakeFailed,
    }
}
