//! Readiness of a descriptor that is neither a TCP socket nor watched by a ring.

use std::os::fd::OwnedFd;

use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

/// Has the runtime of this thread watch a descriptor.
pub fn awaited(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one and the same open descriptor until it is dropped, and it is dropped by the
    // `AsyncFd`, after that has taken it out of the watch.
    let registered = unsafe { AsyncFd::register(descriptor) };
    registered.map_err(AsyncFdRegisterError::into)
}
