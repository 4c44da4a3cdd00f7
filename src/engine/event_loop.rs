//! What tells a thread which of its sockets are ready: a ring of io_uring, or epoll.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::epoll::Epoll;
use crate::config;
use crate::uring::{Event, Ring, RingError, Token, Waker};

/// Which of the two a process runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventLoop {
    /// Rings: the default where the kernel allows them.
    IoUring,
    /// epoll(7).
    Epoll,
}

impl EventLoop {
    /// Takes what the operator chose; where that is left to us, the ring if there is one, and a warning
    /// with the reason if there is none. To be called before threads are confined.
    pub fn choose(wanted: config::EventLoop) -> Result<Self, RingError> {
        match wanted {
            config::EventLoop::IoUring => probe().map(|()| Self::IoUring),
            config::EventLoop::Epoll => Ok(Self::Epoll),
            config::EventLoop::Auto => Ok(match probe() {
                Ok(()) => Self::IoUring,
                Err(error) => {
                    warn!("{error}. This process runs on epoll instead");
                    Self::Epoll
                }
            }),
        }
    }

    /// In log, status and metric.
    pub const fn word(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether a ring like that of a worker can be had.
fn probe() -> Result<(), RingError> {
    let waker = Waker::new().map_err(RingError::Broken)?;
    Ring::new(Arc::new(waker)).map(drop)
}

/// A worker's own.
#[expect(clippy::large_enum_variant, reason = "a worker has one, and it never moves")]
pub(super) enum Poller {
    Ring(Ring),
    Epoll(Epoll),
}

impl Poller {
    /// Must be called on the thread that will use it.
    pub(super) fn new(event_loop: EventLoop, waker: Arc<Waker>) -> Result<Self, RingError> {
        match event_loop {
            EventLoop::IoUring => Ring::new(waker).map(Self::Ring),
            EventLoop::Epoll => Epoll::new(waker).map(Self::Epoll).map_err(RingError::Broken),
        }
    }

    /// Reports readiness of a socket until [`Poller::unwatch`], beginning with what it is ready for
    /// now. The caller keeps the socket open until the event that has `ended`.
    pub(super) fn watch(&mut self, socket: BorrowedFd<'_>, token: Token) {
        match self {
            Self::Ring(ring) => ring.watch(socket, token),
            Self::Epoll(epoll) => epoll.watch(socket, token),
        }
    }

    /// Ends a watch. Its last event follows.
    pub(super) fn unwatch(&mut self, socket: BorrowedFd<'_>, token: Token) {
        match self {
            Self::Ring(ring) => ring.unwatch(token),
            Self::Epoll(epoll) => epoll.unwatch(socket, token),
        }
    }

    /// Waits until something happens, somebody wakes us, or the time is over; `None` waits for ever.
    /// Appends to `events`.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.wait(timeout, events),
            Self::Epoll(epoll) => epoll.wait(timeout, events),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;
    use std::time::Instant;

    use super::*;

    const TOKEN: Token = Token { index: 7, generation: 3 };
    const BOTH: [EventLoop; 2] = [EventLoop::IoUring, EventLoop::Epoll];

    fn new(event_loop: EventLoop) -> (Poller, Arc<Waker>) {
        let waker = Arc::new(Waker::new().expect("eventfd"));
        let poller = Poller::new(event_loop, Arc::clone(&waker)).expect("io_uring works here");
        (poller, waker)
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (far, _) = listener.accept().expect("accepts");
        near.set_nonblocking(true).expect("a socket");
        (near, far)
    }

    fn next(poller: &mut Poller, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let mut events = Vec::new();
            // It may come back for nothing: a signal, or news that came with that of before.
            poller.wait(Some(Duration::from_secs(20)), &mut events).expect("waits");
            if let Some(event) = events.into_iter().find(&mut wanted) {
                return event;
            }
            assert!(Instant::now() < end, "it did not happen for 20 s");
        }
    }

    #[test]
    fn either_reports_bytes_each_time_they_come_and_the_end_after_them() {
        for (mut poller, _) in BOTH.map(new) {
            let (mut near, mut far) = pair();
            poller.watch(near.as_fd(), TOKEN);
            assert_eq!(next(&mut poller, |event| event.readiness.writable).token, TOKEN);
            for _ in 0..2 {
                far.write_all(b"x").expect("sends");
                let event = next(&mut poller, |event| event.readiness.readable);
                assert!(!event.readiness.read_closed);
                assert_eq!(near.read(&mut [0; 8]).expect("receives"), 1);
            }
            drop(far);
            next(&mut poller, |event| event.readiness.read_closed);
        }
    }

    #[test]
    fn either_reports_room_again_after_a_send_that_would_block() {
        for (mut poller, _) in BOTH.map(new) {
            let (mut near, mut far) = pair();
            poller.watch(near.as_fd(), TOKEN);
            next(&mut poller, |event| event.readiness.writable);
            let portion = vec![0; 64 * 1024];
            let mut sent = 0;
            while let Ok(len) = near.write(&portion) {
                sent += len;
            }
            let reader = std::thread::spawn(move || far.read_exact(&mut vec![0; sent]));
            next(&mut poller, |event| event.readiness.writable);
            reader.join().expect("it does not panic").expect("all that was sent");
        }
    }

    #[test]
    fn either_reports_a_reset_as_a_failure() {
        for (mut poller, _) in BOTH.map(new) {
            let (near, far) = pair();
            poller.watch(near.as_fd(), TOKEN);
            socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).expect("a socket");
            drop(far);
            next(&mut poller, |event| event.readiness.hung_up && event.readiness.failed);
        }
    }

