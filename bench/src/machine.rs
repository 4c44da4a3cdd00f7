//! Where and with what a run was made. Figures without it can't be compared with any others.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The machine and the versions of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Model of the CPU.
    pub(crate) cpu: String,
    /// Cores that the bench may use.
    pub(crate) cores: usize,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// How its TCP paces itself: the same work costs up to three times as much CPU with bbr as with cubic on loopback.
    #[serde(default = "not_recorded")]
    pub(crate) congestion_control: String,
    /// When the run began, RFC 3339.
    pub(crate) date: String,
    /// Load average when the run began: a shared machine shows itself here.
    pub(crate) load_average: String,
    /// What `vestibule --version` says.
    pub(crate) vestibule: String,
    /// The compiler of this bench, which is that of the workspace.
    pub(crate) rustc: String,
    /// Revision of the source tree, with `-dirty` where it was changed.
    pub(crate) revision: String,
    /// `release` or `debug`.
    pub(crate) profile: String,
}

impl Machine {
    /// This one, now. What can't be found says so in its place.
    pub(crate) fn here(vestibule: &Path) -> Self {
        let source = env!("CARGO_MANIFEST_DIR");
        let revision = ["-C", source, "describe", "--always", "--dirty", "--abbrev=12"];
        Self {
            cpu: cpu_model(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            date: now(),
            load_average: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            vestibule: first_line(vestibule, &["--version"]),
            rustc: env!("BENCH_RUSTC_VERSION").to_owned(),
            revision: first_line(Path::new("git"), &revision),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        }
    }
}

/// The lines above a table.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} cores, Linux {}, TCP {}, load {}; {}",
            self.cpu,
            self.cores,
            self.kernel,
            self.congestion_control,
            self.load_average,
            self.date,
        )?;
        writeln!(
            f,
            "{} ({}, {}, {} build)",
            self.vestibule, self.revision, self.rustc, self.profile
        )
    }
}

/// Of results from before 2026-11-27.
fn not_recorded() -> String {
    "not recorded".to_owned()
}

/// The time of day, RFC 3339 in UTC.
pub(crate) fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).expect("zero is a nanosecond");
    now.format(&Rfc3339).expect("the year has four digits")
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(path);
    text.map_or_else(|error| format!("unknown ({error})"), |text| text.trim().to_owned())
}

/// The first line that a command prints, or why there is none.
pub(crate) fn first_line(program: &Path, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().next().unwrap_or("unknown (no output)").to_owned()
        }
        Ok(output) => format!("unknown ({})", output.status),
        Err(error) => format!("unknown ({error})"),
    }
}

fn cpu_model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = line.and_then(|line| line.split_once(':')).map(|(_, model)| model.trim());
    model.unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_the_cpu_is_found_where_there_is_one() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 9354\nflags\t: sse\n";
        assert_eq!(cpu_model(cpuinfo), "AMD EPYC 9354");
        assert_eq!(cpu_model("processor : 0"), "unknown");
    }
}
