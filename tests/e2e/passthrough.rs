//! Services whose agents' TLS goes through the gateway unread: to a backend that speaks TLS itself, or to a server that ends
//! it.

use std::sync::Arc;
use std::thread;

use rustls::{AlertDescription, ClientConfig, ClientConnection};
use vestibule::config::Credentials;
use vestibule::pki::Role;
use vestibule::tls::load_credentials;
use vestibule::wire::RefusalReason;

use super::harness::{
    Authority, Backend, Ending, GatewayFile, Peer, ScriptedServer, ServerFile, Site, World,
    payload, wait_until,
};

mod breaches;

/// Server name that chooses the service `vault`.
const VAULT: &str = "vault.gateway.test";
const SERVICE: &str = "[[services]]\nname = \"vault\"\nsni = [\"vault.gateway.test\"]\nlisteners = [\"internet\"]\n\
                       tls = \"passthrough\"\ndevices = \"any\"\n";
const FILE: GatewayFile<'_> = GatewayFile { more: SERVICE, ..GatewayFile::DEFAULT };

/// A certificate for [`VAULT`] which the gateway has no key of.
fn issue_vault(world: &World) {
    world.forge(VAULT, Authority::Of(Role::Gateway), |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
}

fn own(world: &World) -> Credentials {
    let path = |extension| world.path(&format!("{VAULT}.{extension}"));
    Credentials { certificate: path("crt"), key: path("key") }
}

/// A server of `vault` and `echo`, with more keys of the former.
fn server(world: &World, backend: std::net::SocketAddr, keys: &str) -> ServerFile {
    let mut file = ServerFile::new(world, &[("echo", backend), ("vault", backend)]);
    file.services += keys;
    file
}

/// A site whose service `vault` leads to a backend that ends its TLS.
fn site(file: &GatewayFile<'_>) -> Site {
    let world = World::new();
    issue_vault(&world);
    Site::in_world(world, file, |world| {
        server(world, Backend::tls_echo(&own(world)), "agent_tls = \"passthrough\"\n")
    })
}

/// The same where the test plays the backend, which gets the agents' bytes as they are.
fn passing_to(backend: &Backend) -> Site {
    Site::with(&FILE, |world| server(world, backend.address, "agent_tls = \"passthrough\"\n"))
}

/// An agent that has said a ClientHello and no more, and what the backend has of it; the hello is read.
fn opened(site: &Site, backend: &Backend, hello: &[u8]) -> (Peer, Peer) {
    let mut agent = Peer::dial(site.gateway.tls);
    agent.send(hello);
    let mut service = backend.accept();
    service.expect(hello);
    (agent, service)
}

/// The key of a server that ends the agents' TLS itself.
fn ending_here(own: &Credentials, more: &str) -> String {
    let Credentials { certificate, key } = own;
    let (certificate, key) = (certificate.display(), key.display());
    format!("agent_tls = {{ certificate = \"{certificate}\", key = \"{key}\", {more} }}\n")
}

fn client(world: &World) -> Arc<ClientConfig> {
    world.client(None, vec![])
}

fn agent(site: &Site) -> Peer {
    Peer::dial_tls(site.gateway.tls, VAULT, &client(&site.world))
}

fn leaf(world: &World) -> Vec<u8> {
    load_credentials(&own(world)).expect("a pair").cert[0].to_vec()
}

// ---- the way ----

#[test]
fn the_agents_own_tls_ends_at_the_backend() {
    let site = site(&FILE);
    let mut agent = agent(&site);
    assert!(agent.certificate() == leaf(&site.world), "of the backend, and not of the gateway");
    agent.expect_echo(&payload(1, 4 << 20));
    agent.end();
    assert_eq!(agent.ending(), Ending::Clean);
    let ended = [("service", "vault"), ("path", "passthrough"), ("reason", "finished")];
    site.gateway.process.line("session ended", &ended);
    site.server.line("session ended", &ended);
    for telemetry in [&site.gateway.telemetry, &site.server_telemetry] {
        telemetry.wait_for("vestibule_session_paths_total{path=\"passthrough\"}", 1);
    }
}

#[test]
fn bulk_arrives_whole_in_both_directions_at_once_and_unread() {
    let backend = Backend::by_hand();
    let site = passing_to(&backend);
    // What follows a ClientHello is nobody's business on the way.
    let hello = hello(&client(&site.world));
    let (mut agent, mut service) = opened(&site, &backend, &hello);
    let (up, down) = (payload(2, 16 << 20), payload(3, 16 << 20));
    thread::scope(|scope| {
        let mut writer = Peer::plain(service.socket().try_clone().expect("a descriptor"));
        let mut reader = Peer::plain(agent.socket().try_clone().expect("a descriptor"));
        let (sent, expected) = (down.clone(), up.clone());
        scope.spawn(move || {
            writer.send(&sent);
            writer.end();
        });
        scope.spawn(move || assert!(service.rest() == (expected, Ending::Clean)));
        scope.spawn(move || assert!(reader.rest() == (down, Ending::Clean)));
        agent.send(&up);
        agent.end();
    });
    let line = site.gateway.process.line("session ended", &[("path", "passthrough")]);
    let sum = (hello.len() + (16 << 20)) as u64;
    assert_eq!(line["bytes_to_server"], sum, "{line}");
}

#[test]
fn many_sessions_over_spares_and_invitations_each_reach_the_backend() {
    let file = GatewayFile { workers: 2, ..FILE };
    let site = site(&file);
    let config = client(&site.world);
    thread::scope(|scope| {
        for seed in 0..60 {
            let (config, gateway) = (&config, &site.gateway);
            scope.spawn(move || {
                let mut agent = Peer::dial_tls(gateway.tls, VAULT, config);
                agent.expect_echo(&payload(seed, 100_000));
                agent.end();
                assert_eq!(agent.ending(), Ending::Clean);
            });
        }
    });
    // One after another, so that spares are there.
    for seed in 60..80 {
        let mut agent = agent(&site);
        agent.expect_echo(&payload(seed, 1_000));
    }
    let used = "vestibule_spares_ended_total{outcome=\"used\"}";
    assert!(site.gateway.telemetry.metric(used) > 0, "some of them came over spares");
    wait_until("all have ended", || site.gateway.process.count("session ended", &[]) == 80);
}

#[test]
fn a_client_hello_in_many_records_and_pieces_arrives_as_it_was_sent() {
    let backend = Backend::by_hand();
    let site = passing_to(&backend);
    let hello = hello(&client(&site.world));
    // Records of 100 bytes of the handshake message each (RFC 8446 §5.1).
    let records = hello[5..].chunks(100).flat_map(|piece| {
        let len = u8::try_from(piece.len()).expect("a hundred");
        [&[22, 3, 1, 0, len], piece].concat()
    });
    let records: Vec<u8> = records.collect();
    let mut agent = Peer::dial(site.gateway.tls);
    for piece in records.chunks(7) {
        agent.send(piece);
    }
    backend.accept().expect(&records);
}

#[test]
fn curl_reaches_a_backend_of_its_own_trust_through_a_gateway_that_reads_nothing() {
    let world = World::new();
    issue_vault(&world);
    let end = ending_here(&own(&world), "alpn = [\"http/1.1\"]");
    let site = Site::in_world(world, &FILE, |world| server(world, Backend::http(), &end));
    let output = site.world.curl(site.gateway.tls, VAULT, None, &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from the LAN");
}

fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = VAULT.try_into().expect("a name");
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a configuration");
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).expect("a Vec takes it");
    bytes
}

