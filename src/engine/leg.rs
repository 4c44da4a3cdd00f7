use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::SockRef;

use crate::limits::{MAX_PENDING_LEN, MAX_RECORD_LEN, READ_AHEAD_LEN, RECEIVE_LEN};
use crate::relay::{CloseReason, Failure, Party};
use crate::tls::{Alert, TlsConnection, handshake_failure, looks_like_tls};
use crate::uring::Readiness;
use crate::wire::{self, FrameDecoder, FrameError, Message};

/// The buffers of a worker, shared by all its connections and hot in its cache. Nothing stays in
/// them between two calls.
pub struct Scratch {
    incoming: Box<[u8]>,
    plain: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        let incoming = vec![0; MAX_PENDING_LEN + RECEIVE_LEN].into_boxed_slice();
        Self { incoming, plain: Vec::new(), outgoing: Vec::new() }
    }
}

/// One TCP connection, with or without TLS, as its worker holds it. At rest it owns no buffer.
pub struct Leg {
    socket: TcpStream,
    tls: Option<TlsConnection>,
    readiness: Readiness,
    /// Payload that came before anybody wanted it: with the last bytes of the handshake.
    unread: Vec<u8>,
    /// What the socket did not take.
    outbox: Vec<u8>,
    write_side: WriteSide,
    /// Until the first bytes of a plain leg have come.
    refuses_tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteSide {
    Open,
    /// The FIN goes out once the outbox is empty.
    Ending,
    Ended,
}

/// What a receive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Payload, in the scratch buffer.
    Payload,
    /// Nothing for now.
    Nothing,
    /// The clean end.
    End,
    /// The leg is broken.
    Failed(Failure),
}

