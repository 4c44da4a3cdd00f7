//! Agents with TLS 1.2, where a listener takes them.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, HandshakeKind};
use vestibule::config::Credentials;
use vestibule::pki::Role;
use vestibule::wire::alpn;

use super::harness::{
    Authority, Backend, Ending, GatewayFile, List, Peer, Process, ServerFile, Site, Trial, World,
    assert_agent_may_end_first, assert_backend_may_end_first, assert_bulk, assert_talks, payload,
    wait_until, welcomed,
};

mod peers;

const TAKEN: &str = "tls_1_2_agents = true";
const FILE: GatewayFile<'static> = GatewayFile { internet: TAKEN, ..GatewayFile::DEFAULT };
const OLDER_HANDSHAKES: &str = "vestibule_tls_1_2_handshakes_total";
const MANY: usize = 4 * 1024 * 1024;

/// A device that knows TLS 1.2 only.
fn older(world: &World, own: &Credentials) -> Arc<ClientConfig> {
    world.client_of(&[&TLS12], Some(own), vec![])
}

fn older_agent(site: &Site) -> Peer {
    let own = site.world.credentials("laptop-7.test");
    Peer::dial_tls(site.gateway.tls, World::ECHO, &older(&site.world, &own))
}

/// An agent, and what the backend has of it. The backend has spoken first, which needs the gateway's last
/// word in the handshake to be out.
fn session(site: &Site, backend: &Backend) -> (Peer, Peer) {
    welcomed(older_agent(site), backend)
}

/// How a connection ends that the gateway refuses, in its handshake or right behind it.
fn refused(gateway: std::net::SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Ending {
    match Peer::try_dial_tls(gateway, name, config) {
        Ok(mut agent) => agent.ending(),
        Err(error) => Ending::of(&error),
    }
}

// ---- who ----

#[test]
fn an_agent_with_tls_1_2_gets_back_what_it_sends_and_log_metric_and_status_show_its_path() {
    let backend = Backend::by_hand();
    let site = Site::of(&FILE, backend.address);
    let (mut agent, mut service) = session(&site, &backend);
    let mut newer = (site.world.foreign_agent(&site.gateway), backend.accept());
    assert_talks(&mut newer);
    wait_until("the status page shows both", || {
        let listed = site.gateway.telemetry.status().sessions.oldest;
        let paths: Vec<_> = listed.iter().map(|session| &session.path[..]).collect();
        paths == ["tls_1_2", "tls"]
    });
    agent.end();
    service.end();
    site.gateway.process.line("session ended", &[("path", "tls_1_2"), ("reason", "finished")]);
    assert_eq!(agent.ending(), Ending::Clean);
    newer.0.end();
    newer.1.end();
    site.gateway.process.line("session ended", &[("path", "tls"), ("reason", "finished")]);
    assert_eq!(site.gateway.telemetry.metric(OLDER_HANDSHAKES), 1);
    site.gateway.process.line("agents may come with TLS 1.2", &[("level", "WARN")]);
}

#[test]
fn tls_1_2_is_refused_where_it_is_not_asked_for() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let own = trial.world.credentials("laptop-7.test");
    let ending = refused(trial.gateway.tls, World::ECHO, &older(&trial.world, &own));
    assert_eq!(ending, Ending::Alert(AlertDescription::ProtocolVersion));
    trial.assert_ended("tls_version", 1);
    assert_eq!(trial.gateway.telemetry.metric(OLDER_HANDSHAKES), 0);
}

#[test]
fn a_log_in_detail_says_what_would_take_an_agent_with_tls_1_2() {
    let world = World::new();
    let file = GatewayFile::DEFAULT;
    let mut command = Process::command();
    command.args(["--log", "json", "--log-filter", "vestibule=debug", "gateway", "--config"]);
    let gateway = Process::spawn(command.arg(world.write_gateway(&file)));
    gateway.line("gateway runs", &[]);
    let gateway = world.running(&file, gateway);
    let own = world.credentials("laptop-7.test");
    refused(gateway.tls, World::ECHO, &older(&world, &own));
    let line = gateway.process.line("handshake refused", &[("reason", "tls_version")]);
    let advice = line["advice"].as_str().unwrap_or_default();
    assert!(advice.contains("`tls_1_2_agents = true`"), "{line}");
}

