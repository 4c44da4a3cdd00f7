//! What the rings of this process may do, told to the kernel before their first operation
//! (`io_uring_register(2)`, `IORING_REGISTER_RESTRICTIONS`): seccomp can't see operations of a ring, and
//! without this each ring could open files and connections.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::opcode::{AsyncCancel, Close, Read, Write};
use io_uring::register::Restriction;

use super::RingError;

/// What signal connections are made of in tokio-uring, and how it ends what is under way.
const CONTROL_OPERATIONS: [u8; 4] = [Read::CODE, Write::CODE, Close::CODE, AsyncCancel::CODE];
/// `io_uring_register(2)`.
const REGISTER_PROBE: u8 = 8;
const REGISTER_RESTRICTIONS: libc::c_uint = 11;
const REGISTER_ENABLE_RINGS: libc::c_uint = 12;
/// How proc(5) names the descriptor of a ring.
const RING_LINK: &str = "anon_inode:[io_uring]";

/// Lets a ring that was made disabled do these operations and no others, and starts it on this thread.
pub(super) fn enable(ring: &impl AsRawFd, operations: &[u8]) -> io::Result<()> {
    let mut allowed: Vec<_> = operations.iter().copied().map(Restriction::sqe_op).collect();
    // With no call named, newer kernels would take calls for unrestricted. This one tells what a kernel can.
    allowed.push(Restriction::register_op(REGISTER_PROBE));
    let count = libc::c_uint::try_from(allowed.len()).expect("a few");
    register(ring, REGISTER_RESTRICTIONS, allowed.as_ptr().cast(), count)?;
    register(ring, REGISTER_ENABLE_RINGS, std::ptr::null(), 0)
}

fn register(
    ring: &impl AsRawFd,
    call: libc::c_uint,
    argument: *const libc::c_void,
    count: libc::c_uint,
) -> io::Result<()> {
    // SAFETY: the kernel reads `count` elements at `argument`, all of the slice in `enable` or none, and
    // keeps no pointer to them. A `Restriction` is `struct io_uring_restriction`. What the descriptor is
    // does not matter to memory: one that is no ring is refused.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), call, argument, count)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether [`start_control`] can find its ring: an error says why not.
pub fn sees_own_rings() -> io::Result<()> {
    rings().map(drop)
}

/// Makes the calling thread the control thread: runs `control` in tokio-uring's runtime, which is tokio's
/// as well, on a ring restricted to what the runtime needs. Where `/proc` is not mounted, the ring is not
/// restricted.
pub fn start_control<T>(control: impl Future<Output = T>) -> Result<T, RingError> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    // tokio-uring does not tell its descriptor. It is the one that is new: no other thread makes rings now.
    let before = rings().ok();
    if before.is_some() {
        ring.setup_r_disabled();
    }
    // Rings of workers were made before, so the kernel allows io_uring, and this can't panic.
    tokio_uring::builder().uring_builder(&ring).start(async {
        if let Some(before) = before {
            let mut new = rings().map_err(RingError::Broken)?;
            new.retain(|ring| !before.contains(ring));
            let [ring] = new[..] else {
                return Err(RingError::Broken(io::Error::other(
                    "the ring can't be told from others",
                )));
            };
            enable(&ring, &CONTROL_OPERATIONS).map_err(RingError::Broken)?;
        }
        Ok(control.await)
    })
}

/// Descriptors of all rings of this process.
fn rings() -> io::Result<Vec<RawFd>> {
    let mut rings = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // A socket of a worker may be closed by now.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if target.as_os_str() == RING_LINK {
            rings.extend(entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
        }
    }
    Ok(rings)
}

#[cfg(test)]
mod tests {
    use io_uring::{IoUring, opcode};
    use rustix::io::Errno;

    use super::*;

    /// Result of a no-op on a new ring.
    fn no_op(allowed: &[u8]) -> i32 {
        let mut ring: IoUring =
            IoUring::builder().setup_r_disabled().build(8).expect("io_uring works");
        enable(&ring, allowed).expect("Linux 5.10");
        // SAFETY: a no-op points to no memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.expect("it is empty");
        ring.submit_and_wait(1).expect("submits");
        ring.completion().next().expect("it was awaited").result()
    }

    #[test]
    fn a_ring_does_what_it_is_allowed_and_refuses_the_rest() {
        assert_eq!(no_op(&[opcode::Nop::CODE]), 0);
        assert_eq!(no_op(&[opcode::PollAdd::CODE]), -Errno::ACCESS.raw_os_error());
    }

    #[test]
    fn a_restricted_ring_takes_no_buffers_or_files() {
        let ring: IoUring = IoUring::builder().setup_r_disabled().build(8).expect("io_uring works");
        enable(&ring, &[opcode::Nop::CODE]).expect("Linux 5.10");
        let error = ring.submitter().register_files(&[0]).expect_err("not allowed");
        assert_eq!(Errno::from_io_error(&error), Some(Errno::ACCESS));
    }
}
