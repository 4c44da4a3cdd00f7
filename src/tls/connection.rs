use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, Error, HandshakeKind, ServerConfig};

use super::alert::{self, Alert};
use crate::limits::MAX_PENDING_LEN;

/// One end of a TLS connection as a state machine over byte slices, without a socket.
///
/// Feed it with [`TlsConnection::process`]; whatever that appends to `outgoing` must be sent, in order
/// and before anything sealed later.
pub struct TlsConnection {
    end: End,
    /// The beginning of a record or message whose rest has not come. rustls remembers places in
    /// these bytes: each call must show it all of them again, or it panics.
    pending: Vec<u8>,
    peer_closed: bool,
    /// The error that ended it: rustls must not be asked for anything after one.
    failed: Option<Error>,
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

impl TlsConnection {
    /// The gateway's end.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(End::Server(Box::new(connection))))
    }

    /// The end that dials. Its ClientHello comes out of the first [`TlsConnection::process`].
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(End::Client(Box::new(connection))))
    }

    fn new(end: End) -> Self {
        Self { end, pending: Vec::new(), peer_closed: false, failed: None }
    }

    /// Copies what waits for its rest to the front of `space`, where the rest is to be put behind it;
    /// returns its length. It is shorter than [`MAX_PENDING_LEN`].
    pub fn copy_pending(&self, space: &mut [u8]) -> usize {
        let len = self.pending.len();
        space[..len].copy_from_slice(&self.pending);
        len
    }

    /// Processes `incoming`: what was pending, and what came behind it. Payload is appended to
    /// `plain`.
    ///
    /// After an error the connection is of no more use; the alert for the peer is in `outgoing`.
    pub fn process(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.check()?;
        if incoming.len() < self.pending.len() {
            let error = Error::General("bytes that are pending were not shown again".into());
            return Err(self.fail(error, outgoing));
        }
        let mut used = 0;
        loop {
            let (discard, step) = self.step(&mut incoming[used..], plain, outgoing);
            used += discard;
            match step {
                Ok(Step::Continue) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Rest) => break,
                Err(error) => return Err(self.fail(error, outgoing)),
            }
        }
        self.pending = incoming[used..].to_vec();
        if self.pending.len() > MAX_PENDING_LEN {
            let error = Error::General("a message in more pieces than allowed".into());
            return Err(self.fail(error, outgoing));
        }
        Ok(())
    }

    /// Appends the records that carry `plain`. The handshake must be over.
    pub fn seal(&mut self, plain: &[u8], outgoing: &mut Vec<u8>) -> Result<(), Error> {
        self.write(plain, outgoing, Sealed::Payload)
    }

    /// Appends a close_notify: the clean end of our direction. Only once, and nothing after it.
    pub fn seal_end(&mut self, outgoing: &mut Vec<u8>) -> Result<(), Error> {
        self.write(&[], outgoing, Sealed::CloseNotify)
    }

    /// Turns the connection into its last record: a fatal alert that says why. `None` before the
    /// handshake is over, when there are no keys for it.
    pub fn into_fatal_alert(self, alert: Alert) -> Option<Vec<u8>> {
        if self.is_handshaking() || self.failed.is_some() {
            return None;
        }
        let secrets = match self.end {
            End::Server(connection) => connection.dangerous_into_kernel_connection().ok()?.0,
            End::Client(connection) => connection.dangerous_into_kernel_connection().ok()?.0,
        };
        let (sequence, secrets) = secrets.tx;
        alert::seal(alert, sequence, &secrets)
    }

    /// Until both sides have the keys of the session.
    pub fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Whether the peer's close_notify has come: what it sent is complete.
    pub fn peer_has_closed(&self) -> bool {
        self.peer_closed
    }

    /// The protocol agreed by ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The peer's own certificate, verified by the role's configuration.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.common().peer_certificates().and_then(<[_]>::first)
    }

    /// The peer's chain where it resumed, which rustls did not verify again; empty where it has none.
    pub fn resumed_chain(&self) -> Option<&[CertificateDer<'static>]> {
        let resumed = self.common().handshake_kind() == Some(HandshakeKind::Resumed);
        resumed.then(|| self.common().peer_certificates().unwrap_or_default())
    }

    fn common(&self) -> &CommonState {
        match &self.end {
            End::Server(connection) => connection,
            End::Client(connection) => connection,
        }
    }

    fn step(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Step, Error>) {
        match &mut self.end {
            End::Server(connection) => {
                step(connection.process_tls_records(incoming), plain, outgoing)
            }
            End::Client(connection) => {
                step(connection.process_tls_records(incoming), plain, outgoing)
            }
        }
    }

    fn write(&mut self, plain: &[u8], outgoing: &mut Vec<u8>, what: Sealed) -> Result<(), Error> {
        self.check()?;
        let mut pending = std::mem::take(&mut self.pending);
        let mut used = 0;
        let result = loop {
            let rest = &mut pending[used..];
            let (discard, step) = match &mut self.end {
                End::Server(connection) => {
                    write_step(connection.process_tls_records(rest), plain, outgoing, what)
                }
                End::Client(connection) => {
                    write_step(connection.process_tls_records(rest), plain, outgoing, what)
                }
            };
            used += discard;
            match step {
                Ok(Step::Continue) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Rest) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        pending.drain(..used);
        self.pending = pending;
        result.map_err(|error| self.fail(error, outgoing))
    }

    fn check(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Appends the alert that rustls has for the peer, and gives the connection up.
    fn fail(&mut self, error: Error, outgoing: &mut Vec<u8>) -> Error {
        // While something waits to be sent, rustls does not look at the bytes that it is shown.
        while self.common().wants_write() {
            let (_, step) = self.step(&mut [], &mut Vec::new(), outgoing);
            if step.is_err() {
                break;
            }
        }
        self.failed = Some(error.clone());
        error
    }
}

#[derive(Clone, Copy)]
enum Sealed {
    Payload,
    CloseNotify,
}

fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Continue),
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
        Ok(
            ConnectionState::BlockedHandshake
            | ConnectionState::WriteTraffic(_)
            | ConnectionState::Closed,
        ) => Ok(Step::Rest),
        // Early data is off in every configuration.
        Ok(_) => Err(Error::General("a state of TLS that was never asked for".into())),
    };
    (discard, step)
}

fn write_step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &[u8],
    outgoing: &mut Vec<u8>,
    what: Sealed,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { discard, state } = status;
    let step = match state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let written = append(outgoing, |space| {
                let written = match what {
                    Sealed::Payload => traffic.encrypt(plain, space),
                    Sealed::CloseNotify => traffic.queue_close_notify(space),
                };
                written.map_err(|error| match error {
                    EncryptError::InsufficientSize(missing) => Short::Of(missing),
                    EncryptError::EncryptExhausted => Short::Never(Error::EncryptError),
                })
            });
            written.map(|()| Step::Rest)
        }
        Ok(ConnectionState::BlockedHandshake) => Err(Error::HandshakeNotComplete),
        state => return step(UnbufferedStatus { discard, state }, &mut Vec::new(), outgoing),
    };
    (discard, step)
}

enum Short {
    Of(InsufficientSizeError),
    Never(Error),
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

#[cfg(test)]
mod tests;
