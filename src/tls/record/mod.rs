//! The records of TLS 1.3 after its handshake (RFC 8446 §5), opened and sealed in the bytes where they
//! lie: an unpadded record has the same length on both sides of a relay, so that payload goes from one
//! connection to another without a copy.

mod control;
mod kernel;
mod key;
mod pieces;

use rustls::ExtractedSecrets;
use thiserror::Error;

use self::control::Control;
pub use self::control::KeyUpdate;
pub(super) use self::control::Secrets;
pub(super) use self::kernel::KernelRecords;
pub use self::kernel::{KernelKey, NextKey};
pub(super) use self::key::RecordKey;
pub use self::pieces::Pieces;
use super::Alert;
use crate::limits::{
    KEY_UPDATE_MARGIN, MAX_RECORD_CONTENT_LEN, MAX_RECORD_LEN, RECORD_HEADER_LEN, RECORD_TAG_LEN,
    RECORD_TRAILER_LEN,
};

const ALERT: u8 = 21;
/// Content type of handshake messages.
pub const HANDSHAKE: u8 = 22;
/// Content type of payload.
pub const APPLICATION_DATA: u8 = 23;

const KEY_UPDATE: u8 = 24;
/// The message that says that our next record is under a new key. The peer's is not asked for: the two directions are as
/// independent as the limits of their keys.
pub const OUR_KEY_UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

const CLOSE: u8 = 0;
const WARNING: u8 = 1;
const FATAL: u8 = 2;
/// Content of the alert that ends a direction.
pub const CLOSE_NOTIFY: [u8; 2] = [WARNING, CLOSE];

