use rustls::server::Acceptor;
use rustls::{Error, PeerIncompatible};

use super::Alert;
use crate::limits::{MAX_CLIENT_HELLO_LEN, RECORD_HEADER_LEN};

/// What a ClientHello says that chooses a role, before any answer is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// Server name, lower case; empty where there is none.
    pub sni: String,
    /// Protocols that the client offers, in its order.
    pub alpn: Vec<Vec<u8>>,
    /// Whether it offers TLS 1.3. Who does gets that, whatever else it offers.
    pub offers_tls_1_3: bool,
    /// Whether it says that it resumes. Whether it can is not known yet.
    pub resumes: bool,
}

impl ClientHello {
    /// Whether the client offers this protocol.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }
}

/// Why there is no ClientHello. The peer's fault; `answer` is the alert that it is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum HelloError {
    /// The bytes are not TLS at all.
    NotTls,
    /// TLS, and damaged or too large.
    Damaged {
        /// The record of the alert.
        answer: Vec<u8>,
    },
    /// TLS before 1.2, which nobody takes.
    TooOld {
        /// The record of the alert.
        answer: Vec<u8>,
    },
}

/// Reads a ClientHello from its first bytes, and keeps them: the connection that goes on with the
/// chosen configuration reads them again.
#[derive(Default)]
pub struct HelloReader {
    acceptor: Acceptor,
    seen: Vec<u8>,
}

impl HelloReader {
    /// Takes the next bytes of the connection. `Ok(None)` asks for more.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        self.seen.extend_from_slice(bytes);
        if !looks_like_tls(&self.seen) {
            return Err(HelloError::NotTls);
        }
        // A hello that ends within the bound counts, whatever came behind it in the same piece.
        let room = (MAX_CLIENT_HELLO_LEN + bytes.len()).saturating_sub(self.seen.len());
        let mut rest = &bytes[..room.min(bytes.len())];
        while !rest.is_empty() {
            // Fails only where rustls's own bound on a hello is passed.
            if !matches!(self.acceptor.read_tls(&mut rest), Ok(1..)) {
                return Err(too_large());
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Ok(Some(summary(&hello, &Offers::read(&self.seen))));
                }
                // Later versions have it, since without it the only hash would be SHA-1.
                Err((
                    Error::PeerIncompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired),
                    _,
                )) => {
                    let answer = Alert::ProtocolVersion.unprotected_record().to_vec();
                    return Err(HelloError::TooOld { answer });
                }
                Err((_, mut alert)) => {
                    let mut answer = Vec::new();
                    // A Vec takes every byte.
                    let _ = alert.write_all(&mut answer);
                    // rustls has nothing to say to a record that it can't read.
                    if answer.is_empty() {
                        answer.extend(Alert::DecodeError.unprotected_record());
                    }
                    return Err(HelloError::Damaged { answer });
                }
            }
        }
        if self.seen.len() > MAX_CLIENT_HELLO_LEN {
            return Err(too_large());
        }
        Ok(None)
    }

    /// The bytes read so far, for whoever goes on with the connection.
    pub fn into_seen(self) -> Vec<u8> {
        self.seen
    }
}

/// Whether bytes can be the beginning of a TLS connection: a handshake record of version 3.x
/// (RFC 8446 §5.1).
pub fn looks_like_tls(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|&kind| kind == 22) && bytes.get(1).is_none_or(|&major| major == 3)
}

fn too_large() -> HelloError {
    HelloError::Damaged { answer: Alert::InternalError.unprotected_record().to_vec() }
}

fn summary(hello: &rustls::server::ClientHello<'_>, offers: &Offers) -> ClientHello {
    ClientHello {
        sni: hello.server_name().unwrap_or_default().to_ascii_lowercase(),
        alpn: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
        offers_tls_1_3: offers.tls_1_3,
        resumes: offers.psk,
    }
}

/// What rustls does not show of a ClientHello that it has accepted. It decides about a place in a queue, and
/// about the configuration of an agent with TLS 1.2, for which rustls judges by its own reading.
#[derive(Default)]
struct Offers {
    tls_1_3: bool,
    psk: bool,
}

impl Offers {
    fn read(seen: &[u8]) -> Self {
        let mut offers = Self::default();
        // What can't be read further offers no more.
        let _ = offers.read_extensions(&handshake_bytes(seen));
        offers
    }

    fn read_extensions(&mut self, mut message: &[u8]) -> Option<()> {
        /// RFC 8446 §4.2.
        const PRE_SHARED_KEY: [u8; 2] = [0, 41];
        const SUPPORTED_VERSIONS: [u8; 2] = [0, 43];
        const TLS_1_3: [u8; 2] = [3, 4];
        // Type, length; version, random (RFC 8446 §4.1.2).
        message = message.get(4 + 2 + 32..)?;
        for prefix_len in [1, 2, 1] {
            // Session id, cipher suites, compression methods.
            take_vector(&mut message, prefix_len)?;
        }
        let mut extensions = take_vector(&mut message, 2)?;
        while let Some((kind, rest)) = extensions.split_at_checked(2) {
            extensions = rest;
            let mut content = take_vector(&mut extensions, 2)?;
            self.psk |= kind == PRE_SHARED_KEY;
            if kind == SUPPORTED_VERSIONS {
                let versions = take_vector(&mut content, 1)?;
                self.tls_1_3 |= versions.chunks_exact(2).any(|version| version == TLS_1_3);
            }
        }
        Some(())
    }
}

/// The content of the records at the front of `seen`, as far as it goes.
fn handshake_bytes(mut seen: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(rest) = seen.get(RECORD_HEADER_LEN - 2..) {
        seen = rest;
        let Some(record) = take_vector(&mut seen, 2) else { break };
        content.extend_from_slice(record);
    }
    content
}

/// Takes a vector with its length before it (RFC 8446 §3.4).
fn take_vector<'b>(bytes: &mut &'b [u8], prefix_len: usize) -> Option<&'b [u8]> {
    let (prefix, rest) = bytes.split_at_checked(prefix_len)?;
    let len = prefix.iter().fold(0, |len, &byte| len << 8 | usize::from(byte));
    let (vector, rest) = rest.split_at_checked(len)?;
    *bytes = rest;
    Some(vector)
}
