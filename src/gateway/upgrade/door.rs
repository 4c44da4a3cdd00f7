//! The Unix socket at which the next process asks for our place. It is opened before the sandbox, in which
//! no path can be made and nobody be connected to.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use prost::Message;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use rustix::process::{Uid, geteuid};

use super::UpgradeError;
use super::channel::{Parcel, receive, send};
use super::packet::{Content, Offer, Packet, SocketKind, VERSION};
use crate::engine::InheritedSockets;
use crate::limits::{MAX_INHERITED_SOCKETS, OFFER_TIMEOUT};
use crate::uring::take_inherited;

/// What a gateway begins with.
pub struct Start {
    /// Listening sockets that others have opened.
    pub(in crate::gateway) sockets: InheritedSockets,
    pub(in crate::gateway) telemetry: InheritedSockets,
    /// Where the next process asks.
    pub(in crate::gateway) door: Option<OwnedFd>,
    /// Where operators are heard.
    operator: Option<OwnedFd>,
    /// Who this process is: inside the sandbox nobody tells.
    pub(in crate::gateway) user: Uid,
    /// The process whose place this one takes.
    pub(in crate::gateway) before: Option<Before>,
}

/// The process that this one succeeds.
pub(in crate::gateway) struct Before {
    pub(in crate::gateway) socket: OwnedFd,
    pub(in crate::gateway) instance: String,
    /// What it serves, and this one must before it takes the place.
    pub(in crate::gateway) services: Vec<String>,
}

impl Start {
    /// To be called first, before anything else opens descriptors, and before the sandbox. With `take_over`
    /// the gateway that listens at the configured path is asked for its sockets; where there is none, this one
    /// begins like any other.
    pub fn prepare(path: Option<&Path>, take_over: bool) -> Result<Self, UpgradeError> {
        let mut start = Self {
            sockets: InheritedSockets::default(),
            telemetry: InheritedSockets::default(),
            door: None,
            operator: None,
            user: geteuid(),
            before: None,
        };
        for (socket, _) in take_inherited().map_err(UpgradeError::Activation)? {
            start.sockets.add(socket)?;
        }
        let Some(path) = path else {
            return if take_over { Err(UpgradeError::NoSocket) } else { Ok(start) };
        };
        match (call(path)?, take_over) {
            (Some(socket), true) => start.take_over(socket)?,
            (Some(_), false) => return Err(UpgradeError::Running(path.to_owned())),
            (None, _) => start.door = Some(open(path)?),
        }
        Ok(start)
    }

    /// The socket at which the process before heard operators, if it had one.
    pub fn take_operator(&mut self) -> Option<OwnedFd> {
        self.operator.take()
    }

    fn take_over(&mut self, socket: OwnedFd) -> Result<(), UpgradeError> {
        set_socket_timeout(&socket, Timeout::Recv, Some(OFFER_TIMEOUT))
            .map_err(|error| UpgradeError::Offer(error.into()))?;
        let ask = Packet::from(Content::Ask(VERSION)).encode_to_vec();
        send(socket.as_fd(), &ask, None).map_err(UpgradeError::Offer)?;
        let (Packet { content: Some(Content::Offer(offer)) }, _) = next(&socket)? else {
            return Err(UpgradeError::OtherVersion);
        };
        let Offer { version: VERSION, instance, services, sockets } = offer else {
            return Err(UpgradeError::OtherVersion);
        };
        // Those that systemd has given to this process as well are the same, or are of no use.
        self.sockets = InheritedSockets::default();
        for _ in 0..usize::try_from(sockets).unwrap_or(usize::MAX).min(MAX_INHERITED_SOCKETS) {
            let (Packet { content: Some(Content::Socket(kind)) }, Some(passed)) = next(&socket)?
            else {
                return Err(UpgradeError::OtherVersion);
            };
            match SocketKind::try_from(kind) {
                Ok(SocketKind::Listener) => self.sockets.add(passed)?,
                Ok(SocketKind::Telemetry) => self.telemetry.add(passed)?,
                Ok(SocketKind::Door) => self.door = Some(passed),
                Ok(SocketKind::Operator) => self.operator = Some(passed),
                Ok(SocketKind::Unspecified) | Err(_) => {}
            }
        }
        self.before = Some(Before { socket, instance, services });
        Ok(())
    }
}

/// Waits for the next parcel of the running gateway.
fn next(socket: &OwnedFd) -> Result<Parcel, UpgradeError> {
    match receive(socket.as_fd()) {
        Ok(Some(parcel)) => Ok(parcel),
        Ok(None) => Err(UpgradeError::Offer(io::ErrorKind::UnexpectedEof.into())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(UpgradeError::NoOffer),
        Err(error) => Err(UpgradeError::Offer(error)),
    }
}

/// Connects to the gateway that listens there, if one does.
fn call(path: &Path) -> Result<Option<OwnedFd>, UpgradeError> {
    let failed =
        |error: Errno| UpgradeError::Connect { path: path.to_owned(), source: error.into() };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let socket = new_socket(SocketFlags::CLOEXEC).map_err(failed)?;
    // Where one upgrade is under way, the next waits here.
    set_socket_timeout(&socket, Timeout::Send, Some(OFFER_TIMEOUT)).map_err(failed)?;
    match connect(&socket, &address) {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(Errno::AGAIN) => Err(UpgradeError::NoOffer),
        Err(Errno::PROTOTYPE) => Err(UpgradeError::NotASocket(path.to_owned())),
        Err(error) => Err(failed(error)),
    }
}

/// Listens there. What a process before has left there is taken away.
fn open(path: &Path) -> Result<OwnedFd, UpgradeError> {
    let failed = |source: io::Error| UpgradeError::Listen { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(left) if left.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(UpgradeError::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let failed_by = |error: Errno| failed(error.into());
    let address = SocketAddrUnix::new(path).map_err(failed_by)?;
    let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(failed_by)?;
    bind(&socket, &address).map_err(failed_by)?;
    // Nobody is let in before this: it does not listen yet.
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    listen(&socket, 1).map_err(failed_by)?;
    Ok(socket)
}

/// Packets keep their bounds, and descriptors stay with theirs.
fn new_socket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The next who asks for the place of this process, which is that `user`'s; an error of kind `WouldBlock`
/// where there is nobody.
pub(super) fn admit(door: &OwnedFd, user: Uid) -> io::Result<OwnedFd> {
    let socket = accept_with(door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let asks = socket_peercred(&socket)?.uid;
    // The file's mode says the same; it could be changed.
    if asks != user && !asks.is_root() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_a_dead_process_left_is_replaced_and_one_of_a_live_process_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("upgrade.sock");
        drop(open(&path).expect("a new path"));
        let door = open(&path).expect("nobody listens there");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let running = Start::prepare(Some(&path), false).err().expect("somebody is there");
        assert!(matches!(running, UpgradeError::Running(_)), "{running}");
        assert!(admit(&door, geteuid()).is_ok(), "of the same user");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("keys.pem");
        fs::write(&path, "keys").expect("writable");
        assert!(matches!(open(&path), Err(UpgradeError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "keys");
    }

    #[test]
    fn taking_over_needs_a_path() {
        assert!(matches!(Start::prepare(None, true), Err(UpgradeError::NoSocket)));
    }
}
