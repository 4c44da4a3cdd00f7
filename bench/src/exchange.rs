//! The protocol between load generator and backend: a header of 17 bytes asks for one exchange, and
//! any number of exchanges follow each other on a connection.
//!
//! | byte | what |
//! |---|---|
//! | 0 | `E` echo, `S` sink, `G` source |
//! | 1-8 | position in the pattern of the first byte, big endian |
//! | 9-16 | length in bytes, big endian |
//!
//! Echo returns what comes. Sink reads the bytes, compares them, and acknowledges with the count of
//! those that were right, in 8 bytes. Source sends the bytes, and its client compares them.
//!
//! A ClientHello in one record before the first exchange is skipped.
//!
//! After each piece of bulk the others on the same thread have their turn: otherwise messages would
//! wait for megabytes inside load generator and backend, and that would be measured instead of the
//! gateway.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::yield_now;

use crate::pattern;

/// A connection of any kind.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Bytes of a header.
const HEADER_LEN: usize = 17;

/// First byte of a ClientHello, which went through to the backend (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What a header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Echo,
    Sink,
    Source,
}

/// One exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    kind: Kind,
    position: u64,
    length: u64,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = match self.kind {
            Kind::Echo => b'E',
            Kind::Sink => b'S',
            Kind::Source => b'G',
        };
        bytes[1..9].copy_from_slice(&self.position.to_be_bytes());
        bytes[9..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; HEADER_LEN]) -> io::Result<Self> {
        let [kind, numbers @ ..] = bytes;
        let kind = match kind {
            b'E' => Kind::Echo,
            b'S' => Kind::Sink,
            b'G' => Kind::Source,
            _ => return Err(invalid("the header of an exchange is damaged")),
        };
        let (position, length) = numbers.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Self { kind, position: number(position), length: number(length) })
    }
}

/// Client: sends `length` bytes of the pattern; the backend has checked them when this returns.
pub(crate) async fn upload<S: ByteStream>(
    stream: &mut S,
    position: u64,
    length: u64,
) -> io::Result<()> {
    let header = Header { kind: Kind::Sink, position, length };
    stream.write_all(&header.to_bytes()).await?;
    send_pattern(stream, position, length).await?;
    let right = stream.read_u64().await?;
    if right == length { Ok(()) } else { Err(invalid("bytes sent up arrived changed")) }
}

/// Client: receives `length` bytes of the pattern and checks them.
pub(crate) async fn download<S: ByteStream>(
    stream: &mut S,
    position: u64,
    length: u64,
) -> io::Result<()> {
    let header = Header { kind: Kind::Source, position, length };
    stream.write_all(&header.to_bytes()).await?;
    stream.flush().await?;
    let right = receive_pattern(stream, position, length).await?;
    if right == length { Ok(()) } else { Err(invalid("bytes sent down arrived changed")) }
}

/// Client: asks for `length` bytes, and leaves it at that.
pub(crate) async fn ask<S: ByteStream>(stream: &mut S, length: u64) -> io::Result<()> {
    let header = Header { kind: Kind::Source, position: 0, length };
    stream.write_all(&header.to_bytes()).await?;
    stream.flush().await
}

/// Client: sends one short message and receives it again.
pub(crate) async fn echo<S: ByteStream>(
    stream: &mut S,
    position: u64,
    length: u64,
) -> io::Result<()> {
    let message = pattern::piece(position, length);
    let mut request = Header { kind: Kind::Echo, position, length }.to_bytes().to_vec();
    request.extend_from_slice(message);
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer).await?;
    if answer == message { Ok(()) } else { Err(invalid("an echo arrived changed")) }
}

/// Client: ends the session, and waits for the other side to end it cleanly too.
pub(crate) async fn close<S: ByteStream>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    match stream.read(&mut [0; 16]).await? {
        0 => Ok(()),
        _ => Err(invalid("bytes that nobody sent")),
    }
}

/// Backend: serves the exchanges of one connection until the client ends it between two of them.
pub(crate) async fn serve<S: ByteStream>(stream: &mut S) -> io::Result<()> {
    while let Some(header) = read_header(stream).await? {
        let Header { kind, position, length } = header;
        match kind {
            Kind::Echo => return_bytes(stream, length).await?,
            Kind::Sink => {
                let right = receive_pattern(stream, position, length).await?;
                stream.write_u64(right).await?;
            }
            Kind::Source => send_pattern(stream, position, length).await?,
        }
        stream.flush().await?;
    }
    stream.shutdown().await
}

/// `None` where the client has ended cleanly.
async fn read_header<S: ByteStream>(stream: &mut S) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_LEN];
    let first = stream.read(&mut bytes).await?;
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut bytes[first..]).await?;
    if bytes[0] == HANDSHAKE_RECORD {
        skip_hello(stream, &mut bytes).await?;
    }
    Header::from_bytes(bytes).map(Some)
}

