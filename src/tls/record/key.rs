use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher;

use super::{KernelKey, RecordError};
use crate::limits::{RECORD_HEADER_LEN, RECORD_TAG_LEN};

/// Bytes of the nonce that stand in each record of TLS 1.2 with AES-GCM (RFC 5288 §3).
const GCM_EXPLICIT_NONCE_LEN: usize = 8;

/// The key of one direction, with the number of the next record (RFC 8446 §5.3).
///
/// Both forms of the key are overwritten when they are dropped: the expanded one by aws-lc
/// (`OPENSSL_free`), the other by rustls (`zeroize`).
pub(in crate::tls) struct RecordKey {
    secrets: ConnectionTrafficSecrets,
    /// Expanded, some 500 bytes; made again when it is needed.
    aead: Option<LessSafeKey>,
    sequence: u64,
}

impl RecordKey {
    pub(in crate::tls) fn new(
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

    /// This key in the kernel's hands. It must not be used here after that.
    pub(super) fn for_kernel(&self) -> KernelKey<'_> {
        KernelKey { secrets: &self.secrets, sequence: self.sequence }
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

    /// A whole record of TLS 1.2 with that content (RFC 5246 §6.2.3.3; RFC 5288 §3, RFC 7905 §2). Its nonce is
    /// made as rustls makes it, so that under keys of its own none comes twice.
    pub(in crate::tls) fn seal_older(
        &mut self,
        content_type: u8,
        content: &[u8],
    ) -> Result<Vec<u8>, RecordError> {
        let explicit_len = match self.secrets {
            ConnectionTrafficSecrets::Chacha20Poly1305 { .. } => 0,
            _ => GCM_EXPLICIT_NONCE_LEN,
        };
        let header = |len: usize| {
            let len = u16::try_from(len).map_err(|_| RecordError::TooLarge)?.to_be_bytes();
            Ok::<_, RecordError>([content_type, 3, 3, len[0], len[1]])
        };
        let number = self.sequence.to_be_bytes();
        let additional = [&number[..], &header(content.len())?].concat();
        let mut record = header(explicit_len + content.len() + RECORD_TAG_LEN)?.to_vec();
        let (aead, nonce) = self.aead_and_nonce()?;
        record.extend(&nonce.as_ref()[NONCE_LEN - explicit_len..]);
        let start = record.len();
        record.extend(content);
        let sealed = &mut record[start..];
        let tag = aead.seal_in_place_separate_tag(nonce, Aad::from(additional), sealed);
        self.sequence += 1;
        record.extend(tag.map_err(|_| RecordError::Unsupported)?.as_ref());
        Ok(record)
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
