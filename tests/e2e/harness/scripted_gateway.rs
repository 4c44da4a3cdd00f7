use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustls::version::TLS13;
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use vestibule::config::Credentials;
use vestibule::tls::provider;
use vestibule::wire::{
    Claim, FromDataConnection, FromServer, GatewayHello, Invitation, Pong, ServerHello, ToServer,
    alpn, from_data_connection, from_server, to_server,
};

use super::{LONG, Peer, World};

/// A gateway that a test plays: it lets every server in, and says what the test wants.
pub(crate) struct ScriptedGateway {
    pub(crate) address: SocketAddr,
    signals: Receiver<Peer>,
    data: Receiver<Peer>,
}

impl ScriptedGateway {
    pub(crate) const INSTANCE: &str = "00ff00ff00ff00ff";

    /// Listens on 13000 of that address in the world's network, with a gateway's certificate.
    pub(crate) fn new(world: &World, host: u8) -> Self {
        Self::with_certificate(world, host, &world.credentials(World::GATEWAY_NAME))
    }

    pub(crate) fn with_certificate(world: &World, host: u8, own: &Credentials) -> Self {
        let address = world.address(host, 13_000);
        let listener = TcpListener::bind(address).expect("an address of this world");
        let config = config(own);
        let (signal, signals) = channel();
        let (session, data) = channel();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (config, signal, session) =
                    (Arc::clone(&config), signal.clone(), session.clone());
                thread::spawn(move || greet(socket, config, &signal, &session));
            }
        });
        Self { address, signals, data }
    }

    /// The next signal connection, after both hellos.
    pub(crate) fn signal(&self) -> SignalConnection {
        let mut signal = self.silent_signal();
        signal.greet(Self::INSTANCE);
        signal
    }

    /// The next signal connection, after the hello of its server.
    pub(crate) fn silent_signal(&self) -> SignalConnection {
        let mut peer = self.signals.recv_timeout(LONG).expect("a server dials");
        let Some(from_server::Message::ServerHello(hello)) = peer.hear::<FromServer>().message
        else {
            panic!("a server begins with its hello");
        };
        SignalConnection { peer, hello, takes_crls: false }
    }

    /// The next data connection, and what it claims.
    pub(crate) fn claim(&self) -> (Peer, Claim) {
        let mut data = self.data.recv_timeout(LONG).expect("a server follows an invitation");
        let message = data.hear::<FromDataConnection>().message;
        let Some(from_data_connection::Message::Claim(claim)) = message else {
            panic!("a data connection begins with a claim");
        };
        (data, claim)
    }

    /// Whether no server has opened a signal connection that nobody took.
    pub(crate) fn has_no_signal_connection(&self) -> bool {
        self.signals.try_recv().is_err()
    }

    /// Whether no server has opened a data connection that nobody took.
    pub(crate) fn has_no_data_connection(&self) -> bool {
        self.data.try_recv().is_err()
    }
}

/// A server's signal connection, at a gateway that a test plays.
pub(crate) struct SignalConnection {
    pub(crate) peer: Peer,
    pub(crate) hello: ServerHello,
    /// Whether this gateway says that it takes lists of revoked certificates.
    pub(crate) takes_crls: bool,
}

impl SignalConnection {
    pub(crate) fn greet(&mut self, instance: &str) {
        self.say(to_server::Message::GatewayHello(GatewayHello {
            instance: instance.to_owned(),
            services: self.hello.services.clone(),
            software: "a test".to_owned(),
            takes_crls: self.takes_crls,
        }));
    }

    pub(crate) fn say(&mut self, message: to_server::Message) {
        self.peer.say(&ToServer { message: Some(message) });
    }

    /// Invites for a service, or for a spare where it has no name.
    pub(crate) fn invite(&mut self, id: u64, service: &str) {
        let spare_for_ms = if service.is_empty() { 60_000 } else { 0 };
        self.say(to_server::Message::Invitation(Invitation {
            id,
            ticket: vec![7; vestibule::limits::TICKET_LEN],
            service: service.to_owned(),
            worker: 0,
            expires_in_ms: 10_000,
            spare_for_ms,
        }));
    }

    /// The next message that is no ping.
    pub(crate) fn hear(&mut self) -> from_server::Message {
        loop {
            match self.peer.hear::<FromServer>().message.expect("a message of this release") {
                from_server::Message::Ping(ping) => {
                    self.say(to_server::Message::Pong(Pong { nonce: ping.nonce }));
                }
                other => return other,
            }
        }
    }
}

/// Takes a connection through its handshake; a server that gave up is not heard of.
fn greet(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    signals: &Sender<Peer>,
    data: &Sender<Peer>,
) {
    let tls = ServerConnection::new(config).expect("a configuration");
    let Ok(peer) = Peer::plain(socket).begin_tls(tls.into()) else { return };
    let is_signal = peer.alpn().is_some_and(|name| name.as_bytes() == alpn::SIGNAL);
    // A test that ended does not listen any more.
    let _ = if is_signal { signals.send(peer) } else { data.send(peer) };
}

fn config(own: &Credentials) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&own.certificate).and_then(Iterator::collect);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(
            chain.expect("a certificate"),
            PrivateKeyDer::from_pem_file(&own.key).expect("a key"),
        )
        .expect("a pair");
    config.alpn_protocols = vec![alpn::SIGNAL.to_vec(), alpn::DATA.to_vec()];
    Arc::new(config)
}
