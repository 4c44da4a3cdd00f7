//! One end of a signal connection, as two tasks of the control thread: one reads, one writes.

use std::cell::{Cell, RefCell};
use std::io;
use std::marker::PhantomData;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;

use super::event_loop::EventLoop;
use crate::limits::{
    LINGER, MAX_ANSWERS_LEN, MAX_PENDING_LEN, MAX_RECORD_LEN, MAX_SIGNAL_BACKLOG_LEN,
};
use crate::relay::{CloseReason, Party};
use crate::tls::{Pieces, TlsConnection, TlsError};
use crate::wire::{self, FrameDecoder, FrameError, Message};

/// What a signal connection is made of after its handshake.
pub struct SignalParts {
    /// Connected.
    pub socket: TcpStream,
    /// Established.
    pub tls: TlsConnection,
    /// Raw bytes that came behind the handshake.
    pub pending: Vec<u8>,
    /// Who is at the other end.
    pub party: Party,
}

/// News of a signal connection. After `Closed` there are none.
#[derive(Debug, PartialEq)]
pub enum SignalEvent<M> {
    /// A frame came.
    Message(M),
    /// The connection is over, through the peer or the network.
    Closed(CloseReason),
}

/// The backlog of a signal connection is full: its peer has stopped reading.
#[derive(Debug, PartialEq, Eq)]
pub struct Stalled;

/// The writing end. Dropping it leaves the connection as it is.
pub struct SignalSender<M> {
    wire: Rc<Wire>,
    messages: PhantomData<M>,
}

struct Wire {
    stream: Stream,
    /// The same socket, for its options and its end.
    socket: TcpStream,
    tls: RefCell<TlsConnection>,
    /// Frames that are not sealed yet.
    frames: RefCell<Vec<u8>>,
    /// Records that TLS itself wants to send; older than anything sealed after them.
    records: RefCell<Vec<u8>>,
    wake: Notify,
    closing: Cell<bool>,
    party: Party,
}

/// The socket, by the runtime that this thread has.
enum Stream {
    Ring(tokio_uring::net::TcpStream),
    Epoll(tokio::net::TcpStream),
}

impl Stream {
    fn new(socket: TcpStream, event_loop: EventLoop) -> io::Result<Self> {
        // Operations of a ring wait in the kernel, and not here.
        socket.set_nonblocking(event_loop == EventLoop::Epoll)?;
        Ok(match event_loop {
            EventLoop::IoUring => Self::Ring(tokio_uring::net::TcpStream::from_std(socket)),
            EventLoop::Epoll => Self::Epoll(tokio::net::TcpStream::from_std(socket)?),
        })
    }

