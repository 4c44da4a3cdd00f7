//! Fatal alerts of our own choice: how a foreign agent, which knows nothing of our messages, hears a
//! refusal (RFC 8446 §6.2).

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher;

use crate::relay::CloseReason;
use crate::wire::RefusalReason;

/// What a fatal alert can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// A certificate is expired or not valid yet.
    CertificateExpired = 45,
    /// A certificate is of a CA that is not trusted here.
    UnknownCa = 48,
    /// The device may not reach that service.
    AccessDenied = 49,
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
            RefusalReason::DeviceNotAllowed => Self::AccessDenied,
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
            CloseReason::CertificateUntrusted => Self::UnknownCa,
            other => other.refusal().into(),
        }
    }
}

const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;
const FATAL: u8 = 2;

impl Alert {
    /// The record of this alert before any keys are agreed.
    pub fn unprotected_record(self) -> [u8; 7] {
        [ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}

/// The record of a protected alert. The secrets are of no use after it: the caller gave up the
/// connection that they are from, so no sequence number is used twice.
pub(super) fn seal(
    alert: Alert,
    sequence: u64,
    secrets: &ConnectionTrafficSecrets,
) -> Option<Vec<u8>> {
    seal_record(ALERT, &[FATAL, alert as u8], sequence, secrets)
}

/// A protected record with a short payload (RFC 8446 §5.2).
pub(super) fn seal_record(
    content_type: u8,
    payload: &[u8],
    sequence: u64,
    secrets: &ConnectionTrafficSecrets,
) -> Option<Vec<u8>> {
    let (algorithm, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => return None,
    };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?);
    let nonce = Nonce::assume_unique_for_key(cipher::Nonce::new(iv, sequence).0);
    let mut inner = [payload, &[content_type]].concat();
    let len = u16::try_from(inner.len() + algorithm.tag_len()).ok()?.to_be_bytes();
    let header = [APPLICATION_DATA, 3, 3, len[0], len[1]];
    key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).ok()?;
    Some([&header[..], &inner[..]].concat())
}
