use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher;

use super::RecordError;
use crate::limits::{RECORD_HEADER_LEN, RECORD_TAG_LEN};

/// The key of one direction, with the number of the next record (RFC 8446 §5.3).
///
/// Both forms of the key are overwritten when they are dropped: the expanded one by aws-lc
/// (`OPENSSL_free`), the other by rustls (`zeroize`).
pub(super) struct RecordKey {
    secrets: ConnectionTrafficSecrets,
    /// Expanded, some 500 bytes; made again when it is needed.
    aead: Option<LessSafeKey>,
    sequence: u64,
}

impl RecordKey {
    pub(super) fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, RecordError> {
        let aead = Some(expand(&secrets)?);
        Ok(Self { secrets, aead, sequence })
    }

    /// Forgets the expanded key until the next record.
    pub(super) fn cool(&mut self) {
        self.aead = None;
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
        let (aead, nonce) = self.aead_and_nonce()?;
        let opened = aead.open_in_place(nonce, Aad::from(header), sealed);
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
        let (aead, nonce) = self.aead_and_nonce()?;
        let sealed = aead.seal_in_place_separate_tag(nonce, Aad::from(header), inner);
        self.sequence += 1;
        tag[..RECORD_TAG_LEN]
            .copy_from_slice(sealed.map_err(|_| RecordError::Unsupported)?.as_ref());
        Ok(())
    }

    fn aead_and_nonce(&mut self) -> Result<(&LessSafeKey, Nonce), RecordError> {
        let (ConnectionTrafficSecrets::Aes128Gcm { iv, .. }
        | ConnectionTrafficSecrets::Aes256Gcm { iv, .. }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { iv, .. }) = &self.secrets
        else {
            return Err(RecordError::Unsupported);
        };
        let nonce = cipher::Nonce::new(iv, self.sequence).0;
        if self.aead.is_none() {
            self.aead = Some(expand(&self.secrets)?);
        }
        let aead = self.aead.as_ref().ok_or(RecordError::Unsupported)?;
        Ok((aead, Nonce::assume_unique_for_key(nonce)))
    }
}

fn expand(secrets: &ConnectionTrafficSecrets) -> Result<LessSafeKey, RecordError> {
    let (algorithm, key) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, .. } => (&AES_128_GCM, key),
        ConnectionTrafficSecrets::Aes256Gcm { key, .. } => (&AES_256_GCM, key),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, .. } => (&CHACHA20_POLY1305, key),
        _ => return Err(RecordError::Unsupported),
    };
    let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Unsupported)?;
    Ok(LessSafeKey::new(key))
}
