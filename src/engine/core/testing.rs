//! A core without a worker, for tests.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use crate::engine::event_loop::{EventLoop, Poller};
use crate::engine::platform::{Platform, RelayMode};
use crate::engine::worker::WorkerSettings;
use crate::relay::{Party, RelayLimits};
use crate::uring::{Token, Waker};

pub(super) type TestCore = Core<(), ()>;

/// With sessions that may be quiet for ever.
pub(super) fn core() -> TestCore {
    let relay = RelayLimits { idle_timeout: None, half_closed_timeout: Duration::from_secs(60) };
    let (keepalive, user_timeout) = (Duration::from_secs(60), Duration::from_secs(60));
    let settings = WorkerSettings {
        platform: Platform { event_loop: EventLoop::IoUring, relay: RelayMode::Userspace },
        max_connections: 1000,
        keepalive,
        user_timeout,
        relay,
    };
    let waker = Arc::new(Waker::new().expect("eventfd"));
    let poller = Poller::new(EventLoop::IoUring, waker).expect("io_uring works");
    Core::new(poller, settings, Arc::default())
}

/// A session of two connections, and their other ends.
pub(super) fn join(core: &mut TestCore, listener: &TcpListener) -> (Token, [TcpStream; 2]) {
    let mut connect = || {
        let far = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (near, peer) = listener.accept().expect("a connection");
        (core.adopt_accepted(near, peer, ()), far)
    };
    let ((outer, device), (inner, backend)) = (connect(), connect());
    let session = core.join((outer, Party::Agent), (inner, Party::Server), ());
    (session.expect("both live"), [device, backend])
}
