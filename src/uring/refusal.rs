//! Why there is no ring, as far as a process can tell, and what to change.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Where the kernel says to whom it refuses rings, from Linux 6.6 on. Read only after a refusal.
pub const SETTING_FILE: &str = "/proc/sys/kernel/io_uring_disabled";
/// There wherever settings can be seen.
const SETTINGS_FOLDER: &str = "/proc/sys/kernel";
const CALLS: &str = "io_uring_setup, io_uring_enter and io_uring_register";

/// Who refuses rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `kernel.io_uring_disabled` is 2.
    SettingForAll,
    /// `kernel.io_uring_disabled` is 1.
    SettingForOthers,
    /// Not that setting: seccomp, or a security module.
    Filter,
    /// The setting or a filter: the setting can't be seen.
    SettingOrFilter,
    /// The kernel knows no such call, or a filter says so.
    Missing,
    /// The kernel knows no such ring.
    Old,
    /// The kernel has no room for one.
    Full,
    /// None that we know.
    Unknown,
}

/// What `kernel.io_uring_disabled` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Is(u8),
    /// The kernel has none.
    None,
    /// It is hidden from this process.
    Hidden,
}

impl Refusal {
    /// Looks who it was.
    pub(super) fn of(error: &io::Error) -> Self {
        Self::judge(Errno::from_io_error(error), Setting::read)
    }

    fn judge(errno: Option<Errno>, setting: impl FnOnce() -> Setting) -> Self {
        match errno {
            Some(Errno::PERM | Errno::ACCESS) => match setting() {
                Setting::Is(2) => Self::SettingForAll,
                Setting::Is(1) => Self::SettingForOthers,
                Setting::Is(_) | Setting::None => Self::Filter,
                Setting::Hidden => Self::SettingOrFilter,
            },
            Some(Errno::NOSYS) => Self::Missing,
            Some(Errno::INVAL) => Self::Old,
            Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE) => Self::Full,
            _ => Self::Unknown,
        }
    }
}

impl Setting {
    fn read() -> Self {
        match std::fs::read_to_string(SETTING_FILE) {
            Ok(text) => text.trim().parse().map_or(Self::Hidden, Self::Is),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if Path::new(SETTINGS_FOLDER).exists() { Self::None } else { Self::Hidden }
            }
            Err(_) => Self::Hidden,
        }
    }
}

/// What to change.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SettingForAll => f.write_str(
                "kernel.io_uring_disabled is 2, which refuses rings to everyone: set it to 0, or to 1 \
                 with a group of this process in kernel.io_uring_group",
            ),
            Self::SettingForOthers => f.write_str(
                "kernel.io_uring_disabled is 1, which leaves rings to the group in \
                 kernel.io_uring_group: set that to a group of this process (if it is one already, a \
                 seccomp filter refuses them), or kernel.io_uring_disabled to 0",
            ),
            Self::Filter => write!(
                f,
                "not by kernel.io_uring_disabled, but by a seccomp filter or a security module: the \
                 profile of a container must allow {CALLS}",
            ),
            Self::SettingOrFilter => write!(
                f,
                "kernel.io_uring_disabled, which this process can't see, must be 0, and the seccomp \
                 profile of a container must allow {CALLS}",
            ),
            Self::Missing => write!(
                f,
                "this kernel has none, or a seccomp filter says so: take Linux 6.1 or later with \
                 CONFIG_IO_URING, and have the profile of a container allow {CALLS}",
            ),
            Self::Old => f.write_str("this kernel is too old: take Linux 6.1 or later"),
            Self::Full => {
                f.write_str("memory or descriptors ran out: raise the limits of this process")
            }
            Self::Unknown => write!(
                f,
                "the kernel must be 6.1 or later, kernel.io_uring_disabled must be 0, and the seccomp \
                 profile of a container must allow {CALLS}",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: Errno, setting: Setting) -> Refusal {
        Refusal::judge(Some(errno), || setting)
    }

    #[test]
    fn the_setting_is_told_from_a_filter_where_it_can_be_seen() {
        assert_eq!(of(Errno::PERM, Setting::Is(2)), Refusal::SettingForAll);
        assert_eq!(of(Errno::PERM, Setting::Is(1)), Refusal::SettingForOthers);
        assert_eq!(of(Errno::PERM, Setting::Is(0)), Refusal::Filter);
        assert_eq!(of(Errno::PERM, Setting::None), Refusal::Filter);
        assert_eq!(of(Errno::PERM, Setting::Hidden), Refusal::SettingOrFilter);
    }

    #[test]
    fn a_kernel_without_rings_or_without_ours_is_told_from_a_refusal() {
        let never_looked = || -> Setting { panic!("the setting has no part in it") };
        let judge = |errno| Refusal::judge(Some(errno), never_looked);
        assert_eq!(judge(Errno::NOSYS), Refusal::Missing);
        assert_eq!(judge(Errno::INVAL), Refusal::Old);
        assert_eq!(judge(Errno::MFILE), Refusal::Full);
        assert_eq!(Refusal::judge(None, never_looked), Refusal::Unknown);
    }

    #[test]
    fn each_says_what_to_change() {
        let advice = [
            (Refusal::SettingForAll, "kernel.io_uring_disabled is 2"),
            (Refusal::SettingForOthers, "kernel.io_uring_group"),
            (Refusal::Filter, "seccomp"),
            (Refusal::SettingOrFilter, "seccomp"),
            (Refusal::Missing, "CONFIG_IO_URING"),
            (Refusal::Old, "Linux 6.1"),
            (Refusal::Full, "limits"),
            (Refusal::Unknown, "kernel.io_uring_disabled"),
        ];
        for (refusal, word) in advice {
            assert!(refusal.to_string().contains(word), "{refusal:?}: {refusal}");
        }
    }
}