/// Why a connection can't go on after its handshake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The peer's: forged, damaged, replayed or out of order.
    #[error("the peer sent a record that its key does not open")]
    NotAuthentic,
    /// The peer's.
    #[error("the peer sent a record that is larger than allowed")]
    TooLarge,
    /// The peer's: a type of record or message that has no place here.
    #[error("the peer sent {0}, which has no place here")]
    Unexpected(&'static str),
    /// The peer's.
    #[error("the peer sent {0} that can't be read")]
    Malformed(&'static str),
    /// The peer's: a `KeyUpdate` that asks for neither of the two things that it may.
    #[error("the peer sent a KeyUpdate of an unknown kind")]
    IllegalKeyUpdate,
    /// The peer's word on an error of ours.
    #[error("the peer gave up with the fatal alert {0}")]
    Alerted(u8),
    /// The peer's right, and too much for a kernel that has the key.
    #[error("the peer changed its key, and the kernel, which has the old one, takes no other")]
    KeyUpdated,
    /// Ours: the kernel's key has sealed as many records as one may.
    #[error("the key of this connection is used up")]
    KeyUsedUp,
    /// Ours: keys of a suite that we do not know, or that are used up.
    #[error("the keys of this connection can't be used")]
    Unsupported,
}

impl RecordError {
    /// What the peer is told.
    pub(super) fn alert(&self) -> Option<Alert> {
        match self {
            Self::NotAuthentic => Some(Alert::BadRecordMac),
            Self::TooLarge => Some(Alert::RecordOverflow),
            Self::Unexpected(_) => Some(Alert::UnexpectedMessage),
            Self::Malformed(_) => Some(Alert::DecodeError),
            Self::IllegalKeyUpdate => Some(Alert::IllegalParameter),
            Self::KeyUpdated | Self::KeyUsedUp | Self::Unsupported => Some(Alert::InternalError),
            Self::Alerted(_) => None,
        }
    }
}

/// Both directions of one connection.
pub(super) struct Records {
    opening: RecordKey,
    sealing: RecordKey,
    control: Control,
    /// Records that one key may seal.
    key_limit: u64,
    failed: Option<RecordError>,
}

impl Records {
    /// Takes a connection over from rustls, between two records.
    pub(super) fn new(extracted: ExtractedSecrets, secrets: Secrets) -> Result<Self, RecordError> {
        Ok(Self {
            opening: RecordKey::new(extracted.rx)?,
            sealing: RecordKey::new(extracted.tx)?,
            key_limit: secrets.key_limit()?,
            control: Control::new(secrets),
            failed: None,
        })
    }

    /// Takes less room until the next record.
    pub(super) fn cool(&mut self) {
        self.opening.cool();
        self.sealing.cool();
    }

    /// Whether the peer's close_notify has come.
    pub(super) fn peer_has_closed(&self) -> bool {
        self.control.peer_has_closed()
    }

    /// Bytes that are missing to the end of the record, or of the header, that begins with `pending`.
    pub(super) fn missing_len(pending: &[u8]) -> usize {
        let whole = match *pending {
            [_, _, _, high, low, ..] => {
                RECORD_HEADER_LEN + usize::from(u16::from_be_bytes([high, low]))
            }
            _ => RECORD_HEADER_LEN,
        };
        whole.saturating_sub(pending.len())
    }

    /// The keys of what comes and of what goes, for the kernel. `None` where it must not have them: in the middle
    /// of a message, or where nothing more will be opened.
    pub(super) fn kernel_keys(&self) -> Option<[KernelKey<'_>; 2]> {
        let is_between = self.failed.is_none()
            && !self.control.is_inside_message()
            && !self.control.peer_has_closed();
        is_between.then(|| [&self.opening, &self.sealing].map(RecordKey::for_kernel))
    }

    /// What is left to be known here once the kernel opens and seals.
    pub(super) fn into_kernel_records(self) -> KernelRecords {
        KernelRecords::new(self.control, self.sealing.sequence(), self.key_limit)
    }

    /// Opens every whole record at the front of `bytes`, in place, up to a close_notify. Payload is added to
    /// `pieces`; what is to be sent in answer, to `answers`. Returns the bytes that are done with: the rest is the
    /// beginning of a record, to be shown again with what follows it, or stands behind the end of TLS.
    ///
    /// After an error, which is also told to the peer in `answers`, nothing more is opened or sealed.
    pub(super) fn open(
        &mut self,
        bytes: &mut [u8],
        pieces: &mut Pieces,
        answers: &mut Vec<u8>,
    ) -> Result<usize, RecordError> {
        self.check()?;
        let mut at = 0;
        // What follows a close_notify is none of TLS (RFC 8446 §6.1).
        while !self.peer_has_closed() {
            match self.open_record(&mut bytes[at..], at, pieces, answers) {
                Ok(Some(len)) => at += len,
                Ok(None) => return Ok(at),
                Err(error) => return Err(self.fail(error, answers)),
            }
        }
        Ok(at)
    }

    /// Opens one record; returns its length, or `None` where it is not whole.
    fn open_record(
        &mut self,
        bytes: &mut [u8],
        at: usize,
        pieces: &mut Pieces,
        answers: &mut Vec<u8>,
    ) -> Result<Option<usize>, RecordError> {
        let Some((&mut header, rest)) = bytes.split_first_chunk_mut::<RECORD_HEADER_LEN>() else {
            return Ok(None);
        };
        if header[0] != APPLICATION_DATA {
            return Err(RecordError::Unexpected("an unprotected record"));
        }
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if RECORD_HEADER_LEN + len > MAX_RECORD_LEN {
            return Err(RecordError::TooLarge);
        }
        let Some(sealed) = rest.get_mut(..len) else { return Ok(None) };
        let inner_len = self.opening.open(header, sealed)?;
        // The type is the last byte that is not zero: zeros behind it are padding.
        let Some(end) = sealed[..inner_len].iter().rposition(|&byte| byte != 0) else {
            return Err(RecordError::Unexpected("a record without a type"));
        };
        if inner_len > MAX_RECORD_CONTENT_LEN + 1 {
            return Err(RecordError::TooLarge);
        }
        match sealed[end] {
            APPLICATION_DATA => {
                self.control.take_payload(end)?;
                let start = at + RECORD_HEADER_LEN;
                if end > 0 {
                    pieces.push(start..start + end);
                }
            }
            content_type => {
                if let Some(update) = self.control.take(content_type, &sealed[..end])? {
                    self.take_key_update(update, answers)?;
                }
            }
        }
        Ok(Some(RECORD_HEADER_LEN + len))
    }

    fn take_key_update(
        &mut self,
        update: KeyUpdate,
        answers: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        self.opening = RecordKey::new(self.control.secrets.next_opening()?)?;
        if update.asks_for_ours { self.update_sealing_key(answers) } else { Ok(()) }
    }

    /// Tells the peer that our next record is under a new key, and takes that key.
    fn update_sealing_key(&mut self, outgoing: &mut Vec<u8>) -> Result<(), RecordError> {
        self.seal_short(HANDSHAKE, &OUR_KEY_UPDATE, outgoing)?;
        self.sealing = RecordKey::new(self.control.secrets.next_sealing()?)?;
        Ok(())
    }

    /// Seals each piece of `buffer` where it lies: afterwards the pieces are whole records. What must
    /// be sent before them is added to `ahead`.
    pub(super) fn seal(
        &mut self,
        buffer: &mut [u8],
        pieces: &mut Pieces,
        ahead: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        self.check()?;
        if self.sealing.sequence() + KEY_UPDATE_MARGIN.min(self.key_limit / 2) >= self.key_limit {
            self.update_sealing_key(ahead)?;
        }
        for range in pieces.ranges_mut() {
            let record = range.start - RECORD_HEADER_LEN..range.end + RECORD_TRAILER_LEN;
            self.seal_record(APPLICATION_DATA, &mut buffer[record.clone()])?;
            *range = record;
        }
        Ok(())
    }

    /// Appends the records that carry `payload`.
    pub(super) fn seal_copy(
        &mut self,
        payload: &[u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let mut buffer = vec![0; Pieces::space_for(payload.len())];
        let mut pieces = Pieces::default();
        pieces.lay_out(payload, &mut buffer);
        self.seal(&mut buffer, &mut pieces, outgoing)?;
        outgoing.extend_from_slice(&buffer);
        Ok(())
    }

    /// Appends a close_notify: the clean end of our direction.
    pub(super) fn seal_end(&mut self, outgoing: &mut Vec<u8>) -> Result<(), RecordError> {
        self.check()?;
        self.seal_short(ALERT, &CLOSE_NOTIFY, outgoing)
    }

    /// Appends a fatal alert, after which the connection is of no more use. Nothing where it has
    /// failed: the peer has heard its alert.
    pub(super) fn seal_alert(mut self, alert: Alert, outgoing: &mut Vec<u8>) {
        if self.failed.is_none() {
            // It fails only with a key that is used up, and then there is no way to say anything.
            let _ = self.seal_short(ALERT, &[FATAL, alert as u8], outgoing);
        }
    }

    fn seal_short(
        &mut self,
        content_type: u8,
        content: &[u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let start = outgoing.len();
        outgoing.extend_from_slice(&[0; RECORD_HEADER_LEN]);
        outgoing.extend_from_slice(content);
        outgoing.extend_from_slice(&[0; RECORD_TRAILER_LEN]);
        self.seal_record(content_type, &mut outgoing[start..])
    }

    /// Seals `record`, whose content stands between room for header and trailer.
    fn seal_record(&mut self, content_type: u8, record: &mut [u8]) -> Result<(), RecordError> {
        if self.sealing.sequence() >= self.key_limit {
            return Err(RecordError::Unsupported);
        }
        let (header, sealed) = record.split_at_mut(RECORD_HEADER_LEN);
        let len = u16::try_from(sealed.len()).map_err(|_| RecordError::TooLarge)?.to_be_bytes();
        let values = [APPLICATION_DATA, 3, 3, len[0], len[1]];
        header.copy_from_slice(&values);
        let (inner, tag) = sealed.split_at_mut(sealed.len() - RECORD_TAG_LEN);
        if let Some(last) = inner.last_mut() {
            *last = content_type;
        }
        self.sealing.seal(values, inner, tag)
    }

    fn check(&self) -> Result<(), RecordError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn fail(&mut self, error: RecordError, answers: &mut Vec<u8>) -> RecordError {
        if let Some(alert) = error.alert() {
            // As in `seal_alert`.
            let _ = self.seal_short(ALERT, &[FATAL, alert as u8], answers);
        }
        self.failed = Some(error.clone());
        error
    }
}

#[cfg(test)]
mod tests;
