//! A backend that sends back what it gets, and devices that check it byte by byte.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::network::Namespace;
use super::process::PATIENCE;
use super::site::Site;

/// Of the threads here, of which there are thousands: a buffer and a TLS connection fit easily.
const STACK_LEN: usize = 256 * 1024;

/// Listens until it is dropped.
#[derive(Debug)]
pub(super) struct EchoBackend {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    received: AtomicU64,
    open: AtomicU64,
}

impl EchoBackend {
    /// At an address of `host`.
    pub(super) fn start(host: &Namespace, address: SocketAddr) -> Self {
        let listener = host.run(|| TcpListener::bind(address).expect("the port is free"));
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        // Accepted sockets are of the listener's host, whichever thread accepts them.
        let listening = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if accepting.stopped.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&accepting);
                shared.open.fetch_add(1, Ordering::Relaxed);
                spawn(move || {
                    // How a session ends is judged at the device's end of it.
                    let _ = echo(&stream, &shared.received);
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { shared, address, listening: Some(listening) }
    }

    /// Payload that has arrived, in bytes.
    pub(super) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Connections that have not ended.
    pub(super) fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Ends it; `host` is where it was started.
    pub(super) fn stop(mut self, host: &Namespace) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        host.run(|| TcpStream::connect(self.address)).expect("wakes the listener");
        let listening = self.listening.take().expect("it is joined here only");
        listening.join().expect("accepting does not panic");
    }
}

fn echo(mut stream: &TcpStream, received: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            len => {
                received.fetch_add(len as u64, Ordering::Relaxed);
                stream.write_all(&buffer[..len])?;
            }
        }
    }
}

/// A small thread.
pub(super) fn spawn<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let builder = thread::Builder::new().stack_size(STACK_LEN);
    builder.spawn(act).expect("room for a thread")
}

/// A device on the internet, with a certificate and a TLS library that knows nothing of Vestibule.
#[derive(Debug, Clone)]
pub(super) struct Device {
    tls: Arc<ClientConfig>,
    gateway: SocketAddr,
}

impl Device {
    /// It dials `gateway`.
    pub(super) fn new(site: &Site, gateway: SocketAddr) -> Self {
        let certificates = |file| {
            let found = CertificateDer::pem_file_iter(site.path(file)).expect("a file in PEM");
            found.map(|certificate| certificate.expect("a certificate"))
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates("gateways-ca.crt"));
        let key = PrivateKeyDer::from_pem_file(site.path("device.example.com.key"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(
                certificates("device.example.com.crt").collect(),
                key.expect("a key"),
            )
            .expect("they match");
        Self { tls: Arc::new(tls), gateway }
    }

    /// Opens a session with the service `echo`. The calling thread must be on the internet.
    pub(super) fn open(&self) -> io::Result<Session> {
        let socket = TcpStream::connect_timeout(&self.gateway, Duration::from_secs(5))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("echo.example.com").expect("a name");
        let tls = ClientConnection::new(Arc::clone(&self.tls), name).expect("a configuration");
        Ok(Session { stream: StreamOwned::new(tls, socket), echoed: 0 })
    }
}

/// A session with the service `echo`.
#[derive(Debug)]
pub(super) struct Session {
    stream: StreamOwned<ClientConnection, TcpStream>,
    echoed: u64,
}

impl Session {
    /// Sends it, and waits until the same has come back.
    pub(super) fn exchange(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        let mut answer = vec![0; bytes.len()];
        self.stream.read_exact(&mut answer)?;
        assert!(answer == bytes, "what came back is not what was sent");
        self.echoed += bytes.len() as u64;
        Ok(())
    }

    /// Its own port.
    pub(super) fn port(&self) -> u16 {
        self.stream.sock.local_addr().expect("it is connected").port()
    }

    /// Sends and reads nothing, until nothing more is taken for a while.
    pub(super) fn send_until_stuck(&mut self) {
        let block = [0xb5; 16 * 1024];
        self.stream.sock.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket");
        loop {
            match self.stream.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("it is stuck, and not broken: {error}"),
            }
        }
    }

    /// Ends it cleanly. Says how many bytes went each way.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.stream.conn.send_close_notify();
        while self.stream.conn.wants_write() {
            self.stream.conn.write_tls(&mut self.stream.sock)?;
        }
        match self.stream.read(&mut [0])? {
            0 => Ok(self.echoed),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "more came back than was sent")),
        }
    }

    /// Waits for the other side's end, and says how it looked: `Ok` is a clean one.
    pub(super) fn wait_for_end(mut self) -> io::Result<()> {
        match self.stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "more came back than was sent")),
        }
    }
}
