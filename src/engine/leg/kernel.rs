//! Legs whose TLS is the kernel's (`relay = "ktls"`): it gets the keys between two records, once all that was received and
//! sealed before is through, and what is left to be done here is what carries no payload.

use std::array;
use std::io::{self, ErrorKind, IoSliceMut};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Leg, RECEIVE_PLACES, WriteSide};
use crate::engine::platform::{KernelTls, RelayMode};
use crate::engine::received::Received;
use crate::engine::scratch::Scratch;
use crate::limits::{FIRST_PUSH_LOOK, MAX_PUSH_LOOK, RECORD_HEADER_LEN, RECORD_TAG_LEN};
use crate::relay::Failure;
use crate::tls::{
    APPLICATION_DATA, Alert, CLOSE_NOTIFY, HANDSHAKE, KernelKey, KeyUpdate, OUR_KEY_UPDATE, Pieces,
    TlsConnection, TlsError, TlsVersion,
};
use crate::uring::{
    Direction, attach_tls, expect_no_padding, give_key, receive_opened, sealed_records,
    send_record, written_len,
};

/// What the kernel adds to the content of a record: header, type and tag.
const ADDED_LEN: u64 = (RECORD_HEADER_LEN + 1 + RECORD_TAG_LEN) as u64;

/// Whether the kernel has the TLS of a leg.
#[derive(Default)]
pub(super) enum KernelSide {
    /// It has not, and will not.
    #[default]
    No,
    /// It is to have it, as soon as all that came and went is through.
    Wanted(KernelTls),
    Given(Box<Given>),
}

/// A leg that was given to the kernel.
pub(super) struct Given {
    means: KernelTls,
    info_len: usize,
    /// Number of the first record under the present key.
    first: u64,
    /// Bytes that TCP had taken by then.
    written: u64,
    /// Content that the kernel has taken since.
    content: u64,
    /// Whether our next record is to be a `KeyUpdate`.
    owes_key_update: bool,
    said_end: bool,
    /// When it is to be looked at whether all before the end has been sent, and in what time the next time.
    look_at: Option<Instant>,
    look_in: Duration,
}

/// Whether a splice failed because what comes next is no payload (`tls_sw_splice_read`).
pub(super) fn is_no_payload(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}

impl Leg {
    /// The kernel is to have the TLS of this leg, where that is chosen and it is TLS 1.3.
    pub(super) fn want_kernel_tls(&mut self, relay: RelayMode) {
        let version = self.tls.as_ref().and_then(TlsConnection::version);
        if let (RelayMode::Kernel(means), Some(TlsVersion::Current)) = (relay, version) {
            self.kernel = KernelSide::Wanted(means);
        }
    }

    /// Whether it is still to get there.
    pub(super) fn waits_for_kernel_tls(&self) -> bool {
        matches!(self.kernel, KernelSide::Wanted(_))
    }

