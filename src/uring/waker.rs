use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes a worker that sleeps in its ring; costs nothing while it is awake.
///
/// The order that loses no wake-up: the sleeper calls [`Waker::fall_asleep`], looks once more for
/// work, then waits; a sender publishes its work, then calls [`Waker::wake`].
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
    sleeping: AtomicBool,
}

impl Waker {
    /// A waker of a worker that is awake.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, sleeping: AtomicBool::new(false) })
    }

    /// Called by any thread, after its work is where the sleeper will look.
    pub fn wake(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // Fails only where the counter is at its maximum, and then the sleeper is woken anyway.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Called by the owner before it looks for work a last time.
    pub fn fall_asleep(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
    }

    /// Called by the owner after it waited.
    pub fn stand_up(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Empties the event, so that it can tell of the next wake-up.
    pub(crate) fn clear(&self) {
        // Nothing to read means that it was cleared before.
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
