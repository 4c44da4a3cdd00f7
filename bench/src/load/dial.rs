//! A device: connects to a target, plain or with TLS and a certificate.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::BenchError;
use crate::exchange::{self, ByteStream};
use crate::tls::{GATEWAY_NAME, Pki};

/// Longest time for an echo or an end: beyond it nobody would wait.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Longest time for a connection with its handshake: above the gateway's own deadlines, so that its
/// refusals are counted as what they are.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);

/// An open session.
pub(super) type Stream = Box<dyn ByteStream>;

/// Opens sessions with one target.
#[derive(Clone)]
pub(super) struct Dialer {
    address: SocketAddr,
    connector: Option<TlsConnector>,
}

impl Dialer {
    /// Plain without a PKI.
    pub(super) fn new(address: SocketAddr, pki: Option<&Pki>) -> Result<Self, BenchError> {
        let connector = pki.map(Pki::device_config).transpose()?.map(TlsConnector::from);
        Ok(Self { address, connector })
    }

    /// A new connection with a full handshake.
    pub(super) async fn dial(&self) -> io::Result<Stream> {
        within(DIAL_DEADLINE, "connect and handshake", self.dial_unbounded()).await
    }

    async fn dial_unbounded(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.connector {
            Some(connector) => {
                let name = ServerName::try_from(GATEWAY_NAME).expect("a valid DNS name");
                Box::new(connector.connect(name, stream).await?)
            }
            None => Box::new(stream),
        })
    }
}

/// An echo of the session with this number.
pub(super) async fn echo(stream: &mut Stream, number: u64, length: u64) -> io::Result<()> {
    within(ANSWER_DEADLINE, "echo", exchange::echo(stream, number, length)).await
}

/// Ends a session from this side and waits for its clean end.
pub(super) async fn close(mut stream: Stream) -> io::Result<()> {
    within(ANSWER_DEADLINE, "close", exchange::close(&mut stream)).await
}

/// Bounds a step of a session; the error names the step.
pub(super) async fn within<T>(
    deadline: Duration,
    step: &str,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(deadline, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(io::Error::new(error.kind(), format!("{step}: {error}"))),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{step}: nothing after {} s", deadline.as_secs()),
        )),
    }
}
