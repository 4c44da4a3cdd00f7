//! TLS resumption: who comes back is known, for as long as its certificate holds, and in its own role.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::{AlertDescription, ClientConfig, HandshakeKind, NamedGroup};
use rustls_pki_types::ServerName;
use vestibule::pki::Role;
use vestibule::wire::{FromAgent, Open, RefusalReason, alpn, from_agent};

use super::harness::{
    AgentFile, Authority, Backend, Ending, Gateway, GatewayFile, Peer, Process, ServerFile, Site,
    Telemetry, Trial, World, wait_until,
};

/// A client's tickets, whatever name they were given under; counts those that are offered.
#[derive(Debug)]
struct Tickets {
    kept: ClientSessionMemoryCache,
    offered: AtomicUsize,
}

impl ClientSessionStore for Tickets {
    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.kept.insert_tls13_ticket(any_name(), ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let ticket = self.kept.take_tls13_ticket(&any_name())?;
        self.offered.fetch_add(1, Ordering::Relaxed);
        Some(ticket)
    }

    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
}

fn any_name() -> ServerName<'static> {
    "any".try_into().expect("a name")
}

/// A client whose connections share their tickets, whatever they ask for.
struct Client {
    config: ClientConfig,
    tickets: Arc<Tickets>,
}

impl Client {
    fn new(config: &ClientConfig) -> Self {
        let kept = ClientSessionMemoryCache::new(8);
        let tickets = Arc::new(Tickets { kept, offered: AtomicUsize::new(0) });
        let mut config = config.clone();
        config.resumption = Resumption::store(Arc::clone(&tickets) as _);
        Self { config, tickets }
    }

    fn config(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    /// Connects as our agent and takes the ticket, which comes before the answer.
    fn visit(&self, address: std::net::SocketAddr) -> HandshakeKind {
        let mut agent = Peer::dial_tls(address, World::GATEWAY_NAME, &self.config(alpn::AGENT));
        let open = from_agent::Message::Open(Open { service: "absent".to_owned() });
        agent.say(&FromAgent { message: Some(open) });
        assert_eq!(agent.refusal(), (RefusalReason::ServiceUnknown, false));
        agent.handshake_kind()
    }

    fn offered(&self) -> usize {
        self.tickets.offered.load(Ordering::Relaxed)
    }
}

fn handshakes(telemetry: Telemetry, role: &str, kind: &str) -> u64 {
    let labels = format!("role=\"{role}\",kind=\"{kind}\"");
    telemetry.metric(&format!("vestibule_handshakes_finished_total{{{labels}}}"))
}

#[test]
fn a_device_ticket_never_resumes_as_a_server() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let own = trial.world.credentials("laptop-7.test");
    let device = Client::new(&trial.world.client(Some(&own), vec![]));
    let gateway = trial.gateway.tls;
    assert_eq!(device.visit(gateway), HandshakeKind::Full);
    assert_eq!(device.visit(gateway), HandshakeKind::Resumed);
    for (count, role) in [alpn::DATA, alpn::SIGNAL].into_iter().enumerate() {
        let offered = device.offered();
        let mut peer = Peer::dial_tls(gateway, World::GATEWAY_NAME, &device.config(role));
        assert_eq!(device.offered(), offered + 1, "the ticket of the agent's role");
        assert_eq!(peer.handshake_kind(), HandshakeKind::Full);
        assert_eq!(peer.ending(), Ending::Alert(AlertDescription::UnknownCA));
        trial.assert_ended("certificate_untrusted", count as u64 + 1);
        device.visit(gateway);
    }
}

#[test]
fn a_ticket_of_one_service_opens_no_other() {
    let more =
        "[[services]]\nname = \"ssh\"\nsni = [\"ssh.gateway.test\"]\ndevices = [\"build-*\"]\n";
    let mut trial = Trial::new(&GatewayFile { more, ..GatewayFile::DEFAULT });
    let own = trial.world.credentials("laptop-7.test");
    let device = Client::new(&trial.world.client(Some(&own), vec![]));
    let config = Arc::new(device.config.clone());
    let mut agent = Peer::dial_tls(trial.gateway.tls, World::ECHO, &config);
    let mut data = trial.server.join();
    // The ticket comes before the first byte.
    data.send(b"welcome");
    agent.expect(b"welcome");
    drop((agent, data));

    let mut agent = Peer::dial_tls(trial.gateway.tls, "ssh.gateway.test", &config);
    assert_eq!(device.offered(), 1, "the ticket of the other service");
    assert_eq!(agent.handshake_kind(), HandshakeKind::Full);
    assert_eq!(agent.ending(), Ending::Alert(AlertDescription::AccessDenied));
    drop(agent);
    trial.assert_ended("device_not_allowed", 1);
}

