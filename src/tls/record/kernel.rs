//! What is left to decide where the kernel opens and seals the records (`relay = "ktls"`).

use rustls::ConnectionTrafficSecrets;

use super::RecordError;
use super::control::{Control, KeyUpdate};
use crate::limits::{KEY_UPDATE_MARGIN, MAX_RECORD_CONTENT_LEN};

/// The key of one direction, to be given to the kernel between two records.
pub struct KernelKey<'k> {
    /// Key and nonce.
    pub secrets: &'k ConnectionTrafficSecrets,
    /// Number of the next record.
    pub sequence: u64,
}

/// The number of its first record, and the key.
pub type NextKey = (u64, ConnectionTrafficSecrets);

/// A connection whose records the kernel opens and seals.
pub(in crate::tls) struct KernelRecords {
    control: Control,
    /// No fewer than were sealed.
    sealed: u64,
    key_limit: u64,
}

impl KernelRecords {
    pub(super) fn new(control: Control, sealed: u64, key_limit: u64) -> Self {
        Self { control, sealed, key_limit }
    }

    pub(in crate::tls) fn peer_has_closed(&self) -> bool {
        self.control.peer_has_closed()
    }

    /// So many bytes of payload, of some records or of a part of one.
    pub(in crate::tls) fn take_payload(&mut self, len: usize) -> Result<(), RecordError> {
        self.control.take_payload(len)
    }

    /// A record of another type.
    pub(in crate::tls) fn take(
        &mut self,
        content_type: u8,
        content: &[u8],
    ) -> Result<Option<KeyUpdate>, RecordError> {
        self.control.take(content_type, content)
    }

    /// The next key of the peer's.
    pub(in crate::tls) fn next_opening(&mut self) -> Result<NextKey, RecordError> {
        self.control.secrets.next_opening()
    }

    /// The next key of ours, which has sealed nothing yet.
    pub(in crate::tls) fn next_sealing(&mut self) -> Result<NextKey, RecordError> {
        let next = self.control.secrets.next_sealing()?;
        self.sealed = next.0;
        Ok(next)
    }

    /// One call has sent so many bytes of payload. The kernel ends a record with each call, and may have begun another
    /// one before it ran out of memory.
    pub(in crate::tls) fn note_sealed(&mut self, len: usize) -> Result<(), RecordError> {
        self.recount_sealed(self.sealed + len.div_ceil(MAX_RECORD_CONTENT_LEN) as u64 + 1)
    }

    /// So many records were sealed, as the kernel knows.
    pub(in crate::tls) fn recount_sealed(&mut self, sealed: u64) -> Result<(), RecordError> {
        self.sealed = sealed;
        if self.sealed + KEY_UPDATE_MARGIN >= self.key_limit {
            return Err(RecordError::KeyUsedUp);
        }
        Ok(())
    }
}
