use std::array;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::SendFlags;
use socket2::SockRef;

use self::kernel::KernelSide;
use super::outbox::Outbox;
use super::platform::RelayMode;
use super::received::{HandshakeError, MessageError, Received};
use super::scratch::Scratch;
use crate::limits::{
    MAX_ANSWERS_LEN, MAX_PENDING_LEN, MAX_RECORD_CONTENT_LEN, MAX_RECORD_LEN, READ_AHEAD_LEN,
    RECEIVE_LEN, RUNS_PER_SEND, STEPS_PER_TURN,
};
use crate::relay::Failure;
use crate::tls::{Alert, Pieces, TlsConnection};
use crate::uring::Readiness;
use crate::wire::{self, FrameDecoder, Message};

mod bare;
mod kernel;

/// Places for plain payload in one receive.
const RECEIVE_PLACES: usize = RECEIVE_LEN.div_ceil(MAX_RECORD_CONTENT_LEN);

/// One TCP connection, with or without TLS, as its worker holds it. At rest it owns no buffer.
pub struct Leg {
    socket: TcpStream,
    tls: Option<TlsConnection>,
    readiness: Readiness,
    /// Raw bytes that came: the beginning of a record.
    pending: Vec<u8>,
    /// Whether nobody has looked yet whether there are whole records in `pending`.
    unopened: bool,
    /// Payload that came before anybody wanted it.
    unread: Vec<u8>,
    /// What the socket did not take.
    outbox: Outbox,
    write_side: WriteSide,
    /// Until the first bytes of a plain leg have come.
    refuses_tls: bool,
    /// Whether it is a leg of a session: what stands behind the end of its TLS is nobody's.
    is_joined: bool,
    kernel: KernelSide,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteSide {
    Open,
    /// The FIN goes out once the outbox is empty.
    Ending,
    Ended,
}

impl Leg {
    /// A connected, non-blocking socket without TLS.
    pub fn plain(socket: TcpStream) -> Self {
        Self {
            socket,
            tls: None,
            readiness: Readiness::default(),
            pending: Vec::new(),
            unopened: false,
            unread: Vec::new(),
            outbox: Outbox::default(),
            write_side: WriteSide::Open,
            refuses_tls: false,
            is_joined: false,
            kernel: KernelSide::No,
        }
    }

    /// Begins TLS. The handshake goes on with [`Leg::handshake`].
    pub fn begin_tls(&mut self, tls: TlsConnection) {
        self.tls = Some(tls);
    }

    /// The TLS of this leg, if it has any.
    pub fn tls(&self) -> Option<&TlsConnection> {
        self.tls.as_ref()
    }

    /// Gives up the leg, right after the handshake at the latest, for its parts: socket, TLS, and the
    /// bytes that came behind the handshake.
    pub fn into_parts(self) -> (TcpStream, Option<TlsConnection>, Vec<u8>) {
        (self.socket, self.tls, self.pending)
    }

    /// The socket, for its addresses and options.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// What the ring reported.
    pub fn note(&mut self, news: Readiness) {
        let all = &mut self.readiness;
        all.readable |= news.readable;
        all.writable |= news.writable;
        all.read_closed |= news.read_closed;
        all.hung_up |= news.hung_up;
        all.failed |= news.failed;
    }

    /// What is known of the socket.
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }

    /// Whether a receive would bring something. An end by close_notify is there without any news of
    /// the socket: the peer may keep TCP open for our answer.
    pub fn has_input(&self) -> bool {
        let ended = self.tls.as_ref().is_some_and(TlsConnection::peer_has_closed);
        self.readiness.readable || ended || self.unopened || !self.unread.is_empty()
    }

    /// Whether all that we had to say has gone to the kernel, with its end.
    pub fn has_finished_writing(&self) -> bool {
        self.write_side == WriteSide::Ended && self.outbox.is_empty()
    }

    /// Bytes that wait for the socket, or no fewer.
    pub fn outbox_len(&self) -> usize {
        self.outbox.len() + usize::from(self.is_pushing())
    }