#[test]
fn a_ticket_of_a_listener_without_certificates_opens_nothing_where_they_are_required() {
    let world = World::new();
    let anybody = format!(
        "[[listeners]]\nname = \"anybody\"\naddresses = [\"{}:13001\"]\nkind = \"tls\"\n\
         device_certificates = \"none\"\n\
         certificate = \"pki/gateway.test.crt\"\nkey = \"pki/gateway.test.key\"\n",
        world.ip(1)
    );
    let echo = "listeners = [\"internet\"]";
    let gateway = world.gateway(&GatewayFile { more: &anybody, echo, ..GatewayFile::DEFAULT });
    let stranger = Client::new(&world.client(None, vec![]));
    let open = world.address(1, 13_001);
    assert_eq!(stranger.visit(open), HandshakeKind::Full);
    assert_eq!(stranger.visit(open), HandshakeKind::Resumed);

    let config = stranger.config(alpn::AGENT);
    let mut peer = Peer::dial_tls(gateway.tls, World::GATEWAY_NAME, &config);
    assert_eq!(stranger.offered(), 2, "the ticket of the other listener");
    assert_eq!(peer.handshake_kind(), HandshakeKind::Full);
    assert_eq!(peer.ending(), Ending::Alert(AlertDescription::CertificateRequired));
    gateway.process.line("connection ended", &[("reason", "certificate_missing")]);
}

#[test]
fn a_resumed_chain_is_checked_again() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    // Certificates count in seconds: the last of these is over after 12 to 13 of them.
    let end = SystemTime::now() + Duration::from_secs(12);
    let short = trial.world.forge("short.test", Authority::Of(Role::Device), |params| {
        params.not_after = end.into();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let device = Client::new(&trial.world.client(Some(&short), vec![]));
    assert_eq!(device.visit(trial.gateway.tls), HandshakeKind::Full);
    assert_eq!(device.visit(trial.gateway.tls), HandshakeKind::Resumed);
    trial.assert_ended("service_unknown", 2);

    let expired = end + Duration::from_secs(1);
    wait_until("the certificate is expired", || SystemTime::now() > expired);
    let config = device.config(alpn::AGENT);
    let mut peer = Peer::dial_tls(trial.gateway.tls, World::GATEWAY_NAME, &config);
    assert_eq!(peer.handshake_kind(), HandshakeKind::Resumed);
    assert_eq!(peer.ending(), Ending::Alert(AlertDescription::CertificateExpired));
    trial.assert_ended("certificate_expired", 1);
}

/// A site of several workers, so that hints differ.
fn site() -> Site {
    let services = [("echo", Backend::echo())];
    // Without spares, so that a session has one data connection.
    let file = GatewayFile { workers: 3, limits: "max_spares = 0", ..GatewayFile::DEFAULT };
    Site::with(&file, |world| ServerFile { workers: 2, ..ServerFile::new(world, &services) })
}

#[test]
fn data_connections_resume() {
    const SESSIONS: u64 = 6;
    let site = site();
    for _ in 0..SESSIONS {
        let mut agent = site.world.foreign_agent(&site.gateway);
        agent.expect_echo(b"to and fro");
        agent.end();
        assert_eq!(agent.ending(), Ending::Clean);
    }
    site.assert_ended("finished", 6);
    for telemetry in [site.gateway.telemetry, site.server_telemetry] {
        assert_eq!(handshakes(telemetry, "data", "full"), 1);
        assert_eq!(handshakes(telemetry, "data", "resumed"), SESSIONS - 1);
    }
    assert_eq!(handshakes(site.gateway.telemetry, "signal", "full"), 1);
    assert_eq!(handshakes(site.gateway.telemetry, "foreign", "full"), SESSIONS);
}

#[test]
fn our_agent_resumes() {
    let site = site();
    let (_agent, port) = site.world.agent(&AgentFile::new(&site.world));
    for _ in 0..4 {
        let mut program = Peer::dial(port);
        program.expect_echo(b"to and fro");
        program.end();
        assert_eq!(program.ending(), Ending::Clean);
    }
    site.assert_ended("finished", 4);
    assert_eq!(handshakes(site.gateway.telemetry, "agent", "full"), 1);
    assert_eq!(handshakes(site.gateway.telemetry, "agent", "resumed"), 3);
}

#[test]
fn a_foreign_agent_resumes() {
    let site = site();
    let config = site.world.foreign_config();
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        let mut agent = Peer::dial_tls(site.gateway.tls, World::ECHO, &config);
        agent.expect_echo(b"to and fro");
        assert_eq!(agent.handshake_kind(), kind);
        agent.end();
    }
    site.assert_ended("finished", 3);
    assert_eq!(handshakes(site.gateway.telemetry, "foreign", "resumed"), 2);
}

