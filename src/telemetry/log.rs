//! The log: where it goes, in which form, and how much of it a stranger may cause.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::limits::LOG_BACKLOG_LINES;

/// Environment variable with the filter, where the command line names none.
pub const FILTER_VARIABLE: &str = "VESTIBULE_LOG";

const DEFAULT_FILTER: &str = "info";

/// The process has one log, so the count of its dropped lines is one too.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines that the output did not take: a full disk, a reader that is gone.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text where standard error is a terminal, JSON otherwise
    #[default]
    Auto,
    /// For people
    Text,
    /// For machines: an object on each line
    Json,
}

/// Keeps the log's thread alive; the lines still held are written when this is dropped.
#[derive(Debug)]
#[must_use = "the log ends where this is dropped"]
pub struct LogGuard {
    _thread: WorkerGuard,
}

/// Why there is no log. The operator's to repair.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "log filter {filter:?} from {origin}: {reason}; write for example \"info\" or \"vestibule=debug\""
    )]
    Filter {
        /// As given.
        filter: String,
        /// The option or variable that it came from.
        origin: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The process has a log already.
    #[error("the log was set up twice")]
    Twice,
}

/// Sends the log of this process to standard error. `filter` is a list of directives such as
/// `info,vestibule=debug`; without one, `VESTIBULE_LOG` is taken, or `info`.
pub fn init_log(format: LogFormat, filter: Option<&str>) -> Result<LogGuard, LogError> {
    let filter = read_filter(filter)?;
    let is_terminal = io::stderr().is_terminal();
    let (writer, thread) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_BACKLOG_LINES)
        .thread_name("log")
        .finish(Output { output: io::stderr(), broken: false });
    DROPPED.set(writer.error_counter()).map_err(|_| LogError::Twice)?;
    let json = format == LogFormat::Json || format == LogFormat::Auto && !is_terminal;
    install(json, is_terminal, filter, writer)?;
    Ok(LogGuard { _thread: thread })
}

/// Lines that were lost because the log's output was blocked, or took none.
pub fn dropped_lines() -> u64 {
    let blocked = DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64);
    blocked + REFUSED.load(Ordering::Relaxed)
}

/// Where the log's thread writes whole lines. One that fails is counted, and the next is tried all the
/// same: a disk does not stay full.
struct Output<W> {
    output: W,
    /// The last line failed, and a part of it may be there.
    broken: bool,
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let begun = if self.broken { self.output.write_all(b"\n") } else { Ok(()) };
        let written = begun.and_then(|()| self.output.write_all(line));
        self.broken = written.is_err();
        if self.broken {
            REFUSED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn read_filter(given: Option<&str>) -> Result<EnvFilter, LogError> {
    let (filter, origin) = match (given, std::env::var(FILTER_VARIABLE)) {
        (Some(filter), _) => (filter.to_owned(), "--log-filter"),
        (None, Ok(filter)) if !filter.is_empty() => (filter, FILTER_VARIABLE),
        (None, _) => (DEFAULT_FILTER.to_owned(), "the default"),
    };
    EnvFilter::try_new(&filter).map_err(|error| LogError::Filter {
        reason: error.to_string(),
        filter,
        origin,
    })
}

fn install(
    json: bool,
    colour: bool,
    filter: EnvFilter,
    writer: NonBlocking,
) -> Result<(), LogError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(writer)
        .with_ansi(colour && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    let installed =
        if json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
    installed.map_err(|_| LogError::Twice)
}

/// A token bucket for lines that strangers can cause. In any span of time it lets pass one second's
/// worth of lines, and the rate after that; it counts the others and sums them up once a second.
#[derive(Debug)]
pub struct LineLimiter {
    lines_per_second: u32,
    /// Billionths of a line, so that no time between two calls is lost to rounding.
    tokens: u64,
    refilled_at: Option<Instant>,
    suppressed: u64,
    summed_at: Option<Instant>,
}

const LINE: u64 = 1_000_000_000;
const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);

impl LineLimiter {
    /// A full bucket.
    pub fn new(lines_per_second: u32) -> Self {
        Self {
            lines_per_second,
            tokens: u64::from(lines_per_second) * LINE,
            refilled_at: None,
            suppressed: 0,
            summed_at: None,
        }
    }