    /// Receives at most `len` raw bytes, before it is known what they are, for [`Scratch::raw`]. `None`
    /// where there are none for now, 0 at the end.
    pub fn receive_raw(&mut self, to: &mut Scratch, len: usize) -> Result<Option<usize>, Failure> {
        self.recv(&mut to.buffer[..len])
    }

    /// Advances the handshake as far as it goes now. `seen` is what was received before TLS began.
    /// `Ok(true)` once it is over.
    pub fn handshake(
        &mut self,
        scratch: &mut Scratch,
        seen: &[u8],
    ) -> Result<bool, HandshakeError> {
        // Also without new bytes: whoever dials speaks first.
        let mut over = self.step_handshake(seen, &mut scratch.outgoing)?;
        while !over {
            match self.recv(&mut scratch.buffer[..MAX_RECORD_LEN]) {
                Err(_) | Ok(Some(0)) => return Err(HandshakeError::gone()),
                Ok(None) => return Ok(false),
                Ok(Some(len)) => {
                    over = self.step_handshake(&scratch.buffer[..len], &mut scratch.outgoing)?;
                }
            }
        }
        Ok(true)
    }

    /// Shows what came to TLS, and sends its answer.
    fn step_handshake(
        &mut self,
        incoming: &[u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<bool, HandshakeError> {
        let Some(tls) = &mut self.tls else { return Ok(false) };
        outgoing.clear();
        let result = tls.handshake(incoming, outgoing);
        if matches!(result, Ok(Some(_))) && tls.ended_with_a_ticket() {
            // A ticket, for which no peer waits.
            self.outbox.hold(outgoing);
            outgoing.clear();
        }
        let sent = self.send(&[IoSlice::new(outgoing)]);
        let behind = result.map_err(|error| HandshakeError {
            reason: error.handshake_failure(),
            detail: Some(error.to_string()),
        })?;
        sent.map_err(|_| HandshakeError::gone())?;
        let Some(behind) = behind else { return Ok(false) };
        self.unopened = !behind.is_empty();
        self.pending = behind;
        Ok(true)
    }

    /// Receives once, `budget` bytes of payload at most, if records are full. After
    /// [`Received::Payload`] the payload is in the scratch buffers.
    pub fn receive(&mut self, scratch: &mut Scratch, budget: usize) -> Received {
        scratch.pieces.clear();
        if !self.unread.is_empty() {
            scratch.pieces.lay_out(&std::mem::take(&mut self.unread), &mut scratch.buffer);
            return Received::Payload;
        }
        let result = match self.tls {
            None => self.receive_plain(scratch, budget),
            Some(_) if self.is_kernels() => self.receive_opened(scratch, budget),
            Some(_) => self.receive_tls(scratch, budget),
        };
        match result {
            Ok(received) => received,
            Err(failure) => Received::Failed(failure),
        }
    }

    fn receive_tls(&mut self, scratch: &mut Scratch, budget: usize) -> Result<Received, Failure> {
        let Some(tls) = &mut self.tls else { return Ok(Received::Nothing) };
        if tls.peer_has_closed() {
            return Ok(Received::End);
        }
        let kept = self.pending.len();
        scratch.buffer[..kept].copy_from_slice(&self.pending);
        // Full records end where the space ends, so that in bulk no beginning of one is left over.
        let space = Pieces::space_for(budget);
        let space = match kept < space {
            // No byte of the first record that is the kernel's.
            _ if self.waits_for_kernel_tls() => kept + TlsConnection::missing_len(&self.pending),
            true => space,
            false => MAX_PENDING_LEN,
        };
        let mut ended = false;
        let mut len = kept;
        if !std::mem::take(&mut self.unopened) {
            match self.recv(&mut scratch.buffer[kept..space])? {
                None => return Ok(Received::Nothing),
                Some(received) => {
                    ended = received == 0;
                    len += received;
                }
            }
        }
        self.open(scratch, len)?;
        let closed = self.tls.as_ref().is_some_and(TlsConnection::peer_has_closed);
        match (scratch.pieces.is_empty(), closed) {
            // The end that came with the payload is reported by the next receive.
            (false, _) => Ok(Received::Payload),
            (true, true) => Ok(Received::End),
            (true, false) if ended => Err(Failure::Truncated),
            (true, false) => Ok(Received::Nothing),
        }
    }

    /// Opens the records in the first `len` bytes of the buffer, sends what TLS answers, and keeps the
    /// beginning of a record for the next receive, or what stands behind the end of TLS.
    fn open(&mut self, scratch: &mut Scratch, len: usize) -> Result<(), Failure> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let Scratch { buffer, pieces, outgoing, beginnings, .. } = scratch;
        outgoing.clear();
        let result = tls.open(buffer, len, pieces, outgoing);
        let ended = tls.peer_has_closed();
        self.send(&[IoSlice::new(outgoing)])?;
        let used = result.map_err(|_| Failure::Corrupt)?;
        self.pending.clear();
        if used < len && !(ended && self.is_joined) {
            beginnings.lend(&mut self.pending, MAX_RECORD_LEN);
            self.pending.extend_from_slice(&buffer[used..len]);
        }
        Ok(())
    }

    /// Receives until a whole message is there, or as much as a turn allows; what follows the message
    /// stays for the next to receive.
    pub fn receive_message<M: Message>(
        &mut self,
        decoder: &mut FrameDecoder,
        scratch: &mut Scratch,
    ) -> Result<Option<M>, MessageError> {
        for _ in 0..STEPS_PER_TURN {
            // It has us answer, and reads no answer.
            if self.outbox_len() > MAX_ANSWERS_LEN {
                break;
            }
            match self.receive(scratch, MAX_RECORD_CONTENT_LEN) {
                Received::Nothing if !self.readiness.readable => break,
                Received::Nothing => {}
                Received::End => return Err(MessageError::Ended),
                Received::Failed(failure) => return Err(MessageError::Failed(failure)),
                Received::Payload => {
                    let payload = scratch.copy_payload();
                    let mut rest = &payload[..];
                    let message = decoder.decode(&mut rest).map_err(MessageError::Frame)?;
                    self.unread = rest.to_vec();
                    if message.is_some() {
                        return Ok(message);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Receives and keeps payload that nobody can take yet, up to a bound, to see what stands behind
    /// it: an end, a break, or nothing for now.
    pub fn read_ahead(&mut self, scratch: &mut Scratch) -> Received {
        let kept = std::mem::take(&mut self.unread);
        let received = self.receive(scratch, READ_AHEAD_LEN);
        self.unread = kept;
        if received == Received::Payload {
            self.unread.extend(scratch.copy_payload());
        }
        received
    }

    /// Whether there is still room to read ahead.
    pub fn may_read_ahead(&self) -> bool {
        self.unread.len() <= READ_AHEAD_LEN
    }

    /// Sends the payload of the last receive, and keeps what the socket does not take.
    pub fn send_payload(&mut self, scratch: &mut Scratch) -> Result<(), Failure> {
        let Scratch { buffer, pieces, outgoing, remainders, .. } = scratch;
        outgoing.clear();
        let is_kernels = self.is_kernels();
        if let Some(tls) = self.tls.as_mut().filter(|_| !is_kernels) {
            tls.seal(buffer, pieces, outgoing).map_err(|error| error.sealing_failure())?;
        }
        self.send(&[IoSlice::new(outgoing)])?;
        if self.outbox.is_empty() {
            // By powers of two: it grows a few times in the life of a worker, and no more.
            remainders.lend(self.outbox.space(), pieces.total_len().next_power_of_two());
        }
        let mut runs = pieces.runs(buffer);
        loop {
            let slices: [IoSlice<'_>; RUNS_PER_SEND] =
                array::from_fn(|_| IoSlice::new(runs.next().unwrap_or_default()));
            if slices[0].is_empty() {
                return Ok(());
            }
            self.send(&slices)?;
        }
    }

    /// Sends a message of our own, in a frame.
    pub fn send_message<M: Message>(
        &mut self,
        message: &M,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let mut frame = Vec::new();
        wire::encode(message, &mut frame);
        let Some(tls) = &mut self.tls else { return self.send_raw(&frame) };
        scratch.outgoing.clear();
        tls.seal_copy(&frame, &mut scratch.outgoing).map_err(|_| Failure::Corrupt)?;
        self.send_raw(&scratch.outgoing)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.send(&[IoSlice::new(bytes)])
    }

    /// Sends what waits. `Ok(true)` once nothing waits any more.
    pub fn flush(&mut self) -> Result<bool, Failure> {
        // The FIN goes with the last bytes, in one segment.
        let flags = match self.write_side {
            WriteSide::Ending if !self.is_kernels() => SendFlags::MORE,
            _ => SendFlags::empty(),
        };
        if !self.may_seal()? {
            return Ok(false);
        }
        self.outbox.send(&self.socket, &mut self.readiness, flags)?;
        if self.outbox.is_empty() && self.write_side == WriteSide::Ending {
            if !self.end_in_kernel()? {
                return Ok(false);
            }
            self.write_side = WriteSide::Ended;
            // Fails only where the peer is gone, and then there is nobody to tell.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(self.outbox.is_empty())
    }

    /// Gives back the space that nothing waits in.
    pub fn rest(&mut self, scratch: &mut Scratch) {
        if self.pending.is_empty() {
            scratch.beginnings.take_back(&mut self.pending);
        }
        if self.outbox.is_empty() {
            scratch.remainders.take_back(self.outbox.space());
        }
    }

    /// Takes less room until bytes move again.
    pub fn cool(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.cool();
        }
    }

    /// Forgets what only the time before a session needs.
    pub fn settle(&mut self, relay: RelayMode) {
        self.is_joined = true;
        self.want_kernel_tls(relay);
        if let Some(tls) = &mut self.tls {
            tls.forget_agreement();
        }
    }

    /// Ends our direction cleanly, after what waits: close_notify, then FIN.
    pub fn end_writing(&mut self) -> Result<(), Failure> {
        if self.write_side != WriteSide::Open {
            return Ok(());
        }
        self.write_side = WriteSide::Ending;
        let is_kernels = self.is_kernels();
        if let Some(tls) = &mut self.tls
            && tls.is_established()
            && !is_kernels
        {
            let mut record = Vec::new();
            tls.seal_end(&mut record).map_err(|_| Failure::Corrupt)?;
            self.outbox.hold(&record);
        }
        self.flush().map(|_| ())
    }

    /// Ends our direction with a fatal alert instead of a close_notify.
    pub fn end_with_alert(&mut self, alert: Alert) -> Result<(), Failure> {
        if let Some(tls) = self.tls.take() {
            self.send_raw(&tls.into_fatal_alert(alert))?;
        }
        self.end_writing()
    }

    /// Makes the coming close a reset, so that the peer can't take it for a clean end.
    pub fn reset_on_close(&self) {
        // Fails only on a socket that is not one.
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    /// Takes in and forgets what the peer still sends. `None` at its end, else the bytes.
    pub fn drain(&mut self, scratch: &mut Scratch) -> Option<usize> {
        match self.recv(&mut scratch.buffer[..MAX_RECORD_LEN]) {
            Ok(Some(0)) | Err(_) => None,
            Ok(None) => Some(0),
            Ok(Some(len)) => Some(len),
        }
    }

    fn recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, Failure> {
        let len = space.len();
        self.recv_with(len, |mut socket| socket.read(space))
    }

    fn recv_with(
        &mut self,
        space_len: usize,
        mut receive: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Result<Option<usize>, Failure> {
        loop {
            match receive(&self.socket) {
                Ok(len) => {
                    // A short read has emptied the socket, unless an end stands behind the bytes.
                    if len != 0 && len < space_len && !self.readiness.read_closed {
                        self.readiness.readable = false;
                    }
                    return Ok(Some(len));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readiness.readable = false;
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Failure::Reset),
            }
        }
    }

    fn send(&mut self, slices: &[IoSlice<'_>]) -> Result<(), Failure> {
        if self.is_kernels() {
            self.note_sealed(slices.iter().map(|slice| slice.len()).sum())?;
            if !self.may_seal()? {
                self.outbox.keep(slices);
                return Ok(());
            }
        }
        self.outbox.send_behind(&self.socket, &mut self.readiness, slices)
    }
}

impl AsFd for Leg {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The pending error of a socket that was dialled; `Ok` once it is connected.
pub fn connect_result(socket: &TcpStream) -> io::Result<()> {
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