// ---- ends ----

#[test]
fn ends_and_resets_are_passed_on_as_they_come() {
    let backend = Backend::by_hand();
    let site = passing_to(&backend);
    let hello = hello(&client(&site.world));
    let joined = || opened(&site, &backend, &hello);
    let (mut agent, mut service) = joined();
    agent.end();
    assert_eq!(service.ending(), Ending::Clean);
    service.send(b"the return path is open");
    agent.expect(b"the return path is open");
    service.end();
    assert_eq!(agent.ending(), Ending::Clean);
    let (agent, mut service) = joined();
    agent.reset();
    assert_eq!(service.ending(), Ending::Reset);
    let (mut agent, service) = joined();
    service.reset();
    assert_eq!(agent.ending(), Ending::Reset);
    for reason in ["finished", "agent_reset", "server_reset"] {
        site.gateway.process.line("session ended", &[("reason", reason)]);
    }
}

// ---- the server ends it ----

/// A site whose server ends the agents' TLS, and has them show a certificate.
fn ending_site(backend: std::net::SocketAddr, keys: &str) -> Site {
    let world = World::new();
    issue_vault(&world);
    let end = ending_here(&own(&world), "device_ca = \"pki/devices-ca.crt\"") + keys;
    Site::in_world(world, &FILE, |world| server(world, backend, &end))
}

