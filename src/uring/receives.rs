//! Receives as operations of a ring, one after another or multishot. In no product: the bench
//! measures relays of this shape beside the worker's.
//!
//! What the kernel may write to is owned here until its operation's last completion, buffers and
//! sockets alike, so that no caller can free or reuse it too early.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use rustix::io::Errno;
use slab::Slab;

use super::RingError;
use super::ring::{self, POLLIN, POLLOUT};
use crate::limits::RING_ENTRIES;

/// The one group of provided buffers.
const GROUP: u16 = 0;
/// Places in the ring of provided buffers: they fill a page.
const PLACES: u16 = 256;
/// `user_data` of cancels, whose completions nobody waits for.
const CANCEL: u64 = u64::MAX;
/// Completions that a minimum wait waits for: more than come in such a time, so that the time decides.
const SEVERAL: usize = 64;
/// Without a time beside it, a minimum wait returns when it is over, whether or not anything came.
const LONG: Timespec = Timespec::new().sec(10);

/// One completion.
#[derive(Debug)]
pub struct Arrival {
    /// As given with the operation.
    pub token: u64,
    /// Bytes received, 0 at the end of the direction; of a poll the events.
    pub result: Result<usize, Errno>,
    /// With the bytes at its beginning: the one that was given with the operation, or one of those
    /// that were provided.
    pub buffer: Option<Vec<u8>>,
    /// The operation is over.
    pub ended: bool,
}

/// Names an operation until its last completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation(usize);

/// What an operation in the kernel uses.
struct Held {
    token: u64,
    buffer: Option<Vec<u8>>,
    /// The entry names its descriptor, which must not be another's when the kernel reads it.
    _socket: Rc<dyn AsFd>,
}

/// A ring whose operations are receives, owned by the thread that made it.
pub struct ReceiveRing {
    ring: IoUring,
    operations: Slab<Held>,
    provided: Provided,
    min_wait: Duration,
}

impl ReceiveRing {
    /// A wait gives further completions `min_wait` to come with the first.
    pub fn new(min_wait: Duration) -> Result<Self, RingError> {
        let ring = ring::builder().build(RING_ENTRIES).map_err(RingError::refused)?;
        let provided = Provided::new(&ring).map_err(RingError::Broken)?;
        Ok(Self { ring, operations: Slab::new(), provided, min_wait })
    }

    /// Receives once, into this buffer.
    pub fn receive(&mut self, socket: Rc<dyn AsFd>, token: u64, mut buffer: Vec<u8>) {
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(descriptor(&socket), buffer.as_mut_ptr(), len).build();
        self.push(&entry, Held { token, buffer: Some(buffer), _socket: socket });
    }

    /// Receives into provided buffers, until the end, an error, a lack of buffers, or
    /// [`ReceiveRing::cancel`].
    pub fn receive_on(&mut self, socket: Rc<dyn AsFd>, token: u64) -> Operation {
        let entry = opcode::RecvMulti::new(descriptor(&socket), GROUP).build();
        self.push(&entry, Held { token, buffer: None, _socket: socket })
    }

    /// Completes once, when the socket can be read or accepted from.
    pub fn await_readable(&mut self, socket: Rc<dyn AsFd>, token: u64) {
        self.poll(socket, token, POLLIN);
    }

    /// Completes once, when the socket takes bytes.
    pub fn await_writable(&mut self, socket: Rc<dyn AsFd>, token: u64) {
        self.poll(socket, token, POLLOUT);
    }

    fn poll(&mut self, socket: Rc<dyn AsFd>, token: u64, events: u32) {
        let entry = opcode::PollAdd::new(descriptor(&socket), events).build();
        self.push(&entry, Held { token, buffer: None, _socket: socket });
    }

    /// Asks for the end of an operation. What it received until then still arrives.
    pub fn cancel(&mut self, operation: Operation) {
        let entry = opcode::AsyncCancel::new(operation.0 as u64).build().user_data(CANCEL);
        self.submit(&entry);
    }

    /// Gives a buffer for [`ReceiveRing::receive_on`]. One that has no place is dropped.
    pub fn provide(&mut self, buffer: Vec<u8>) {
        self.provided.add(buffer);
    }

