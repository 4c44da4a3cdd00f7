//! `vestibule demo` shows what it says, ends cleanly, and leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Far longer than anything here takes: a hang fails the test instead of blocking it.
const LONG: Duration = Duration::from_secs(60);

/// A demo that runs, with its files in a folder that is looked at later.
struct Demo {
    child: Child,
    output: BufReader<ChildStdout>,
    read: String,
    folder: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_vestibule"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, output, read: String::new(), folder }
    }

    /// Reads until a line that contains `text`.
    fn read_until(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let len = self.output.read_line(&mut line).expect("text");
            assert!(len > 0, "it ended before {text:?} was printed: {}", self.read);
            self.read += &line;
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for a clean end, and returns all that was printed.
    fn end_with_summary(mut self) -> String {
        self.output.read_to_string(&mut self.read).expect("text");
        let status = self.child.wait().expect("a status");
        assert!(status.success(), "{status}: {}", self.read);
        let left = fs::read_dir(self.folder.path()).expect("readable").count();
        assert_eq!(left, 0, "the folder is not removed: {}", self.read);
        assert!(self.read.contains("\nSummary, after "), "{}", self.read);
        self.read.clone()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Both fail where it has ended, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_demo_with_a_time_sums_up_and_succeeds() {
    let output = Demo::start(&["--for", "3s"]).end_with_summary();
    assert!(output.contains("errors: 0"), "{output}");
    assert!(output.contains("opened itself: 0 connections"), "{output}");
    assert!(!output.contains('\x1b'), "control sequences, and no terminal: {output}");
}

#[test]
fn ctrl_c_ends_a_demo_with_success() {
    let mut demo = Demo::start(&[]);
    demo.read_until("live");
    demo.signal(Signal::INT);
    demo.end_with_summary();
}

#[test]
fn a_demo_beside_taken_ports_chooses_others() {
    // Where this fails, another process has the port, which is as good.
    let _taken = TcpListener::bind("127.0.0.1:13000");
    let output = Demo::start(&["--for", "2s"]).end_with_summary();
    let taken = output.lines().find(|line| line.starts_with("Usual ports taken"));
    assert!(taken.is_some_and(|line| line.contains("13000")), "{output}");
    assert!(!output.contains("https://localhost:13000/"), "{output}");
}

#[test]
fn a_demo_that_is_killed_leaves_no_process_behind() {
    let mut demo = Demo::start(&[]);
    demo.read_until("live");
    let pid = demo.child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.expect("the kernel lists them");
    assert_eq!(children.split_whitespace().count(), 3, "gateway, server, agent");
    demo.signal(Signal::KILL);
    let deadline = Instant::now() + LONG;
    for child in children.split_whitespace() {
        while is_alive(child) {
            assert!(Instant::now() < deadline, "process {child} outlives the demo");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process that has ended may wait for its new parent to ask how.
fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid).join("status"));
    status.is_ok_and(|status| !status.contains("\nState:\tZ"))
}
