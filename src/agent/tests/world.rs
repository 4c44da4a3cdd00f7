//! The surroundings of an agent: a CA, gateways that a test plays by hand, and local programs.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::Agent;
use super::super::relay::Relay;
use super::super::session::Gateways;
use super::super::socket::prepare_local;
use crate::config::{AgentConfig, Credentials, Forward, Gateway, HostPort};
use crate::tls::{load_credentials, load_roots, provider};
use crate::wire::{
    FrameDecoder, FromAgent, Opened, RefusalReason, Refused, ToAgent, alpn, encode, from_agent,
    to_agent,
};

/// Far longer than anything here takes: a hang fails the test instead of blocking it.
pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("it should have happened long ago")
}

/// A folder with a CA, and a certificate of it for everyone.
pub(super) struct World {
    folder: TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca_params = CertificateParams::new(Vec::new()).expect("no name");
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let write = |name: &str, pem: String| {
            std::fs::write(folder.path().join(name), pem).expect("room for a file");
        };
        write("ca.pem", ca_params.self_signed(&ca_key).expect("a certificate").pem());
        let ca = Issuer::new(ca_params, ca_key);
        for name in ["gateway.test", "elsewhere.test", "device.test"] {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            write(
                &format!("{name}.pem"),
                params.signed_by(&key, &ca).expect("a certificate").pem(),
            );
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self { folder }
    }

    pub(super) fn credentials(&self, name: &str) -> Credentials {
        let path = |extension: &str| self.folder.path().join(format!("{name}.{extension}"));
        Credentials { certificate: path("pem"), key: path("key") }
    }

    pub(super) async fn gateways(&self, gateways: &[&FakeGateway]) -> Arc<Gateways> {
        Agent::bind(self.config(gateways)).await.expect("the configuration is good").gateways
    }

    /// Of an agent with one forward, room for two connections, and no patience.
    pub(super) fn config(&self, gateways: &[&FakeGateway]) -> AgentConfig {
        let gateway = |fake: &&FakeGateway| Gateway {
            address: HostPort { host: "127.0.0.1".to_owned(), port: fake.port },
            name: "gateway.test".to_owned(),
        };
        AgentConfig {
            credentials: Some(self.credentials("device.test")),
            gateway_ca: self.folder.path().join("ca.pem"),
            gateways: gateways.iter().map(gateway).collect(),
            forwards: vec![Forward {
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
                service: "ssh".to_owned(),
            }],
            max_connections: 2,
            retry_for: Duration::ZERO,
        }
    }
}

/// Accepts agents, one by one, as the test asks it to.
pub(super) struct FakeGateway {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    port: u16,
}

impl FakeGateway {
    pub(super) async fn new(world: &World, name: &str) -> Self {
        Self::with_alpn(world, name, vec![alpn::AGENT.to_vec()]).await
    }

    pub(super) async fn with_alpn(world: &World, name: &str, alpn: Vec<Vec<u8>>) -> Self {
        let roots = load_roots(&world.folder.path().join("ca.pem")).expect("a CA");
        let devices = WebPkiClientVerifier::builder_with_provider(roots, provider());
        let own = load_credentials(&world.credentials(name)).expect("a certificate");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(devices.allow_unauthenticated().build().expect("a CA"))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.alpn_protocols = alpn;
        config.send_tls13_tickets = 0;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), port }
    }

    pub(super) async fn handshake(&self) -> io::Result<TlsStream<TcpStream>> {
        let (stream, _) = soon(self.listener.accept()).await.expect("a connection");
        soon(self.acceptor.accept(stream)).await
    }

    /// Takes the next agent, up to its `Open`.
    pub(super) async fn accept(&self) -> FakeSession {
        let mut stream = self.handshake().await.expect("an agent");
        let mut decoder = FrameDecoder::default();
        loop {
            let byte = [soon(stream.read_u8()).await.expect("a frame")];
            if let Some(request) = decoder.decode::<FromAgent>(&mut &byte[..]).expect("a frame") {
                let Some(from_agent::Message::Open(open)) = request.message else {
                    panic!("expected Open, got {request:?}");
                };
                return FakeSession { stream, service: open.service };
            }
        }
    }
}

