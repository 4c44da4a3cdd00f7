//! What the devices have done.

use std::cell::RefCell;

/// What the devices have done; they share it, all on one thread.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: RefCell<Counts>,
}

/// Sums over all devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Visits that went well, each a session.
    pub(super) visits: u64,
    /// Bytes that arrived at the backend as they were sent.
    pub(super) verified_up: u64,
    /// Bytes that arrived from the backend as it sent them.
    pub(super) verified_down: u64,
    /// Visits that failed.
    pub(super) errors: u64,
    /// The last failure: which device, and why.
    pub(super) last_error: Option<String>,
}

impl Tally {
    pub(super) fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }

    pub(super) fn add_up(&self, len: u64) {
        self.counts.borrow_mut().verified_up += len;
    }

    pub(super) fn add_down(&self, len: u64) {
        self.counts.borrow_mut().verified_down += len;
    }

    pub(super) fn end_visit(&self, device: &str, result: Result<(), String>) {
        let mut counts = self.counts.borrow_mut();
        match result {
            Ok(()) => counts.visits += 1,
            Err(reason) => {
                counts.errors += 1;
                counts.last_error = Some(format!("{device}: {reason}"));
            }
        }
    }
}
