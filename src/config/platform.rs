//! What a process runs on, where an operator wants to say it.

use super::table::Table;

/// What tells a process which of its sockets are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventLoop {
    /// `io_uring` where the kernel allows it, else epoll.
    Auto,
    /// `io_uring`, or the process does not start.
    IoUring,
    /// epoll(7).
    Epoll,
}

/// Who opens and seals the records of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayMode {
    /// The process itself.
    Userspace,
    /// The kernel, where it can.
    Kernel,
    /// The kernel, which also moves the payload.
    KernelSplice,
}

impl RelayMode {
    /// Every one; the first is the default.
    pub const ALL: [Self; 3] = [Self::Userspace, Self::Kernel, Self::KernelSplice];

    /// The one word for it: in a configuration, in log, status and metric.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Kernel => "ktls",
            Self::KernelSplice => "ktls_splice",
        }
    }
}

/// What workers wait in: our choice unless it is written.
pub(super) fn event_loop(table: &Table<'_>) -> EventLoop {
    let choices =
        [("auto", EventLoop::Auto), ("io_uring", EventLoop::IoUring), ("epoll", EventLoop::Epoll)];
    choice(table, "event_loop", &choices)
}

/// Who has the records of sessions: this process unless it is written.
pub(super) fn relay(table: &Table<'_>) -> RelayMode {
    choice(table, "relay", &RelayMode::ALL.map(|mode| (mode.word(), mode)))
}

/// The first of them where none is written.
fn choice<T: Copy>(table: &Table<'_>, key: &'static str, choices: &[(&'static str, T)]) -> T {
    let written = table.has(key).then(|| table.choice(key, choices)).flatten();
    written.map_or(choices[0].1, |choice| choice.value)
}
