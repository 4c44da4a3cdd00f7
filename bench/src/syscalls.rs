//! System calls of a process, counted by the kernel's tracepoint. `perf` reads it; unlike strace it
//! stops nobody, so it doesn't change how many messages one call carries.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::BenchError;

/// The tracepoint at the entry of every system call.
const EVENT: &str = "raw_syscalls:sys_enter";
/// Longest start of `perf`.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks whether it counts already.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// From its first open counter to its last: one for each thread.
const OPEN_TIME: Duration = Duration::from_millis(200);

/// Counts from its start until it is asked. Killed when dropped.
pub(crate) struct Count {
    perf: Child,
    output: PathBuf,
}

impl Count {
    /// Returns when the system calls of all threads of this process are being counted.
    pub(crate) fn start(pid: u32, folder: &Path) -> Result<Self, BenchError> {
        let output = folder.join(format!("syscalls-{pid}.csv"));
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ",", "-e", EVENT, "-p", &pid.to_string(), "-o"]);
        command.arg(&output).stdin(Stdio::null());
        let perf = command.spawn().map_err(BenchError::io("starting perf (package linux-perf)"))?;
        let mut count = Self { perf, output };
        let start = Instant::now();
        while !count.has_counter() {
            let ended = count.perf.try_wait().map_err(BenchError::io("looking after perf"))?;
            if ended.is_some() || start.elapsed() > START_DEADLINE {
                return Err(count.unusable());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        std::thread::sleep(OPEN_TIME);
        Ok(count)
    }

    /// How many there were.
    pub(crate) fn finish(mut self) -> Result<u64, BenchError> {
        let pid = Pid::from_child(&self.perf);
        kill_process(pid, Signal::INT)
            .map_err(|error| BenchError::io("ending perf")(error.into()))?;
        self.perf.wait().map_err(BenchError::io("waiting for perf"))?;
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        counted(&text).ok_or_else(|| self.unusable())
    }

    fn has_counter(&self) -> bool {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.perf.id()));
        descriptors.into_iter().flatten().flatten().any(|descriptor| {
            let open = std::fs::read_link(descriptor.path());
            open.is_ok_and(|open| open.to_string_lossy().contains("perf_event"))
        })
    }

    fn unusable(&self) -> BenchError {
        BenchError::Process {
            process: "perf".to_owned(),
            what: format!("did not count {EVENT}: it needs root and the kernel's tracepoints"),
            log: std::fs::read_to_string(&self.output).unwrap_or_default(),
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        // Fails only where it has ended.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// The first field of the line of the event.
fn counted(csv: &str) -> Option<u64> {
    let line = csv.lines().find(|line| line.contains(EVENT))?;
    line.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_perf_writes_and_its_absence_too() {
        let csv = "# started on Mon Nov 23\n\n512,,raw_syscalls:sys_enter,3000,100.00,,\n";
        assert_eq!(counted(csv), Some(512));
        assert_eq!(counted("<not counted>,,raw_syscalls:sys_enter,0,0.00,,\n"), None);
        assert_eq!(counted(""), None);
    }
}
