//! The floor: what relaying costs when nothing is done but what has to be done. One thread, one hot
//! buffer of 256 KiB, plain TCP in and out, and two AEAD passes over each byte, as a gateway opens
//! each record and seals it again. No TLS, no fairness, no limits: a gateway can't be below it.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::net::{RecvFlags, recv};

use crate::error::BenchError;

/// Bytes of the one buffer: the same as one receive of the gateway.
const BUFFER_LEN: usize = 256 * 1024;
/// Receives on one direction before the next has its turn, while the bytes are hot.
const TURNS: usize = 8;
/// Bytes of plaintext in a full TLS record.
const RECORD_LEN: usize = 16 * 1024;
/// Readiness events taken at once.
const EVENTS: usize = 64;
/// Token of the listener; those of pipes count up from the next.
const LISTENER: u64 = 0;

/// Relays until the process is killed.
pub(crate) fn run(listen: SocketAddr, backend: SocketAddr, bare: bool) -> Result<(), BenchError> {
    let listener =
        TcpListener::bind(listen).map_err(BenchError::io(format!("listening on {listen}")))?;
    let passes = (!bare).then(Passes::new);
    let floor =
        Floor::new(listener, backend, passes).map_err(BenchError::io("starting the floor"))?;
    floor.serve().map_err(BenchError::io("relaying"))
}

/// One direction of a connection.
struct Pipe {
    from: Rc<TcpStream>,
    to: Rc<TcpStream>,
}

/// Whether a pipe still has something to carry.
enum Flow {
    Open,
    Ended,
}

struct Floor {
    epoll: rustix::fd::OwnedFd,
    listener: TcpListener,
    backend: SocketAddr,
    pipes: HashMap<u64, Pipe>,
    next_token: u64,
    /// None where the bytes go through as they are.
    passes: Option<Passes>,
    buffer: Vec<u8>,
}

impl Floor {
    fn new(listener: TcpListener, backend: SocketAddr, passes: Option<Passes>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let token = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, token, epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            backend,
            pipes: HashMap::new(),
            next_token: LISTENER + 1,
            passes,
            buffer: vec![0; BUFFER_LEN],
        })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    token => self.carry(token)?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let (agent, _) = self.listener.accept()?;
        let backend = TcpStream::connect(self.backend)?;
        agent.set_nodelay(true)?;
        backend.set_nodelay(true)?;
        let (agent, backend) = (Rc::new(agent), Rc::new(backend));
        self.join(&agent, &backend)?;
        self.join(&backend, &agent)
    }

    fn join(&mut self, from: &Rc<TcpStream>, to: &Rc<TcpStream>) -> io::Result<()> {
        let token = epoll::EventData::new_u64(self.next_token);
        epoll::add(&self.epoll, from, token, epoll::EventFlags::IN)?;
        self.pipes.insert(self.next_token, Pipe { from: from.clone(), to: to.clone() });
        self.next_token += 1;
        Ok(())
    }

    fn carry(&mut self, token: u64) -> io::Result<()> {
        let Some(pipe) = self.pipes.get(&token) else { return Ok(()) };
        let flow = pipe.carry(&mut self.buffer, self.passes.as_mut()).unwrap_or_else(|error| {
            eprintln!("floor: {error}");
            // Both directions end: the other pipe reads the end that this makes.
            let _ = pipe.from.shutdown(Shutdown::Both);
            let _ = pipe.to.shutdown(Shutdown::Both);
            Flow::Ended
        });
        if let Flow::Ended = flow {
            epoll::delete(&self.epoll, &pipe.from)?;
            self.pipes.remove(&token);
        }
        Ok(())
    }
}

impl Pipe {
    /// Several turns of receive, two passes, send. The send waits, since no bench sends both ways
    /// without reading.
    fn carry(&self, buffer: &mut [u8], mut passes: Option<&mut Passes>) -> io::Result<Flow> {
        for _ in 0..TURNS {
            match recv(&self.from, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    self.to.shutdown(Shutdown::Write)?;
                    return Ok(Flow::Ended);
                }
                Ok((_, count)) => {
                    if let Some(passes) = &mut passes {
                        passes.apply(&mut buffer[..count]);
                    }
                    (&*self.to).write_all(&buffer[..count])?;
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Flow::Open),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Flow::Open)
    }
}

/// The work of AEAD in a gateway, on bytes that nobody has encrypted.
struct Passes {
    key: LessSafeKey,
    sequence: u64,
}

impl Passes {
    fn new() -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes are a key of AES-256");
        Self { key: LessSafeKey::new(key), sequence: 0 }
    }

    /// Seals each record twice under one nonce. GCM adds a key stream, so the second pass takes off
    /// what the first put on, and the bytes leave as they came, to be verified.
    fn apply(&mut self, bytes: &mut [u8]) {
        for record in bytes.chunks_mut(RECORD_LEN) {
            self.seal(record);
            self.seal(record);
            self.sequence += 1;
        }
    }

    fn seal(&self, record: &mut [u8]) {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.sequence.to_be_bytes());
        // As long as the header of a record, which TLS authenticates.
        let header = Aad::from([0x17, 3, 3, 0, 0]);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, header, record);
        let _ = std::hint::black_box(tag.expect("a record is far below the limit of GCM"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::pattern;

    #[test]
    fn two_passes_leave_the_bytes_as_they_were_and_one_does_not() {
        let mut bytes = pattern::piece(0, 40_000).to_vec();
        let mut passes = Passes::new();
        passes.apply(&mut bytes);
        assert!(pattern::matches(0, &bytes));
        passes.seal(&mut bytes);
        assert!(!pattern::matches(0, &bytes));
    }

    #[test]
    fn the_floor_carries_both_ways_and_passes_each_end_on() {
        let any_port = (Ipv4Addr::LOCALHOST, 0);
        let backend = TcpListener::bind(any_port).expect("a free port");
        let listener = TcpListener::bind(any_port).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let behind = backend.local_addr().expect("a bound socket has an address");
        std::thread::spawn(move || {
            Floor::new(listener, behind, Some(Passes::new())).expect("epoll is available").serve()
        });

        let mut client = TcpStream::connect(address).expect("the floor listens");
        client.write_all(pattern::piece(0, 50_000)).expect("the floor reads");
        client.shutdown(Shutdown::Write).expect("the connection is open");
        let (mut inside, _) = backend.accept().expect("the floor connects");
        let mut up = Vec::new();
        inside.read_to_end(&mut up).expect("the end arrives");
        inside.write_all(pattern::piece(9, 50_000)).expect("the way back is open");
        drop(inside);
        let mut down = Vec::new();
        client.read_to_end(&mut down).expect("the end arrives");
        assert!(up.len() == 50_000 && pattern::matches(0, &up));
        assert!(down.len() == 50_000 && pattern::matches(9, &down));
    }
}
