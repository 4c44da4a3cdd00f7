//! The load generator, a process of its own. It reads a [`Plan`] from standard input, prepares,
//! says `ready`, waits for a line, works, says `worked`, waits for a line, ends what is still open,
//! and prints a [`Report`]. While it waits, `compare` reads what the processes under test have
//! used.

mod arrivals;
mod bulk;
mod dial;
mod idle;
mod latency;
mod pace;
mod ping_pong;
mod process;
mod session_rate;
mod storm;
mod tally;

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, Runtime};

pub(crate) use self::dial::Dialer;
pub(crate) use self::process::LoadProcess;
pub(crate) use self::tally::{Distribution, Report, nanoseconds};

use self::latency::Beside;
use self::pace::Pace;
use self::storm::Storm;
use self::tally::Tally;
use crate::error::BenchError;
use crate::scenario::Work;
use crate::tls::Pki;

/// Says that preparations are done.
const READY: &str = "ready";
/// Says that the work is done; sessions may still be open.
const WORKED: &str = "worked";
/// Longest preparation: thousands of sessions with a megabyte each.
const PREPARE_DEADLINE: Duration = Duration::from_secs(300);

/// What to do, to whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Where the target listens.
    pub(crate) address: SocketAddr,
    /// The device's certificate; `None` for plain TCP.
    pub(crate) pki: Option<Pki>,
    /// Whether a ClientHello is all that is said in TLS: what follows goes through unread.
    pub(crate) passthrough: bool,
    /// How its sessions end.
    pub(crate) ends: Ends,
    /// The work.
    pub(crate) work: Work,
}

/// What a target does when a device has ended its TLS session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ends {
    /// It answers with its own `close_notify`; without one the end would be a truncation.
    Answered,
    /// It closes the connection, as nginx does.
    Unanswered,
}

/// Niceness of the thread that makes the load beside what is measured: it must not be what delays
/// that.
const BACKGROUND_NICENESS: i32 = 10;

/// Runs one plan from standard input.
pub(crate) fn run() -> Result<(), BenchError> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(BenchError::io("reading the plan"))?;
    let plan: Plan = serde_json::from_str(&line)
        .map_err(|source| BenchError::Conversation { what: "plan", source })?;
    let mut dialer = Dialer::new(plan.address, plan.pki.as_ref(), plan.ends)?;
    if plan.passthrough {
        dialer = dialer.only_hello()?;
    }
    let (runtime, background) = (one_thread(0)?, one_thread(BACKGROUND_NICENESS)?);
    let report = runtime.block_on(execute(dialer, plan.work, background.handle()));
    // Sessions that hang are not waited for: they are counted, and end with the process.
    runtime.shutdown_background();
    background.shutdown_background();
    let report = serde_json::to_string(&report?)
        .map_err(|source| BenchError::Conversation { what: "report", source })?;
    println!("{report}");
    Ok(())
}

fn one_thread(niceness: i32) -> Result<Runtime, BenchError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .on_thread_start(move || {
            // Of this thread alone (setpriority(2)). Being nicer is never refused.
            let _ = rustix::process::nice(niceness);
        })
        .build()
        .map_err(BenchError::io("starting the runtime"))
}

/// `background` is for the load beside what is measured, which must not wait for a thread that is
/// busy with megabytes or handshakes.
async fn execute(dialer: Dialer, work: Work, background: &Handle) -> Result<Report, BenchError> {
    let deadline = work.deadline();
    let mut gate = Gate::default();
    let working = async {
        match work {
            Work::Bulk { direction, connections, bytes } => {
                bulk::run(&dialer, direction, connections, bytes, &mut gate).await
            }
            Work::SessionRate { sessions, concurrency } => {
                session_rate::run(&dialer, sessions, concurrency, &mut gate).await
            }
            Work::Latency { sessions, rate, seconds, bulk: companions } => {
                let pace = Pace { per_second: sessions * rate, seconds };
                let beside = Beside::Bulk(companions);
                latency::run(&dialer, sessions, pace, beside, background, &mut gate).await
            }
            Work::Messages { sessions, per_second, seconds } => {
                let pace = Pace { per_second, seconds };
                let beside = Beside::Bulk(0);
                latency::run(&dialer, sessions, pace, beside, background, &mut gate).await
            }
            Work::Storm { sessions, rate, seconds, rows, newcomer } => {
                let pace = Pace { per_second: sessions * rate, seconds };
                let beside = Beside::Storm(Storm { rows, newcomer });
                latency::run(&dialer, sessions, pace, beside, background, &mut gate).await
            }
            Work::Arrivals { per_second, seconds, bulk } => {
                let pace = Pace { per_second, seconds };
                arrivals::run(&dialer, pace, bulk, background, &mut gate).await
            }
            Work::PingPong { sessions, messages } => {
                ping_pong::run(&dialer, sessions, messages, &mut gate).await
            }
            Work::Idle { sessions, bytes, rest_ms } => {
                let rest = Duration::from_millis(rest_ms);
                idle::run(&dialer, sessions, bytes, rest, &mut gate).await
            }
        }
    };
    let worked = tokio::time::timeout(PREPARE_DEADLINE + deadline, working).await;
    let tally = worked.unwrap_or_else(|_| {
        let mut tally = Tally::default();
        tally.fail(&"the deadline of the whole sample has passed");
        Ok(tally)
    })?;
    gate.end().await?;
    Ok(tally.report(gate.elapsed))
}

/// Before the work, and after it.
#[derive(Default)]
struct Gate {
    passed: Option<Instant>,
    elapsed: Duration,
}

impl Gate {
    /// Says that preparations are done and waits to be let through; returns when that was.
    async fn pass(&mut self) -> Result<Instant, BenchError> {
        converse(READY).await?;
        let now = Instant::now();
        self.passed = Some(now);
        Ok(now)
    }

    /// Says that the work is done and waits until its costs have been read. Work that leaves
    /// nothing open does not call this: it is done when it returns.
    async fn end(&mut self) -> Result<(), BenchError> {
        let Some(passed) = self.passed.take() else { return Ok(()) };
        self.elapsed = passed.elapsed();
        converse(WORKED).await
    }
}

/// Says a line and waits for one.
async fn converse(line: &'static str) -> Result<(), BenchError> {
    let conversation = tokio::task::spawn_blocking(move || {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        std::io::stdin().lock().read_line(&mut String::new()).map(drop)
    });
    conversation
        .await
        .map_err(std::io::Error::from)
        .flatten()
        .map_err(BenchError::io("waiting for the signal to go on"))
}