    /// Gives the buffer back, filled from its beginning.
    async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let socket = match self {
            Self::Ring(socket) => return socket.read(buffer).await,
            Self::Epoll(socket) => socket,
        };
        loop {
            let result = match socket.readable().await {
                Ok(()) => socket.try_read(&mut buffer),
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return (result, buffer),
            }
        }
    }

    async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        let socket = match self {
            Self::Ring(socket) => return socket.write_all(bytes).await.0,
            Self::Epoll(socket) => socket,
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            socket.writable().await?;
            match socket.try_write(rest) {
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Starts the two tasks. Events come with `link`, the caller's number for the connection. To be called in
/// the runtime of that event loop.
pub fn start_signal<In: Message + 'static, Out: Message>(
    parts: SignalParts,
    event_loop: EventLoop,
    link: u64,
    events: mpsc::Sender<(u64, SignalEvent<In>)>,
) -> io::Result<SignalSender<Out>> {
    let wire = Rc::new(Wire {
        socket: parts.socket.try_clone()?,
        stream: Stream::new(parts.socket, event_loop)?,
        tls: RefCell::new(parts.tls),
        frames: RefCell::default(),
        records: RefCell::default(),
        wake: Notify::new(),
        closing: Cell::new(false),
        party: parts.party,
    });
    spawn_local(write(Rc::clone(&wire)));
    let reader = Rc::clone(&wire);
    spawn_local(async move {
        let reason = read(&reader, &parts.pending, link, &events).await;
        if reason == CloseReason::Finished {
            reader.close();
        } else {
            reader.abort();
        }
        // Nobody listens any more where the control thread has ended.
        let _ = events.send((link, SignalEvent::Closed(reason))).await;
    });
    Ok(SignalSender { wire, messages: PhantomData })
}

impl<M: Message> SignalSender<M> {
    /// Queues a message.
    pub fn send(&self, message: &M) -> Result<(), Stalled> {
        let mut frames = self.wire.frames.borrow_mut();
        if frames.len() > MAX_SIGNAL_BACKLOG_LEN {
            return Err(Stalled);
        }
        wire::encode(message, &mut frames);
        self.wire.wake.notify_one();
        Ok(())
    }

    /// Ends the connection with a reset: to a peer that is silent, a clean end would wait behind what
    /// it never acknowledged, and a peer that only we can't hear would learn of it too late.
    fn reset(&self) {
        // Fails only where the connection is gone already.
        let _ = SockRef::from(&self.wire.socket).set_linger(Some(Duration::ZERO));
        self.wire.abort();
    }

    /// Ends the connection after what is queued; at once where the peer does not take that in time.
    fn close(&self) {
        self.wire.close();
        let wire = Rc::clone(&self.wire);
        spawn_local(async move {
            tokio::time::sleep(LINGER).await;
            wire.abort();
        });
    }
}

/// Ends a signal connection in the way that its peer can still hear.
pub fn end_signal<M: Message>(sender: &SignalSender<M>, reason: CloseReason) {
    match reason {
        CloseReason::SignalSilent | CloseReason::SignalStalled => sender.reset(),
        _ => sender.close(),
    }
}

/// Ends every signal connection of a process that stops, and waits until their peers know, or
/// [`LINGER`] has passed.
pub async fn end_all_signals<'s, In, Out: Message + 's>(
    senders: impl IntoIterator<Item = &'s SignalSender<Out>>,
    events: &mut mpsc::Receiver<(u64, SignalEvent<In>)>,
) {
    let mut open = 0;
    for sender in senders {
        sender.close();
        open += 1;
    }
    let all_closed = async {
        while open > 0 {
            match events.recv().await {
                Some((_, SignalEvent::Closed(_))) => open -= 1,
                Some(_) => {}
                None => return,
            }
        }
    };
    // Whoever is silent by then finds out by itself.
    let _ = tokio::time::timeout(LINGER, all_closed).await;
}

impl Wire {
    /// Opens what came; its payload is appended. Returns how many bytes are the beginning of a record,
    /// now at the front.
    fn open(
        &self,
        incoming: &mut [u8],
        len: usize,
        plain: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let mut pieces = Pieces::default();
        let mut records = self.records.borrow_mut();
        let used = self.tls.borrow_mut().open(incoming, len, &mut pieces, &mut records);
        if !records.is_empty() {
            self.wake.notify_one();
        }
        let used = used?;
        plain.extend(pieces.runs(incoming).flatten());
        // What stands behind its end is not looked at: the connection is over.
        incoming.copy_within(used..len, 0);
        Ok(len - used)
    }

    fn seal_waiting(&self) -> Result<Vec<u8>, TlsError> {
        let mut bytes = self.records.take();
        let frames = self.frames.take();
        if !frames.is_empty() {
            self.tls.borrow_mut().seal_copy(&frames, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Has the writer end our direction, after what is queued.
    fn close(&self) {
        self.closing.set(true);
        self.wake.notify_one();
    }

    /// Ends both tasks: what waits on the socket returns.
    fn abort(&self) {
        self.closing.set(true);
        self.wake.notify_one();
        // Fails only where the connection is gone already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

async fn read<In: Message>(
    wire: &Wire,
    pending: &[u8],
    link: u64,
    events: &mpsc::Sender<(u64, SignalEvent<In>)>,
) -> CloseReason {
    let mut decoder = FrameDecoder::default();
    let mut plain = Vec::new();
    let mut buffer = vec![0; MAX_RECORD_LEN];
    let mut incoming = vec![0; pending.len() + MAX_PENDING_LEN + MAX_RECORD_LEN];
    incoming[..pending.len()].copy_from_slice(pending);
    let mut filled = pending.len();
    loop {
        plain.clear();
        filled = match wire.open(&mut incoming, filled, &mut plain) {
            Ok(kept) => kept,
            Err(_) => return CloseReason::Corrupt(wire.party),
        };
        if wire.records.borrow().len() > MAX_ANSWERS_LEN {
            return CloseReason::SignalStalled;
        }
        let mut rest = &plain[..];
        loop {
            match decoder.decode::<In>(&mut rest) {
                Ok(Some(message)) => {
                    if events.send((link, SignalEvent::Message(message))).await.is_err() {
                        return CloseReason::Finished;
                    }
                }
                Ok(None) => break,
                Err(FrameError::TooLarge { .. } | FrameError::Malformed { .. }) => {
                    return CloseReason::FrameInvalid;
                }
            }
        }
        if wire.tls.borrow().peer_has_closed() {
            return CloseReason::Finished;
        }
        let (result, returned) = wire.stream.read(buffer).await;
        buffer = returned;
        match result {
            Ok(0) => return CloseReason::Truncated(wire.party),
            Ok(len) => {
                incoming[filled..filled + len].copy_from_slice(&buffer[..len]);
                filled += len;
            }
            Err(_) => return CloseReason::Reset(wire.party),
        }
    }
}

async fn write(wire: Rc<Wire>) {
    loop {
        let closing = wire.closing.get();
        let Ok(bytes) = wire.seal_waiting() else { return wire.abort() };
        if !bytes.is_empty() {
            if wire.stream.write_all(bytes).await.is_err() {
                return wire.abort();
            }
        } else if closing {
            let mut end = Vec::new();
            if wire.tls.borrow_mut().seal_end(&mut end).is_ok() {
                // Whether the peer hears it or not, the connection ends here.
                let _ = wire.stream.write_all(end).await;
            }
            let _ = wire.socket.shutdown(Shutdown::Write);
            return;
        } else {
            wire.wake.notified().await;
        }
    }
}