#[test]
fn nobody_resumes_with_a_gateway_whose_certificate_has_expired() {
    let world = World::new();
    let end = SystemTime::now() + Duration::from_secs(5);
    let short = world.forge(World::GATEWAY_NAME, Authority::Of(Role::Gateway), |params| {
        let name = "echo.gateway.test".try_into().expect("ASCII");
        params.subject_alt_names.push(rcgen::SanType::DnsName(name));
        params.not_after = end.into();
    });
    let own = world.credentials(World::GATEWAY_NAME);
    std::fs::copy(&short.certificate, &own.certificate).expect("a file");
    std::fs::copy(&short.key, &own.key).expect("a file");
    let gateway = world.gateway(&GatewayFile::DEFAULT);
    let (server, _) = world.server(&ServerFile::new(&world, &[("echo", Backend::echo())]));
    gateway.telemetry.wait_ready();
    let (agent, port) = world.agent(&AgentFile::new(&world));
    let foreign = world.foreign_config();
    Peer::dial(port).expect_echo(b"to and fro");
    Peer::dial_tls(gateway.tls, World::ECHO, &foreign).expect_echo(b"to and fro");

    let expired = end + Duration::from_secs(1);
    wait_until("the certificate is expired", || SystemTime::now() > expired);
    let reason = [("reason", "certificate_expired")];
    let _program = Peer::dial(port);
    agent.line("session ended", &reason);
    let visitor = Peer::dial_tls(gateway.tls, World::ECHO, &foreign);
    assert_eq!(visitor.handshake_kind(), HandshakeKind::Resumed, "this one does not look");
    server.line("connection ended", &reason);
    // The server has looked, and left, before the gateway counts its handshake.
    wait_until("the server resumed before it looked", || {
        handshakes(gateway.telemetry, "data", "resumed") >= 2
    });
}

/// What `openssl s_client` prints until it has its echo.
fn openssl(world: &World, gateway: &Gateway, more: &[&str]) -> String {
    let pki = |name: &str| world.path("pki").join(name);
    let mut client = Process::any("openssl")
        .args(["s_client", "-connect", &gateway.tls.to_string(), "-servername", World::ECHO])
        .arg("-CAfile")
        .arg(pki("gateways-ca.crt"))
        .arg("-cert")
        .arg(pki("laptop-7.test.crt"))
        .arg("-key")
        .arg(pki("laptop-7.test.key"))
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is there");
    let mut input = client.stdin.take().expect("it is piped");
    input.write_all(b"to and fro\n").expect("it reads");
    let mut output = client.stdout.take().expect("it is piped");
    let (mut printed, mut portion) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&printed).contains("to and fro") {
        let len = output.read(&mut portion).expect("it prints");
        assert_ne!(len, 0, "{}", String::from_utf8_lossy(&printed));
        printed.extend_from_slice(&portion[..len]);
    }
    // A line of its own that begins so ends it.
    input.write_all(b"Q\n").expect("it reads");
    client.wait().expect("it is our child");
    String::from_utf8_lossy(&printed).into_owned()
}

#[test]
#[ignore = "needs the openssl command"]
fn openssl_resumes_as_a_foreign_agent() {
    let site = site();
    let session = site.world.path("session.pem").display().to_string();
    let first = openssl(&site.world, &site.gateway, &["-sess_out", &session]);
    assert!(first.contains("New, TLSv1.3"), "{first}");
    let second = openssl(&site.world, &site.gateway, &["-sess_in", &session]);
    assert!(second.contains("Reused, TLSv1.3"), "{second}");
    assert_eq!(handshakes(site.gateway.telemetry, "foreign", "resumed"), 1);
}
