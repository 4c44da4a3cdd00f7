use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Reader, Refusal, Watch};
use crate::limits::{
    CRL_WARNING_INTERVAL, EXPIRY_WARNING_INTERVAL, LOOK_INTERVAL, RELOAD_REQUESTS,
};
use crate::sandbox;
use crate::telemetry::notify;

/// What came of a request.
pub enum Outcome<R: Reader> {
    /// Everything was read again, and all of it holds; to be applied.
    Loaded(R::Loaded),
    /// Something of it does not. Nothing changes.
    Refused(Refusal),
    /// An errand is done.
    Done(R::Done),
}

enum Request<R: Reader> {
    Read,
    Run(R::Errand),
}

/// The control thread's end of the thread of reloads.
pub struct Reloads<R: Reader> {
    /// `None` once there are to be no more.
    requests: Option<SyncSender<Request<R>>>,
    /// Whether a reload is to come already.
    asked: Arc<AtomicBool>,
    outcomes: mpsc::Receiver<Outcome<R>>,
}

impl<R: Reader> Reloads<R> {
    /// Asks for a reload. Those that are asked for while one is under way become one more.
    pub fn request(&self) {
        if let Some(requests) = &self.requests
            && !self.asked.swap(true, Ordering::Relaxed)
            && requests.try_send(Request::Read).is_err()
        {
            // Full of errands: the next look finds what has changed.
            self.asked.store(false, Ordering::Relaxed);
        }
    }

    /// Has something else done. It comes back where there is no room, or nothing more is to be done.
    pub fn run(&self, errand: R::Errand) -> Result<(), R::Errand> {
        let Some(requests) = &self.requests else { return Err(errand) };
        requests.try_send(Request::Run(errand)).map_err(|error| match error {
            TrySendError::Full(request) | TrySendError::Disconnected(request) => match request {
                Request::Run(errand) => errand,
                Request::Read => unreachable!("an errand was sent"),
            },
        })
    }

    /// No reload from now on: the process drains.
    pub fn end(&mut self) {
        self.requests = None;
    }

    /// Waits for the next outcome. May be dropped and called again without a loss.
    pub async fn next(&mut self) -> Outcome<R> {
        if self.requests.is_some()
            && let Some(outcome) = self.outcomes.recv().await
        {
            return outcome;
        }
        pending().await
    }
}

/// Starts the thread. It reads when it is asked to, and when `watch` finds a change.
pub fn start<R: Reader>(reader: R, watch: Watch) -> io::Result<Reloads<R>> {
    let (requests, requested) = sync_channel(RELOAD_REQUESTS);
    let (outcomes, reloads) = mpsc::channel(1);
    let asked = Arc::new(AtomicBool::new(false));
    let mut body = Thread {
        reader,
        watch,
        warned: None,
        list_warnings: (None, Vec::new()),
        asked: Arc::clone(&asked),
    };
    let run = move || match sandbox::confine(sandbox::Thread::Control) {
        Ok(()) => body.run(&requested, &outcomes),
        Err(error) => warn!(%error, "there are no reloads: their thread can't be confined"),
    };
    thread::Builder::new().name("reload".to_owned()).spawn(run)?;
    Ok(Reloads { requests: Some(requests), asked, outcomes: reloads })
}

struct Thread<R> {
    reader: R,
    watch: Watch,
    /// When certificates that end soon were last warned of.
    warned: Option<Instant>,
    /// What was last said of lists, and when.
    list_warnings: (Option<Instant>, Vec<String>),
    asked: Arc<AtomicBool>,
}

impl<R: Reader> Thread<R> {
    fn run(&mut self, requests: &Receiver<Request<R>>, outcomes: &mpsc::Sender<Outcome<R>>) {
        loop {
            self.warn_of_expiry();
            self.warn_of_lists();
            let outcome = match requests.recv_timeout(LOOK_INTERVAL) {
                Ok(Request::Read) => {
                    self.asked.store(false, Ordering::Relaxed);
                    self.read()
                }
                Ok(Request::Run(errand)) => Outcome::Done(self.reader.run(errand)),
                Err(RecvTimeoutError::Timeout) if self.watch.look() => self.read(),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if outcomes.blocking_send(outcome).is_err() {
                return;
            }
        }
    }

    fn read(&mut self) -> Outcome<R> {
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
        let now = seconds_since_1970();
        for warning in self.reader.certificates().iter().filter_map(|expiry| expiry.warning(now)) {
            warn!("{warning}");
        }
    }

    /// When there is something new to say, and now and then while it stays so.
    fn warn_of_lists(&mut self) {
        let warnings = self.reader.list_warnings(seconds_since_1970());
        let (said, before) = &self.list_warnings;
        let is_old = said.is_none_or(|said| said.elapsed() >= CRL_WARNING_INTERVAL);
        if *before == warnings && !is_old {
            return;
        }
        for warning in &warnings {
            warn!("{warning}");
        }
        self.list_warnings = (Some(Instant::now()), warnings);
    }
}

fn seconds_since_1970() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX)
}