/// What the gateway holds of one session.
pub(super) struct FakeSession {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) service: String,
}

impl FakeSession {
    pub(super) async fn opened(&mut self) {
        say(&mut self.stream, &opened_frame()).await;
    }

    pub(super) async fn refused(self, reason: RefusalReason) {
        self.refused_for(reason, 0).await;
    }

    /// Refused, with a time to come back.
    pub(super) async fn refused_for(mut self, reason: RefusalReason, retry_after_ms: u32) {
        let refused = Refused { reason: reason.into(), retry_after_ms };
        say(&mut self.stream, &frame(to_agent::Message::Refused(refused))).await;
        end(&mut self.stream).await;
    }
}

pub(super) fn opened_frame() -> Vec<u8> {
    frame(to_agent::Message::Opened(Opened { session: "session-1".to_owned() }))
}

fn frame(message: to_agent::Message) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&ToAgent { message: Some(message) }, &mut frame);
    frame
}

/// An agent at work.
pub(super) struct RunningAgent {
    pub(super) address: SocketAddr,
    pub(super) shutdown: oneshot::Sender<()>,
    pub(super) task: JoinHandle<()>,
}

impl RunningAgent {
    pub(super) async fn new(world: &World, gateways: &[&FakeGateway]) -> Self {
        Self::with(world.config(gateways)).await
    }

    pub(super) async fn with(config: AgentConfig) -> Self {
        let agent = Agent::bind(config).await.expect("the configuration is good");
        let address = agent.addresses().expect("it is bound")[0];
        let (shutdown, asked) = oneshot::channel();
        let task = tokio::spawn(agent.serve(async { asked.await.expect("the test asks") }));
        Self { address, shutdown, task }
    }

    /// What a local program does.
    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the agent listens")
    }
}

/// A local program, and the agent's end of its connection.
pub(super) async fn local_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let program = TcpStream::connect(listener.local_addr().expect("it is bound"))
        .await
        .expect("a connection");
    let (local, _) = listener.accept().await.expect("a connection");
    prepare_local(&local);
    (program, local)
}

/// A local program, a relay that does not run yet, and the session at the gateway.
pub(super) async fn joined(
    world: &World,
    gateway: &FakeGateway,
) -> (TcpStream, Relay, FakeSession) {
    let gateways = world.gateways(&[gateway]).await;
    let dial = gateways.endpoints[0].open("ssh");
    let answer = async {
        let mut session = gateway.accept().await;
        session.opened().await;
        session
    };
    let (opened, session) = tokio::join!(dial, answer);
    let (program, local) = local_pair().await;
    (program, Relay::new(local, opened.expect("a session").stream), session)
}

pub(super) async fn say(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    soon(stream.write_all(bytes)).await.expect("the other side takes it");
    soon(stream.flush()).await.expect("the other side takes it");
}

/// Ends one direction cleanly.
pub(super) async fn end(stream: &mut (impl AsyncWrite + Unpin)) {
    soon(stream.shutdown()).await.expect("the connection lives");
}

/// Ends both directions with a reset.
pub(super) fn abort(stream: TcpStream) {
    stream.set_zero_linger().expect("the socket is open");
    drop(stream);
}

pub(super) async fn expect(stream: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    soon(stream.read_exact(&mut bytes)).await.expect("as many bytes as expected");
    assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

/// These bytes, and then a clean end.
pub(super) async fn expect_to_end(stream: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await.expect("a clean end");
    assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

/// No byte, and TCP ends without a `close_notify`.
pub(super) async fn expect_truncation(stream: &mut TlsStream<TcpStream>) {
    expect_failure(stream, io::ErrorKind::UnexpectedEof).await;
}

/// No byte, and a reset.
pub(super) async fn expect_reset(local: &mut TcpStream) {
    expect_failure(local, io::ErrorKind::ConnectionReset).await;
}

async fn expect_failure(stream: &mut (impl AsyncRead + Unpin), kind: io::ErrorKind) {
    let error = soon(stream.read(&mut [0])).await.expect_err("neither a byte nor a clean end");
    assert_eq!(error.kind(), kind);
}
