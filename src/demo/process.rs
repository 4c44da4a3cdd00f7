//! The processes of the demo: started, watched, ended.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use super::Options;
use super::failure::Problem;
use crate::limits::{DEMO_LOG_TAIL_LEN, DEMO_LOOK_INTERVAL, DEMO_STOP_TIMEOUT};
use crate::telemetry::log::LogFormat;

/// Has the kernel send this process SIGTERM when its parent ends, however that ends. `parent` is the
/// process that asked for it; an error where it is gone already.
pub fn follow_parent(parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let is_parent = |pid: Pid| u32::try_from(pid.as_raw_pid()) == Ok(parent);
    if getppid().is_some_and(is_parent) {
        Ok(())
    } else {
        Err(io::Error::other(format!("process {parent}, which started this one, has ended")))
    }
}

/// A role in a process of its own. Killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts a role with `NAME.toml` of the folder; its log goes to `NAME.log`.
    pub(super) fn start(
        name: &'static str,
        folder: &Path,
        options: &Options,
    ) -> Result<Self, Problem> {
        let log = log_file(folder, name);
        let output = File::create(&log).map_err(|source| Problem::File { path: log, source })?;
        let spawn = || {
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args([name, "--with-parent", &std::process::id().to_string()])
                .arg("--config")
                .arg(folder.join(format!("{name}.toml")))
                .args(["--log", format_word(options.log_format)]);
            // The demo shows what the kernel says of the gateway's sockets, which is told to nobody else
            // of this user where core files are off.
            if name != "agent" {
                command.args(["--without-sandbox", "core-dumps"]);
            }
            if let Some(filter) = &options.log_filter {
                command.args(["--log-filter", filter]);
            }
            // In a group of its own: Ctrl-C is for the demo, which ends the devices first.
            command.process_group(0);
            command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()
        };
        let child = spawn().map_err(|source| Problem::Spawn { name, source })?;
        Ok(Self { name, child })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error where it has ended.
    pub(super) fn check(&mut self) -> Result<(), Problem> {
        let name = self.name;
        match self.child.try_wait().map_err(|source| Problem::Watch { name, source })? {
            None => Ok(()),
            Some(status) => Err(Problem::Ended { name, status }),
        }
    }

    /// Asks it to end, and waits for it.
    pub(super) async fn stop(mut self) -> Result<(), Problem> {
        let name = self.name;
        self.check()?;
        // It may end between the look and the signal; the status below says how.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + DEMO_STOP_TIMEOUT;
        while Instant::now() < deadline {
            match self.check() {
                Ok(()) => tokio::time::sleep(DEMO_LOOK_INTERVAL).await,
                Err(Problem::Ended { status, .. }) if status.success() => return Ok(()),
                Err(problem) => return Err(problem),
            }
        }
        Err(Problem::Stuck { name })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail where it has ended already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `done`, or says that `process` was not ready in time, or has ended.
pub(super) async fn wait_until(
    process: &mut Process,
    timeout: Duration,
    mut done: impl AsyncFnMut(u32) -> bool,
) -> Result<(), Problem> {
    let deadline = Instant::now() + timeout;
    while !done(process.id()).await {
        process.check()?;
        if Instant::now() > deadline {
            return Err(Problem::NotReady { name: process.name });
        }
        tokio::time::sleep(DEMO_LOOK_INTERVAL).await;
    }
    Ok(())
}

/// The last lines of each log in the folder.
pub(super) fn log_tails(folder: &Path) -> String {
    let mut text = String::new();
    for name in ["gateway", "server", "agent"] {
        let log = log_file(folder, name);
        let lines = match tail(&log) {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => format!("can't be read: {error}"),
        };
        writeln!(text, "---- the end of {}\n{}", log.display(), lines.trim_end())
            .expect("a String takes all that is written to it");
    }
    text
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let len = fs::metadata(log)?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(DEMO_LOG_TAIL_LEN)))?;
    let mut bytes = Vec::new();
    file.take(DEMO_LOG_TAIL_LEN).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line is cut somewhere.
    let whole = if len > DEMO_LOG_TAIL_LEN { text.find('\n').map_or(0, |end| end + 1) } else { 0 };
    Ok(text[whole..].to_owned())
}

fn log_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

/// A log in a file of the demo is read by people, unless they ask for something else.
fn format_word(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto | LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}