    /// Submits what was asked for, and waits until something arrives. Appends to `arrivals`.
    pub fn wait(&mut self, arrivals: &mut Vec<Arrival>) -> io::Result<()> {
        match enter(&self.ring, self.min_wait) {
            Ok(()) => {}
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::TIME | Errno::INTR | Errno::BUSY) => {}
                _ => return Err(error),
            },
        }
        for completion in self.ring.completion().filter(|one| one.user_data() != CANCEL) {
            let key = usize::try_from(completion.user_data()).expect("a key of the table");
            let ended = !cqueue::more(completion.flags());
            let place = cqueue::buffer_select(completion.flags());
            let provided = place.and_then(|place| self.provided.take(place));
            let (token, own) = if ended {
                let held = self.operations.remove(key);
                (held.token, held.buffer)
            } else {
                (self.operations[key].token, None)
            };
            let result = usize::try_from(completion.result())
                .map_err(|_| Errno::from_raw_os_error(-completion.result()));
            arrivals.push(Arrival { token, result, buffer: own.or(provided), ended });
        }
        Ok(())
    }

    fn push(&mut self, entry: &Entry, held: Held) -> Operation {
        let key = self.operations.insert(held);
        self.submit(&entry.clone().user_data(key as u64));
        Operation(key)
    }

    fn submit(&mut self, entry: &Entry) {
        loop {
            // SAFETY: the only memory that an entry points to is the buffer of a receive. It is in
            // `operations` until the last completion of the entry, whose `user_data` is its key;
            // buffers don't move with their Vec.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // Submits the whole queue; fails for a moment only (EBUSY, EINTR), and then again.
            let _ = self.ring.submit();
        }
    }
}

impl Drop for ReceiveRing {
    fn drop(&mut self) {
        // The kernel ends what is under way after the ring was closed, when nobody can wait for it
        // any more: what it may still write to is never freed.
        mem::forget(mem::take(&mut self.operations));
        mem::forget(mem::take(&mut self.provided.buffers));
    }
}

/// Buffers that the kernel takes when bytes are there for them (`io_uring_register_buf_ring(3)`).
struct Provided {
    /// A page, never freed.
    entries: NonNull<BufRingEntry>,
    tail: u16,
    /// By place: what the kernel has.
    buffers: Vec<Option<Vec<u8>>>,
    free: Vec<u16>,
}

/// The kernel wants its entries on a page of their own.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

const _: () = assert!(size_of::<BufRingEntry>() * PLACES as usize == size_of::<Page>());

impl Provided {
    fn new(ring: &IoUring) -> io::Result<Self> {
        let page: &'static mut Page = Box::leak(Box::new(Page([0; 4096])));
        let entries = NonNull::from(page).cast::<BufRingEntry>();
        // SAFETY: the page holds `PLACES` entries, starts at the boundary of a page, is ours alone and
        // is never freed.
        unsafe {
            let address = entries.as_ptr().expose_provenance() as u64;
            ring.submitter().register_buf_ring_with_flags(address, PLACES, GROUP, 0)?;
        }
        let buffers = (0..PLACES).map(|_| None).collect();
        Ok(Self { entries, tail: 0, buffers, free: (0..PLACES).collect() })
    }

