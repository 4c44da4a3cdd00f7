//! Packets and descriptors over a Unix socket of two processes (`unix(7)`, `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use prost::Message;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use rustix::process::Uid;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::warn;

use super::UpgradeNews;
use super::door::admit;
use super::packet::{Content, Packet, VERSION};
use crate::limits::{ACCEPT_RETRY, ASK_TIMEOUT, MAX_PACKET_LEN, MAX_PASSED_CONNECTIONS};
use crate::uring::awaited;

/// A packet with the descriptor that goes with it.
pub(in crate::gateway) type Parcel = (Packet, Option<OwnedFd>);

/// The writing end. Dropping it hangs up, after what was sent.
pub(super) struct Sender(mpsc::Sender<Parcel>);

impl Sender {
    /// False where too much waits for the other process, or it is gone; the parcel is then dropped.
    pub(super) fn send(&self, packet: Packet, descriptor: Option<OwnedFd>) -> bool {
        self.0.try_send((packet, descriptor)).is_ok()
    }
}

/// Starts to talk over a socket, on this thread: `first` goes out before anything else. News come with
/// `number`; after `None` there are none.
pub(super) fn start(
    socket: OwnedFd,
    number: u64,
    first: Vec<Parcel>,
    news: mpsc::Sender<UpgradeNews>,
) -> io::Result<Sender> {
    let socket = Rc::new(awaited(socket)?);
    let (sender, parcels) = mpsc::channel(MAX_PASSED_CONNECTIONS);
    tokio::task::spawn_local(write(Rc::clone(&socket), first, parcels));
    tokio::task::spawn_local(async move {
        while let Ok(Some(parcel)) = read(&socket).await {
            if news.send(UpgradeNews::Heard(number, Some(parcel))).await.is_err() {
                return;
            }
        }
        // Nobody listens any more where the control thread has ended.
        let _ = news.send(UpgradeNews::Heard(number, None)).await;
    });
    Ok(Sender(sender))
}

async fn write(
    socket: Rc<AsyncFd<OwnedFd>>,
    first: Vec<Parcel>,
    mut parcels: mpsc::Receiver<Parcel>,
) {
    for parcel in first {
        if write_one(&socket, parcel).await.is_err() {
            return hang_up(&socket);
        }
    }
    while let Some(parcel) = parcels.recv().await {
        if write_one(&socket, parcel).await.is_err() {
            break;
        }
    }
    hang_up(&socket);
}

/// What was written before can still be read.
fn hang_up(socket: &AsyncFd<OwnedFd>) {
    // Fails only where the other process is gone.
    let _ = shutdown(socket.get_ref(), Shutdown::Both);
}

async fn write_one(socket: &AsyncFd<OwnedFd>, (packet, passed): Parcel) -> io::Result<()> {
    let bytes = packet.encode_to_vec();
    loop {
        let mut ready = socket.writable().await?;
        let passed = passed.as_ref().map(AsFd::as_fd);
        let sent = ready.try_io(|socket| send(socket.as_fd(), &bytes, passed));
        if let Ok(result) = sent {
            return result;
        }
    }
}

async fn read(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<Parcel>> {
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(result) = ready.try_io(|socket| receive(socket.as_fd())) {
            return result;
        }
    }
}

/// The next process that asks for the place of this one. One that only looks whether somebody is there says
/// nothing.
pub(super) async fn next_who_asks(door: &AsyncFd<OwnedFd>, user: Uid) -> OwnedFd {
    loop {
        match asks(door, user).await {
            Ok(Some(socket)) => return socket,
            Ok(None) => {}
            Err(error) => {
                warn!(%error, "a process that wants to take over is not let in");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn asks(door: &AsyncFd<OwnedFd>, user: Uid) -> io::Result<Option<OwnedFd>> {
    let socket = loop {
        let mut ready = door.readable().await?;
        if let Ok(admitted) = ready.try_io(|door| admit(door.get_ref(), user)) {
            break awaited(admitted?)?;
        }
    };
    let first = tokio::time::timeout(ASK_TIMEOUT, read(&socket)).await;
    let first = first.map_err(|_| io::ErrorKind::TimedOut)??;
    let asks = Packet::from(Content::Ask(VERSION));
    Ok(first.filter(|(packet, _)| *packet == asks).map(|_| socket.into_inner()))
}

/// Writes a parcel to a socket with room for it.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    passed: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let passed = passed.map(|descriptor| [descriptor]);
    if let Some(passed) = &passed {
        control.push(SendAncillaryMessage::ScmRights(passed));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

/// The next parcel that this release knows; `None` where the other process has hung up.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Parcel>> {
    let mut bytes = vec![0; MAX_PACKET_LEN];
    loop {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        let passed = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        if received.bytes == 0 {
            return Ok(None);
        }
        if let Some(packet) = Packet::read(&bytes[..received.bytes]) {
            return Ok(Some((packet, passed)));
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::control::Word;

    #[test]
    fn packets_and_descriptors_come_as_they_were_sent_and_then_the_end() {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a pair");
        let packet = Packet::word(Word::Ready);
        let bytes = packet.encode_to_vec();
        send(one.as_fd(), &bytes, None).expect("room");
        send(one.as_fd(), &[0xff; 9], None).expect("room");
        send(one.as_fd(), &bytes, Some(one.as_fd())).expect("room");
        drop(one);
        assert!(matches!(receive(other.as_fd()), Ok(Some((p, None))) if p == packet));
        let second = receive(other.as_fd()).expect("what is no packet is passed over");
        let (read, passed) = second.expect("it was sent");
        assert_eq!(read, packet);
        // With it goes the last descriptor of that end.
        drop(passed.expect("it was passed"));
        assert!(matches!(receive(other.as_fd()), Ok(None)));
    }
}