    /// Whether a line may be written now; one that may not is counted.
    pub fn allow(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.tokens >= LINE {
            self.tokens -= LINE;
            return true;
        }
        if self.suppressed == 0 {
            self.summed_at = Some(now);
        }
        self.suppressed += 1;
        false
    }

    /// How many lines were suppressed since the last summary; `Some` at most once a second, and only
    /// where there were any.
    pub fn summary(&mut self, now: Instant) -> Option<u64> {
        let since = self.summed_at?;
        if self.suppressed == 0 || now.saturating_duration_since(since) < SUMMARY_INTERVAL {
            return None;
        }
        self.summed_at = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled_at.unwrap_or(now));
        self.refilled_at = self.refilled_at.max(Some(now));
        let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let rate = u64::from(self.lines_per_second);
        self.tokens = self.tokens.saturating_add(elapsed_ns.saturating_mul(rate)).min(rate * LINE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_that_a_full_disk_refuses_is_counted_and_the_next_is_whole() {
        /// Takes so many bytes, and no more until it gets room again.
        struct Disk(Vec<u8>, usize);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let len = bytes.len().min(self.1 - self.0.len());
                self.0.extend_from_slice(&bytes[..len]);
                if len > 0 { Ok(len) } else { Err(io::ErrorKind::StorageFull.into()) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut log = Output { output: Disk(Vec::new(), 10), broken: false };
        let before = dropped_lines();
        for line in ["first\n", "second\n", "third\n"] {
            log.write_all(line.as_bytes()).expect("the log itself never fails");
        }
        assert_eq!(dropped_lines() - before, 2);
        log.output.1 = 100;
        log.write_all(b"fourth\n").expect("as before");
        assert_eq!(String::from_utf8_lossy(&log.output.0), "first\nseco\nfourth\n");
    }

    #[test]
    fn every_line_is_either_written_or_summed_up() {
        let start = Instant::now();
        let mut limiter = LineLimiter::new(5);
        let written = (0..100).filter(|_| limiter.allow(start)).count();
        assert_eq!(written, 5);
        assert_eq!(limiter.summary(start), None, "a second has not passed");
        assert_eq!(limiter.summary(start + SUMMARY_INTERVAL), Some(95));
        assert_eq!(limiter.summary(start + 2 * SUMMARY_INTERVAL), None, "nothing was suppressed");
    }

    #[test]
    fn a_quiet_stranger_is_never_suppressed() {
        let start = Instant::now();
        let mut limiter = LineLimiter::new(5);
        for line in 0..1000 {
            assert!(limiter.allow(start + line * Duration::from_millis(200)));
        }
    }

    #[test]
    fn a_bad_filter_names_where_it_came_from() {
        let error = read_filter(Some("vestibule=loud")).expect_err("there is no such level");
        assert!(error.to_string().contains("--log-filter"), "{error}");
        assert!(error.to_string().contains("vestibule=loud"), "{error}");
    }

    proptest! {
        #[test]
        fn no_span_of_time_has_more_lines_than_its_seconds_and_one_allow(
            rate in 1u32..50,
            gaps_ms in proptest::collection::vec(0u64..300, 1..300),
        ) {
            let start = Instant::now();
            let mut limiter = LineLimiter::new(rate);
            let mut now = start;
            let mut written = 0u64;
            for &gap in &gaps_ms {
                now += Duration::from_millis(gap);
                written += u64::from(limiter.allow(now));
                let elapsed_ms = u64::try_from((now - start).as_millis()).expect("minutes");
                prop_assert!(written * 1000 <= u64::from(rate) * (elapsed_ms + 1000));
            }
            let suppressed = limiter.summary(now + SUMMARY_INTERVAL).unwrap_or(0);
            prop_assert_eq!(written + suppressed, gaps_ms.len() as u64);
        }
    }
}
