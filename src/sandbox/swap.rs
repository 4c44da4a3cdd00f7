//! Whether what this process has in memory, keys included, may be written to swap. The process only looks:
//! locking its memory would need a limit that holds all sessions, beyond which the kernel refuses memory.

use std::fs;
use std::path::Path;

/// An error says what to change.
pub(super) fn look() -> Result<(), String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let limit = |folder: &Path| {
        let inside = folder.strip_prefix("/").unwrap_or(folder);
        let file = Path::new("/sys/fs/cgroup").join(inside).join("memory.swap.max");
        fs::read_to_string(file).ok()
    };
    // The limit first: a unit that sets it may hide what the host has.
    if is_limited(&read("/proc/self/cgroup")?, limit) || !swaps(&read("/proc/swaps")?) {
        return Ok(());
    }
    Err("this host swaps: set MemorySwapMax=0 in the unit (needs cgroup v2), or turn swap off"
        .to_owned())
}

/// Whether a control group lets none of its memory be swapped. `groups` is `/proc/self/cgroup`; `limit`
/// gives the `memory.swap.max` of a group, which bounds the groups in it as well (`cgroups(7)`).
fn is_limited(groups: &str, limit: impl Fn(&Path) -> Option<String>) -> bool {
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
        return false;
    };
    Path::new(group).ancestors().any(|group| limit(group).is_some_and(|limit| limit.trim() == "0"))
}

/// Whether a host swaps. `swaps` is `/proc/swaps`, whose first line is a headline.
fn swaps(swaps: &str) -> bool {
    swaps.lines().count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "0::/system.slice/vestibule-gateway.service\n";

    #[test]
    fn a_host_swaps_where_a_line_follows_the_headline() {
        let headline = "Filename\tType\tSize\tUsed\tPriority\n";
        assert!(!swaps(headline));
        assert!(swaps(&format!("{headline}/dev/vda2 partition 1048572 0 -2\n")));
    }

    #[test]
    fn a_limit_of_zero_on_any_group_around_it_keeps_all_out() {
        let limited = |at: &'static str| {
            move |group: &Path| {
                Some(if group == Path::new(at) { "0\n" } else { "max\n" }.to_owned())
            }
        };
        for at in ["/system.slice/vestibule-gateway.service", "/system.slice", "/"] {
            assert!(is_limited(GROUP, limited(at)), "{at}");
        }
        assert!(!is_limited(GROUP, limited("/user.slice")));
        assert!(!is_limited(GROUP, |_| None));
    }

    #[test]
    fn where_the_groups_are_not_of_the_second_version_nothing_is_sure() {
        assert!(!is_limited("4:memory:/vestibule\n", |_| Some("0".to_owned())));
    }
}