    #[test]
    fn either_ends_a_watch_once_and_as_its_last_word() {
        for (mut poller, _) in BOTH.map(new) {
            let (near, mut far) = pair();
            poller.watch(near.as_fd(), TOKEN);
            next(&mut poller, |event| event.readiness.writable);
            far.write_all(b"x").expect("sends");
            poller.unwatch(near.as_fd(), TOKEN);
            next(&mut poller, |event| event.ended && event.token == TOKEN);
            far.write_all(b"x").expect("sends");
            let mut events = Vec::new();
            poller.wait(Some(Duration::ZERO), &mut events).expect("waits");
            assert_eq!(events, []);
        }
    }

    #[test]
    fn either_reports_every_one_of_many_watches() {
        for (mut poller, _) in BOTH.map(new) {
            let sockets: Vec<_> = (0..300).map(|_| pair()).collect();
            for (index, (near, _)) in (0..).zip(&sockets) {
                poller.watch(near.as_fd(), Token { index, generation: 0 });
            }
            let mut seen = HashSet::new();
            while seen.len() < sockets.len() {
                let mut events = Vec::new();
                poller.wait(Some(Duration::from_secs(20)), &mut events).expect("waits");
                assert!(!events.is_empty(), "nothing happened for 20 s");
                seen.extend(events.iter().map(|event| event.token.index));
            }
        }
    }

    #[test]
    fn either_ends_a_watch_also_while_news_of_its_socket_arrives() {
        for (mut poller, _) in BOTH.map(new) {
            for generation in 0..2000 {
                let (near, mut far) = pair();
                let token = Token { index: 1, generation };
                poller.watch(near.as_fd(), token);
                next(&mut poller, |event| event.readiness.writable);
                far.write_all(b"x").expect("sends");
                poller.unwatch(near.as_fd(), token);
                drop(far);
                next(&mut poller, |event| event.ended && event.token == token);
            }
        }
    }

    #[test]
    fn either_wakes_its_sleeper_from_another_thread_each_time() {
        for (mut poller, waker) in BOTH.map(new) {
            let (to_sleeper, work) = std::sync::mpsc::sync_channel::<u32>(1);
            let sender = std::thread::spawn({
                let waker = Arc::clone(&waker);
                move || {
                    for n in 0..1000 {
                        to_sleeper.send(n).expect("the sleeper lives");
                        waker.wake();
                    }
                }
            });
            let mut seen = 0;
            while seen < 1000 {
                waker.fall_asleep();
                if work.try_recv().is_ok() {
                    seen += 1;
                } else {
                    let patience = Some(Duration::from_secs(20));
                    poller.wait(patience, &mut Vec::new()).expect("waits");
                }
                waker.stand_up();
            }
            sender.join().expect("the sender does not panic");
        }
    }
}
