use std::io;
use std::time::Duration;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, HandshakeKind};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::relay::loss;
use super::socket::prepare_gateway_leg;
use crate::config::HostPort;
use crate::limits::{DIAL_TIMEOUT, OPEN_TIMEOUT};
use crate::relay::{CloseReason, Party};
use crate::tls::check_dates;
use crate::wire::{
    FrameDecoder, FrameError, FromAgent, Open, RefusalReason, ToAgent, alpn, encode, from_agent,
    to_agent,
};

/// A gateway to dial.
pub(super) struct Endpoint {
    pub(super) address: HostPort,
    /// Name that its certificate must bear.
    pub(super) name: ServerName<'static>,
    /// With the tickets of this gateway.
    pub(super) connector: TlsConnector,
}

/// A session that the gateway joined; its bytes follow on the stream.
#[derive(Debug)]
pub(super) struct OpenedSession {
    pub(super) stream: TlsStream<TcpStream>,
    /// Names the session in the logs of gateway and server too.
    pub(super) name: String,
}

/// Why one gateway gave no session.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    #[error("can't connect ({0}); check its address, and that the firewall lets us out to it")]
    Connect(io::Error),
    #[error("no connection within {}s; check its address, and the firewall", DIAL_TIMEOUT.as_secs())]
    DialTimeout,
    #[error("TLS handshake failed ({0}); check its certificate, its name and gateway_ca")]
    Handshake(io::Error),
    #[error("it does not speak the agent protocol; check the port")]
    NotAGateway,
    #[error("it ended the connection before the session ({0}); its log says why")]
    Lost(io::Error),
    #[error("no answer within {}s", OPEN_TIMEOUT.as_secs())]
    OpenTimeout,
    #[error("it sent a {0}")]
    Frame(#[from] FrameError),
    #[error("it sent a message that this release does not know; upgrade this agent")]
    MessageUnknown,
    #[error("it refused: {reason}; worth trying again after {retry_after_ms} ms (0: not at all)")]
    Refused { reason: RefusalReason, retry_after_ms: u32 },
}

impl OpenError {
    /// Whether another gateway may give what this one did not. A refusal that waiting can't help is
    /// the same everywhere, and asking on would only hide it.
    pub(super) fn leads_to_next_gateway(&self) -> bool {
        match self {
            Self::Refused { reason, .. } => reason.is_transient(),
            _ => true,
        }
    }

    /// Whether the same gateway may give later what it did not give now. What is wrong with a
    /// certificate, a name or a service does not pass by waiting.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::DialTimeout | Self::Lost(_) => true,
            // It had no place for us: it closed, or said that something is wrong at its end.
            Self::Handshake(error) => match tls_error(error) {
                None => true,
                Some(alert) => {
                    *alert == rustls::Error::AlertReceived(AlertDescription::InternalError)
                }
            },
            Self::Refused { reason, .. } => reason.is_transient(),
            Self::NotAGateway | Self::OpenTimeout | Self::Frame(_) | Self::MessageUnknown => false,
        }
    }

    /// When it has told us to come back.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after_ms: ms @ 1.., .. } => {
                Some(Duration::from_millis(u64::from(*ms)))
            }
            _ => None,
        }
    }

    pub(super) fn reason(&self) -> CloseReason {
        match self {
            Self::Connect(_) | Self::DialTimeout | Self::OpenTimeout => {
                CloseReason::GatewayUnreachable
            }
            Self::Handshake(error) => handshake_failure(error),
            Self::NotAGateway => CloseReason::HandshakeFailed,
            Self::Lost(error) => loss(Party::Gateway, error),
            Self::Frame(_) => CloseReason::FrameInvalid,
            Self::MessageUnknown => CloseReason::MessageUnknown,
            Self::Refused { reason, .. } => CloseReason::Refused(*reason),
        }
    }
}

impl Endpoint {
    /// Dials the gateway and asks for a session with the service.
    pub(super) async fn open(&self, service: &str) -> Result<OpenedSession, OpenError> {
        let mut stream =
            timeout(DIAL_TIMEOUT, self.dial()).await.or(Err(OpenError::DialTimeout))??;
        let name = timeout(OPEN_TIMEOUT, ask(&mut stream, service))
            .await
            .or(Err(OpenError::OpenTimeout))??;
        Ok(OpenedSession { stream, name })
    }

    async fn dial(&self) -> Result<TlsStream<TcpStream>, OpenError> {
        let stream = TcpStream::connect((self.address.host.as_str(), self.address.port))
            .await
            .map_err(OpenError::Connect)?;
        prepare_gateway_leg(&stream).map_err(OpenError::Connect)?;
        let stream = self
            .connector
            .connect(self.name.clone(), stream)
            .await
            .map_err(OpenError::Handshake)?;
        let tls = stream.get_ref().1;
        if tls.handshake_kind() == Some(HandshakeKind::Resumed) {
            check_dates(tls.peer_certificates().unwrap_or_default(), UnixTime::now())
                .map_err(|error| OpenError::Handshake(io::Error::other(error)))?;
        }
        if tls.alpn_protocol() != Some(alpn::AGENT) {
            return Err(OpenError::NotAGateway);
        }
        Ok(stream)
    }
}

/// Sends `Open` and reads the answer, and not a byte beyond it: a server may speak first.
async fn ask(stream: &mut TlsStream<TcpStream>, service: &str) -> Result<String, OpenError> {
    let open = from_agent::Message::Open(Open { service: service.to_owned() });
    let mut frame = Vec::new();
    encode(&FromAgent { message: Some(open) }, &mut frame);
    stream.write_all(&frame).await.map_err(OpenError::Lost)?;
    stream.flush().await.map_err(OpenError::Lost)?;

    let mut decoder = FrameDecoder::default();
    loop {
        let bytes = stream.fill_buf().await.map_err(OpenError::Lost)?;
        if bytes.is_empty() {
            return Err(OpenError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut rest = bytes;
        let answer = decoder.decode::<ToAgent>(&mut rest)?;
        let taken = bytes.len() - rest.len();
        stream.consume(taken);
        if let Some(answer) = answer {
            return interpret(answer);
        }
    }
}

fn interpret(answer: ToAgent) -> Result<String, OpenError> {
    match answer.message {
        Some(to_agent::Message::Opened(opened)) => Ok(opened.session),
        Some(to_agent::Message::Refused(refused)) => Err(OpenError::Refused {
            reason: refused.reason(),
            retry_after_ms: refused.retry_after_ms,
        }),
        None => Err(OpenError::MessageUnknown),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn handshake_failure(error: &io::Error) -> CloseReason {
    let Some(rustls::Error::InvalidCertificate(certificate_error)) = tls_error(error) else {
        return CloseReason::HandshakeFailed;
    };
    match certificate_error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => CloseReason::CertificateExpired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CloseReason::CertificateNotAllowed
        }
        _ => CloseReason::CertificateUntrusted,
    }
}
