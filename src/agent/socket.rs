//! Options of the sockets on both sides of an agent.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::TARGET;
use crate::limits::{KEEPALIVE_MS, USER_TIMEOUT_MS};

/// For a connection to a gateway: one that is gone is noticed, gently enough for a mobile radio.
pub(super) fn prepare_gateway_leg(stream: &TcpStream) -> io::Result<()> {
    prepare(stream)?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream)
        .set_tcp_user_timeout(Some(Duration::from_millis(USER_TIMEOUT_MS.default)))?;
    Ok(())
}

/// For a connection of a local program. From now on every close is a reset, also where this process
/// is killed: a FIN would look like the end of a complete answer. [`finish`] alone takes it back.
///
/// A local program has no user timeout: one that is stopped in a debugger reads nothing, and lives.
pub(super) fn prepare_local(local: &TcpStream) {
    log_if_gone(prepare(local).and_then(|()| local.set_zero_linger()));
}

/// Closes a local connection cleanly: all that was written to it still arrives.
pub(super) fn finish(local: TcpStream) {
    log_if_gone(SockRef::from(&local).set_linger(None));
    drop(local);
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = Duration::from_millis(KEEPALIVE_MS.default);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive))
}

/// Some systems take no option on a connection that its peer reset; its end is noticed elsewhere.
fn log_if_gone(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(target: TARGET, %error, "local connection is gone already");
    }
}
