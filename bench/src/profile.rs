//! Where the time of a sample goes, by the kernel's clock on every core of the machine. `perf` records
//! and reports it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::BenchError;

/// Looks a second at each core: enough for 1 % within a second, and itself not 1 % of the work.
const FREQUENCY: &str = "997";
/// Until `perf` looks at every core.
const START_TIME: Duration = Duration::from_millis(500);
/// Lines that are worth a look: below, it is noise.
const LEAST_PERCENT: &str = "0.3";

/// Records from its start until it is asked. Killed when dropped.
pub(crate) struct Profile {
    perf: Child,
    recording: PathBuf,
}

impl Profile {
    /// Returns when `perf` looks at every core.
    pub(crate) fn start(folder: &Path) -> Result<Self, BenchError> {
        let recording = folder.join("profile.data");
        let mut command = Command::new("perf");
        command.args(["record", "--quiet", "--all-cpus", "--event", "cpu-clock"]);
        command.args(["--freq", FREQUENCY, "--output"]).arg(&recording);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let perf = command.spawn().map_err(BenchError::io("starting perf (package linux-perf)"))?;
        std::thread::sleep(START_TIME);
        Ok(Self { perf, recording })
    }

    /// Writes the shares of threads and functions, with the names of these processes, which still run.
    pub(crate) fn finish(mut self, processes: &[(u32, &str)], to: &Path) -> Result<(), BenchError> {
        kill_process(Pid::from_child(&self.perf), Signal::INT)
            .map_err(|error| BenchError::io("ending perf")(error.into()))?;
        self.perf.wait().map_err(BenchError::io("waiting for perf"))?;
        let mut command = Command::new("perf");
        command.args(["report", "--stdio", "--no-children", "--sort", "pid,symbol"]);
        command.args(["--percent-limit", LEAST_PERCENT, "--input"]).arg(&self.recording);
        let output = command.output().map_err(BenchError::io("starting perf"))?;
        if !output.status.success() {
            return Err(BenchError::Process {
                process: "perf".to_owned(),
                what: "made no report: it needs root".to_owned(),
                log: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        let names: Vec<_> = processes.iter().flat_map(|(id, name)| threads(*id, name)).collect();
        let report = named(&String::from_utf8_lossy(&output.stdout), &names);
        std::fs::write(to, report).map_err(BenchError::io(format!("writing {}", to.display())))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // Fails only where it has ended.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// The threads of a process, with its name.
fn threads(id: u32, name: &str) -> impl Iterator<Item = (u32, &str)> {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    tasks.filter_map(move |task| Some((task.file_name().to_str()?.parse().ok()?, name)))
}

/// The lines of a report, `PERCENT TID:COMMAND [.] SYMBOL`, with the name of the process instead
/// of the TID, where there is one.
fn named(report: &str, names: &[(u32, &str)]) -> String {
    let mut lines = String::new();
    for line in report.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(percent), Some(process)) = (words.next(), words.next()) else { continue };
        let (thread, command) = process.split_once(':').unwrap_or(("", process));
        let name = names.iter().find(|(named, _)| thread.parse() == Ok(*named));
        let thread = name.map_or(command.to_owned(), |(_, name)| format!("{name}/{command}"));
        let symbol: Vec<_> = words.filter(|word| *word != "-").collect();
        let _ = writeln!(lines, "{percent:>7} {thread:<20} {}", symbol.join(" "));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_shown_by_name_and_comments_are_not() {
        let report = "# Samples: 3\n\n  51.20%   29062:worker-0  [.] aes_gcm   -  -  \n \
                      \n   1.0%  7:kswapd0  [k] shrink\n";
        let lines = named(report, &[(29062, "gateway")]);
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [" 51.20% gateway/worker-0     [.] aes_gcm", "   1.0% kswapd0              [k] shrink"]
        );
    }
}