#[test]
fn the_agents_own_tls_ends_at_the_server_which_knows_the_device() {
    let backend = Backend::by_hand();
    let site = ending_site(backend.address, "proxy_protocol = true\n");
    let config = site.world.foreign_config();
    for handshake in ["full", "resumed"] {
        let mut agent = Peer::dial_tls(site.gateway.tls, VAULT, &config);
        assert!(agent.certificate() == leaf(&site.world), "of the server, and not of the gateway");
        agent.send(b"plain at the backend");
        let mut service = backend.accept();
        let start = service.take(16);
        let rest = service.take(usize::from(u16::from_be_bytes([start[14], start[15]])));
        let device = b"laptop-7.test";
        assert!(rest.windows(device.len()).any(|part| part == device), "the device in a TLV");
        service.expect(b"plain at the backend");
        service.send(b"and back");
        agent.expect(b"and back");
        agent.end();
        assert_eq!(service.ending(), Ending::Clean);
        service.end();
        assert_eq!(agent.ending(), Ending::Clean);
        let labels = format!("role=\"foreign\",kind=\"{handshake}\"");
        let sample = format!("vestibule_handshakes_finished_total{{{labels}}}");
        site.server_telemetry.wait_for(&sample, 1);
    }
    let of_device = [("device", "laptop-7.test"), ("path", "passthrough")];
    site.server.line("session ended", &of_device);
    let line = site.gateway.process.line("session ended", &[("path", "passthrough")]);
    assert!(
        line.get("device").is_none_or(serde_json::Value::is_null),
        "the gateway knows nobody: {line}"
    );
}

#[test]
fn an_agent_that_shows_the_server_no_certificate_reaches_no_backend() {
    let backend = Backend::by_hand();
    let site = ending_site(backend.address, "");
    let mut agent = Peer::dial_tls(site.gateway.tls, VAULT, &client(&site.world));
    assert_eq!(agent.ending(), Ending::Alert(AlertDescription::CertificateRequired));
    site.server.line("connection ended", &[("reason", "certificate_missing")]);
    let mut service = backend.accept();
    assert_ne!(service.ending(), Ending::Truncated, "it was connected, and got not a byte");
}

// ---- who gets no session ----

#[test]
fn without_a_server_the_agent_hears_an_alert_before_its_handshake() {
    let world = World::new();
    let gateway = world.gateway(&FILE);
    let refused = Peer::try_dial_tls(gateway.tls, VAULT, &client(&world));
    let error = refused.err().expect("nobody is there").to_string();
    assert!(error.contains("InternalError"), "{error}");
    let no_server = [("reason", "no_server"), ("service", "vault")];
    gateway.process.line("connection ended", &no_server);
}

#[test]
fn a_server_that_would_read_the_agents_bytes_is_not_invited() {
    let backend = Backend::by_hand();
    let site = Site::with(&FILE, |world| server(world, backend.address, ""));
    let refused = Peer::try_dial_tls(site.gateway.tls, VAULT, &client(&site.world));
    assert!(refused.is_err());
    site.gateway.process.line("connection ended", &[("reason", "no_server"), ("service", "vault")]);
    assert!(backend.is_untouched());
    site.server.line("signal connection is up", &[("untaken", "vault")]);
    let mut other = site.world.foreign_agent(&site.gateway);
    let mut service = backend.accept();
    other.send(b"served");
    service.expect(b"served");
}

#[test]
fn our_own_agent_is_told_that_there_is_no_such_service() {
    let site = site(&FILE);
    let mut agent = site.world.ask(&site.gateway, "vault");
    assert_eq!(agent.refusal(), (RefusalReason::ServiceUnknown, false));
}

#[test]
fn a_reload_that_has_the_gateway_end_the_tls_turns_away_who_waits_to_pass() {
    let world = World::new();
    let gateway = world.gateway(&FILE);
    let server =
        ScriptedServer::passing(&world, "server-1.test", gateway.tls, &["echo"], &["vault"]);
    let mut agent = Peer::dial(gateway.tls);
    agent.send(&hello(&client(&world)));
    let invitation = server.invitation();
    world.edit("gateway-1.toml", "tls = \"passthrough\"\ndevices = \"any\"\n", "");
    gateway.process.hang_up();
    gateway.process.line("reloaded", &[]);
    let mut data = server.data_connection(&invitation);
    data.claim(invitation.id, &invitation.ticket);
    assert_eq!(data.answer().err(), Some(RefusalReason::TicketInvalid));
    let (_, ending) = agent.rest();
    assert_eq!(ending, Ending::Clean);
    gateway.process.line("connection ended", &[("reason", "service_unknown")]);
}
