use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use super::alert::{self, Alert};

/// One end of a TLS connection as a state machine over byte slices: no socket, no buffer of its own.
///
/// Feed it with [`TlsConnection::process`]; whatever that appends to `outgoing` must be sent, in order
/// and before anything sealed later.
pub struct TlsConnection {
    end: End,
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

impl TlsConnection {
    /// The gateway's end.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self { end: End::Server(Box::new(connection)), peer_closed: false })
    }

    /// The end that dials. Its ClientHello comes out of the first [`TlsConnection::process`].
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self { end: End::Client(Box::new(connection)), peer_closed: false })
    }

    /// Processes the whole records at the front of `incoming`; returns how many bytes they had. The
    /// rest must be shown again, at the front, with more behind it. Payload is appended to `plain`.
    ///
    /// After an error the connection is of no more use; the alert for the peer is in `outgoing`.
    pub fn process(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let rest = &mut incoming[used..];
            let (discard, step) = match &mut self.end {
                End::Server(connection) => {
                    step(connection.process_tls_records(rest), plain, outgoing)
                }
                End::Client(connection) => {
                    step(connection.process_tls_records(rest), plain, outgoing)
                }
            };
            used += discard;
            match step {
                Ok(Step::Continue) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Rest) => return Ok(used),
                Err(error) => {
                    self.append_alert(outgoing);
                    return Err(error);
                }
            }
        }
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
        if self.is_handshaking() {
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

    fn common(&self) -> &CommonState {
        match &self.end {
            End::Server(connection) => connection,
            End::Client(connection) => connection,
        }
    }

    fn write(&mut self, plain: &[u8], outgoing: &mut Vec<u8>, what: Sealed) -> Result<(), Error> {
        loop {
            let step = match &mut self.end {
                End::Server(connection) => {
                    write_step(connection.process_tls_records(&mut []).state, plain, outgoing, what)
                }
                End::Client(connection) => {
                    write_step(connection.process_tls_records(&mut []).state, plain, outgoing, what)
                }
            };
            match step? {
                Step::Continue => {}
                Step::PeerClosed => self.peer_closed = true,
                Step::Rest => return Ok(()),
            }
        }
    }

    fn append_alert(&mut self, outgoing: &mut Vec<u8>) {
        let unused = &mut Vec::new();
        // At most the alert itself and the flight before it; then the error comes again.
        loop {
            let (_, step) = match &mut self.end {
                End::Server(connection) => {
                    step(connection.process_tls_records(&mut []), unused, outgoing)
                }
                End::Client(connection) => {
                    step(connection.process_tls_records(&mut []), unused, outgoing)
                }
            };
            if !matches!(step, Ok(Step::Continue)) {
                return;
            }
        }
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
    state: Result<ConnectionState<'_, '_, Data>, Error>,
    plain: &[u8],
    outgoing: &mut Vec<u8>,
    what: Sealed,
) -> Result<Step, Error> {
    match state? {
        ConnectionState::WriteTraffic(mut traffic) => {
            append(outgoing, |space| {
                let written = match what {
                    Sealed::Payload => traffic.encrypt(plain, space),
                    Sealed::CloseNotify => traffic.queue_close_notify(space),
                };
                written.map_err(|error| match error {
                    EncryptError::InsufficientSize(missing) => Short::Of(missing),
                    EncryptError::EncryptExhausted => Short::Never(Error::EncryptError),
                })
            })?;
            Ok(Step::Rest)
        }
        ConnectionState::BlockedHandshake => Err(Error::HandshakeNotComplete),
        ConnectionState::Closed => Ok(Step::Rest),
        state => {
            let unused = &mut Vec::new();
            step(UnbufferedStatus { discard: 0, state: Ok(state) }, unused, outgoing).1
        }
    }
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
