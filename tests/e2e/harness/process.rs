use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{LONG, wait_until};

/// A running `vestibule`, with all that it has logged. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Process {
    /// The program, to be run to its end.
    pub(crate) fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vestibule"));
        command.env_remove("NOTIFY_SOCKET").env_remove("VESTIBULE_LOG");
        command
    }

    /// Starts a role with a configuration.
    pub(crate) fn start(role: &str, config: &OsStr) -> Self {
        Self::spawn(Self::command().args(["--log", "json", role, "--config"]).arg(config))
    }

    /// Starts a command whose standard error is a log in JSON.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it was built");
        let log = Arc::default();
        let stderr = child.stderr.take().expect("it is piped");
        let lines = Arc::clone(&log);
        std::thread::spawn(move || collect(stderr, &lines));
        Self { child, log }
    }

    /// Lines with this message and these fields. What is no JSON counts as a message.
    pub(crate) fn count(&self, message: &str, fields: &[(&str, &str)]) -> usize {
        let has = |line: &Value, (name, value): &(&str, &str)| {
            line.get(*name).is_some_and(|found| found.as_str() == Some(value))
        };
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter()
            .filter(|line| line["message"].as_str().is_some_and(|text| text.contains(message)))
            .filter(|line| fields.iter().all(|field| has(line, field)))
            .count()
    }

    /// Waits for such a line, and returns it.
    pub(crate) fn line(&self, message: &str, fields: &[(&str, &str)]) -> Value {
        let has = |line: &Value, (name, value): &(&str, &str)| line[*name].as_str() == Some(value);
        let mut found = None;
        wait_until(&format!("the log has a line {message:?} with {fields:?}"), || {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            found = log
                .iter()
                .filter(|line| line["message"].as_str().is_some_and(|text| text.contains(message)))
                .find(|line| fields.iter().all(|field| has(line, field)))
                .cloned();
            found.is_some()
        });
        found.expect("it was waited for")
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it was not waited for");
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

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(folder).expect("it runs").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for line in self.log.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                eprintln!("{line}");
            }
        }
    }
}

fn collect(stderr: ChildStderr, lines: &Mutex<Vec<Value>>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let value = serde_json::from_str(&line)
            .unwrap_or_else(|_| serde_json::json!({ "message": line }));
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(value);
    }
}