/// Reads on to the header behind a ClientHello, of which `bytes` are the first.
async fn skip_hello<S: ByteStream>(stream: &mut S, bytes: &mut [u8; HEADER_LEN]) -> io::Result<()> {
    let record_len = 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    let mut rest = vec![0; record_len.saturating_sub(HEADER_LEN)];
    stream.read_exact(&mut rest).await?;
    stream.read_exact(bytes).await.map(drop)
}

async fn return_bytes<S: ByteStream>(stream: &mut S, length: u64) -> io::Result<()> {
    let mut buffer = buffer_for(length);
    let mut left = length;
    while left > 0 {
        let count = read_some(stream, &mut buffer, left).await?;
        stream.write_all(&buffer[..count]).await?;
        left -= count as u64;
    }
    Ok(())
}

async fn send_pattern<S: ByteStream>(stream: &mut S, position: u64, length: u64) -> io::Result<()> {
    let mut sent = 0;
    while sent < length {
        let piece = pattern::piece(position + sent, length - sent);
        stream.write_all(piece).await?;
        sent += piece.len() as u64;
        yield_now().await;
    }
    stream.flush().await
}

/// Reads `length` bytes; returns how many of them were right before the first that was not.
async fn receive_pattern<S: ByteStream>(
    stream: &mut S,
    position: u64,
    length: u64,
) -> io::Result<u64> {
    let mut buffer = buffer_for(length);
    let (mut received, mut right) = (0, 0);
    while received < length {
        let count = read_some(stream, &mut buffer, length - received).await?;
        if received == right && pattern::matches(position + received, &buffer[..count]) {
            right += count as u64;
        }
        received += count as u64;
        yield_now().await;
    }
    Ok(right)
}

/// As large as one piece, and no larger than what is to come: thousands of sessions have one.
fn buffer_for(length: u64) -> Vec<u8> {
    vec![0; pattern::piece(0, length).len()]
}

async fn read_some<S: ByteStream>(
    stream: &mut S,
    buffer: &mut [u8],
    left: u64,
) -> io::Result<usize> {
    let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    match stream.read(&mut buffer[..room]).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended early")),
        count => Ok(count),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_bytes() {
        for kind in [Kind::Echo, Kind::Sink, Kind::Source] {
            let header = Header { kind, position: u64::MAX - 1, length: 0x0102_0304_0506_0708 };
            assert_eq!(Header::from_bytes(header.to_bytes()).ok(), Some(header));
        }
        assert!(Header::from_bytes([0; HEADER_LEN]).is_err());
    }

    #[tokio::test]
    async fn exchanges_follow_each_other_on_one_connection() {
        let (mut client, mut backend) = tokio::io::duplex(1000);
        let served = tokio::spawn(async move { serve(&mut backend).await });
        upload(&mut client, 7, 200_000).await.expect("the bytes arrive as they are");
        download(&mut client, 250_000, 200_000).await.expect("also across the end of the period");
        echo(&mut client, 3, 64).await.expect("the message comes back");
        close(&mut client).await.expect("both sides end");
        served.await.expect("no panic").expect("the backend saw a clean end");
    }

    #[tokio::test]
    async fn a_client_hello_before_the_first_exchange_is_skipped() {
        let (mut client, mut backend) = tokio::io::duplex(1000);
        let served = tokio::spawn(async move { serve(&mut backend).await });
        let hello = [&[HANDSHAKE_RECORD, 3, 1, 0, 200][..], &[7; 200]].concat();
        client.write_all(&hello).await.expect("it is taken");
        echo(&mut client, 3, 64).await.expect("the message comes back");
        close(&mut client).await.expect("both sides end");
        served.await.expect("no panic").expect("the backend saw a clean end");
    }

    #[tokio::test]
    async fn a_byte_changed_on_the_way_up_is_an_error() {
        let (mut client, mut backend) = tokio::io::duplex(1000);
        tokio::spawn(async move {
            let mut request = vec![0; HEADER_LEN + 100];
            backend.read_exact(&mut request).await?;
            let (mut inner, mut service) = tokio::io::duplex(1000);
            request[HEADER_LEN + 50] ^= 1;
            inner.write_all(&request).await?;
            tokio::spawn(async move { serve(&mut service).await });
            backend.write_u64(inner.read_u64().await?).await
        });
        assert!(upload(&mut client, 0, 100).await.is_err());
    }

    #[tokio::test]
    async fn an_early_end_is_an_error_and_no_hang() {
        let (mut client, backend) = tokio::io::duplex(1000);
        drop(backend);
        assert!(download(&mut client, 0, 100).await.is_err());
    }
}