impl Leg {
    /// A connected, non-blocking socket without TLS.
    pub fn plain(socket: TcpStream) -> Self {
        Self {
            socket,
            tls: None,
            readiness: Readiness::default(),
            unread: Vec::new(),
            outbox: Vec::new(),
            write_side: WriteSide::Open,
            refuses_tls: false,
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

    /// Gives up the leg for its parts: socket, TLS, and payload that nobody read yet.
    pub fn into_parts(self) -> (TcpStream, Option<TlsConnection>, Vec<u8>) {
        (self.socket, self.tls, self.unread)
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
        self.readiness.readable || ended || !self.unread.is_empty()
    }

    /// Whether all that we had to say has gone to the kernel, with its end.
    pub fn has_finished_writing(&self) -> bool {
        self.write_side == WriteSide::Ended && self.outbox.is_empty()
    }

    /// Bytes that wait for the socket.
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    /// Receives raw bytes, before it is known what they are, for [`Scratch::raw`]. `None` where there
    /// are none for now, 0 at the end.
    pub fn receive_raw(&mut self, scratch: &mut Scratch) -> Result<Option<usize>, Failure> {
        self.recv(&mut scratch.incoming[..MAX_RECORD_LEN])
    }

    /// Advances the handshake as far as it goes now. `seen` is what was received before TLS began.
    /// `Ok(true)` once it is over.
    pub fn handshake(
        &mut self,
        scratch: &mut Scratch,
        seen: &[u8],
    ) -> Result<bool, HandshakeError> {
        scratch.plain.clear();
        let kept = self.tls.as_ref().map_or(0, |tls| tls.copy_pending(&mut scratch.incoming));
        scratch.incoming[kept..kept + seen.len()].copy_from_slice(seen);
        // Also without new bytes: whoever dials speaks first.
        self.step_handshake(kept + seen.len(), scratch)?;
        while self.tls.as_ref().is_some_and(TlsConnection::is_handshaking) {
            let start = self.tls.as_ref().map_or(0, |tls| tls.copy_pending(&mut scratch.incoming));
            let space = &mut scratch.incoming[start..start + MAX_RECORD_LEN];
            match self.recv(space).map_err(|_| HandshakeError::gone())? {
                None => break,
                Some(0) => return Err(HandshakeError::gone()),
                Some(len) => self.step_handshake(start + len, scratch)?,
            }
        }
        self.unread.extend_from_slice(&scratch.plain);
        Ok(!self.tls.as_ref().is_some_and(TlsConnection::is_handshaking))
    }

    /// Feeds the first `len` bytes of the scratch buffer to TLS, and sends its answer.
    fn step_handshake(&mut self, len: usize, scratch: &mut Scratch) -> Result<(), HandshakeError> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        scratch.outgoing.clear();
        let Scratch { incoming, plain, outgoing } = scratch;
        let result = tls.process(&mut incoming[..len], plain, outgoing);
        let sent = send(&self.socket, &mut self.readiness, &mut self.outbox, outgoing);
        result.map_err(|error| HandshakeError {
            reason: handshake_failure(&error),
            detail: Some(error.to_string()),
        })?;
        sent.map_err(|_| HandshakeError::gone())
    }

    /// Receives once. After [`Received::Payload`] the bytes are in [`Scratch::payload`].
    pub fn receive(&mut self, scratch: &mut Scratch) -> Received {
        scratch.plain.clear();
        if !self.unread.is_empty() {
            scratch.plain.extend(std::mem::take(&mut self.unread));
            return Received::Payload;
        }
        let result = match self.tls {
            None => self.receive_plain(scratch),
            Some(_) => self.receive_tls(scratch),
        };
        match result {
            Ok(received) => received,
            Err(failure) => Received::Failed(failure),
        }
    }

    fn receive_plain(&mut self, scratch: &mut Scratch) -> Result<Received, Failure> {
        match self.recv(&mut scratch.incoming[..RECEIVE_LEN])? {
            None => Ok(Received::Nothing),
            Some(0) => Ok(Received::End),
            Some(len)
                if len > 1 && self.refuses_tls && looks_like_tls(&scratch.incoming[..len]) =>
            {
                Err(Failure::UnexpectedTls)
            }
            Some(len) => {
                self.refuses_tls = false;
                scratch.plain.extend_from_slice(&scratch.incoming[..len]);
                Ok(Received::Payload)
            }
        }
    }

    fn receive_tls(&mut self, scratch: &mut Scratch) -> Result<Received, Failure> {
        let Some(tls) = &self.tls else { return Ok(Received::Nothing) };
        if tls.peer_has_closed() {
            return Ok(Received::End);
        }
        let kept = tls.copy_pending(&mut scratch.incoming);
        let Some(len) = self.recv(&mut scratch.incoming[kept..kept + RECEIVE_LEN])? else {
            return Ok(Received::Nothing);
        };
        let Some(tls) = &mut self.tls else { return Ok(Received::Nothing) };
        scratch.outgoing.clear();
        let Scratch { incoming, plain, outgoing } = scratch;
        let result = tls.process(&mut incoming[..kept + len], plain, outgoing);
        let closed = tls.peer_has_closed();
        send(&self.socket, &mut self.readiness, &mut self.outbox, outgoing)?;
        result.map_err(|_| Failure::Corrupt)?;
        match (scratch.plain.is_empty(), closed) {
            // The end that came with the payload is reported by the next receive.
            (false, _) => Ok(Received::Payload),
            (true, true) => Ok(Received::End),
            (true, false) if len == 0 => Err(Failure::Truncated),
            (true, false) => Ok(Received::Nothing),
        }
    }

    /// Receives until a whole message is there; what follows it stays for the next to receive.
    pub fn receive_message<M: Message>(
        &mut self,
        decoder: &mut FrameDecoder,
        scratch: &mut Scratch,
    ) -> Result<Option<M>, MessageError> {
        loop {
            match self.receive(scratch) {
                Received::Nothing if !self.readiness.readable => return Ok(None),
                Received::Nothing => {}
                Received::End => return Err(MessageError::Ended),
                Received::Failed(failure) => return Err(MessageError::Failed(failure)),
                Received::Payload => {
                    let mut rest = scratch.payload();
                    let message = decoder.decode(&mut rest).map_err(MessageError::Frame)?;
                    self.unread = rest.to_vec();
                    if message.is_some() {
                        return Ok(message);
                    }
                }
            }
        }
    }

    /// Receives and keeps payload that nobody can take yet, up to a bound, to see what stands behind
    /// it: an end, a break, or nothing for now.
    pub fn read_ahead(&mut self, scratch: &mut Scratch) -> Received {
        let kept = std::mem::take(&mut self.unread);
        let received = self.receive(scratch);
        self.unread = kept;
        if received == Received::Payload {
            self.unread.extend_from_slice(scratch.payload());
        }
        received
    }

    /// Whether there is still room to read ahead.
    pub fn may_read_ahead(&self) -> bool {
        self.unread.len() <= READ_AHEAD_LEN
    }

    /// From now on TLS as the first bytes of this plain leg is a failure.
    pub fn refuse_tls(&mut self) {
        self.refuses_tls = true;
    }

    /// Whether the first bytes that wait in the socket are those of TLS, which the leg refuses.
    pub fn is_offered_refused_tls(&self) -> bool {
        let mut first = [0; 2];
        self.refuses_tls && matches!(self.socket.peek(&mut first), Ok(2)) && looks_like_tls(&first)
    }

    /// Whether the peer ended its direction before it sent anything.
    pub fn is_empty_stream(&self) -> bool {
        matches!(self.socket.peek(&mut [0]), Ok(0) | Err(_))
    }

    /// Sends payload, and keeps what the socket does not take.
    pub fn send_payload(&mut self, scratch: &mut Scratch) -> Result<(), Failure> {
        let Scratch { plain, outgoing, .. } = scratch;
        self.send_sealed(plain, outgoing)
    }

    /// Sends a message of our own, in a frame.
    pub fn send_message<M: Message>(
        &mut self,
        message: &M,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        scratch.plain.clear();
        wire::encode(message, &mut scratch.plain);
        self.send_payload(scratch)
    }

    fn send_sealed(&mut self, bytes: &[u8], outgoing: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(tls) = &mut self.tls else { return self.send_raw(bytes) };
        outgoing.clear();
        tls.seal(bytes, outgoing).map_err(|_| Failure::Corrupt)?;
        self.send_raw(outgoing)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        send(&self.socket, &mut self.readiness, &mut self.outbox, bytes)
    }

    /// Sends what waits. `Ok(true)` once nothing waits any more.
    pub fn flush(&mut self) -> Result<bool, Failure> {
        if !self.outbox.is_empty() {
            let waiting = std::mem::take(&mut self.outbox);
            send(&self.socket, &mut self.readiness, &mut self.outbox, &waiting)?;
        }
        if self.outbox.is_empty() && self.write_side == WriteSide::Ending {
            self.write_side = WriteSide::Ended;
            // Fails only where the peer is gone, and then there is nobody to tell.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(self.outbox.is_empty())
    }

    /// Ends our direction cleanly, after what waits: close_notify, then FIN.
    pub fn end_writing(&mut self) -> Result<(), Failure> {
        if self.write_side != WriteSide::Open {
            return Ok(());
        }
        self.write_side = WriteSide::Ending;
        if let Some(tls) = &mut self.tls
            && !tls.is_handshaking()
        {
            let mut record = Vec::new();
            tls.seal_end(&mut record).map_err(|_| Failure::Corrupt)?;
            self.send_raw(&record)?;
        }
        self.flush().map(|_| ())
    }

    /// Ends our direction with a fatal alert instead of a close_notify.
    pub fn end_with_alert(&mut self, alert: Alert) -> Result<(), Failure> {
        if let Some(record) = self.tls.take().and_then(|tls| tls.into_fatal_alert(alert)) {
            self.send_raw(&record)?;
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
        match self.recv(&mut scratch.incoming[..MAX_RECORD_LEN]) {
            Ok(Some(0)) | Err(_) => None,
            Ok(None) => Some(0),
            Ok(Some(len)) => Some(len),
        }
    }

    fn recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, Failure> {
        loop {
            match (&self.socket).read(space) {
                Ok(len) => {
                    // A short read has emptied the socket, unless an end stands behind the bytes.
                    if len != 0 && len < space.len() && !self.readiness.read_closed {
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
}

impl Scratch {
    /// The first bytes of the last [`Leg::receive_raw`].
    pub fn raw(&self, len: usize) -> &[u8] {
        &self.incoming[..len]
    }

    /// The payload of the last receive.
    pub fn payload(&self) -> &[u8] {
        &self.plain
    }
}

impl AsFd for Leg {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why there is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageError {
    /// The bytes are not one.
    Frame(FrameError),
    /// The peer ended its direction.
    Ended,
    /// The leg is broken.
    Failed(Failure),
}

impl MessageError {
    /// The close reason of a connection with that party.
    pub fn close_reason(&self, party: Party) -> CloseReason {
        match self {
            Self::Frame(_) => CloseReason::FrameInvalid,
            Self::Ended => CloseReason::Truncated(party),
            Self::Failed(failure) => failure.close_reason(party),
        }
    }
}

/// Why a handshake did not come to its end.
#[derive(Debug)]
pub struct HandshakeError {
    /// The close reason of the connection.
    pub reason: CloseReason,
    /// What TLS said, for the log.
    pub detail: Option<String>,
}

impl HandshakeError {
    fn gone() -> Self {
        Self { reason: CloseReason::HandshakeFailed, detail: None }
    }
}

/// Sends in order: nothing overtakes what waits already. A free function, so that the caller may
/// hold other parts of the leg.
fn send(
    mut socket: &TcpStream,
    readiness: &mut Readiness,
    outbox: &mut Vec<u8>,
    mut bytes: &[u8],
) -> Result<(), Failure> {
    while outbox.is_empty() && !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                readiness.writable = false;
                break;
            }
            Err(_) => return Err(Failure::Reset),
        }
    }
    outbox.extend_from_slice(bytes);
    Ok(())
}

/// The pending error of a socket that was dialled; `Ok` once it is connected.
pub fn connect_result(socket: &TcpStream) -> io::Result<()> {
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
