//! The threads of a process: workers, and the control thread in a runtime that has a ring as well, or epoll.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;

use aws_lc_rs::rand;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tracing::warn;

use super::event_loop::EventLoop;
use super::worker::{Role, Worker, WorkerSettings};
use crate::limits::DESCRIPTOR_RESERVE;
use crate::sandbox::{self, Thread};
use crate::telemetry::counters::WorkerCounters;
use crate::uring::{RingError, Waker, start_control};

/// Why the threads of a process don't run.
#[derive(Debug, Error)]
pub enum StartError {
    /// The kernel refuses a ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The kernel refuses a thread, an event, or to go on.
    #[error("the kernel refuses to go on: {0}")]
    Kernel(#[source] io::Error),
    /// The telemetry address can't be had.
    #[error(
        "[telemetry] address: cannot listen on {address}: {source}; choose another port, or \"off\""
    )]
    Telemetry {
        /// As configured.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A worker that runs.
pub struct WorkerThread {
    ended: oneshot::Receiver<io::Result<()>>,
}

impl WorkerThread {
    /// Waits for its end. An error is the kernel's refusal to go on.
    pub async fn ended(self) -> Result<(), StartError> {
        let lost = || io::Error::other("a worker ended without a word");
        self.ended.await.unwrap_or_else(|_| Err(lost())).map_err(StartError::Kernel)
    }
}

/// Starts a worker on a thread of its own, and waits until it works.
pub fn start_worker<R>(
    index: usize,
    role: R,
    settings: WorkerSettings,
    listeners: Vec<TcpListener>,
    mails: Receiver<R::Mail>,
    waker: Arc<Waker>,
    counters: Arc<WorkerCounters>,
) -> Result<WorkerThread, StartError>
where
    R: Role + Send + 'static,
    R::Mail: Send,
{
    let (started, ready) = std::sync::mpsc::sync_channel(1);
    let (report, ended) = oneshot::channel();
    let body = move || {
        let begin = || {
            let worker = Worker::new(role, settings, listeners, mails, waker, counters)?;
            sandbox::confine(Thread::Worker).map_err(StartError::Kernel)?;
            Ok::<_, StartError>(worker)
        };
        // Both receivers wait, or the process is on its way out.
        match begin() {
            Ok(worker) => {
                let _ = started.send(Ok(()));
                let _ = report.send(worker.run());
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    };
    let name = format!("worker-{index}");
    thread::Builder::new().name(name).spawn(body).map_err(StartError::Kernel)?;
    let lost = || StartError::Kernel(io::Error::other("a worker did not start"));
    ready.recv().map_err(|_| lost())??;
    Ok(WorkerThread { ended })
}

/// Makes the calling thread the control thread, confined to what it needs, and threads that it starts
/// with it. To be called after the workers were started.
pub fn run_control<T>(
    event_loop: EventLoop,
    control: impl Future<Output = Result<T, StartError>>,
) -> Result<T, StartError> {
    let confined = async {
        sandbox::confine(Thread::Control).map_err(StartError::Kernel)?;
        control.await
    };
    match event_loop {
        EventLoop::IoUring => start_control(confined)?,
        EventLoop::Epoll => {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            LocalSet::new().block_on(&runtime.map_err(StartError::Kernel)?, confined)
        }
    }
}

/// Lets the process have as many descriptors as its hard limit allows (`getrlimit(2)`). Returns for how
/// many connections they are enough. To be called before the process gives up what it does not need.
pub fn raise_descriptor_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Fails only above the hard limit, which this is not.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let allowed = maximum.and_then(|maximum| usize::try_from(maximum).ok()).unwrap_or(usize::MAX);
    allowed.saturating_sub(DESCRIPTOR_RESERVE)
}

/// The `wanted` connections, or those that are `possible`, with a warning where these are fewer: beyond
/// them the kernel would refuse whoever comes next, a server as well as a stranger.
pub fn within_descriptors(wanted: usize, possible: usize) -> usize {
    if possible < wanted {
        warn!(
            possible,
            wanted,
            "fewer descriptors than connections: raise LimitNOFILE (or ulimit -n), or lower the limits"
        );
    }
    wanted.min(possible)
}

/// A listener for the telemetry pages, to be served on the control thread.
pub fn bind_telemetry(address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Telemetry { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Random bytes of the system, for tickets, names and jitter.
pub fn fill_random(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the kernel's random source does not fail once it has begun");
}

/// A new name for a process: 16 hexadecimal digits.
pub fn instance_name() -> String {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}
