use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode};
use rustix::io::Errno;
use thiserror::Error;

use super::{Refusal, Token, Waker, restrictions};
use crate::limits::RING_ENTRIES;

pub(super) const POLLIN: u32 = 0x1;
pub(super) const POLLOUT: u32 = 0x4;
const POLLERR: u32 = 0x8;
const POLLHUP: u32 = 0x10;
const POLLRDHUP: u32 = 0x2000;
/// All that a [`Ring`] asks of the kernel.
const OPERATIONS: [u8; 2] = [opcode::PollAdd::CODE, opcode::AsyncCancel::CODE];

/// What a socket has become ready for since it was last told. Edge-triggered: it stays true until a
/// receive or a send says that it would block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, as poll(2) has them")]
pub struct Readiness {
    /// A receive will not block: bytes, an end, or an error are there.
    pub readable: bool,
    /// A send will not block.
    pub writable: bool,
    /// The peer has ended its direction: an end follows the bytes.
    pub read_closed: bool,
    /// Both directions are gone: reset, or ended on both sides.
    pub hung_up: bool,
    /// The kernel gave the connection up: reset by the peer, or lost.
    pub failed: bool,
}

impl Readiness {
    /// From the bits of poll(2), which are those of epoll(7) as well.
    #[must_use]
    pub const fn from_poll(bits: u32) -> Self {
        let hung_up = bits & (POLLERR | POLLHUP) != 0;
        Self {
            readable: hung_up || bits & (POLLIN | POLLRDHUP) != 0,
            writable: hung_up || bits & POLLOUT != 0,
            read_closed: hung_up || bits & POLLRDHUP != 0,
            hung_up,
            failed: bits & POLLERR != 0,
        }
    }
}

/// News of one watched socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// As given to [`Ring::watch`].
    pub token: Token,
    /// What it is ready for.
    pub readiness: Readiness,
    /// The watch is over; the kernel holds nothing of this socket any more. Comes exactly once for
    /// each watch, as its last event.
    pub ended: bool,
}

/// Why there is no ring. The operator's to mend.
#[derive(Debug, Error)]
pub enum RingError {
    /// The kernel or a sandbox refuses io_uring.
    #[error("io_uring is refused ({source}): {refusal}")]
    Refused {
        /// What the kernel said.
        source: io::Error,
        /// Who it was, and what to change.
        refusal: Refusal,
    },
    /// The event that wakes the ring can't be watched.
    #[error("a new ring does not work: {0}")]
    Broken(#[source] io::Error),
}

impl RingError {
    /// The kernel made no ring.
    pub(super) fn refused(source: io::Error) -> Self {
        Self::Refused { refusal: Refusal::of(&source), source }
    }
}

/// A ring that reports readiness, owned by the thread that made it.
pub struct Ring {
    ring: IoUring,
    waker: Arc<Waker>,
}

impl Ring {
    /// Must be called on the thread that will use it: the kernel ties a ring with `SINGLE_ISSUER` to
    /// its first user (`io_uring_setup(2)`).
    pub fn new(waker: Arc<Waker>) -> Result<Self, RingError> {
        let mut ring = Self { ring: restricted()?, waker };
        let waker = Arc::clone(&ring.waker);
        ring.push(&poll(waker.as_fd(), Token::WAKER, POLLIN));
        ring.ring.submit().map_err(RingError::Broken)?;
        Ok(ring)
    }

    /// Reports readiness of a socket until [`Ring::unwatch`], beginning with what it is ready for
    /// now. The caller keeps the socket open until the event that has `ended`.
    pub fn watch(&mut self, socket: BorrowedFd<'_>, token: Token) {
        self.push(&poll(socket, token.to_bits(), POLLIN | POLLOUT | POLLRDHUP));
    }

    /// Ends a watch. Its last event follows.
    pub fn unwatch(&mut self, token: Token) {
        // And not POLL_REMOVE: that gives up (EALREADY) where a wake-up is on its way at that moment,
        // and the watch would never end.
        self.push(&opcode::AsyncCancel::new(token.to_bits()).build().user_data(Token::IGNORED));
    }

    /// Waits until something happens, somebody wakes us, or the time is over; `None` waits for ever.
    /// Appends to `events`.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let entered = self.enter(timeout);
        self.collect(entered, events)
    }