#[test]
fn servers_and_our_own_agent_speak_tls_1_3_also_where_other_agents_need_not() {
    let mut trial = Trial::new(&FILE);
    for (count, (name, protocol)) in [
        ("server-2.test", alpn::SIGNAL),
        ("server-2.test", alpn::DATA),
        ("laptop-7.test", alpn::AGENT),
    ]
    .into_iter()
    .enumerate()
    {
        let own = trial.world.credentials(name);
        let config = trial.world.client_of(&[&TLS12], Some(&own), vec![protocol.to_vec()]);
        let ending = refused(trial.gateway.tls, World::GATEWAY_NAME, &config);
        assert_eq!(ending, Ending::Alert(AlertDescription::ProtocolVersion));
        trial.assert_ended("tls_version", count as u64 + 1);
    }
}

#[test]
fn whoever_offers_tls_1_3_gets_it_where_tls_1_2_is_taken_as_well() {
    let site = Site::of(&FILE, Backend::echo());
    let own = site.world.credentials("laptop-7.test");
    let config = site.world.client_of(&[&TLS12, &TLS13], Some(&own), vec![]);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut agent = Peer::dial_tls(site.gateway.tls, World::ECHO, &config);
        agent.expect_echo(b"to and fro");
        assert_eq!(agent.handshake_kind(), kind);
        agent.end();
    }
    site.assert_ended("finished", 2);
    assert_eq!(site.gateway.telemetry.metric(OLDER_HANDSHAKES), 0);
}

#[test]
fn nobody_resumes_with_tls_1_2() {
    let site = Site::of(&FILE, Backend::echo());
    let own = site.world.credentials("laptop-7.test");
    // It keeps what it is given.
    let config = older(&site.world, &own);
    for _ in 0..2 {
        let mut agent = Peer::dial_tls(site.gateway.tls, World::ECHO, &config);
        agent.expect_echo(b"to and fro");
        assert_eq!(agent.handshake_kind(), HandshakeKind::Full);
        agent.end();
    }
    site.assert_ended("finished", 2);
    assert_eq!(site.gateway.telemetry.metric(OLDER_HANDSHAKES), 2);
}

#[test]
fn a_reload_takes_in_agents_with_tls_1_2_and_shuts_them_out_and_who_is_in_stays() {
    let backend = Backend::by_hand();
    let site =
        Site::of(&GatewayFile { internet: "tls_1_2_agents = false", ..FILE }, backend.address);
    let own = site.world.credentials("laptop-7.test");
    let attempt = || refused(site.gateway.tls, World::ECHO, &older(&site.world, &own));
    assert_eq!(attempt(), Ending::Alert(AlertDescription::ProtocolVersion));
    site.world.edit("gateway-1.toml", "agents = false", "agents = true");
    site.gateway.reload();
    let mut pair = session(&site, &backend);
    site.world.edit("gateway-1.toml", "agents = true", "agents = false");
    site.gateway.reload();
    assert_eq!(attempt(), Ending::Alert(AlertDescription::ProtocolVersion));
    assert_talks(&mut pair);
}

#[test]
fn a_certificate_is_asked_for_and_verified_as_with_tls_1_3() {
    let mut trial = Trial::new(&FILE);
    let nobody = trial.world.client_of(&[&TLS12], None, vec![]);
    let ending = refused(trial.gateway.tls, World::ECHO, &nobody);
    assert_eq!(ending, Ending::Alert(AlertDescription::CertificateRequired));
    trial.assert_ended("certificate_missing", 1);
    let strange = trial.world.credentials("server-2.test");
    let ending = refused(trial.gateway.tls, World::ECHO, &older(&trial.world, &strange));
    assert_eq!(ending, Ending::Alert(AlertDescription::UnknownCA));
    trial.assert_ended("certificate_untrusted", 1);
}

#[test]
fn a_refusal_after_the_handshake_is_an_alert_and_no_clean_end() {
    let file = GatewayFile { echo: "devices = [\"build-*\"]", ..FILE };
    let site = Site::of(&file, Backend::echo());
    let own = site.world.credentials("laptop-7.test");
    let ending = refused(site.gateway.tls, World::ECHO, &older(&site.world, &own));
    assert_eq!(ending, Ending::Alert(AlertDescription::AccessDenied));
    let reason = [("reason", "device_not_allowed"), ("name", "laptop-7.test")];
    site.gateway.process.line("connection ended", &reason);
}

#[test]
fn an_agent_without_a_server_hears_that_there_is_no_session_now() {
    let world = World::new();
    let gateway = world.gateway(&FILE);
    let own = world.credentials("laptop-7.test");
    let ending = refused(gateway.tls, World::ECHO, &older(&world, &own));
    assert_eq!(ending, Ending::Alert(AlertDescription::InternalError));
    gateway.process.line("connection ended", &[("reason", "no_server")]);
}

