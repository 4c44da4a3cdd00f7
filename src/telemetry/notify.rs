//! What systemd is told of the life of this process. Without systemd nothing happens.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use sd_notify::NotifyState;

/// The process serves, and `status` says in a few words how.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The process drains and will end.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The process reads its configuration again; [`ready`] ends this state. systemd asks for the time,
/// without which it takes the notice for an old one (`sd_notify(3)`, `MONOTONIC_USEC`).
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "no clock for the notice to systemd"),
    }
}

/// Connects to systemd, where it has started this process (`sd_notify(3)`). To be called before the
/// sandbox, in which nothing new is connected; without it, the first notice connects.
pub fn connect() {
    connection();
}

fn connection() -> &'static io::Result<Option<UnixDatagram>> {
    static SOCKET: OnceLock<io::Result<Option<UnixDatagram>>> = OnceLock::new();
    SOCKET.get_or_init(|| std::env::var_os("NOTIFY_SOCKET").map(|path| open(&path)).transpose())
}

fn send(states: &[NotifyState<'_>]) {
    let mut notice = String::new();
    for state in states {
        writeln!(notice, "{state}").expect("a String takes all that is written to it");
    }
    let sent = match connection() {
        Ok(None) => return,
        Ok(Some(socket)) => socket.send(notice.as_bytes()).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd did not take a notice; check NOTIFY_SOCKET");
    }
}

fn open(path: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}
