//! What the kernel knows of this process.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// What this process uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ProcessFigures {
    /// User and system time of all threads, in seconds.
    pub(super) cpu_s: f64,
    /// In bytes.
    pub(super) resident_memory: u64,
    /// Descriptors that are open.
    pub(super) open_fds: u64,
}

impl ProcessFigures {
    /// Asks the kernel (`clock_gettime(2)`, `proc(5)`); `None` where `/proc` is not mounted.
    pub(super) fn read() -> Option<Self> {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        #[expect(clippy::cast_precision_loss, reason = "seconds of CPU are far below 2^52")]
        let cpu_s = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        Some(Self {
            cpu_s,
            resident_memory: resident_memory(&fs::read_to_string("/proc/self/status").ok()?)?,
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        })
    }
}

/// Reads the line `VmRSS:   1760 kB`.
fn resident_memory(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_memory_and_descriptors() {
        let figures = ProcessFigures::read().expect("tests run where /proc is mounted");
        assert!(figures.cpu_s > 0.0);
        assert!(figures.resident_memory > 100_000);
        assert!(figures.open_fds >= 3);
    }
}
