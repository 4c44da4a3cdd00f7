use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rustls::ClientConfig;
use vestibule::limits::MAX_CRL_PIECE_LEN;
use vestibule::wire::alpn::{self, Hint};
use vestibule::wire::{
    Accepted, Claim, Crl, CrlOutcome, FrameDecoder, FromDataConnection, FromServer, GatewayHello,
    Invitation, Ping, Pong, RefusalReason, Refused, ServerHello, SessionHeader, Taken,
    ToDataConnection, ToServer, from_data_connection, from_server, to_data_connection, to_server,
};

use super::{LONG, Peer, World};

/// A server that a test plays: it says what the test wants, and of itself only answers pings.
pub(crate) struct ScriptedServer {
    pub(crate) gateway: SocketAddr,
    pub(crate) hello: GatewayHello,
    /// Of its data connections, but for the ALPN.
    config: Arc<ClientConfig>,
    signal: Arc<Mutex<Peer>>,
    socket: TcpStream,
    heard: Receiver<to_server::Message>,
}

impl ScriptedServer {
    /// Opens a signal connection with the certificate of that name, and says hello.
    pub(crate) fn new(world: &World, name: &str, gateway: SocketAddr, services: &[&str]) -> Self {
        Self::with_spares(world, name, gateway, services, 0)
    }

    /// One that will hold that many spares.
    pub(crate) fn with_spares(
        world: &World,
        name: &str,
        gateway: SocketAddr,
        services: &[&str],
        spares: u32,
    ) -> Self {
        let services = services.iter().map(ToString::to_string).collect();
        Self::saying(
            world,
            name,
            gateway,
            ServerHello { services, spares, ..ServerHello::default() },
        )
    }

    /// One that also has services whose agents' TLS goes through.
    pub(crate) fn passing(
        world: &World,
        name: &str,
        gateway: SocketAddr,
        services: &[&str],
        passing: &[&str],
    ) -> Self {
        let places = (0..).skip(services.len()).take(passing.len()).collect();
        let services = services.iter().chain(passing).map(ToString::to_string).collect();
        let hello = ServerHello { services, passthrough: places, ..ServerHello::default() };
        Self::saying(world, name, gateway, hello)
    }

    fn saying(world: &World, name: &str, gateway: SocketAddr, hello: ServerHello) -> Self {
        let config = world.server_client(name, vec![alpn::SIGNAL.to_vec()]);
        let mut signal = Peer::dial_tls(gateway, World::GATEWAY_NAME, &config);
        let hello = ServerHello { software: "a test".to_owned(), ..hello };
        signal.say(&from_server(from_server::Message::ServerHello(hello)));
        let Some(to_server::Message::GatewayHello(hello)) = signal.hear::<ToServer>().message
        else {
            panic!("the gateway answers with its hello");
        };
        let socket = signal.socket().try_clone().expect("a descriptor");
        let signal = Arc::new(Mutex::new(signal));
        let (sender, heard) = channel();
        let reader = (Arc::clone(&signal), socket.try_clone().expect("a descriptor"));
        std::thread::spawn(move || listen(&reader.0, &reader.1, &sender));
        let config = world.server_client(name, vec![]);
        Self { gateway, hello, config, signal, socket, heard }
    }

    pub(crate) fn say(&self, message: from_server::Message) {
        self.signal.lock().expect("no test panics in it").say(&from_server(message));
    }

    /// Writes what is no message.
    pub(crate) fn say_raw(&self, bytes: &[u8]) {
        self.signal.lock().expect("no test panics in it").send(bytes);
    }

    /// The next message that is no ping.
    pub(crate) fn hear(&self) -> to_server::Message {
        self.heard.recv_timeout(LONG).expect("the gateway has something to say")
    }

    /// Brings a list of revoked certificates, and returns what becomes of it.
    pub(crate) fn bring(&self, transfer: u32, list: &[u8]) -> CrlOutcome {
        let number = |len: usize| u32::try_from(len).expect("it is short");
        let (mut offset, total) = (0, number(list.len()));
        for piece in list.chunks(MAX_CRL_PIECE_LEN) {
            let crl = Crl { transfer, offset, total, piece: piece.to_vec() };
            self.say(from_server::Message::Crl(crl));
            let to_server::Message::CrlAnswer(answer) = self.hear() else {
                panic!("each piece is answered");
            };
            assert_eq!(answer.transfer, transfer);
            if answer.outcome() != CrlOutcome::More {
                return answer.outcome();
            }
            offset += number(piece.len());
        }
        panic!("the last piece is answered with what becomes of the list");
    }

