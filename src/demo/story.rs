//! The course of the demo: prepare, start, watch, end.

use std::io;
use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::addresses::{self, Addresses};
use super::device::{self, Device};
use super::failure::Problem;
use super::figures::Gauge;
use super::process::{Process, wait_until};
use super::screen::Screen;
use super::tally::Tally;
use super::view::{self, Scene};
use super::{Options, backend, setup, sockets};
use crate::limits::{DEMO_FINISH_TIMEOUT, DEMO_REFRESH_INTERVAL, DEMO_START_TIMEOUT};
use crate::telemetry::status::{State, fetch};

/// Tells it all, with its files in `folder`. On return no process is left.
pub(super) async fn tell(options: &Options, folder: &Path) -> Result<(), Problem> {
    let mut interrupts = Interrupts::new().map_err(Problem::Signals)?;
    let mut screen = Screen::new();
    let (addresses, listener) = addresses::choose().map_err(Problem::Listen)?;
    screen.print(&view::picture(&addresses))?;
    let mut background = JoinSet::new();
    background.spawn_local(backend::serve(nonblocking(listener).map_err(Problem::Listen)?));
    let processes = tokio::select! {
        started = start(options, folder, &addresses) => started?,
        () = interrupts.next() => return Ok(()),
    };
    let program = program();
    screen.print(&format!("\n{}\n", view::commands(&addresses, folder, &program)))?;

    let mut site = Site::new(processes, &addresses, device::all(folder, &addresses)?);
    tokio::select! {
        watched = site.watch(&mut screen) => watched?,
        () = interrupts.next() => {}
        () = over(options.duration) => {}
    }
    let scene = site.end().await?;
    screen.print(&format!("\n{}", view::summary(&scene)))?;
    judge(&scene)?;
    screen.print(&format!("\n{}", view::next_steps(&program)))?;
    Ok(())
}

/// The three roles, each in a process of its own.
struct Processes {
    gateway: Process,
    server: Process,
    agent: Process,
}

/// Makes the files, starts the processes, and returns when sessions are possible.
async fn start(
    options: &Options,
    folder: &Path,
    addresses: &Addresses,
) -> Result<Processes, Problem> {
    setup::write(folder, addresses)?;
    let start = |name| Process::start(name, folder, options);
    let (mut gateway, server, mut agent) = (start("gateway")?, start("server")?, start("agent")?);
    wait_until(&mut gateway, DEMO_START_TIMEOUT, async |pid| {
        // The process id: another process may have been faster to take the port.
        let status = fetch(addresses.gateway_telemetry).await;
        status.is_ok_and(|status| status.pid == pid && status.state == State::Ready)
    })
    .await?;
    wait_until(&mut agent, DEMO_START_TIMEOUT, async |pid| {
        sockets::of_process(pid).is_ok_and(|sockets| sockets.listening > 0)
    })
    .await?;
    Ok(Processes { gateway, server, agent })
}

/// Everything that runs, while the viewer watches.
struct Site {
    processes: Processes,
    devices: JoinSet<()>,
    stop_devices: watch::Sender<bool>,
    tally: Rc<Tally>,
    gauge: Gauge,
    started: Instant,
}

impl Site {
    fn new(processes: Processes, addresses: &Addresses, all: Vec<Device>) -> Self {
        let tally = Rc::new(Tally::default());
        let (stop_devices, stopped) = watch::channel(false);
        let mut devices = JoinSet::new();
        for device in all {
            devices.spawn_local(device.live(Rc::clone(&tally), stopped.clone()));
        }
        let gauge = Gauge::new(addresses.gateway_telemetry, processes.gateway.id());
        Self { processes, devices, stop_devices, tally, gauge, started: Instant::now() }
    }

    /// Shows a scene each second, until a process ends that should not.
    async fn watch(&mut self, screen: &mut Screen) -> Result<(), Problem> {
        let mut ticks = tokio::time::interval(DEMO_REFRESH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, when there is nothing to see.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let Processes { gateway, server, agent } = &mut self.processes;
            for process in [gateway, server, agent] {
                process.check()?;
            }
            self.gauge.look().await?;
            screen.show(&self.scene())?;
        }
    }

    fn scene(&self) -> Scene {
        Scene {
            elapsed: self.started.elapsed(),
            figures: self.gauge.figures.clone(),
            throughput: self.gauge.throughput,
            most_opened: self.gauge.most_opened,
            counts: self.tally.counts(),
        }
    }

    /// Lets the devices finish, takes a last look, and ends the processes.
    async fn end(mut self) -> Result<Scene, Problem> {
        self.stop_devices.send_replace(true);
        let finished = async { while self.devices.join_next().await.is_some() {} };
        // Those that are late are cut off, and counted neither as well nor as failed.
        let _ = tokio::time::timeout(DEMO_FINISH_TIMEOUT, finished).await;
        self.devices.shutdown().await;
        self.gauge.look().await?;
        let scene = self.scene();
        let Processes { gateway, server, agent } = self.processes;
        for process in [agent, server, gateway] {
            process.stop().await?;
        }
        Ok(scene)
    }
}

/// Whether all was well.
fn judge(scene: &Scene) -> Result<(), Problem> {
    let counts = &scene.counts;
    match &counts.last_error {
        Some(last) => Err(Problem::Visits { count: counts.errors, last: last.clone() }),
        None if scene.most_opened > 0 => Err(Problem::Opened(scene.most_opened)),
        None if counts.verified_up == 0 || counts.verified_down == 0 => Err(Problem::NothingMoved),
        None => Ok(()),
    }
}

/// Ctrl-C, SIGTERM, and a terminal that is closed.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupts {
    /// Takes the signals over.
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

async fn over(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

fn nonblocking(listener: StdListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// How this program is called from anywhere.
fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| "vestibule".into())
}

#[cfg(test)]
mod tests {
    use super::super::tally::Counts;
    use super::*;

    fn scene(counts: Counts) -> Scene {
        Scene { counts, ..Scene::default() }
    }

    fn moved() -> Counts {
        Counts { visits: 1, verified_up: 1, verified_down: 1, ..Counts::default() }
    }

    #[test]
    fn a_demo_in_which_data_moved_both_ways_went_well() {
        assert!(judge(&scene(moved())).is_ok());
    }

    #[test]
    fn a_demo_in_which_nothing_moved_one_way_did_not_go_well() {
        let counts = Counts { verified_up: 0, ..moved() };
        assert!(matches!(judge(&scene(counts)), Err(Problem::NothingMoved)));
    }

    #[test]
    fn one_failed_visit_fails_the_demo() {
        let counts = Counts { errors: 1, last_error: Some("late".to_owned()), ..moved() };
        assert!(matches!(judge(&scene(counts)), Err(Problem::Visits { count: 1, .. })));
    }

    #[test]
    fn a_gateway_that_opened_a_connection_fails_the_demo() {
        let scene = Scene { most_opened: 1, ..scene(moved()) };
        assert!(matches!(judge(&scene), Err(Problem::Opened(1))));
    }
}
