//! A process that the bench has started: one under test, or the backend.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::BenchError;
use crate::usage::Usage;

/// Longest start of a process, with the first connection between gateway and server.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Longest end after SIGTERM. All sessions have ended by then, so there is nothing to drain.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at a process that starts or ends.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Longest answer to a question of readiness.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// Lines of a log that an error quotes: the last ones.
const LOG_QUOTE_LINES: usize = 3;

/// How to see that a process is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Readiness {
    /// It accepts connections here.
    Accepts(SocketAddr),
    /// `GET /readyz` is answered with 200 here.
    Answers(SocketAddr),
}

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, with its output in `folder/name.log`.
    pub(crate) fn start(
        name: &'static str,
        command: &mut Command,
        folder: &Path,
    ) -> Result<Self, BenchError> {
        let log = folder.join(format!("{name}.log"));
        let output = std::fs::File::create(&log)
            .map_err(BenchError::io(format!("creating {}", log.display())))?;
        let errors =
            output.try_clone().map_err(BenchError::io(format!("sharing {}", log.display())))?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(
            BenchError::io(format!("starting {name} ({})", command.get_program().display())),
        )?;
        Ok(Self { name, child, log })
    }

    /// Its name in the table.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has used so far.
    pub(crate) fn usage(&mut self) -> Result<Usage, BenchError> {
        self.check_alive()?;
        Usage::of(self.child.id())
            .map_err(BenchError::io(format!("reading the usage of {}", self.name)))
    }

    /// Ends it with SIGTERM.
    pub(crate) fn stop(mut self) -> Result<(), BenchError> {
        self.check_alive()?;
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)
            .map_err(|error| BenchError::io(format!("ending {}", self.name))(error.into()))?;
        let start = Instant::now();
        while self.has_ended()?.is_none() {
            if start.elapsed() > STOP_DEADLINE {
                let seconds = STOP_DEADLINE.as_secs();
                return Err(self.failed(format!("still ran {seconds} s after SIGTERM")));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn check_alive(&mut self) -> Result<(), BenchError> {
        match self.has_ended()? {
            None => Ok(()),
            Some(status) => Err(self.failed(format!("ended by itself ({status})"))),
        }
    }

    fn has_ended(&mut self) -> Result<Option<std::process::ExitStatus>, BenchError> {
        self.child.try_wait().map_err(BenchError::io(format!("looking after {}", self.name)))
    }

    fn failed(&self, what: String) -> BenchError {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(LOG_QUOTE_LINES)..].join("\n");
        BenchError::Process { process: self.name.to_owned(), what, log }
    }
}

/// Returns when all are ready. One that ends meanwhile is the error, not those that wait for it.
pub(crate) fn wait_for_all(waits: &mut [(&mut Process, Readiness)]) -> Result<(), BenchError> {
    let start = Instant::now();
    loop {
        for (process, _) in &mut *waits {
            process.check_alive()?;
        }
        let Some((process, _)) = waits.iter().find(|(_, readiness)| !readiness.holds()) else {
            return Ok(());
        };
        if start.elapsed() > START_DEADLINE {
            let seconds = START_DEADLINE.as_secs();
            return Err(process.failed(format!("was not ready after {seconds} s")));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Readiness {
    fn holds(self) -> bool {
        match self {
            Self::Accepts(address) => TcpStream::connect_timeout(&address, ANSWER_DEADLINE).is_ok(),
            Self::Answers(address) => status_line(address).is_ok_and(|line| line.contains(" 200")),
        }
    }
}

/// The first line of the answer to `GET /readyz`.
fn status_line(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_DEADLINE)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

/// Loopback addresses whose ports nobody uses now.
pub(crate) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N], BenchError> {
    let mut listeners = Vec::with_capacity(N);
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        // All stay bound until the last is, so that no two are the same.
        let listener = TcpListener::bind(*address).map_err(BenchError::io("finding a port"))?;
        *address = listener.local_addr().map_err(BenchError::io("finding a port"))?;
        listeners.push(listener);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_process_that_ends_by_itself_is_an_error_with_its_last_words() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut process =
            Process::start("test", &mut shell("echo wrong key; exit 3"), folder.path())
                .expect("sh starts");
        let [nowhere] = free_addresses().expect("ports are free");
        let error =
            wait_for_all(&mut [(&mut process, Readiness::Accepts(nowhere))]).expect_err("it ends");
        let message = error.to_string();
        assert!(message.contains("exit status: 3") && message.contains("wrong key"), "{message}");
    }

    #[test]
    fn a_process_is_ready_when_readyz_says_so_and_ends_with_sigterm() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut process =
            Process::start("test", &mut shell("exec sleep 60"), folder.path()).expect("sh starts");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        std::thread::spawn(move || {
            for answer in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept()?;
                stream.read(&mut [0; 1024]).map(drop)?;
                write!(stream, "HTTP/1.1 {answer}\r\n\r\n")?;
            }
            io::Result::Ok(())
        });
        wait_for_all(&mut [(&mut process, Readiness::Answers(address))])
            .expect("the second answer is 200");
        process.usage().expect("it runs");
        process.stop().expect("sleep ends");
    }
}
