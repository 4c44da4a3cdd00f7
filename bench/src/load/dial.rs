//! A device: connects to a target, plain or with TLS and a certificate.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::Ends;
use super::tally::Tally;
use crate::error::BenchError;
use crate::exchange::{self, ByteStream};
use crate::tls::{GATEWAY_NAME, PASSTHROUGH_NAME, Pki};

/// Longest time for an echo or an end: beyond it nobody would wait.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Longest time for a connection with its handshake: above the gateway's own deadlines, so that its
/// refusals are counted as what they are.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);

/// Sessions that are opened, or ended, side by side.
pub(super) const ROWS: u64 = 16;
/// Bytes of the echo that opens a session up to the backend.
const ANSWER_LEN: u64 = 64;

/// An open session.
pub(crate) type Stream = Box<dyn ByteStream>;

/// Opens sessions with one target.
#[derive(Clone)]
pub(crate) struct Dialer {
    address: SocketAddr,
    connector: Option<TlsConnector>,
    /// All that is said in TLS, where it is to go through unread.
    only_hello: Option<Arc<[u8]>>,
    ends: Ends,
}

impl Dialer {
    /// Plain without a PKI.
    pub(crate) fn new(
        address: SocketAddr,
        pki: Option<&Pki>,
        ends: Ends,
    ) -> Result<Self, BenchError> {
        let config = pki.map(Pki::device_config).transpose()?;
        let connector = config.map(TlsConnector::from);
        Ok(Self { address, connector, only_hello: None, ends })
    }

    /// One that says a ClientHello for [`PASSTHROUGH_NAME`], and goes on as if TLS had been agreed on with the backend.
    pub(super) fn only_hello(self) -> Result<Self, BenchError> {
        let hello = self.hello_for(PASSTHROUGH_NAME);
        let hello = hello.map_err(BenchError::io("making a ClientHello"))?;
        Ok(Self { only_hello: Some(hello.into()), ..self })
    }

    /// A new connection with a full handshake.
    pub(crate) async fn dial(&self) -> io::Result<Stream> {
        within(DIAL_DEADLINE, "connect and handshake", self.dial_unbounded()).await
    }

    /// A ClientHello; empty for plain agents.
    pub(super) fn hello(&self) -> io::Result<Vec<u8>> {
        self.hello_for(GATEWAY_NAME)
    }

    fn hello_for(&self, server: &'static str) -> io::Result<Vec<u8>> {
        let mut hello = Vec::new();
        if let Some(connector) = &self.connector {
            let config = Arc::clone(connector.config());
            let mut tls = ClientConnection::new(config, name(server)).map_err(io::Error::other)?;
            tls.write_tls(&mut hello)?;
        }
        Ok(hello)
    }

    /// Half a handshake: says the hello, and leaves with a reset when the answer comes, most of it
    /// unread.
    pub(super) async fn say_hello(&self, hello: &[u8]) -> io::Result<()> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(hello).await?;
            stream.read_exact(&mut [0]).await.map(drop)
        };
        within(ANSWER_DEADLINE, "hello", exchange).await
    }

    async fn dial_answered(&self, number: u64) -> io::Result<Stream> {
        let mut stream = self.dial().await?;
        echo(&mut stream, number, ANSWER_LEN).await?;
        Ok(stream)
    }

    async fn dial_unbounded(&self) -> io::Result<Stream> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if let Some(hello) = &self.only_hello {
            stream.write_all(hello).await?;
            return Ok(Box::new(stream));
        }
        Ok(match &self.connector {
            Some(connector) => {
                let stream = connector.connect(name(GATEWAY_NAME), stream).await?;
                match self.ends {
                    Ends::Answered => Box::new(stream),
                    Ends::Unanswered => Box::new(Unanswered(stream)),
                }
            }
            None => Box::new(stream),
        })
    }
}

fn name(server: &'static str) -> ServerName<'static> {
    ServerName::try_from(server).expect("a valid DNS name")
}

/// Sessions that have each had an answer from the backend, opened in a few rows side by side.
pub(super) async fn open_answered(
    dialer: &Dialer,
    sessions: u64,
    tally: &mut Tally,
) -> Vec<Stream> {
    let mut rows = JoinSet::new();
    for row in 0..ROWS {
        let dialer = dialer.clone();
        rows.spawn(async move {
            let mut opened = Vec::new();
            for number in (row..sessions).step_by(stride(ROWS)) {
                opened.push(dialer.dial_answered(number).await);
            }
            opened
        });
    }
    let mut streams = Vec::new();
    while let Some(row) = rows.join_next().await {
        for opened in row.expect("rows don't panic") {
            match opened {
                Ok(stream) => streams.push(stream),
                Err(error) => tally.fail(&error),
            }
        }
    }
    streams
}

/// Ends sessions, in a few rows side by side.
pub(super) async fn close_all(streams: Vec<Stream>, tally: &mut Tally) {
    let mut rows: Vec<Vec<Stream>> = (0..ROWS).map(|_| Vec::new()).collect();
    for (number, stream) in streams.into_iter().enumerate() {
        rows[number % stride(ROWS)].push(stream);
    }
    let mut closing = JoinSet::new();
    for row in rows {
        closing.spawn(async move {
            let mut ends = Vec::new();
            for stream in row {
                ends.push(close(stream).await);
            }
            ends
        });
    }
    while let Some(ends) = closing.join_next().await {
        ends.expect("rows don't panic").into_iter().for_each(|end| tally.count_end(end));
    }
}

/// Between two sessions of one row.
pub(super) fn stride(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX).max(1)
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

/// A session whose other side answers no `close_notify`: bytes that are missing before the end are
/// still an error of those who wait for them.
struct Unanswered<S>(S);

impl<S: ByteStream> AsyncRead for Unanswered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_read(context, buffer)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl<S: ByteStream> AsyncWrite for Unanswered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
