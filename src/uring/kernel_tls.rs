//! TLS in the kernel (Documentation/networking/tls.rst): keys go in, payload comes out, and what is no payload comes and goes
//! beside it, as control messages. No crate that is kept up has these calls without a runtime.

use std::hint::black_box;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use rustls::ConnectionTrafficSecrets;

use super::socket_option::{checked, get_option, set_option};

/// linux/tls.h.
const TLS_TX: libc::c_int = 1;
const TLS_RX: libc::c_int = 2;
const TLS_RX_EXPECT_NO_PAD: libc::c_int = 4;
const TLS_SET_RECORD_TYPE: libc::c_int = 1;
const TLS_GET_RECORD_TYPE: libc::c_int = 2;
const TLS_1_3_VERSION: u16 = 0x0304;
const TLS_CIPHER_AES_GCM_128: u16 = 51;
const TLS_CIPHER_AES_GCM_256: u16 = 52;
const TLS_CIPHER_CHACHA20_POLY1305: u16 = 54;

/// Of the nonces of AES-GCM in TLS, the part that the kernel calls salt.
const GCM_SALT_LEN: usize = 4;
const SEQUENCE_LEN: usize = 8;
/// The longest of `struct tls12_crypto_info_*`.
const MAX_CRYPTO_INFO_LEN: usize = 56;
/// Room for a control message of one byte, in units that are aligned for its header.
const CONTROL_WORDS: usize = 4;

/// The direction of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What comes.
    Opening,
    /// What goes.
    Sealing,
}

impl Direction {
    fn option(self) -> libc::c_int {
        match self {
            Self::Opening => TLS_RX,
            Self::Sealing => TLS_TX,
        }
    }
}

/// Puts the kernel's TLS on a connected socket, still without keys: bytes pass as they are.
pub fn attach_tls(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
}

/// Gives the kernel a key of TLS 1.3, and the number of the next record, which begins with the next byte that is
/// received or sent. Returns the length by which [`sealed_records`] asks for it.
pub fn give_key(
    socket: &impl AsFd,
    direction: Direction,
    secrets: &ConnectionTrafficSecrets,
    sequence: u64,
) -> io::Result<usize> {
    let mut info = [0; MAX_CRYPTO_INFO_LEN];
    let len = write_crypto_info(&mut info, secrets, sequence)
        .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
    let result = set_option(socket, libc::SOL_TLS, direction.option(), &info[..len]);
    info.fill(0);
    black_box(&info);
    result.map(|()| len)
}

/// Lets the kernel open records where they are to be read, in the hope that they have no padding, as hardly any have: those that
/// have some are opened twice, which is all that a peer gains by it.
pub fn expect_no_padding(socket: &impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    set_option(socket, libc::SOL_TLS, TLS_RX_EXPECT_NO_PAD, &on.to_ne_bytes())
}

/// Records that the kernel has sealed, from the number on that it was given.
pub fn sealed_records(socket: &impl AsFd, info_len: usize) -> io::Result<u64> {
    let mut info = [0; MAX_CRYPTO_INFO_LEN];
    let len = get_option(socket, libc::SOL_TLS, TLS_TX, &mut info[..info_len])?;
    let sequence = info[..len].last_chunk::<SEQUENCE_LEN>().copied().unwrap_or_default();
    info.fill(0);
    black_box(&info);
    Ok(u64::from_be_bytes(sequence))
}

/// Bytes that TCP has taken to be sent, since it was connected. Never more than are true; less, while an acknowledgement
/// comes in.
pub fn written_len(socket: &impl AsFd) -> io::Result<u64> {
    let mut info = [0; size_of::<libc::tcp_info>()];
    let len = get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let at = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_acked);
    let acknowledged = info[..len].get(at..).and_then(|rest| rest.first_chunk().copied());
    let acknowledged = u64::from_ne_bytes(acknowledged.ok_or(io::ErrorKind::Unsupported)?);
    let mut waiting: libc::c_int = 0;
    // SAFETY: the kernel writes one int, which lives longer than the call, and the descriptor is open
    // while `socket` is borrowed.
    let result =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) };
    checked(result)?;
    Ok(acknowledged + u64::from(waiting.unsigned_abs()))
}

/// Receives what the kernel has opened: payload, of several records perhaps, or one record of another type. Returns its
/// length and its type, which there is none of at the end of TCP.
pub fn receive_opened(
    socket: &impl AsFd,
    space: &mut [IoSliceMut<'_>],
) -> io::Result<(usize, Option<u8>)> {
    let mut control = [0_usize; CONTROL_WORDS];
    let mut message = empty_message();
    // IoSliceMut has the layout of iovec (its documentation says so).
    message.msg_iov = space.as_mut_ptr().cast();
    message.msg_iovlen = space.len() as _;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the kernel writes into the slices and into `control`, within the lengths given, and all live
    // longer than the call.
    let result =
        unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled `control` up to the length that it put into `message`; both are unchanged.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let content_type = header
        .filter(|header| {
            (header.cmsg_level, header.cmsg_type) == (libc::SOL_TLS, TLS_GET_RECORD_TYPE)
        })
        // SAFETY: a header of that type is followed by one byte (tls.rst, "Receiving TLS control messages").
        .map(|header| unsafe { *libc::CMSG_DATA(header) });
    Ok((len, content_type))
}

/// Has the kernel seal and send one record of that type.
pub fn send_record(socket: &impl AsFd, content_type: u8, content: &[u8]) -> io::Result<()> {
    let mut control = [0_usize; CONTROL_WORDS];
    let mut slice =
        libc::iovec { iov_base: content.as_ptr().cast_mut().cast(), iov_len: content.len() };
    let mut message = empty_message();
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: plain arithmetic.
    let (space, len) = unsafe { (libc::CMSG_SPACE(1), libc::CMSG_LEN(1)) };
    message.msg_controllen = space as _;
    // SAFETY: `control` is aligned for the header and longer than `space`, so that the header and the byte
    // behind it are inside.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = len as _;
        *libc::CMSG_DATA(header) = content_type;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads `slice` and `control`, within the lengths given, and both live longer than the
    // call.
    let result = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) };
    usize::try_from(result).map(drop).map_err(|_| io::Error::last_os_error())
}

fn empty_message() -> libc::msghdr {
    // SAFETY: null pointers with lengths of 0 are valid, and so is every other field of zeros.
    unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() }
}

/// `struct tls12_crypto_info_*` of linux/tls.h, which have no gaps. Returns its length.
fn write_crypto_info(
    info: &mut [u8; MAX_CRYPTO_INFO_LEN],
    secrets: &ConnectionTrafficSecrets,
    sequence: u64,
) -> Option<usize> {
    let (cipher, key, nonce, salt_len) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
            (TLS_CIPHER_AES_GCM_128, key, iv, GCM_SALT_LEN)
        }
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
            (TLS_CIPHER_AES_GCM_256, key, iv, GCM_SALT_LEN)
        }
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            (TLS_CIPHER_CHACHA20_POLY1305, key, iv, 0)
        }
        _ => return None,
    };
    let (salt, nonce) = nonce.as_ref().split_at(salt_len);
    let (version, cipher) = (TLS_1_3_VERSION.to_ne_bytes(), cipher.to_ne_bytes());
    let sequence = sequence.to_be_bytes();
    let mut len = 0;
    for part in [&version[..], &cipher, nonce, key.as_ref(), salt, &sequence] {
        info[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    Some(len)
}
