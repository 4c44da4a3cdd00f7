//! What two processes of one gateway say to each other, and pass. Each packet goes with one descriptor at
//! most. Both may be of other releases: a field that is not known is ignored, and so is a packet.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use prost::Message;

use crate::control::Word;

/// The version of these packets. One that says another is not taken over from.
pub(super) const VERSION: u32 = 1;

/// A packet.
#[derive(Clone, PartialEq, Eq, Message)]
pub(in crate::gateway) struct Packet {
    #[prost(oneof = "Content", tags = "1, 2, 3, 4, 5")]
    pub(super) content: Option<Content>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(in crate::gateway) enum Content {
    #[prost(message, tag = "1")]
    Offer(Offer),
    #[prost(enumeration = "SocketKind", tag = "2")]
    Socket(i32),
    #[prost(uint32, tag = "3")]
    Word(u32),
    #[prost(message, tag = "4")]
    Connection(PassedConnection),
    /// The first packet of the new process: the version that it speaks.
    #[prost(uint32, tag = "5")]
    Ask(u32),
}

/// The first packet of the old process. The sockets follow.
#[derive(Clone, PartialEq, Eq, Message)]
pub(in crate::gateway) struct Offer {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    /// Names the old process in the hints of its data connections.
    #[prost(string, tag = "2")]
    pub(super) instance: String,
    /// What it serves now, by servers that follow.
    #[prost(string, repeated, tag = "3")]
    pub(super) services: Vec<String>,
    /// How many sockets follow.
    #[prost(uint32, tag = "4")]
    pub(super) sockets: u32,
}

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum SocketKind {
    /// Of this the sender knew no better.
    Unspecified = 0,
    /// Of a listener, one of several at its address.
    Listener = 1,
    /// Of the telemetry pages.
    Telemetry = 2,
    /// The one at which the next process will ask.
    Door = 3,
    /// The one at which operators are heard.
    Operator = 4,
}

/// A connection of which only the first bytes were read.
#[derive(Clone, PartialEq, Eq, Message)]
pub(in crate::gateway) struct PassedConnection {
    /// Name of its listener.
    #[prost(string, tag = "1")]
    pub(super) listener: String,
    #[prost(string, tag = "2")]
    peer: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) seen: Vec<u8>,
    #[prost(uint32, tag = "4")]
    age_ms: u32,
}

impl PassedConnection {
    pub(super) fn new(listener: &str, peer: SocketAddr, seen: Vec<u8>, age: Duration) -> Self {
        let age_ms = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
        Self { listener: listener.to_owned(), peer: peer.to_string(), seen, age_ms }
    }

    /// `None` where it is not an address.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer.parse().ok()
    }

    pub(super) fn accepted(&self, now: Instant) -> Instant {
        now.checked_sub(Duration::from_millis(self.age_ms.into())).unwrap_or(now)
    }
}

impl Packet {
    pub(super) fn word(word: Word) -> Self {
        let number = match word {
            Word::Ready => 1,
            Word::Yours => 2,
            Word::Serving => 3,
            Word::Abandoned => 4,
        };
        Content::Word(number).into()
    }

    /// `None` for one that this release does not know.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }
}

impl From<Content> for Packet {
    fn from(content: Content) -> Self {
        Self { content: Some(content) }
    }
}

/// The word of that number.
pub(super) fn word(number: u32) -> Option<Word> {
    Some(match number {
        1 => Word::Ready,
        2 => Word::Yours,
        3 => Word::Serving,
        4 => Word::Abandoned,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MAX_CLIENT_HELLO_LEN, MAX_NAME_LEN, MAX_PACKET_LEN, MAX_RECORD_LEN};

    #[test]
    fn the_largest_connection_fits_a_packet() {
        let peer = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".parse().expect("an address");
        let seen = vec![1; MAX_CLIENT_HELLO_LEN + MAX_RECORD_LEN];
        let name = "x".repeat(MAX_NAME_LEN);
        let passed = PassedConnection::new(&name, peer, seen, Duration::from_secs(7));
        let bytes = Packet::from(Content::Connection(passed.clone())).encode_to_vec();
        assert!(bytes.len() <= MAX_PACKET_LEN);
        assert_eq!(passed.peer(), Some(peer));
        let accepted = Instant::now();
        let now = accepted + Duration::from_secs(7);
        assert_eq!(passed.accepted(now), accepted);
    }

    #[test]
    fn a_word_comes_as_it_was_said() {
        for said in [Word::Ready, Word::Yours, Word::Serving, Word::Abandoned] {
            let bytes = Packet::word(said).encode_to_vec();
            let Some(Packet { content: Some(Content::Word(number)) }) = Packet::read(&bytes) else {
                panic!("a word");
            };
            assert_eq!(word(number), Some(said));
        }
        assert_eq!(word(0), None);
    }

    #[test]
    fn what_is_no_packet_is_none() {
        assert_eq!(Packet::read(&[0xff; 40]), None);
    }
}
