use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{LONG, wait_until};

/// A running `vestibule`, with all that it has logged. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    lines: Vec<Value>,
    /// The process has closed its standard error.
    ended: bool,
}

impl Process {
    /// The program, to be run to its end.
    pub(crate) fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vestibule"));
        command.env_remove("NOTIFY_SOCKET").env_remove("VESTIBULE_LOG");
        command
    }

    /// Another program, to be run as a client.
    pub(crate) fn any(program: &str) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts a role with a configuration.
    pub(crate) fn start(role: &str, config: &OsStr) -> Self {
        Self::spawn(Self::command().args(["--log", "json", role, "--config"]).arg(config))
    }

    /// Starts a command whose standard error is a log in JSON.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::null(), Stdio::inherit())
    }

    /// The same, with these as its standard input and output.
    pub(crate) fn spawn_with(
        command: &mut Command,
        input: impl Into<Stdio>,
        output: impl Into<Stdio>,
    ) -> Self {
        command.stdin(input).stdout(output).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it was built");
        let log = Arc::<Mutex<Log>>::default();
        let stderr = child.stderr.take().expect("it is piped");
        let lines = Arc::clone(&log);
        std::thread::spawn(move || collect(stderr, &lines));
        Self { child, log }
    }

    /// Lines with this message and these fields. What is no JSON counts as a message.
    pub(crate) fn count(&self, message: &str, fields: &[(&str, &str)]) -> usize {
        self.log().find(message, fields).count()
    }

    /// Waits for such a line, and returns the first.
    pub(crate) fn line(&self, message: &str, fields: &[(&str, &str)]) -> Value {
        let mut found = None;
        wait_until(&format!("the log has a line {message:?} with {fields:?}"), || {
            let log = self.log();
            found = log.find(message, fields).next().cloned();
            assert!(found.is_some() || !log.ended, "the process ended without {message:?}");
            found.is_some()
        });
        found.expect("it was waited for")
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it was not waited for");
    }

    /// Sends SIGHUP.
    pub(crate) fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("it was not waited for");
    }

    /// Sends SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it was not waited for");
        self.status();
    }

    /// Stops it without a word (SIGSTOP): its connections stay, and it answers nothing.
    pub(crate) fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).expect("it was not waited for");
    }

    /// Waits for its end.
    pub(crate) fn status(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(start.elapsed() < LONG, "the process should have ended long ago");
            std::thread::sleep(super::PAUSE);
        }
    }

    /// Where its TCP connections over IPv4 lead, asked of the kernel (proc(5), `/proc/pid/net/tcp`),
    /// but for those that came to its `listener`.
    pub(crate) fn connected_to(&self, listener: SocketAddr) -> HashSet<SocketAddr> {
        let folder = format!("/proc/{}", self.child.id());
        let entries = std::fs::read_dir(format!("{folder}/fd")).expect("it runs");
        let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let own: HashSet<String> = links.map(|link| link.display().to_string()).collect();
        let table = std::fs::read_to_string(format!("{folder}/net/tcp")).expect("it runs");
        let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| own.contains(&format!("socket:[{}]", row[9])))
            .filter(|row| socket_address(row[1]) != listener)
            .map(|row| socket_address(row[2]))
            .collect()
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(folder).expect("it runs").count()
    }

    /// The status of each of its threads, as the kernel tells it (`/proc/pid/task/tid/status`).
    pub(crate) fn threads(&self) -> Vec<String> {
        let folder = format!("/proc/{}/task", self.child.id());
        let threads = std::fs::read_dir(folder).expect("it runs");
        // A thread may end meanwhile.
        let status =
            |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("status"));
        threads.filter_map(|thread| status(thread.ok()?).ok()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for line in &self.log().lines {
                eprintln!("{line}");
            }
        }
    }
}

impl Log {
    fn find(&self, message: &str, fields: &[(&str, &str)]) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(move |line| {
            line["message"].as_str().is_some_and(|text| text.contains(message))
                && fields.iter().all(|(name, value)| line[*name].as_str() == Some(value))
        })
    }
}

/// From `0100007F:32C8`: the address as the host's own integer, and the port.
fn socket_address(cell: &str) -> SocketAddr {
    let (ip, port) = cell.split_once(':').expect("an address and a port");
    let ip = u32::from_str_radix(ip, 16).expect("hexadecimal").to_ne_bytes();
    (Ipv4Addr::from(ip), u16::from_str_radix(port, 16).expect("hexadecimal")).into()
}

fn collect(stderr: ChildStderr, log: &Mutex<Log>) {
    let lock = || log.lock().unwrap_or_else(PoisonError::into_inner);
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let value = serde_json::from_str(&line);
        lock().lines.push(value.unwrap_or_else(|_| serde_json::json!({ "message": line })));
    }
    lock().ended = true;
}