#[test]
fn a_revoked_device_is_refused_with_its_alert_and_its_live_session_ends() {
    let keys = [TAKEN, "device_crls = [\"devices.crl\"]", "device_revocation = \"known\""];
    let backend = Backend::by_hand();
    let world = World::new();
    world.write("devices.crl", &world.list(&List::of_devices(1, &[])));
    let file = GatewayFile { internet: &keys.join("\n"), ..FILE };
    let services = [("echo", backend.address), ("old", backend.address)];
    let site = Site::in_world(world, &file, |world| ServerFile::new(world, &services));
    let stolen = site.world.forge("stolen.test", Authority::Of(Role::Device), |_| {});
    let config = older(&site.world, &stolen);
    let agent = Peer::dial_tls(site.gateway.tls, World::ECHO, &config);
    let (mut agent, mut service) = welcomed(agent, &backend);
    let list = site.world.list(&List::of_devices(2, &[&stolen]));
    site.world.replace("devices.crl", &list);
    site.gateway.reload();
    assert_eq!(agent.ending(), Ending::Reset);
    assert_eq!(service.ending(), Ending::Reset);
    site.assert_ended("certificate_revoked", 1);
    let ending = refused(site.gateway.tls, World::ECHO, &config);
    assert_eq!(ending, Ending::Alert(AlertDescription::CertificateRevoked));
    site.gateway.process.line("connection ended", &[("reason", "certificate_revoked")]);
}

// ---- bytes and ends ----

#[test]
fn bulk_arrives_whole_in_both_directions_at_once() {
    let backend = Backend::by_hand();
    let site = Site::of(&FILE, backend.address);
    assert_bulk(session(&site, &backend), 2 * MANY);
    site.assert_ended("finished", 1);
}

#[test]
fn records_of_every_size_arrive_in_order() {
    let site = Site::of(&FILE, Backend::echo());
    let own = site.world.credentials("laptop-7.test");
    for size in [32, 1_000, 16_384 + 5] {
        let mut config = ClientConfig::clone(&older(&site.world, &own));
        config.max_fragment_size = Some(size);
        let mut agent = Peer::dial_tls(site.gateway.tls, World::ECHO, &Arc::new(config));
        for len in [1, 31, 4_000, 100_000] {
            agent.expect_echo(&payload(len as u64, len));
        }
        agent.end();
        assert_eq!(agent.ending(), Ending::Clean);
    }
    site.assert_ended("finished", 3);
}

#[test]
fn half_close_keeps_the_other_way_open() {
    let backend = Backend::by_hand();
    let site = Site::of(&FILE, backend.address);
    assert_agent_may_end_first(session(&site, &backend));
    assert_backend_may_end_first(session(&site, &backend));
    site.assert_ended("finished", 2);
}

#[test]
fn what_is_cut_short_is_no_clean_end_on_either_side() {
    let backend = Backend::by_hand();
    let site = Site::of(&FILE, backend.address);
    let (mut agent, mut service) = session(&site, &backend);
    agent.send(b"half a sen");
    service.expect(b"half a sen");
    agent.truncate();
    assert_eq!(service.ending(), Ending::Reset);
    assert_ne!(agent.ending(), Ending::Clean);
    site.assert_ended("agent_truncated", 1);

    let (agent, mut service) = session(&site, &backend);
    service.send(b"unread");
    agent.reset();
    assert_eq!(service.ending(), Ending::Reset);
    site.assert_ended("agent_reset", 1);

    let (mut agent, mut service) = session(&site, &backend);
    service.send(b"half an ans");
    agent.expect(b"half an ans");
    service.reset();
    assert_ne!(agent.ending(), Ending::Clean);
}

#[test]
fn an_agent_that_does_not_read_makes_the_backend_stop_and_holds_little() {
    /// More than the buffers of all kernels and processes on the way.
    const FAR_TOO_MUCH: usize = 256 * 1024 * 1024;

    let backend = Backend::by_hand();
    let site = Site::of(&FILE, backend.address);
    let (mut agent, mut service) = session(&site, &backend);
    let before = site.gateway.telemetry.metric("process_resident_memory_bytes");
    service.socket().set_write_timeout(Some(Duration::from_secs(1))).expect("a socket");
    let portion = payload(1, 64 * 1024);
    let mut sent = 0;
    while service.write_all(&portion).is_ok() {
        sent += portion.len();
        assert!(sent < FAR_TOO_MUCH, "somebody on the way takes all of it");
    }
    let after = site.gateway.telemetry.metric("process_resident_memory_bytes");
    // One receive of 256 KiB, its records and their copies, and what the allocator makes of them.
    assert!(after < before + 16 * 1024 * 1024, "from {before} to {after} bytes");
    for _ in 0..sent / portion.len() {
        assert!(agent.take(portion.len()) == portion, "the bytes as sent");
    }
}
