//! Device and backend of a transfer, in threads of this process on their hosts. Whoever receives
//! counts, so that bytes in buffers on the way are in no figure.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::error::BenchError;
use crate::exchange::{self, ByteStream};
use crate::load::Dialer;
use crate::namespaces::Namespace;
use crate::scenario::Direction;

/// Bytes of the echo that opens a session up to the backend.
const ANSWER_LEN: u64 = 64;
/// Longest time for one sample: something hangs when it takes longer.
const DEADLINE: Duration = Duration::from_secs(300);
/// Between two looks at the count.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Both, for a whole run.
pub(super) struct Ends {
    devices: Runtime,
    at_devices: Arc<AtomicU64>,
    /// Lives as long as it is to serve.
    _backend: Runtime,
    at_backend: Arc<AtomicU64>,
}

/// What to transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfer {
    pub(super) direction: Direction,
    pub(super) sessions: u64,
    /// Of all sessions together.
    pub(super) bytes: u64,
}

/// When bytes arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// From the first byte that was sent to the last that arrived.
    pub(super) whole: Duration,
    /// For the second half of the bytes alone.
    pub(super) second_half: Duration,
}

impl Ends {
    /// Has the backend listen at this port of its host.
    pub(super) fn start(
        devices: &Namespace,
        backend: &Namespace,
        port: u16,
    ) -> Result<Self, BenchError> {
        let (at_devices, at_backend) = (Arc::default(), Arc::<AtomicU64>::default());
        let (devices, backend) = (devices.runtime()?, backend.runtime()?);
        let listening = backend.spawn(TcpListener::bind(("0.0.0.0", port)));
        let listener = backend.block_on(listening).expect("binding does not panic");
        let listener = listener.map_err(BenchError::io(format!("listening on port {port}")))?;
        backend.spawn(serve(listener, Arc::clone(&at_backend)));
        Ok(Self { devices, at_devices, _backend: backend, at_backend })
    }

    /// Transfers. The clock starts when every session has had an answer of the backend.
    pub(super) fn transfer(&self, dialer: Dialer, what: Transfer) -> Result<Pace, BenchError> {
        let count = match what.direction {
            Direction::Up => &self.at_backend,
            Direction::Down => &self.at_devices,
        };
        let (opened, ready) = oneshot::channel();
        let received = Arc::clone(&self.at_devices);
        let transfer = self.devices.spawn(async move {
            tokio::time::timeout(DEADLINE, run(dialer, what, received, opened)).await?
        });
        // Where opening fails, so does the transfer, and says why.
        let _ = ready.blocking_recv();
        let (start, before) = (Instant::now(), count.load(Ordering::Relaxed));
        let (mut half, mut whole) = (None, None);
        while !transfer.is_finished() || whole.is_none() {
            let arrived = count.load(Ordering::Relaxed) - before;
            if arrived >= what.bytes / 2 {
                half.get_or_insert(start.elapsed());
            }
            if arrived >= what.bytes {
                whole.get_or_insert(start.elapsed());
            } else if transfer.is_finished() {
                break;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        let transferred = self.devices.block_on(transfer).expect("transfers don't panic");
        transferred.map_err(BenchError::io("transferring"))?;
        let (half, whole) = (half.unwrap_or_default(), whole.unwrap_or_default());
        Ok(Pace { whole, second_half: whole.saturating_sub(half) })
    }
}

async fn run(
    dialer: Dialer,
    what: Transfer,
    received: Arc<AtomicU64>,
    opened: oneshot::Sender<()>,
) -> io::Result<()> {
    let mut streams = Vec::new();
    for number in 0..what.sessions {
        let stream = dialer.dial().await?;
        let mut stream = Counted { stream, received: Arc::clone(&received) };
        exchange::echo(&mut stream, number, ANSWER_LEN).await?;
        streams.push(stream);
    }
    // Nobody listens any more only where the whole run has failed.
    let _ = opened.send(());
    let mut transfers = JoinSet::new();
    let each = what.bytes.div_ceil(what.sessions);
    for (number, mut stream) in (0..).zip(streams) {
        let position = number * 1009;
        transfers.spawn(async move {
            match what.direction {
                Direction::Up => exchange::upload(&mut stream, position, each).await?,
                Direction::Down => exchange::download(&mut stream, position, each).await?,
            }
            exchange::close(&mut stream).await
        });
    }
    while let Some(transferred) = transfers.join_next().await {
        transferred.expect("transfers don't panic")?;
    }
    Ok(())
}

async fn serve(listener: TcpListener, received: Arc<AtomicU64>) {
    loop {
        // Fails where descriptors run out, and no session of ours would go on.
        let Ok((stream, _)) = listener.accept().await else { return };
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            if let Err(error) = serve_one(stream, received).await {
                eprintln!("backend: {error}");
            }
        });
    }
}

async fn serve_one(stream: TcpStream, received: Arc<AtomicU64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    exchange::serve(&mut Counted { stream, received }).await
}

/// A stream whose reader counts.
struct Counted<S> {
    stream: S,
    received: Arc<AtomicU64>,
}

impl<S: ByteStream> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        let count = buffer.filled().len() - before;
        self.received.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(result)
    }
}

impl<S: ByteStream> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Where a device of the direct case, or of another, connects.
pub(super) fn dialer(
    address: SocketAddr,
    pki: Option<&crate::tls::Pki>,
) -> Result<Dialer, BenchError> {
    Dialer::new(address, pki, crate::load::Ends::Answered)
}
