//! What a peer says after the handshake that is no payload (RFC 8446 §4.6, §6), whoever opened its record.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, SupportedCipherSuite};

use super::{ALERT, CLOSE, HANDSHAKE, KEY_UPDATE, RecordError};
use crate::limits::{MAX_KEY_UPDATES_IN_A_ROW, MAX_POST_HANDSHAKE_LEN};

const NEW_SESSION_TICKET: u8 = 4;
/// Bytes before the body of a handshake message.
const MESSAGE_HEADER_LEN: usize = 4;
const USER_CANCELED: u8 = 90;

/// What rustls keeps of a connection: the secrets from which new keys are made.
pub(in crate::tls) enum Secrets {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

/// The peer's next record comes under a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUpdate {
    /// Whether it wants us to do the same.
    pub asks_for_ours: bool,
}

/// What was said so far, in records of the peer's that carry no payload.
pub(super) struct Control {
    pub(super) secrets: Secrets,
    /// The beginning of a handshake message whose rest is in a later record.
    message: Vec<u8>,
    key_updates: u32,
    peer_closed: bool,
}

impl Control {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self { secrets, message: Vec::new(), key_updates: 0, peer_closed: false }
    }

    /// Whether the peer's close_notify has come.
    pub(super) fn peer_has_closed(&self) -> bool {
        self.peer_closed
    }

    /// Whether the rest of a handshake message is still to come.
    pub(super) fn is_inside_message(&self) -> bool {
        !self.message.is_empty()
    }

    /// A record with so many bytes of payload has come.
    pub(super) fn take_payload(&mut self, len: usize) -> Result<(), RecordError> {
        if self.is_inside_message() {
            return Err(RecordError::Unexpected("payload inside a handshake message"));
        }
        if len > 0 {
            self.key_updates = 0;
        }
        Ok(())
    }

    /// The content of any other record.
    pub(super) fn take(
        &mut self,
        content_type: u8,
        content: &[u8],
    ) -> Result<Option<KeyUpdate>, RecordError> {
        match content_type {
            HANDSHAKE => self.take_handshake(content),
            ALERT => self.take_alert(content).map(|()| None),
            _ => Err(RecordError::Unexpected("a record of an unknown type")),
        }
    }

    fn take_alert(&mut self, content: &[u8]) -> Result<(), RecordError> {
        match *content {
            [_, CLOSE] => {
                self.peer_closed = true;
                Ok(())
            }
            // A close_notify follows it (RFC 8446 §6.1).
            [_, USER_CANCELED] => Ok(()),
            // All others are fatal, whatever their level (RFC 8446 §6.2).
            [_, alert] => Err(RecordError::Alerted(alert)),
            [] => Err(RecordError::Unexpected("an empty alert")),
            _ => Err(RecordError::Malformed("an alert")),
        }
    }

    fn take_handshake(&mut self, content: &[u8]) -> Result<Option<KeyUpdate>, RecordError> {
        if content.is_empty() {
            return Err(RecordError::Unexpected("an empty handshake record"));
        }
        self.message.extend_from_slice(content);
        let mut waiting = std::mem::take(&mut self.message);
        let mut update = None;
        let mut at = 0;
        while let Some(&[kind, high, middle, low]) =
            waiting[at..].first_chunk::<MESSAGE_HEADER_LEN>()
        {
            let len = u32::from_be_bytes([0, high, middle, low]) as usize;
            if len > MAX_POST_HANDSHAKE_LEN {
                return Err(RecordError::TooLarge);
            }
            let start = at + MESSAGE_HEADER_LEN;
            let Some(body) = waiting.get(start..start + len) else { break };
            at = start + len;
            update = self.take_message(kind, body, at == waiting.len())?;
        }
        waiting.drain(..at);
        self.message = waiting;
        Ok(update)
    }

    fn take_message(
        &mut self,
        kind: u8,
        body: &[u8],
        is_last: bool,
    ) -> Result<Option<KeyUpdate>, RecordError> {
        match (kind, &mut self.secrets) {
            (NEW_SESSION_TICKET, Secrets::Client(secrets)) => secrets
                .handle_new_session_ticket(body)
                .map(|()| None)
                .map_err(|_| RecordError::Malformed("a NewSessionTicket")),
            // The next record comes under the new key: nothing may share the record of the last
            // message under the old one (RFC 8446 §5.1).
            (KEY_UPDATE, _) if !is_last => {
                Err(RecordError::Unexpected("a message behind a KeyUpdate"))
            }
            (KEY_UPDATE, _) => {
                let &[asks] = body else { return Err(RecordError::Malformed("a KeyUpdate")) };
                self.take_key_update(asks).map(Some)
            }
            _ => Err(RecordError::Unexpected("a handshake message of another type")),
        }
    }

    fn take_key_update(&mut self, asks: u8) -> Result<KeyUpdate, RecordError> {
        self.key_updates += 1;
        if self.key_updates > MAX_KEY_UPDATES_IN_A_ROW {
            return Err(RecordError::Unexpected("one KeyUpdate after another"));
        }
        match asks {
            0 | 1 => Ok(KeyUpdate { asks_for_ours: asks == 1 }),
            _ => Err(RecordError::IllegalKeyUpdate),
        }
    }
}

impl Secrets {
    pub(super) fn next_opening(&mut self) -> Result<(u64, ConnectionTrafficSecrets), RecordError> {
        match self {
            Self::Server(connection) => connection.update_rx_secret(),
            Self::Client(connection) => connection.update_rx_secret(),
        }
        .map_err(|_| RecordError::Unsupported)
    }

    pub(super) fn next_sealing(&mut self) -> Result<(u64, ConnectionTrafficSecrets), RecordError> {
        match self {
            Self::Server(connection) => connection.update_tx_secret(),
            Self::Client(connection) => connection.update_tx_secret(),
        }
        .map_err(|_| RecordError::Unsupported)
    }

    /// Records that may be sealed under one key of the suite (RFC 8446 §5.5).
    pub(super) fn key_limit(&self) -> Result<u64, RecordError> {
        let suite = match self {
            Self::Server(connection) => connection.negotiated_cipher_suite(),
            Self::Client(connection) => connection.negotiated_cipher_suite(),
        };
        match suite {
            SupportedCipherSuite::Tls13(suite) => Ok(suite.common.confidentiality_limit),
            SupportedCipherSuite::Tls12(_) => Err(RecordError::Unsupported),
        }
    }
}
