use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ClientConfig, ClientConnection, Connection, HandshakeKind};
use socket2::{Domain, SockRef, Socket, Type};
use vestibule::wire::{FrameDecoder, Message, RefusalReason, ToAgent, encode, to_agent};

use super::LONG;

/// One end of a TCP connection that the test plays, with or without TLS. Every wait is bounded.
pub(crate) struct Peer {
    socket: TcpStream,
    tls: Option<Connection>,
    decoder: FrameDecoder,
    /// What came behind a frame.
    unread: Vec<u8>,
}

/// How a peer sees the end of what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// FIN, and before it a `close_notify` where there is TLS.
    Clean,
    /// FIN without `close_notify`.
    Truncated,
    /// RST.
    Reset,
    /// A fatal alert.
    Alert(AlertDescription),
}

impl Peer {
    /// A connection as accepted.
    pub(crate) fn plain(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(LONG)).expect("a socket");
        socket.set_write_timeout(Some(LONG)).expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        Self { socket, tls: None, decoder: FrameDecoder::default(), unread: Vec::new() }
    }

    pub(crate) fn dial(address: SocketAddr) -> Self {
        Self::plain(TcpStream::connect(address).expect("somebody listens"))
    }

    /// A connection from that address of this host.
    pub(crate) fn dial_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of this host");
        socket.connect(&address.into()).expect("somebody listens");
        Self::plain(socket.into())
    }

    /// A TLS client after its own part of the handshake: whether the other side takes its
    /// certificate shows when it reads.
    pub(crate) fn dial_tls(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Self {
        Self::try_dial_tls(address, name, config).expect("a handshake")
    }

    pub(crate) fn try_dial_tls(
        address: SocketAddr,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let name = name.to_owned().try_into().expect("a name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("a configuration");
        Self::dial(address).begin_tls(tls.into())
    }

    pub(crate) fn begin_tls(mut self, mut tls: Connection) -> io::Result<Self> {
        tls.complete_io(&mut self.socket)?;
        self.tls = Some(tls);
        Ok(self)
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Protocol agreed on by ALPN.
    pub(crate) fn alpn(&self) -> Option<String> {
        let name = self.tls.as_ref()?.alpn_protocol()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// The other side's own certificate.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        let chain = self.tls.as_ref().and_then(|tls| tls.peer_certificates());
        chain.expect("a handshake")[0].to_vec()
    }

    /// Of a TLS connection that stands.
    pub(crate) fn handshake_kind(&self) -> HandshakeKind {
        self.tls.as_ref().and_then(|tls| tls.handshake_kind()).expect("a handshake")
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.write_all(bytes).expect("the other side takes it");
    }

    /// Changes the keys that it sends with, and has the other side do the same.
    pub(crate) fn update_keys(&mut self) -> io::Result<()> {
        let tls = self.tls.as_mut().expect("it has TLS");
        tls.refresh_traffic_keys().expect("TLS 1.3");
        self.flush()
    }

    /// As many bytes as asked for.
    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_exact(&mut bytes).expect("as many bytes as expected");
        bytes
    }

    pub(crate) fn expect(&mut self, expected: &[u8]) {
        let bytes = self.take(expected.len());
        assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    /// Sends bytes that the other side echoes, in portions that fit any buffer on the way.
    pub(crate) fn expect_echo(&mut self, bytes: &[u8]) {
        for portion in bytes.chunks(32 * 1024) {
            self.send(portion);
            assert!(self.take(portion.len()) == portion, "the echo is what was sent");
        }
    }

    /// All that comes, and how it ends.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, Ending) {
        let mut bytes = Vec::new();
        let mut portion = vec![0; 64 * 1024];
        loop {
            match self.read(&mut portion) {
                Ok(0) => return (bytes, Ending::Clean),
                Ok(len) => bytes.extend_from_slice(&portion[..len]),
                Err(error) => return (bytes, Ending::of(&error)),
            }
        }
    }

    /// How it ends, where nothing more is to come.
    pub(crate) fn ending(&mut self) -> Ending {
        let (bytes, ending) = self.rest();
        assert_eq!(bytes.escape_ascii().to_string(), "", "nothing more is to come");
        ending
    }

    /// Ends its direction cleanly.
    pub(crate) fn end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush().expect("the other side takes it");
        self.truncate();
    }

    /// Ends its TLS, waits for the end of the other side's, and goes on without.
    pub(crate) fn end_tls(&mut self) {
        self.end_tls_with(&[]);
        // One record after another, so that TLS sees none of the bytes behind its end.
        while !self.tls.as_mut().is_some_and(has_closed) {
            let mut record = vec![0; 5];
            self.socket.read_exact(&mut record).expect("a record");
            let start = record.len();
            record.resize(start + usize::from(u16::from_be_bytes([record[3], record[4]])), 0);
            self.socket.read_exact(&mut record[start..]).expect("a whole record");
            let tls = self.tls.as_mut().expect("it has TLS");
            tls.read_tls(&mut &record[..]).expect("a slice can be read");
        }
        self.tls = None;
    }

    /// The records that carry these bytes, which are not sent.
    pub(crate) fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let tls = self.tls.as_mut().expect("it has TLS");
        tls.writer().write_all(bytes).expect("memory takes it");
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records).expect("memory takes it");
        }
        records
    }

    /// Says that its TLS ends, and sends bare bytes right behind that: in one segment, since an answer between the two would
    /// make them bytes that come in time.
    pub(crate) fn end_tls_with(&mut self, behind: &[u8]) {
        self.tls.as_mut().expect("it has TLS").send_close_notify();
        let mut bytes = self.seal(&[]);
        bytes.extend_from_slice(behind);
        self.socket.write_all(&bytes).expect("the other side takes it");
    }

    /// Ends its direction without a `close_notify`.
    pub(crate) fn truncate(&self) {
        self.socket.shutdown(Shutdown::Write).expect("the connection lives");
    }

    /// Ends both directions with a reset.
    pub(crate) fn reset(self) {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    /// Sends a message in a frame.
    pub(crate) fn say<M: Message>(&mut self, message: &M) {
        let mut frame = Vec::new();
        encode(message, &mut frame);
        self.send(&frame);
    }

    /// The next message.
    pub(crate) fn hear<M: Message>(&mut self) -> M {
        self.try_hear().expect("a message")
    }

    pub(crate) fn try_hear<M: Message>(&mut self) -> Result<M, Ending> {
        loop {
            let mut input = &self.unread[..];
            let message = self.decoder.decode(&mut input).expect("a well-formed frame");
            self.unread = input.to_vec();
            if let Some(message) = message {
                return Ok(message);
            }
            let mut portion = [0; 4096];
            match self.read(&mut portion) {
                Ok(0) => return Err(Ending::Clean),
                Ok(len) => self.unread.extend_from_slice(&portion[..len]),
                Err(error) => return Err(Ending::of(&error)),
            }
        }
    }

    /// What the gateway tells our agent, and whether to try again; then nothing more.
    pub(crate) fn refusal(&mut self) -> (RefusalReason, bool) {
        let Some(to_agent::Message::Refused(refused)) = self.hear::<ToAgent>().message else {
            panic!("the gateway refuses");
        };
        assert_eq!(self.ending(), Ending::Clean);
        (refused.reason(), refused.retry_after_ms > 0)
    }

    /// What came behind the last message.
    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    fn read_tls(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let tls = self.tls.as_mut().expect("the caller looked");
        loop {
            match tls.reader().read(space) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            tls.read_tls(&mut self.socket)?;
            tls.process_new_packets().map_err(io::Error::other)?;
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
        }
    }
}

/// Whether the other side's close_notify is among what was read.
fn has_closed(tls: &mut Connection) -> bool {
    tls.process_new_packets().expect("well-formed records").peer_has_closed()
}

impl Read for Peer {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if !self.unread.is_empty() {
            let len = self.unread.len().min(space.len());
            space[..len].copy_from_slice(&self.unread[..len]);
            self.unread.drain(..len);
            return Ok(len);
        }
        match self.tls {
            Some(_) => self.read_tls(space),
            None => self.socket.read(space),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        let written = tls.writer().write(bytes)?;
        self.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl Ending {
    /// # Panics
    /// Where the error is no end: nothing came for long.
    pub(crate) fn of(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (error.kind(), tls) {
            (_, Some(rustls::Error::AlertReceived(alert))) => Self::Alert(*alert),
            (ErrorKind::UnexpectedEof, _) => Self::Truncated,
            (ErrorKind::ConnectionReset | ErrorKind::BrokenPipe, _) => Self::Reset,
            _ => panic!("neither bytes nor an end: {error}"),
        }
    }
}
