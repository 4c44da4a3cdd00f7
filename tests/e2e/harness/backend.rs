use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use vestibule::config::Credentials;
use vestibule::tls::{load_credentials, provider};

use super::{LONG, Peer};

/// A TCP server of the test. It listens until the test process ends.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    accepted: Receiver<TcpStream>,
}

/// How many bytes, and which.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) len: u64,
    pub(crate) sha256: Vec<u8>,
}

impl Backend {
    /// Hands its connections to the test.
    pub(crate) fn by_hand() -> Self {
        Self::by_hand_at(([127, 0, 0, 1], 0).into())
    }

    /// The same, at that address.
    pub(crate) fn by_hand_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, accepted) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // The test has ended.
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Self { address, accepted }
    }

    /// Gives every byte back, and ends when the other side has.
    pub(crate) fn echo() -> SocketAddr {
        Self::serve(|mut stream| {
            let mut portion = vec![0; 64 * 1024];
            while let Ok(len @ 1..) = stream.read(&mut portion) {
                if stream.write_all(&portion[..len]).is_err() {
                    return;
                }
            }
        })
    }

    /// The same over TLS, with that certificate.
    pub(crate) fn tls_echo(own: &Credentials) -> SocketAddr {
        let own = load_credentials(own).expect("a pair");
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_client_cert_verifier(WebPkiClientVerifier::no_client_auth())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        let config = Arc::new(config);
        Self::serve(move |stream| echo_over_tls(stream, Arc::clone(&config)))
    }

    /// Answers one request of HTTP.
    pub(crate) fn http() -> SocketAddr {
        Self::serve(|mut stream| {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                request.push(byte[0]);
            }
            // Who asked may have left.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfrom the LAN");
        })
    }

    /// Reads to the end, then answers with the [`Digest`] of it, and ends.
    pub(crate) fn sink() -> SocketAddr {
        Self::serve(|mut stream| {
            if let Some(digest) = Digest::of(&mut stream) {
                // An agent that left needs no answer.
                let _ = stream.write_all(&digest.to_bytes());
            }
        })
    }

    /// A loop over connections, each on a thread of its own.
    pub(crate) fn serve(each: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
        let backend = Self::by_hand();
        let address = backend.address;
        thread::spawn(move || {
            for stream in backend.accepted {
                let each = each.clone();
                thread::spawn(move || each(stream));
            }
        });
        address
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Peer {
        Peer::plain(self.accepted.recv_timeout(LONG).expect("a connection to the backend"))
    }

    /// The next connection, if it is there.
    pub(crate) fn try_accept(&self) -> Option<Peer> {
        self.accepted.try_recv().ok().map(Peer::plain)
    }

    /// Whether nobody has connected.
    pub(crate) fn is_untouched(&self) -> bool {
        self.accepted.try_recv().is_err()
    }
}

fn echo_over_tls(stream: TcpStream, config: Arc<ServerConfig>) {
    let tls = ServerConnection::new(config).expect("accepted");
    let mut stream = StreamOwned::new(tls, stream);
    let mut portion = [0; 16 * 1024];
    // Ends with the agent, or with whoever refuses the other.
    while let Ok(len @ 1..) = stream.read(&mut portion) {
        if stream.write_all(&portion[..len]).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
    stream.conn.send_close_notify();
    // The agent may be gone.
    let _ = stream.flush();
}

impl Digest {
    /// Of all that comes, up to a clean end.
    pub(crate) fn of(source: &mut impl Read) -> Option<Self> {
        let (mut context, mut len) = (Context::new(&SHA256), 0);
        let mut portion = vec![0; 64 * 1024];
        loop {
            match source.read(&mut portion).ok()? {
                0 => return Some(Self { len, sha256: context.finish().as_ref().to_vec() }),
                read => {
                    context.update(&portion[..read]);
                    len += read as u64;
                }
            }
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [&self.len.to_be_bytes()[..], &self.sha256].concat()
    }
}

/// Bytes that don't repeat within any buffer, different for each seed.
pub(crate) fn payload(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}
