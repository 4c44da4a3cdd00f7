use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{CommonState, Error, ExtractedSecrets, ProtocolVersion};

use super::Alert;
use super::record::{RecordKey, Secrets};
use crate::limits::{MAX_PENDING_LEN, MAX_RECORD_LEN, RECORD_HEADER_LEN};

/// A connection in the hands of rustls: its handshake, and the records of TLS 1.2.
pub(super) struct RustlsEnd {
    end: End,
    /// Bytes that rustls has not done with. It remembers places in those that it has seen: each call
    /// must show it all of them again, or it panics.
    pending: Vec<u8>,
    /// How many of them it has seen.
    shown: usize,
    peer_closed: bool,
}

enum End {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What one state of rustls asked for.
enum Step {
    /// Look at the next state.
    Continue,
    /// Nothing more to do with these bytes.
    Rest,
    PeerClosed,
}

/// What rustls is asked for.
enum Task<'t> {
    /// Take what came; its payload is appended.
    Open(&'t mut Vec<u8>),
    Seal(&'t [u8]),
    End,
}

impl RustlsEnd {
    pub(super) fn server(connection: UnbufferedServerConnection) -> Self {
        Self::new(End::Server(Box::new(connection)))
    }

    pub(super) fn client(connection: UnbufferedClientConnection) -> Self {
        Self::new(End::Client(Box::new(connection)))
    }

    fn new(end: End) -> Self {
        Self { end, pending: Vec::new(), shown: 0, peer_closed: false }
    }

    /// `Ok(true)` once the handshake is over. rustls is shown one record after another, and none
    /// behind the handshake: those are not for it.
    pub(super) fn handshake(
        &mut self,
        incoming: &[u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        self.pending.extend_from_slice(incoming);
        let mut payload = Vec::new();
        // Also without a record: whoever dials speaks first.
        self.run(Task::Open(&mut payload), outgoing)?;
        while self.is_handshaking() && self.show_next_record() {
            self.run(Task::Open(&mut payload), outgoing)?;
            // What waits for another record, and not what else has come: the same chain of certificates
            // is taken or not in whatever pieces it comes.
            self.check_waiting(self.shown, MAX_PENDING_LEN - MAX_RECORD_LEN, outgoing)?;
        }
        Ok(!self.is_handshaking())
    }

    /// Opens what came, and returns its payload.
    pub(super) fn open(
        &mut self,
        incoming: &[u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        self.pending.extend_from_slice(incoming);
        self.shown = self.pending.len();
        let mut payload = Vec::with_capacity(incoming.len());
        self.run(Task::Open(&mut payload), outgoing)?;
        self.check_waiting(self.pending.len(), MAX_PENDING_LEN, outgoing)?;
        // A connection at rest holds no buffer, and one in the middle of a record no more than that.
        self.pending.shrink_to_fit();
        Ok(payload)
    }

    /// Appends the records that carry `payload`.
    pub(super) fn seal(&mut self, payload: &[u8], outgoing: &mut Vec<u8>) -> Result<(), Error> {
        let len = outgoing.len();
        // With a key that is used up rustls says close_notify, which must not pass for a clean end.
        self.run(Task::Seal(payload), outgoing).inspect_err(|_| outgoing.truncate(len))
    }

    /// Appends a close_notify.
    pub(super) fn seal_end(&mut self, outgoing: &mut Vec<u8>) -> Result<(), Error> {
        self.run(Task::End, outgoing)
    }

    /// Appends a fatal alert of TLS 1.2, after which the connection is of no more use. rustls would not say
    /// it for us, but gives its keys out between two records.
    pub(super) fn seal_alert(self, alert: Alert, outgoing: &mut Vec<u8>) {
        // It has none after an error, which it has told the peer itself.
        if let Ok((extracted, _)) = self.into_secrets()
            && let Ok(mut key) = RecordKey::new(extracted.tx)
            && let Ok(record) = key.seal_older(Alert::CONTENT_TYPE, &alert.content())
        {
            outgoing.extend(record);
        }
    }

    pub(super) fn common(&self) -> &CommonState {
        match &self.end {
            End::Server(connection) => connection,
            End::Client(connection) => connection,
        }
    }

    pub(super) fn is_tls_1_3(&self) -> bool {
        self.common().protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    pub(super) fn peer_has_closed(&self) -> bool {
        self.peer_closed
    }

    /// The bytes behind the handshake, which rustls has not seen.
    pub(super) fn take_behind(&mut self) -> Vec<u8> {
        // And not `split_off`, which would pass the capacity on: it stays as long as the connection.
        let behind = self.pending[self.shown..].to_vec();
        self.pending.truncate(self.shown);
        behind
    }

    /// Gives the connection up for its keys. The handshake must be over.
    pub(super) fn into_secrets(self) -> Result<(ExtractedSecrets, Secrets), Error> {
        match self.end {
            End::Server(connection) => {
                let (extracted, connection) = connection.dangerous_into_kernel_connection()?;
                Ok((extracted, Secrets::Server(connection)))
            }
            End::Client(connection) => {
                let (extracted, connection) = connection.dangerous_into_kernel_connection()?;
                Ok((extracted, Secrets::Client(connection)))
            }
        }
    }

    /// Both sides have their keys, and all that we had to say is in `outgoing`.
    fn is_handshaking(&self) -> bool {
        self.common().is_handshaking() || self.common().wants_write()
    }

    /// Whether there is another record that is whole, or one that is damaged: rustls says how.
    fn show_next_record(&mut self) -> bool {
        let unseen = &self.pending[self.shown..];
        let Some(header) = unseen.first_chunk::<RECORD_HEADER_LEN>() else { return false };
        let len = RECORD_HEADER_LEN + usize::from(u16::from_be_bytes([header[3], header[4]]));
        let plausible = (20..=23).contains(&header[0]) && len <= MAX_RECORD_LEN;
        if plausible && unseen.len() < len {
            return false;
        }
        self.shown += if plausible { len } else { unseen.len() };
        true
    }

    fn run(&mut self, mut task: Task<'_>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
        let mut used = 0;
        loop {
            let bytes = &mut self.pending[used..self.shown];
            let (discard, step) = self.end.step(bytes, &mut task, outgoing);
            used += discard;
            match step {
                Ok(Step::Continue) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Rest) => break,
                Err(error) => return Err(self.fail(error, outgoing)),
            }
        }
        self.pending.drain(..used);
        self.shown -= used;
        Ok(())
    }

    fn check_waiting(
        &mut self,
        len: usize,
        bound: usize,
        outgoing: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if len <= bound {
            return Ok(());
        }
        Err(self.fail(Error::General("a message in more pieces than allowed".into()), outgoing))
    }

    /// Appends the alert that rustls has for the peer.
    fn fail(&mut self, error: Error, outgoing: &mut Vec<u8>) -> Error {
        // While something waits to be sent, rustls does not look at the bytes that it is shown.
        while self.common().wants_write() {
            let (_, step) = self.end.step(&mut [], &mut Task::Open(&mut Vec::new()), outgoing);
            if step.is_err() {
                break;
            }
        }
        error
    }
}

#[cfg(test)]
impl RustlsEnd {
    /// Bytes of the buffer that it holds.
    pub(super) fn held_len(&self) -> usize {
        self.pending.capacity()
    }
}

impl End {
    fn step(
        &mut self,
        bytes: &mut [u8],
        task: &mut Task<'_>,
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Step, Error>) {
        match self {
            Self::Server(connection) => step(connection.process_tls_records(bytes), task, outgoing),
            Self::Client(connection) => step(connection.process_tls_records(bytes), task, outgoing),
        }
    }
}

fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    task: &mut Task<'_>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match (traffic.next_record(), &mut *task) {
                (Some(Ok(record)), Task::Open(payload)) => {
                    discard += record.discard;
                    payload.extend_from_slice(record.payload);
                }
                // What was pending is less than a record.
                (Some(Ok(_)), _) => break Err(Error::General("payload out of turn".into())),
                (Some(Err(error)), _) => break Err(error),
                (None, _) => break Ok(Step::Continue),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut encode)) => {
            append(outgoing, |space| match encode.encode(space) {
                Ok(len) => Ok(len),
                Err(EncodeError::InsufficientSize(missing)) => Err(Short::Of(missing)),
                Err(EncodeError::AlreadyEncoded) => Ok(0),
            })
            .map(|()| Step::Continue)
        }
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Step::Continue)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match task {
            Task::Open(_) => Ok(Step::Rest),
            Task::Seal(payload) => {
                append(outgoing, |space| traffic.encrypt(payload, space).map_err(Short::from))
                    .map(|()| Step::Rest)
            }
            Task::End => {
                append(outgoing, |space| traffic.queue_close_notify(space).map_err(Short::from))
                    .map(|()| Step::Rest)
            }
        },
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => match task {
            Task::Open(_) => Ok(Step::Rest),
            Task::Seal(_) | Task::End => Err(Error::HandshakeNotComplete),
        },
        // Early data is off in every configuration.
        Ok(_) => Err(Error::General("a state of TLS that was never asked for".into())),
    };
    (discard, step)
}

enum Short {
    Of(InsufficientSizeError),
    Never(Error),
}

impl From<EncryptError> for Short {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(missing) => Self::Of(missing),
            EncryptError::EncryptExhausted => Self::Never(Error::EncryptError),
        }
    }
}

/// Lets `write` fill the space behind `outgoing`, giving it as much as it asks for.
fn append(
    outgoing: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Short>,
) -> Result<(), Error> {
    let start = outgoing.len();
    loop {
        match write(&mut outgoing[start..]) {
            Ok(len) => {
                outgoing.truncate(start + len);
                return Ok(());
            }
            Err(Short::Of(missing)) => outgoing.resize(start + missing.required_size, 0),
            Err(Short::Never(error)) => {
                outgoing.truncate(start);
                return Err(error);
            }
        }
    }
}