    pub(crate) fn invitation(&self) -> Invitation {
        match self.hear() {
            to_server::Message::Invitation(invitation) => invitation,
            other => panic!("expected an invitation, got {other:?}"),
        }
    }

    /// Whether the gateway ended the signal connection.
    pub(crate) fn wait_until_closed(&self) {
        while self.heard.recv_timeout(LONG).is_ok() {}
    }

    /// A data connection to the worker of that invitation, which has claimed nothing yet.
    pub(crate) fn data_connection(&self, invitation: &Invitation) -> DataConnection {
        let hint = Hint { instance: self.hello.instance.clone(), worker: invitation.worker };
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![alpn::DATA.to_vec(), hint.to_alpn()];
        DataConnection(Peer::dial_tls(self.gateway, World::GATEWAY_NAME, &Arc::new(config)))
    }

    /// A data connection that has claimed that invitation and heard of its agent.
    pub(crate) fn claim(&self, invitation: &Invitation) -> (DataConnection, SessionHeader) {
        let mut data = self.data_connection(invitation);
        data.claim(invitation.id, &invitation.ticket);
        let header = data.answer().expect("a good claim");
        (data, header)
    }

    /// The next agent, joined.
    pub(crate) fn join(&self) -> Peer {
        let (data, _) = self.claim(&self.invitation());
        data.accept()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        // The gateway may have closed it.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A data connection that a test plays.
pub(crate) struct DataConnection(pub(crate) Peer);

impl DataConnection {
    pub(crate) fn claim(&mut self, id: u64, ticket: &[u8]) {
        self.say(from_data_connection::Message::Claim(Claim { id, ticket: ticket.to_vec() }));
    }

    pub(crate) fn say(&mut self, message: from_data_connection::Message) {
        self.0.say(&FromDataConnection { message: Some(message) });
    }

    /// What the gateway says to a claim.
    pub(crate) fn answer(&mut self) -> Result<SessionHeader, RefusalReason> {
        match self.0.hear::<ToDataConnection>().message {
            Some(to_data_connection::Message::SessionHeader(header)) => Ok(header),
            Some(to_data_connection::Message::Refused(refused)) => Err(refused.reason()),
            None => panic!("the gateway says what this release knows"),
        }
    }

    /// Says that the backend is connected.
    pub(crate) fn accept(mut self) -> Peer {
        self.say(from_data_connection::Message::Accepted(Accepted {}));
        self.0
    }

    /// Says that it has the agent which came over a spare.
    pub(crate) fn take(&mut self) {
        self.say(from_data_connection::Message::Taken(Taken {}));
    }

    pub(crate) fn refuse(mut self, reason: RefusalReason) {
        let refused = Refused { reason: reason.into(), retry_after_ms: 0 };
        self.say(from_data_connection::Message::Refused(refused));
        self.0.end();
    }
}

fn from_server(message: from_server::Message) -> FromServer {
    FromServer { message: Some(message) }
}

/// Reads the signal connection to its end. The socket is watched outside the lock, so that the test
/// can speak meanwhile.
fn listen(signal: &Mutex<Peer>, socket: &TcpStream, heard: &Sender<to_server::Message>) {
    let mut decoder = FrameDecoder::default();
    let mut bytes = signal.lock().expect("no test panics in it").take_unread();
    loop {
        let mut input = &bytes[..];
        while let Some(ToServer { message }) = decoder.decode(&mut input).expect("a frame") {
            match message.expect("the gateway says what this release knows") {
                to_server::Message::Ping(Ping { nonce }) => {
                    let pong = from_server(from_server::Message::Pong(Pong { nonce }));
                    signal.lock().expect("no test panics in it").say(&pong);
                }
                // A test that ended does not listen any more.
                other => drop(heard.send(other)),
            }
        }
        if !matches!(socket.peek(&mut [0]), Ok(1)) {
            return;
        }
        // More than TLS holds at once.
        bytes.resize(64 * 1024, 0);
        match signal.lock().expect("no test panics in it").read(&mut bytes) {
            Ok(len @ 1..) => bytes.truncate(len),
            _ => return,
        }
    }
}
