use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, Error, HandshakeKind, ServerConfig};
use thiserror::Error;

use super::alert::Alert;
use super::record::{KernelKey, KernelRecords, KeyUpdate, NextKey, Pieces, RecordError, Records};
use super::rustls_end::RustlsEnd;
use super::version::TlsVersion;

/// One end of a TLS connection as a state machine over byte slices, without a socket: first
/// [`TlsConnection::handshake`], then the other calls.
///
/// Whatever a call appends to `outgoing` must be sent, in order and before anything sealed later.
pub struct TlsConnection {
    is_server: bool,
    stage: Stage,
    agreed: Option<Box<Agreed>>,
}

enum Stage {
    /// rustls speaks.
    Handshake(Box<RustlsEnd>),
    /// TLS 1.3: the record layer is ours.
    Records(Box<Records>),
    /// The same, and the record layer is the kernel's.
    Kernel(Box<KernelRecords>),
    /// TLS 1.2: the record layer is that of rustls.
    Older(Box<RustlsEnd>),
    /// The handshake failed: rustls must not be asked for anything after an error.
    Failed(Box<Error>),
}

/// What the handshake has agreed on, as long as somebody wants to know.
struct Agreed {
    alpn: Option<Vec<u8>>,
    peer: Vec<CertificateDer<'static>>,
    kind: Option<HandshakeKind>,
}

