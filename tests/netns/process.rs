//! Programs that run on a host of the network, and what the kernel says of them.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::network::Namespace;

/// For what takes a moment on an idle machine: a hang fails the test, a slow machine does not.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until it sees something. The test fails after `patience`.
pub(super) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    try_for(what, patience, || look().ok_or_else(|| "not yet".to_owned()))
}

/// The same, with a last word on why it has not been seen.
pub(super) fn try_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(sight) => return sight,
            Err(reason) => {
                assert!(start.elapsed() < patience, "within {patience:?}: {what}: {reason}");
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A program that runs until it is told to stop. It is killed when dropped; if that happens in a
/// panic, the end of its log is shown.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Its output is appended to `NAME.log` in `folder`.
    pub(super) fn start(name: &str, folder: &Path, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("room for a log");
        let errors = file.try_clone().expect("a descriptor");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Gives it no chance to say goodbye: the kernel alone closes its sockets.
    pub(super) fn kill(mut self) {
        self.child.kill().expect("it is our child");
        let status = self.child.wait().expect("it is our child");
        assert_eq!(status.signal(), Some(9), "{} had ended before: {status}", self.name);
    }

    /// SIGTERM, on which it ends by itself.
    pub(super) fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our child");
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// It must end well.
    pub(super) fn wait_for_end(mut self) {
        let status = wait_for(&format!("{} ends on SIGTERM", self.name), PATIENCE, || {
            self.child.try_wait().expect("it is our child")
        });
        assert!(status.success(), "{}: {status}", self.name);
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(super) fn footprint(&self) -> Footprint {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(proc.join("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        Footprint {
            descriptors: fs::read_dir(proc.join("fd")).expect("root may look").count(),
            memory_kb: kilobytes.expect("a living process has memory"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is as dead as it should be.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(40);
            eprintln!("---- end of the log of {}", self.name);
            log.lines().skip(from).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Footprint {
    pub(super) descriptors: usize,
    pub(super) memory_kb: u64,
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} descriptors, {} KB", self.descriptors, self.memory_kb)
    }
}

/// Waits until something accepts connections there.
pub(super) fn wait_for_port(host: &Namespace, address: SocketAddr) {
    wait_for(&format!("something listens at {address}"), PATIENCE, || {
        host.run(|| TcpStream::connect(address)).ok()
    });
}

/// The status code and body of an HTTP page on that host; `None` while nothing answers.
pub(super) fn page(host: &Namespace, address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let answer = host.run(|| {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}
