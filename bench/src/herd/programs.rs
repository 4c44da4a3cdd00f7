//! The local programs: each wants a session at all times, and dials again when it has lost it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::error::BenchError;
use crate::exchange;

/// Before a program dials again: it has noticed, and does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// What a program says first, and hears again.
const MESSAGE_LEN: u64 = 64;

/// They end when this is dropped.
pub(super) struct Programs {
    counts: Arc<Counts>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Counts {
    up: AtomicUsize,
    dials: AtomicU64,
}

impl Programs {
    pub(super) fn start(address: SocketAddr, count: usize) -> Result<Self, BenchError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(BenchError::io("starting the runtime"))?;
        let counts = Arc::<Counts>::default();
        for _ in 0..count {
            runtime.spawn(live(address, Arc::clone(&counts)));
        }
        Ok(Self { counts, _runtime: runtime })
    }

    /// Programs that have a session which has brought an echo.
    pub(super) fn up(&self) -> usize {
        self.counts.up.load(Ordering::Relaxed)
    }

    /// Connections to the agents so far.
    pub(super) fn dials(&self) -> u64 {
        self.counts.dials.load(Ordering::Relaxed)
    }
}

async fn live(address: SocketAddr, counts: Arc<Counts>) {
    loop {
        counts.dials.fetch_add(1, Ordering::Relaxed);
        // Any failure is a session that is lost, and that is what is measured.
        let _ = hold(address, &counts).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Holds a session until it ends.
async fn hold(address: SocketAddr, counts: &Counts) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    exchange::echo(&mut stream, 0, MESSAGE_LEN).await?;
    counts.up.fetch_add(1, Ordering::Relaxed);
    let ended = stream.read_u8().await;
    counts.up.fetch_sub(1, Ordering::Relaxed);
    ended.map(drop)
}