    fn add(&mut self, mut buffer: Vec<u8>) {
        let Some(place) = self.free.pop() else { return };
        let (address, len) = (buffer.as_mut_ptr().expose_provenance() as u64, buffer.len());
        self.buffers[usize::from(place)] = Some(buffer);
        // SAFETY: the index is within the page. No more buffers are provided at once than there are
        // places, so the kernel has taken what stood in this entry, and does not read it before the
        // tail says so. The buffer is in `buffers` until the kernel says that it has used it.
        unsafe {
            let entry = self.entries.add(usize::from(self.tail % PLACES)).as_mut();
            entry.set_addr(address);
            entry.set_len(u32::try_from(len).unwrap_or(u32::MAX));
            entry.set_bid(place);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, where `add` writes nothing else; the kernel reads
        // it with the counterpart of this order.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    fn take(&mut self, place: u16) -> Option<Vec<u8>> {
        let buffer = self.buffers.get_mut(usize::from(place))?.take()?;
        self.free.push(place);
        Some(buffer)
    }
}

/// Submits, and waits for one completion; with a minimum wait for all that come within it, and if none
/// came, for one (Linux 6.12).
pub(super) fn enter(ring: &IoUring, min_wait: Duration) -> io::Result<()> {
    if min_wait.is_zero() {
        return ring.submitter().submit_and_wait(1).map(drop);
    }
    let microseconds = u32::try_from(min_wait.as_micros()).unwrap_or(u32::MAX);
    let arguments = SubmitArgs::new().min_wait_usec(microseconds).timespec(&LONG);
    ring.submitter().submit_with_args(SEVERAL, &arguments).map(drop)
}

fn descriptor(socket: &Rc<dyn AsFd>) -> Fd {
    Fd(socket.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (Rc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (far, _) = listener.accept().expect("accepts");
        (Rc::new(near), far)
    }

    fn new_ring() -> ReceiveRing {
        ReceiveRing::new(Duration::ZERO).expect("io_uring works here")
    }

    fn next(ring: &mut ReceiveRing) -> Arrival {
        let mut arrivals = Vec::new();
        while arrivals.is_empty() {
            ring.wait(&mut arrivals).expect("waits");
        }
        assert_eq!(arrivals.len(), 1);
        arrivals.remove(0)
    }

    #[test]
    fn a_receive_gives_its_buffer_back_with_the_bytes_and_at_the_end() {
        let (near, mut far) = pair();
        let mut ring = new_ring();
        ring.receive(near.clone(), 7, vec![0; 16]);
        far.write_all(b"abc").expect("sends");
        let arrival = next(&mut ring);
        let buffer = arrival.buffer.expect("the buffer of the receive");
        assert_eq!((arrival.token, arrival.result, arrival.ended), (7, Ok(3), true));
        assert_eq!((&buffer[..3], buffer.len()), (&b"abc"[..], 16));
        ring.receive(near, 7, buffer);
        drop(far);
        let arrival = next(&mut ring);
        assert!(arrival.result == Ok(0) && arrival.buffer.is_some());
    }

    #[test]
    fn a_multishot_receive_ends_for_want_of_buffers_and_loses_no_byte() {
        let (near, mut far) = pair();
        let mut ring = new_ring();
        ring.provide(vec![0; 4]);
        ring.receive_on(near.clone(), 1);
        far.write_all(b"abcdef").expect("sends");
        let mut arrivals = Vec::new();
        while arrivals.last().is_none_or(|last: &Arrival| !last.ended) {
            ring.wait(&mut arrivals).expect("waits");
        }
        assert_eq!(arrivals[0].result, Ok(4));
        assert_eq!(arrivals[1].result, Err(Errno::NOBUFS));
        let buffer = arrivals.remove(0).buffer.expect("the one that was provided");
        assert_eq!(buffer, b"abcd");
        // More rounds than there are places: the tail wraps around.
        ring.provide(buffer);
        ring.receive_on(near, 1);
        for round in 0..PLACES * 2 {
            let arrival = next(&mut ring);
            let buffer = arrival.buffer.expect("the same again");
            if round == 0 {
                assert_eq!(&buffer[..2], b"ef");
            } else {
                assert_eq!(buffer[0], round.to_be_bytes()[1]);
            }
            ring.provide(buffer);
            far.write_all(&(round + 1).to_be_bytes()[1..]).expect("sends");
        }
    }

    #[test]
    fn a_cancelled_receive_ends() {
        let (near, far) = pair();
        let mut ring = new_ring();
        ring.provide(vec![0; 4]);
        let operation = ring.receive_on(near.clone(), 1);
        ring.cancel(operation);
        let arrival = next(&mut ring);
        assert!(arrival.result == Err(Errno::CANCELED) && arrival.ended);
        ring.await_writable(near, 2);
        assert_eq!(next(&mut ring).token, 2);
        drop(far);
    }

    #[test]
    fn a_minimum_wait_returns_what_came_and_waits_on_where_nothing_came() {
        let (near, mut far) = pair();
        let mut ring = ReceiveRing::new(Duration::from_millis(1)).expect("io_uring works here");
        ring.receive(near, 1, vec![0; 4]);
        let sender = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            far.write_all(b"abcd").expect("sends");
            far
        });
        assert_eq!(next(&mut ring).result, Ok(4));
        sender.join().expect("the sender does not panic");
    }
}
