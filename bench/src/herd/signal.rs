//! One more server, which serves nothing and pings: how promptly the gateway's control thread answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use vestibule::wire::{
    FrameDecoder, FromServer, Ping, Pong, ServerHello, ToServer, alpn, encode, from_server,
    to_server,
};

use crate::error::BenchError;
use crate::tls::{GATEWAY_NAME, Pki};

/// Between two pings.
const INTERVAL: Duration = Duration::from_millis(10);
/// Between two attempts to reach the gateway.
const REDIAL: Duration = Duration::from_millis(50);
/// Longest wait for an answer: a connection is dead then, and its ping is counted as that long.
const ANSWER_DEADLINE: Duration = Duration::from_secs(9);

/// Ends when it is dropped.
pub(super) struct Probe {
    longest_ns: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Probe {
    /// Returns once the first ping was answered.
    pub(super) fn start(pki: &Pki, gateway: SocketAddr) -> Result<Self, BenchError> {
        let config = pki.server_client(vec![alpn::SIGNAL.to_vec()])?;
        let longest_ns = Arc::<AtomicU64>::default();
        let over = Arc::<AtomicBool>::default();
        let (answered, first) = mpsc::channel();
        let thread = thread::spawn({
            let (longest_ns, over) = (Arc::clone(&longest_ns), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    // The gateway is away at times: that is what this is about.
                    let _ = ping(&config, gateway, &longest_ns, &over, &answered);
                    thread::sleep(REDIAL);
                }
            }
        });
        let late = |_| BenchError::Late { what: "a ping is answered".to_owned(), seconds: 9 };
        first.recv_timeout(ANSWER_DEADLINE).map_err(late)?;
        Ok(Self { longest_ns, over, thread: Some(thread) })
    }

    /// The longest answer since the last call.
    pub(super) fn take_longest(&mut self) -> Duration {
        Duration::from_nanos(self.longest_ns.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed.
            let _ = thread.join();
        }
    }
}

/// Pings until the connection ends. Time for the connection itself is not counted: only that of a
/// signal connection that stands.
fn ping(
    config: &Arc<ClientConfig>,
    gateway: SocketAddr,
    longest_ns: &AtomicU64,
    over: &AtomicBool,
    answered: &mpsc::Sender<()>,
) -> io::Result<()> {
    let name = GATEWAY_NAME.try_into().expect("a DNS name");
    let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let socket = TcpStream::connect(gateway)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWER_DEADLINE))?;
    let mut signal = Signal {
        stream: StreamOwned::new(tls, socket),
        decoder: FrameDecoder::default(),
        unread: Vec::new(),
    };
    let hello = ServerHello { software: "a probe".to_owned(), ..ServerHello::default() };
    signal.say(from_server::Message::ServerHello(hello))?;
    while !matches!(signal.hear()?, Some(to_server::Message::GatewayHello(_))) {}
    for nonce in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let asked = Instant::now();
        signal.say(from_server::Message::Ping(Ping { nonce }))?;
        loop {
            match signal.hear() {
                Ok(Some(to_server::Message::Pong(pong))) if pong.nonce == nonce => break,
                Ok(Some(to_server::Message::Ping(Ping { nonce }))) => {
                    signal.say(from_server::Message::Pong(Pong { nonce }))?;
                }
                Ok(_) => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        note(longest_ns, asked);
                    }
                    return Err(error);
                }
            }
        }
        note(longest_ns, asked);
        // Nobody waits for it but the start.
        let _ = answered.send(());
        thread::sleep(INTERVAL);
    }
    Ok(())
}

fn note(longest_ns: &AtomicU64, asked: Instant) {
    let took = u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX);
    longest_ns.fetch_max(took, Ordering::Relaxed);
}

struct Signal {
    stream: StreamOwned<ClientConnection, TcpStream>,
    decoder: FrameDecoder,
    unread: Vec<u8>,
}

impl Signal {
    fn say(&mut self, message: from_server::Message) -> io::Result<()> {
        let mut frame = Vec::new();
        encode(&FromServer { message: Some(message) }, &mut frame);
        self.stream.write_all(&frame)?;
        self.stream.flush()
    }

    fn hear(&mut self) -> io::Result<Option<to_server::Message>> {
        loop {
            let mut input = &self.unread[..];
            let message = self.decoder.decode::<ToServer>(&mut input).map_err(io::Error::other)?;
            self.unread = input.to_vec();
            if let Some(ToServer { message }) = message {
                return Ok(message);
            }
            let mut portion = [0; 4096];
            match self.stream.read(&mut portion)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => self.unread.extend_from_slice(&portion[..len]),
            }
        }
    }
}