/// Why a connection can't go on.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum TlsError {
    /// In the handshake, or in TLS 1.2.
    #[error(transparent)]
    Rustls(#[from] Error),
    /// After the handshake.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl TlsConnection {
    /// The gateway's end.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(RustlsEnd::server(connection), true))
    }

    /// The end that dials. Its ClientHello comes out of the first [`TlsConnection::handshake`].
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(RustlsEnd::client(connection), false))
    }

    fn new(end: RustlsEnd, is_server: bool) -> Self {
        Self { is_server, stage: Stage::Handshake(Box::new(end)), agreed: None }
    }

    /// Takes what came, and appends our answer. `Some` once the handshake is over: with the bytes that
    /// came behind it, which are the first to be shown to [`TlsConnection::open`].
    ///
    /// After an error the connection is of no more use; the alert for the peer is in `outgoing`.
    pub fn handshake(
        &mut self,
        incoming: &[u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, TlsError> {
        let Stage::Handshake(end) = &mut self.stage else {
            return match &self.stage {
                failed @ Stage::Failed(_) => Err(failed.refusal()),
                _ => Ok(Some(incoming.to_vec())),
            };
        };
        match end.handshake(incoming, outgoing) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                self.stage = Stage::Failed(Box::new(error.clone()));
                return Err(error.into());
            }
        }
        self.agreed = Some(Box::new(Agreed {
            alpn: end.common().alpn_protocol().map(<[u8]>::to_vec),
            peer: end.common().peer_certificates().unwrap_or_default().to_vec(),
            kind: end.common().handshake_kind(),
        }));
        self.take_over().map(Some)
    }

    /// After the handshake. Returns the bytes that rustls has not looked at.
    fn take_over(&mut self) -> Result<Vec<u8>, TlsError> {
        let lost = Error::General("the handshake was given up".into());
        match std::mem::replace(&mut self.stage, Stage::Failed(Box::new(lost))) {
            Stage::Handshake(mut end) if end.is_tls_1_3() => {
                let behind = end.take_behind();
                let (extracted, secrets) = end.into_secrets()?;
                self.stage = Stage::Records(Box::new(Records::new(extracted, secrets)?));
                Ok(behind)
            }
            Stage::Handshake(mut end) => {
                let behind = end.take_behind();
                self.stage = Stage::Older(end);
                Ok(behind)
            }
            other => {
                self.stage = other;
                Ok(Vec::new())
            }
        }
    }

    /// Opens the records at the front of the first `len` bytes of `buffer`. Payload is then in
    /// `buffer`, where `pieces` tells. Returns the bytes that are done with: the rest is the beginning
    /// of a record, to be shown again with what follows it, or stands behind the peer's close_notify.
    ///
    /// After an error the connection is of no more use; the alert for the peer is in `outgoing`.
    pub fn open(
        &mut self,
        buffer: &mut [u8],
        len: usize,
        pieces: &mut Pieces,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        pieces.clear();
        match &mut self.stage {
            Stage::Records(records) => Ok(records.open(&mut buffer[..len], pieces, outgoing)?),
            Stage::Older(end) => {
                let opened = end.open(&buffer[..len], outgoing);
                let payload = opened
                    .inspect_err(|error| self.stage = Stage::Failed(Box::new(error.clone())))?;
                pieces.lay_out(&payload, buffer);
                Ok(len)
            }
            other => Err(other.refusal()),
        }
    }

    /// Seals the payload in `pieces` of `buffer`: what is to be sent is first what was appended to
    /// `outgoing`, then what `pieces` tells of.
    pub fn seal(
        &mut self,
        buffer: &mut [u8],
        pieces: &mut Pieces,
        outgoing: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        match &mut self.stage {
            Stage::Records(records) => Ok(records.seal(buffer, pieces, outgoing)?),
            Stage::Older(end) => {
                let sealed = pieces.iter().try_for_each(|piece| end.seal(&buffer[piece], outgoing));
                sealed.inspect_err(|error| self.stage = Stage::Failed(Box::new(error.clone())))?;
                pieces.clear();
                Ok(())
            }
            other => Err(other.refusal()),
        }
    }

    /// Appends the records that carry `payload`: for messages of our own.
    pub fn seal_copy(&mut self, payload: &[u8], outgoing: &mut Vec<u8>) -> Result<(), TlsError> {
        match &mut self.stage {
            Stage::Records(records) => Ok(records.seal_copy(payload, outgoing)?),
            Stage::Older(end) => {
                let sealed = end.seal(payload, outgoing);
                Ok(sealed
                    .inspect_err(|error| self.stage = Stage::Failed(Box::new(error.clone())))?)
            }
            other => Err(other.refusal()),
        }
    }

    /// Appends a close_notify: the clean end of our direction. Only once, and nothing after it.
    pub fn seal_end(&mut self, outgoing: &mut Vec<u8>) -> Result<(), TlsError> {
        match &mut self.stage {
            Stage::Records(records) => Ok(records.seal_end(outgoing)?),
            Stage::Older(end) => Ok(end.seal_end(outgoing)?),
            other => Err(other.refusal()),
        }
    }

    /// Turns the connection into its last record: a fatal alert that says why. Empty before the
    /// handshake is over, when there are no keys for it.
    pub fn into_fatal_alert(self, alert: Alert) -> Vec<u8> {
        let mut outgoing = Vec::new();
        match self.stage {
            Stage::Records(records) => records.seal_alert(alert, &mut outgoing),
            Stage::Older(end) => end.seal_alert(alert, &mut outgoing),
            Stage::Kernel(_) | Stage::Handshake(_) | Stage::Failed(_) => {}
        }
        outgoing
    }

    /// Keys of what comes and of what goes, where the kernel may have them: TLS 1.3, between two records.
    pub fn kernel_keys(&self) -> Option<[KernelKey<'_>; 2]> {
        match &self.stage {
            Stage::Records(records) => records.kernel_keys(),
            _ => None,
        }
    }

    /// The kernel has the keys: they are forgotten here, and nothing is opened or sealed any more. Every record goes
    /// through [`TlsConnection::take_record`] and [`TlsConnection::note_sealed`].
    pub fn give_to_kernel(&mut self) {
        let lost = Error::General("the connection was given up".into());
        self.stage = match std::mem::replace(&mut self.stage, Stage::Failed(Box::new(lost))) {
            Stage::Records(records) => Stage::Kernel(Box::new(records.into_kernel_records())),
            other => other,
        };
    }

    /// The kernel has opened so many bytes of payload.
    pub fn take_payload(&mut self, len: usize) -> Result<(), TlsError> {
        match &mut self.stage {
            Stage::Kernel(records) => Ok(records.take_payload(len)?),
            other => Err(other.refusal()),
        }
    }

    /// A whole record of another type that the kernel has opened.
    pub fn take_record(
        &mut self,
        content_type: u8,
        content: &[u8],
    ) -> Result<Option<KeyUpdate>, TlsError> {
        match &mut self.stage {
            Stage::Kernel(records) => Ok(records.take(content_type, content)?),
            other => Err(other.refusal()),
        }
    }

    /// The key of the peer's next record, for the kernel.
    pub fn next_opening(&mut self) -> Result<NextKey, TlsError> {
        match &mut self.stage {
            Stage::Kernel(records) => Ok(records.next_opening()?),
            other => Err(other.refusal()),
        }
    }

    /// The key of our next record, for the kernel.
    pub fn next_sealing(&mut self) -> Result<NextKey, TlsError> {
        match &mut self.stage {
            Stage::Kernel(records) => Ok(records.next_sealing()?),
            other => Err(other.refusal()),
        }
    }

    /// One call has had the kernel seal so many bytes. An error says that its key is used up.
    pub fn note_sealed(&mut self, len: usize) -> Result<(), TlsError> {
        match &mut self.stage {
            Stage::Kernel(records) => Ok(records.note_sealed(len)?),
            other => Err(other.refusal()),
        }
    }

    /// The kernel has sealed so many records.
    pub fn recount_sealed(&mut self, sealed: u64) -> Result<(), TlsError> {
        match &mut self.stage {
            Stage::Kernel(records) => Ok(records.recount_sealed(sealed)?),
            other => Err(other.refusal()),
        }
    }

    /// Bytes that are missing to the end of the record of TLS 1.3 that begins with `pending`, or to the end of its header.
    pub fn missing_len(pending: &[u8]) -> usize {
        Records::missing_len(pending)
    }

    /// Whether our last word in the handshake was a ticket, for which no peer waits: so it is where we are
    /// the server, but for TLS 1.2, where it is what the peer waits for.
    pub fn ended_with_a_ticket(&self) -> bool {
        self.is_server && matches!(self.stage, Stage::Records(_))
    }

    /// The version agreed on; `None` until the handshake is over, and well.
    pub fn version(&self) -> Option<TlsVersion> {
        match &self.stage {
            Stage::Records(_) | Stage::Kernel(_) => Some(TlsVersion::Current),
            Stage::Older(_) => Some(TlsVersion::Older),
            Stage::Handshake(_) | Stage::Failed(_) => None,
        }
    }

    /// Until both sides have the keys of the session.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.stage, Stage::Handshake(_))
    }

    /// Whether the handshake is over, and well.
    pub fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Records(_) | Stage::Kernel(_) | Stage::Older(_))
    }

    /// Whether the peer's close_notify has come: what it sent is complete.
    pub fn peer_has_closed(&self) -> bool {
        match &self.stage {
            Stage::Records(records) => records.peer_has_closed(),
            Stage::Kernel(records) => records.peer_has_closed(),
            Stage::Older(end) => end.peer_has_closed(),
            Stage::Handshake(_) | Stage::Failed(_) => false,
        }
    }

    /// The protocol agreed by ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.agreed.as_ref()?.alpn.as_deref()
    }

    /// The peer's own certificate, verified by the role's configuration.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.peer_chain().first()
    }

    /// The peer's certificate and the intermediate ones that it showed.
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        self.agreed.as_ref().map_or(&[], |agreed| &agreed.peer)
    }

    /// The peer's chain where it resumed, which rustls did not verify again; empty where it has none.
    pub fn resumed_chain(&self) -> Option<&[CertificateDer<'static>]> {
        let kind = self.agreed.as_ref()?.kind;
        (kind == Some(HandshakeKind::Resumed)).then(|| self.peer_chain())
    }

    /// Forgets what the handshake agreed on, once nobody will ask: a session at rest is small.
    pub fn forget_agreement(&mut self) {
        self.agreed = None;
    }

    /// Takes less room until the next record, which then costs a little more.
    pub fn cool(&mut self) {
        if let Stage::Records(records) = &mut self.stage {
            records.cool();
        }
    }
}

impl Stage {
    /// Why nothing can be opened or sealed before the handshake is over, or after it has failed.
    fn refusal(&self) -> TlsError {
        match self {
            Self::Failed(error) => (**error).clone().into(),
            _ => Error::HandshakeNotComplete.into(),
        }
    }
}

#[cfg(test)]
mod tests;
