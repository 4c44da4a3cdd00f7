//! Socket options that no crate has.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `setsockopt(2)`.
pub(super) fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes of `value`, which lives longer than the call, and the descriptor is
    // open while `socket` is borrowed.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, value.as_ptr().cast(), len)
    };
    checked(result)
}

/// `getsockopt(2)`. Returns how much of `value` the kernel has filled.
pub(super) fn get_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut [u8],
) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes `len` bytes of `value` at most, and `len` itself; both live longer than the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    checked(result)?;
    Ok(value.len().min(len as usize))
}

/// What a call that returns 0 or -1 came to.
pub(super) fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