    /// Waits without a time like [`Ring::wait`], but gives further events `min_wait` to come with the
    /// first.
    #[cfg(feature = "shapes")]
    pub fn wait_for_more(&mut self, min_wait: Duration, events: &mut Vec<Event>) -> io::Result<()> {
        let entered = super::receives::enter(&self.ring, min_wait);
        self.collect(entered, events)
    }

    fn collect(&mut self, entered: io::Result<()>, events: &mut Vec<Event>) -> io::Result<()> {
        match entered {
            Ok(()) => {}
            Err(error) => match Errno::from_io_error(&error) {
                // The time was over, a signal came, or completions must be read first.
                Some(Errno::TIME | Errno::INTR | Errno::BUSY) => {}
                _ => return Err(error),
            },
        }
        let mut woken = None;
        for completion in self.ring.completion() {
            match completion.user_data() {
                Token::IGNORED => {}
                Token::WAKER => woken = Some(cqueue::more(completion.flags())),
                bits => events.push(event(Token::from_bits(bits), &completion)),
            }
        }
        if let Some(goes_on) = woken {
            self.waker.clear();
            if !goes_on {
                let waker = Arc::clone(&self.waker);
                self.push(&poll(waker.as_fd(), Token::WAKER, POLLIN));
            }
        }
        Ok(())
    }

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let submitter = self.ring.submitter();
        match timeout {
            Some(Duration::ZERO) => {
                let queued = u32::try_from(self.ring.submission().len()).unwrap_or(RING_ENTRIES);
                // SAFETY: no argument is passed, and the count is that of the entries in the queue.
                // GETEVENTS is what makes a ring with DEFER_TASKRUN do its work without a wait.
                unsafe {
                    self.ring.submitter().enter::<()>(
                        queued,
                        0,
                        EnterFlags::GETEVENTS.bits(),
                        None,
                    )?;
                }
            }
            Some(timeout) => {
                let time = Timespec::from(timeout);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))?;
            }
            None => {
                submitter.submit_and_wait(1)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, entry: &Entry) {
        loop {
            // SAFETY: the entries that we push (POLL_ADD, ASYNC_CANCEL) point to no memory. The
            // kernel takes its own reference to the file when it reads the entry, and the caller
            // keeps the descriptor open until the event that has `ended`.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // Submits the whole queue; fails for a moment only (EBUSY, EINTR), and then again.
            let _ = self.ring.submit();
        }
    }
}

/// A ring that can do nothing but what [`Ring`] does.
fn restricted() -> Result<IoUring, RingError> {
    let ring = builder().setup_r_disabled().build(RING_ENTRIES).map_err(RingError::refused)?;
    restrictions::enable(&ring, &OPERATIONS).map_err(RingError::Broken)?;
    Ok(ring)
}

/// For a ring of its thread alone.
pub(super) fn builder() -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        // Each operation may complete many times: four times the submissions leaves room for a
        // burst, and beyond that the kernel keeps completions until there is room.
        .setup_cqsize(RING_ENTRIES * 4);
    builder
}

fn poll(fd: BorrowedFd<'_>, user_data: u64, interest: u32) -> Entry {
    opcode::PollAdd::new(Fd(fd.as_raw_fd()), interest).multi(true).build().user_data(user_data)
}

fn event(token: Token, completion: &cqueue::Entry) -> Event {
    let ended = !cqueue::more(completion.flags());
    // A negative result is the end of the watch (ECANCELED); the flags say so as well.
    let readiness = Readiness::from_poll(u32::try_from(completion.result()).unwrap_or(0));
    Event { token, readiness, ended }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn more_watches_than_entries_of_the_ring_all_report() {
        let waker = Arc::new(Waker::new().expect("eventfd"));
        let mut ring = Ring::new(waker).expect("io_uring works here");
        let (near, _far) = UnixStream::pair().expect("a pair");
        let watches = RING_ENTRIES * 6;
        for index in 0..watches {
            ring.watch(near.as_fd(), Token { index, generation: 0 });
        }
        let mut seen = std::collections::HashSet::new();
        while seen.len() < watches as usize {
            let mut events = Vec::new();
            ring.wait(Some(Duration::from_secs(20)), &mut events).expect("waits");
            assert!(!events.is_empty(), "nothing happened for 20 s");
            seen.extend(events.iter().map(|event| event.token.index));
        }
    }
}
