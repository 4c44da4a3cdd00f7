use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Interval, interval, sleep_until};

use super::threads::{StartError, WorkerThread};

/// What a control thread waits for, whatever its role. Lives inside the control thread's runtime.
pub struct ControlLoop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    mail: Arc<Notify>,
    second: Interval,
    workers: JoinSet<Result<(), StartError>>,
    drain_timeout: Duration,
    drain_asked: Rc<Notify>,
    life: Life,
}

enum Life {
    Running,
    Draining { until: Instant },
    Stopping,
}

/// Why the control thread was woken.
#[derive(Debug)]
pub enum Wakeup {
    /// Mail came.
    Mail,
    /// The time that it asked for has come.
    Due,
    /// A second has passed.
    Second,
    /// SIGHUP: whoever sends it means a reload.
    Hangup,
    /// SIGTERM or SIGINT: no new sessions from now on.
    Drain,
    /// The time for draining is over, or a second signal came: end what lives.
    Stop,
    /// Every worker has ended, or one was ended by the kernel.
    WorkersEnded(Result<(), StartError>),
}

impl ControlLoop {
    /// `mail` is notified by whoever posts to this thread.
    pub fn new(
        workers: Vec<WorkerThread>,
        mail: Arc<Notify>,
        drain_timeout: Duration,
    ) -> Result<Self, StartError> {
        let mut threads = JoinSet::new();
        for worker in workers {
            threads.spawn_local(worker.ended());
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(StartError::Kernel)?,
            interrupt: signal(SignalKind::interrupt()).map_err(StartError::Kernel)?,
            hangup: signal(SignalKind::hangup()).map_err(StartError::Kernel)?,
            mail,
            second: interval(Duration::from_secs(1)),
            workers: threads,
            drain_timeout,
            drain_asked: Rc::default(),
            life: Life::Running,
        })
    }

    /// Takes the notice of `asked` as a first SIGTERM. Later ones mean nothing.
    pub fn drain_on(&mut self, asked: Rc<Notify>) {
        self.drain_asked = asked;
    }

    /// How long a drain may take that begins from now on.
    pub fn set_drain_timeout(&mut self, drain_timeout: Duration) {
        self.drain_timeout = drain_timeout;
    }

    /// Waits for the next of all these. May be dropped and called again without a loss.
    pub async fn next(&mut self, due: Option<Instant>) -> Wakeup {
        let drained = match self.life {
            Life::Draining { until } => Some(until),
            Life::Running | Life::Stopping => None,
        };
        tokio::select! {
            biased;
            _ = self.terminate.recv() => self.signalled(),
            _ = self.interrupt.recv() => self.signalled(),
            _ = self.hangup.recv() => Wakeup::Hangup,
            () = self.drain_asked.notified() => match self.life {
                Life::Running => self.signalled(),
                Life::Draining { .. } | Life::Stopping => Wakeup::Mail,
            },
            () = self.mail.notified() => Wakeup::Mail,
            () = until(due) => Wakeup::Due,
            () = until(drained) => self.stop(),
            result = ended(&mut self.workers) => Wakeup::WorkersEnded(result),
            _ = self.second.tick() => Wakeup::Second,
        }
    }

    /// The time of a drain begins, as by a first signal.
    pub fn begin_drain(&mut self) {
        if let Life::Running = self.life {
            self.life = Life::Draining { until: Instant::now() + self.drain_timeout };
        }
    }

    /// Whoever sends a second signal will not wait.
    fn signalled(&mut self) -> Wakeup {
        match self.life {
            Life::Running => {
                self.begin_drain();
                Wakeup::Drain
            }
            Life::Draining { .. } | Life::Stopping => self.stop(),
        }
    }

    fn stop(&mut self) -> Wakeup {
        self.life = Life::Stopping;
        Wakeup::Stop
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

async fn ended(workers: &mut JoinSet<Result<(), StartError>>) -> Result<(), StartError> {
    while let Some(ended) = workers.join_next().await {
        // These tasks only wait; they neither panic nor are they aborted.
        ended.unwrap_or(Ok(()))?;
    }
    Ok(())
}
