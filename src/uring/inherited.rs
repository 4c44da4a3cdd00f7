//! Descriptors that whoever started this process has opened for it (`sd_listen_fds(3)`).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// All of them, each with its name; none at a second call, or where nobody has passed any. To be called
/// before anything else looks at `LISTEN_FDS`.
pub fn take_inherited() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let descriptors = sd_notify::listen_fds_with_names()?;
    // SAFETY: `LISTEN_PID` names this process, so that these descriptors were opened for it before it began,
    // and they are above those of standard input and output. Nothing in this process owns them: no other code
    // reads the variables, and this runs once.
    let own = |descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) };
    Ok(descriptors.map(|(descriptor, name)| (own(descriptor), name)).collect())
}
