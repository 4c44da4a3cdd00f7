use rustls::server::Acceptor;

use super::Alert;
use crate::limits::MAX_CLIENT_HELLO_LEN;

/// What a ClientHello says that chooses a role, before any answer is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// Server name, lower case; empty where there is none.
    pub sni: String,
    /// Protocols that the client offers, in its order.
    pub alpn: Vec<Vec<u8>>,
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
                Ok(Some(accepted)) => return Ok(Some(summary(&accepted.client_hello()))),
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

fn summary(hello: &rustls::server::ClientHello<'_>) -> ClientHello {
    ClientHello {
        sni: hello.server_name().unwrap_or_default().to_ascii_lowercase(),
        alpn: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
    }
}
