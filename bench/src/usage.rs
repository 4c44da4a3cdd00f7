//! CPU time, memory and descriptors of a process, and CPU time of the machine, from `/proc` (see
//! `man 5 proc`).

use std::io;
use std::path::Path;
use std::time::Instant;

use rustix::param::clock_ticks_per_second;
use serde::{Deserialize, Serialize};

/// What a process has used so far, and holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// On a CPU, in user and kernel, over all threads.
    pub(crate) cpu_ns: u64,
    /// Resident set.
    pub(crate) rss_bytes: u64,
    /// Resident set in which a page shared with others counts its share only.
    pub(crate) pss_bytes: u64,
    /// Open descriptors.
    pub(crate) descriptors: u64,
}

impl Usage {
    /// Of the process with this id. Fails when it has ended.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let folder = format!("/proc/{pid}");
        let folder = Path::new(&folder);
        let stat = std::fs::read_to_string(folder.join("stat"))?;
        let ticks = ticks(&stat).ok_or_else(|| malformed("stat"))?;
        let rollup = std::fs::read_to_string(folder.join("smaps_rollup"))?;
        Ok(Self {
            // The scheduler's count is exact, but forgets threads that have ended; the count in
            // ticks holds those too, rounded down. The larger is the truer.
            cpu_ns: scheduled_ns(folder)?.max(ticks * (1_000_000_000 / clock_ticks_per_second())),
            // Counted now: VmRSS in `status` lags by what each core has not yet added to it.
            rss_bytes: field_bytes(&rollup, "Rss:").ok_or_else(|| malformed("smaps_rollup"))?,
            pss_bytes: field_bytes(&rollup, "Pss:").ok_or_else(|| malformed("smaps_rollup"))?,
            descriptors: std::fs::read_dir(folder.join("fd"))?.count() as u64,
        })
    }
}

impl Usage {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            rss_bytes: self.rss_bytes + other.rss_bytes,
            pss_bytes: self.pss_bytes + other.pss_bytes,
            descriptors: self.descriptors + other.descriptors,
        }
    }
}

/// How busy the machine has been. Kernel threads, interrupts and the bench itself are in it, so
/// nothing can hide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineTime {
    at: Instant,
    cores: u64,
    unused_ns: u64,
}

impl MachineTime {
    /// Up to now.
    pub(crate) fn now() -> io::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let at = Instant::now();
        let (cores, ticks) = unused(&stat).ok_or_else(|| malformed("stat"))?;
        let unused_ns = ticks * (1_000_000_000 / clock_ticks_per_second());
        Ok(Self { at, cores, unused_ns })
    }

    /// Time since then for which cores were busy, over all of them.
    pub(crate) fn busy_ns_since(self, then: Self) -> u64 {
        let passed = u64::try_from((self.at - then.at).as_nanos()).unwrap_or(u64::MAX);
        let unused_ns = self.unused_ns.saturating_sub(then.unused_ns);
        passed.saturating_mul(self.cores).saturating_sub(unused_ns)
    }
}

/// Slabs that say nothing of connections: file systems fill them, and sessions of the past.
const FOREIGN_SLABS: [&str; 4] = ["dentry", "buffer_head", "radix_tree_node", "tw_sock_TCP"];

/// Bytes of objects in the kernel's slabs that are in use, of the whole machine, without
/// [`FOREIGN_SLABS`] and inodes. `None` where it may not be read (root alone may) or is not understood.
pub(crate) fn slab_bytes() -> Option<u64> {
    slab_sum(&std::fs::read_to_string("/proc/slabinfo").ok()?)
}

/// After two lines of heading: name, objects in use, objects, bytes of an object, and so on.
fn slab_sum(slabinfo: &str) -> Option<u64> {
    let used = |line: &str| {
        let mut numbers = line.split_whitespace().skip(1).map(str::parse::<u64>);
        let (used, _, len) = (numbers.next()?.ok()?, numbers.next()?, numbers.next()?.ok()?);
        Some(used * len)
    };
    let is_foreign = |line: &&str| {
        let name = line.split_whitespace().next().unwrap_or_default();
        FOREIGN_SLABS.contains(&name) || name.ends_with("inode_cache")
    };
    slabinfo.lines().skip(2).filter(|line| !is_foreign(line)).map(used).sum()
}

/// Cores, and ticks for which they did nothing here: idle, iowait, and steal, in which others had
/// them. The kernel measures the first two, while user and system only count whom a tick meets:
/// work in bursts shorter than a tick is missing there.
fn unused(stat: &str) -> Option<(u64, u64)> {
    let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Option<Vec<u64>> = all.split_whitespace().map(|field| field.parse().ok()).collect();
    match fields?[..] {
        [_user, _nice, _system, idle, iowait, _irq, _softirq, steal, ..] => {
            Some((cores.count() as u64, idle + iowait + steal))
        }
        _ => None,
    }
}

/// Time on a CPU of all threads that live.
fn scheduled_ns(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(folder.join("task"))? {
        // A thread may end between the listing and the reading.
        let Ok(schedstat) = std::fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let ns = schedstat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
        sum += ns.ok_or_else(|| malformed("schedstat"))?;
    }
    Ok(sum)
}

/// utime + stime: fields 14 and 15. The name of the program, field 2, may hold anything but ends
/// with the last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// A line `Name:   123 kB`.
fn field_bytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn malformed(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected content of {file}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ticks_are_found_behind_any_program_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 107 0 0 0 30 12 0 0 20 0 1 0 22 8 2 18";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn the_machine_is_busy_but_for_waiting_and_what_others_take() {
        let stat = "cpu  9 9 9 1000 200 9 9 30 9 0\ncpu0 1 1 1 1 1 1 1 1 1 1\ncpu1 2 2\nintr 5\n";
        assert_eq!(unused(stat), Some((2, 1230)));
        assert_eq!(unused("cpu 1 2 3\n"), None);
        let at = Instant::now();
        let then = MachineTime { at, cores: 2, unused_ns: 500 };
        let now = MachineTime { at: at + Duration::from_micros(1), cores: 2, unused_ns: 1700 };
        assert_eq!(now.busy_ns_since(then), 800);
        MachineTime::now().expect("Linux has /proc/stat");
    }

    #[test]
    fn the_memory_of_slabs_is_that_of_the_objects_in_use_but_for_files() {
        let slabinfo = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
            io_kiocb 10 192 256 16 1 : tunables 0 0 0\nTCP 2 91 2368 13 8 : tunables 0 0 0\n\
            dentry 9 9 192 1 1\next4_inode_cache 9 9 1000 1 1\n";
        assert_eq!(slab_sum(slabinfo), Some(10 * 256 + 2 * 2368));
        assert_eq!(slab_sum("a\nb\nio_kiocb ?\n"), None);
    }

    #[test]
    fn fields_are_matched_by_their_whole_name() {
        let text = "Pss_Dirty:  1 kB\nPss:    321 kB\n";
        assert_eq!(field_bytes(text, "Pss:"), Some(321 * 1024));
        assert_eq!(field_bytes(text, "Rss:"), None);
    }

    #[test]
    fn work_and_memory_of_a_process_show_up_in_its_usage() {
        let before = Usage::of(std::process::id()).expect("it runs");
        let memory = std::hint::black_box(vec![1_u8; 64 * 1024 * 1024]);
        let after = Usage::of(std::process::id()).expect("it runs");
        assert!(after.cpu_ns > before.cpu_ns);
        assert!(after.rss_bytes - before.rss_bytes >= memory.len() as u64 / 2);
        assert!(after.descriptors > 0);
    }
}
