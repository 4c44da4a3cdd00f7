use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

use super::RecordError;
use crate::limits::{RECORD_HEADER_LEN, RECORD_TAG_LEN};

/// The key of one direction, with the number of the next record (RFC 8446 §5.3).
///
/// aws-lc overwrites the expanded key when it is dropped (`OPENSSL_free`), and rustls the traffic
/// secret and the key that we are given (`zeroize`).
pub(super) struct RecordKey {
    aead: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl RecordKey {
    pub(super) fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, RecordError> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(RecordError::Unsupported),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Unsupported)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Unsupported)?;
        Ok(Self { aead: LessSafeKey::new(key), iv, sequence })
    }

    /// Records so far.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Opens a record in place; returns the length of its inner plaintext. A record that does not
    /// open uses up no number.
    pub(super) fn open(
        &mut self,
        header: [u8; RECORD_HEADER_LEN],
        sealed: &mut [u8],
    ) -> Result<usize, RecordError> {
        let opened = self.aead.open_in_place(self.nonce(), Aad::from(header), sealed);
        let len = opened.map_err(|_| RecordError::NotAuthentic)?.len();
        self.sequence += 1;
        Ok(len)
    }

    /// Seals `inner` in place and fills `tag`. Each call uses up a number, so no two records are
    /// ever sealed under the same one.
    pub(super) fn seal(
        &mut self,
        header: [u8; RECORD_HEADER_LEN],
        inner: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), RecordError> {
        let nonce = self.nonce();
        self.sequence += 1;
        let sealed = self.aead.seal_in_place_separate_tag(nonce, Aad::from(header), inner);
        tag[..RECORD_TAG_LEN]
            .copy_from_slice(sealed.map_err(|_| RecordError::Unsupported)?.as_ref());
        Ok(())
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}
