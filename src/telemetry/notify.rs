//! What systemd is told of the life of this process. Without systemd nothing happens.

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

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd did not take a notice; check NOTIFY_SOCKET");
    }
}