    /// Gives the kernel the keys, where it is to have them and nothing stands in the way any more. Where it does not take
    /// them, all stays as it was.
    pub(in crate::engine) fn give_to_kernel(&mut self) -> Result<(), Failure> {
        let KernelSide::Wanted(means) = self.kernel else { return Ok(()) };
        if !self.outbox.is_empty() {
            self.flush()?;
        }
        if !self.pending.is_empty() || self.unopened || !self.outbox.is_empty() {
            return Ok(());
        }
        let Some(tls) = self.tls.as_mut().filter(|_| self.write_side == WriteSide::Open) else {
            self.kernel = KernelSide::No;
            return Ok(());
        };
        let Some([opening, sealing]) = tls.kernel_keys() else { return Ok(()) };
        let first = sealing.sequence;
        let give = |direction, key: KernelKey<'_>| {
            give_key(&self.socket, direction, key.secrets, key.sequence)
        };
        // Not to be had on a socket that is closing, nor where memory is short.
        let begun = attach_tls(&self.socket)
            .and_then(|()| Ok((written_len(&self.socket)?, give(Direction::Sealing, sealing)?)));
        let Ok((written, info_len)) = begun else {
            self.kernel = KernelSide::No;
            return Ok(());
        };
        // There is no way back from one key alone.
        give(Direction::Opening, opening).map_err(|_| Failure::Reset)?;
        // Linux 6.0.
        let _ = expect_no_padding(&self.socket);
        tls.give_to_kernel();
        let given = Given {
            means,
            info_len,
            first,
            written,
            content: 0,
            owes_key_update: false,
            said_end: false,
            look_at: None,
            look_in: FIRST_PUSH_LOOK,
        };
        self.kernel = KernelSide::Given(Box::new(given));
        Ok(())
    }

    /// Whether the kernel has yet to say our end, or to send all that is before it: TCP must go on until then.
    pub(in crate::engine) fn is_pushing(&self) -> bool {
        self.is_kernels() && self.write_side == WriteSide::Ending && self.outbox.is_empty()
    }

    /// When to look again whether it has done so, since nobody tells. `None` where that was said already.
    pub(in crate::engine) fn next_push_look(&mut self, now: Instant) -> Option<Instant> {
        let is_pushing = self.is_pushing();
        let KernelSide::Given(given) = &mut self.kernel else { return None };
        if !is_pushing || given.look_at.is_some_and(|at| at > now) {
            return None;
        }
        given.look_at = Some(now + given.look_in);
        given.look_in = (given.look_in * 2).min(MAX_PUSH_LOOK);
        given.look_at
    }

    /// Whether the kernel can move payload of this leg through a pipe.
    pub(in crate::engine) fn is_spliced(&self) -> bool {
        let has_records = matches!(&self.kernel, KernelSide::Given(given) if given.means.splices)
            && !self.tls.as_ref().is_some_and(TlsConnection::peer_has_closed);
        (self.tls.is_none() || has_records) && self.unread.is_empty() && !self.refuses_tls
    }

    /// Whether the kernel opens and seals.
    pub(in crate::engine) fn is_kernels(&self) -> bool {
        matches!(self.kernel, KernelSide::Given(_))
    }

    /// Receives what the kernel has opened.
    pub(super) fn receive_opened(
        &mut self,
        scratch: &mut Scratch,
        budget: usize,
    ) -> Result<Received, Failure> {
        let Some(tls) = &mut self.tls else { return Ok(Received::Nothing) };
        if tls.peer_has_closed() {
            return Ok(Received::End);
        }
        let mut places = Pieces::places(&mut scratch.buffer[..Pieces::space_for(budget)]);
        let mut slices: [IoSliceMut<'_>; RECEIVE_PLACES] =
            array::from_fn(|_| IoSliceMut::new(places.next().unwrap_or_default()));
        let (len, content_type) = match receive_opened(&self.socket, &mut slices) {
            Ok((_, None)) => return Err(Failure::Truncated),
            Ok((len, Some(content_type))) => (len, content_type),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readiness.readable = false;
                return Ok(Received::Nothing);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Received::Nothing),
            Err(error) => return Err(self.not_received(&error)),
        };
        if content_type == APPLICATION_DATA {
            scratch.pieces.take_places(len);
            let received = if len > 0 { Received::Payload } else { Received::Nothing };
            return tls.take_payload(len).map(|()| received).map_err(|error| self.refuse(&error));
        }
        // One place has room for a whole record.
        let taken = tls.take_record(content_type, &slices[0][..len.min(slices[0].len())]);
        let closed = tls.peer_has_closed();
        if let Some(update) = taken.map_err(|error| self.refuse(&error))? {
            self.take_key_update(update)?;
        }
        Ok(if closed { Received::End } else { Received::Nothing })
    }

    /// Gives the kernel the peer's next key: it opens nothing before.
    fn take_key_update(&mut self, update: KeyUpdate) -> Result<(), Failure> {
        let (KernelSide::Given(given), Some(tls)) = (&mut self.kernel, &mut self.tls) else {
            return Ok(());
        };
        if !given.means.takes_new_keys {
            self.tell(Alert::InternalError);
            return Err(Failure::KeyUpdated);
        }
        let (sequence, secrets) = tls.next_opening().map_err(|error| error.opening_failure())?;
        give_key(&self.socket, Direction::Opening, &secrets, sequence)
            .map_err(|_| Failure::KeyUpdated)?;
        given.owes_key_update |= update.asks_for_ours;
        self.may_seal().map(drop)
    }

    /// Whether payload may be given to the kernel now: not before it has sent a `KeyUpdate` of ours that is due, and has the key
    /// behind it.
    pub(super) fn may_seal(&mut self) -> Result<bool, Failure> {
        if !matches!(&self.kernel, KernelSide::Given(given) if given.owes_key_update) {
            return Ok(true);
        }
        if !self.say(HANDSHAKE, &OUR_KEY_UPDATE)? {
            return Ok(false);
        }
        let (KernelSide::Given(given), Some(tls)) = (&mut self.kernel, &mut self.tls) else {
            return Ok(true);
        };
        let sealed = sealed_records(&self.socket, given.info_len).map_err(|_| Failure::Reset)?;
        given.written += (sealed - given.first) * ADDED_LEN;
        given.content += OUR_KEY_UPDATE.len() as u64;
        let (first, secrets) = tls.next_sealing().map_err(|error| error.sealing_failure())?;
        give_key(&self.socket, Direction::Sealing, &secrets, first)
            .map_err(|_| Failure::KeyUsedUp)?;
        given.first = first;
        given.owes_key_update = false;
        Ok(true)
    }

    /// Has the kernel send a record of another type than payload. `Ok(false)` where it takes none for now.
    fn say(&mut self, content_type: u8, content: &[u8]) -> Result<bool, Failure> {
        match send_record(&self.socket, content_type, content) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readiness.writable = false;
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
            Err(_) => Err(Failure::Reset),
        }
    }

    /// How a leg broke that could not receive.
    pub(super) fn not_received(&mut self, error: &io::Error) -> Failure {
        match Errno::from_io_error(error) {
            // Forged; too long or too short; not of TLS 1.3 (tls_sw.c, tls_strp.c).
            Some(Errno::BADMSG | Errno::MSGSIZE | Errno::INVAL | Errno::IO)
                if self.is_kernels() =>
            {
                self.tell(Alert::BadRecordMac);
                Failure::Corrupt
            }
            _ => Failure::Reset,
        }
    }

    /// Tells the peer what is wrong with its record.
    fn refuse(&mut self, error: &TlsError) -> Failure {
        if let Some(alert) = error.alert() {
            self.tell(alert);
        }
        error.opening_failure()
    }

    fn tell(&mut self, alert: Alert) {
        // The leg is reset after it: where the kernel does not take it, the peer hears no reason.
        let _ = send_record(&self.socket, Alert::CONTENT_TYPE, &alert.content());
    }

    /// The kernel is to seal so many bytes, or has done so.
    pub(super) fn note_sealed(&mut self, len: usize) -> Result<(), Failure> {
        let (KernelSide::Given(given), Some(tls)) = (&mut self.kernel, &mut self.tls) else {
            return Ok(());
        };
        given.content += len as u64;
        if tls.note_sealed(len).is_ok() {
            return Ok(());
        }
        // No fewer than there were: the kernel knows how many it is.
        let sealed = sealed_records(&self.socket, given.info_len).map_err(|_| Failure::Reset)?;
        match tls.recount_sealed(sealed) {
            Err(_) if given.means.takes_new_keys => given.owes_key_update = true,
            recounted => recounted.map_err(|error| error.sealing_failure())?,
        }
        Ok(())
    }

    /// Payload has come through a pipe.
    pub(super) fn note_opened(&mut self, len: usize) -> Result<(), Failure> {
        match &mut self.tls {
            Some(tls) => tls.take_payload(len).map_err(|error| error.opening_failure()),
            None => Ok(()),
        }
    }

    /// Says close_notify, and looks whether TCP has taken all up to it: `Ok(true)` then. The kernel seals what it can't send yet, and a FIN
    /// would overtake that.
    pub(super) fn end_in_kernel(&mut self) -> Result<bool, Failure> {
        let is_unsaid = matches!(&self.kernel, KernelSide::Given(given) if !given.said_end);
        if is_unsaid && !self.say(Alert::CONTENT_TYPE, &CLOSE_NOTIFY)? {
            return Ok(false);
        }
        let KernelSide::Given(given) = &mut self.kernel else { return Ok(true) };
        given.said_end = true;
        let sealed = sealed_records(&self.socket, given.info_len);
        let written = written_len(&self.socket);
        let (Ok(sealed), Ok(written)) = (sealed, written) else { return Err(Failure::Reset) };
        let content = given.content + CLOSE_NOTIFY.len() as u64;
        let all = given.written + content + (sealed - given.first) * ADDED_LEN;
        Ok(written >= all)
    }
}
