//! Devices and backends that take their time, in threads of this process on their hosts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::BenchError;
use crate::exchange::{self, ByteStream};
use crate::load::Dialer;
use crate::namespaces::Namespace;

/// What a device asks for, or offers: more than anybody will take.
const ENDLESS: u64 = 1 << 40;
/// Sessions that are opened, or read fast, side by side.
const SIDE_BY_SIDE: usize = 16;
/// What a slow reader takes at once: one record of TLS.
const SIP_LEN: usize = 16 * 1024;
/// Between two sips: 9,000 of them take 37 MB/s together.
const SIP_INTERVAL: Duration = Duration::from_secs(4);
/// Longest time for a session to be opened, and to be read fast.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);

/// What is slow, and how.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// Devices ask for much and read nothing
    DeviceReadsNothing,
    /// Devices read one record every four seconds
    DeviceReadsSlowly,
    /// Devices read fast for a while, then nothing more
    DeviceStops,
    /// Devices offer much; the backend reads nothing
    BackendReadsNothing,
    /// The backend reads fast for a while, then nothing more
    BackendStops,
}

impl Case {
    /// All, in the order of the table.
    pub(super) const ALL: [Self; 5] = [
        Self::DeviceReadsNothing,
        Self::DeviceReadsSlowly,
        Self::DeviceStops,
        Self::BackendReadsNothing,
        Self::BackendStops,
    ];

    fn is_upload(self) -> bool {
        matches!(self, Self::BackendReadsNothing | Self::BackendStops)
    }
}

/// All sessions of a case, open until it is dropped.
pub(super) struct Crowd {
    runtimes: Vec<Runtime>,
}

impl Crowd {
    /// Returns when all sessions are open, and those that stop have stopped. `fast` is how many bytes
    /// are read before.
    pub(super) fn gather(
        (devices, backend): (&Namespace, &Namespace),
        port: u16,
        dialer: Dialer,
        (case, sessions, fast): (Case, usize, u64),
    ) -> Result<Self, BenchError> {
        let (devices, backend) = (devices.runtime()?, backend.runtime()?);
        let listening = backend.spawn(TcpListener::bind(("0.0.0.0", port)));
        let listener = backend.block_on(listening).expect("binding does not panic");
        let listener = listener.map_err(BenchError::io(format!("listening on port {port}")))?;
        let stopped = Arc::new(Semaphore::new(0));
        backend.spawn(accept(listener, case, fast, Arc::clone(&stopped)));
        let opening = devices.spawn(open_all(dialer, case, sessions, fast, stopped));
        let opened = devices.block_on(opening).expect("opening does not panic");
        let crowd = Self { runtimes: vec![devices, backend] };
        opened.map_err(BenchError::io("opening sessions"))?;
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.runtimes.drain(..).for_each(Runtime::shutdown_background);
    }
}

async fn open_all(
    dialer: Dialer,
    case: Case,
    sessions: usize,
    fast: u64,
    stopped: Arc<Semaphore>,
) -> io::Result<()> {
    let mut opening = JoinSet::new();
    for number in 0..sessions {
        if number >= SIDE_BY_SIDE {
            opening.join_next().await.expect("some are opening").expect("no panic")?;
        }
        let (dialer, stopped) = (dialer.clone(), Arc::clone(&stopped));
        opening.spawn(async move {
            let opened = open(&dialer, case, fast, &stopped);
            tokio::time::timeout(OPEN_DEADLINE, opened).await?
        });
    }
    while let Some(opened) = opening.join_next().await {
        opened.expect("no panic")?;
    }
    Ok(())
}

/// The session lives on in a task of its own.
async fn open(dialer: &Dialer, case: Case, fast: u64, stopped: &Semaphore) -> io::Result<()> {
    let mut stream = dialer.dial().await?;
    if case.is_upload() {
        tokio::spawn(async move { exchange::upload(&mut stream, 0, ENDLESS).await });
        if case == Case::BackendStops {
            stopped.acquire().await.map_err(io::Error::other)?.forget();
        }
        return Ok(());
    }
    exchange::ask(&mut stream, ENDLESS).await?;
    match case {
        Case::DeviceStops => take(&mut stream, fast).await?,
        // The way to the backend is open.
        Case::DeviceReadsSlowly => take(&mut stream, 1).await?,
        _ => {}
    }
    tokio::spawn(async move {
        if case == Case::DeviceReadsSlowly {
            let mut sip = vec![0; SIP_LEN];
            while stream.read_exact(&mut sip).await.is_ok() {
                tokio::time::sleep(SIP_INTERVAL).await;
            }
        } else {
            std::future::pending::<()>().await;
        }
        drop(stream);
    });
    Ok(())
}

async fn accept(listener: TcpListener, case: Case, fast: u64, stopped: Arc<Semaphore>) {
    // An error ends what is to come, and is seen where sessions are opened.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(attend(stream, case, fast, Arc::clone(&stopped)));
    }
}

async fn attend(
    mut stream: TcpStream,
    case: Case,
    fast: u64,
    stopped: Arc<Semaphore>,
) -> io::Result<()> {
    if !case.is_upload() {
        return exchange::serve(&mut stream).await;
    }
    if case == Case::BackendStops {
        take(&mut stream, fast).await?;
        stopped.add_permits(1);
    }
    std::future::pending().await
}

/// Reads so many bytes.
async fn take<S: ByteStream>(stream: &mut S, mut bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while bytes > 0 {
        let room = usize::try_from(bytes).map_or(buffer.len(), |bytes| bytes.min(buffer.len()));
        match stream.read(&mut buffer[..room]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes -= count as u64,
        }
    }
    Ok(())
}
