use std::future::pending;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Reader, Refusal, Watch};
use crate::limits::{EXPIRY_WARNING_INTERVAL, LOOK_INTERVAL};
use crate::sandbox;
use crate::telemetry::notify;

/// What came of reading everything again.
#[derive(Debug)]
pub enum Outcome<T> {
    /// All of it holds; to be applied.
    Loaded(T),
    /// Nothing changes.
    Refused(Refusal),
}

/// The control thread's end of the thread of reloads.
#[derive(Debug)]
pub struct Reloads<T> {
    /// `None` once there are to be no more.
    requests: Option<SyncSender<()>>,
    outcomes: mpsc::Receiver<Outcome<T>>,
}

impl<T> Reloads<T> {
    /// Asks for a reload. Those that are asked for while one is under way become one more.
    pub fn request(&self) {
        if let Some(requests) = &self.requests {
            // Full: one is to come already.
            let _ = requests.try_send(());
        }
    }

    /// No reload from now on: the process drains.
    pub fn end(&mut self) {
        self.requests = None;
    }

    /// Waits for the next outcome. May be dropped and called again without a loss.
    pub async fn next(&mut self) -> Outcome<T> {
        if self.requests.is_some()
            && let Some(outcome) = self.outcomes.recv().await
        {
            return outcome;
        }
        pending().await
    }
}

/// Starts the thread. It reads when it is asked to, and when `watch` finds a change.
pub fn start<R: Reader>(reader: R, watch: Watch) -> io::Result<Reloads<R::Loaded>> {
    let (requests, asked) = sync_channel(1);
    let (outcomes, reloads) = mpsc::channel(1);
    let mut body = Thread { reader, watch, warned: None };
    let run = move || match sandbox::confine(sandbox::Thread::Control) {
        Ok(()) => body.run(&asked, &outcomes),
        Err(error) => warn!(%error, "there are no reloads: their thread can't be confined"),
    };
    thread::Builder::new().name("reload".to_owned()).spawn(run)?;
    Ok(Reloads { requests: Some(requests), outcomes: reloads })
}

struct Thread<R> {
    reader: R,
    watch: Watch,
    /// When certificates that end soon were last warned of.
    warned: Option<Instant>,
}

impl<R: Reader> Thread<R> {
    fn run(&mut self, asked: &Receiver<()>, outcomes: &mpsc::Sender<Outcome<R::Loaded>>) {
        loop {
            self.warn_of_expiry();
            let read = match asked.recv_timeout(LOOK_INTERVAL) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => self.watch.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if read && outcomes.blocking_send(self.read()).is_err() {
                return;
            }
        }
    }

    fn read(&mut self) -> Outcome<R::Loaded> {
        notify::reloading();
        info!("reads the configuration and its files again");
        self.watch.note();
        match self.reader.read(&mut self.watch) {
            Ok(loaded) => {
                // The check has warned of them.
                self.warned = Some(Instant::now());
                Outcome::Loaded(loaded)
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    fn warn_of_expiry(&mut self) {
        if self.warned.is_some_and(|warned| warned.elapsed() < EXPIRY_WARNING_INTERVAL) {
            return;
        }
        self.warned = Some(Instant::now());
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
        for warning in self.reader.certificates().iter().filter_map(|expiry| expiry.warning(now)) {
            warn!("{warning}");
        }
    }
}
