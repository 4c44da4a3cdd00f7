//! Those of whom only the address is known: what one may have, whose address it is, and that no
//! number of them locks out a server or an agent that is known.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustls::ClientConnection;
use vestibule::wire::alpn;

use super::harness::{
    Backend, GatewayFile, Kind, Peer, ServerFile, Site, Trial, World, wait_until,
};

/// Where the trial's own connections come from.
const HOME: &str = "exempt = [\"127.0.0.1\"]";
/// In a prefix of its own, beside those of all tests.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const FROM_BALANCER: &str = "proxy_protocol_from = [\"127.0.0.3\"]";

fn ended(reason: &str) -> String {
    format!("vestibule_connections_ended_total{{reason=\"{reason}\"}}")
}

/// Asserts that an agent from that address gets a session.
fn assert_served(trial: &Trial, from: IpAddr) {
    let mut agent = Peer::dial_from(from, trial.gateway.plain);
    let mut data = trial.server.join();
    agent.send(b"hello");
    data.expect(b"hello");
}

// ---- limits ----

#[test]
fn an_address_at_its_limit_is_turned_away_and_another_is_served() {
    let more = format!("[addresses]\n{HOME}\nmax_connections = 3");
    let mut trial = Trial::new(&GatewayFile { more: &more, ..GatewayFile::DEFAULT });
    let [one, other] = [7, 8].map(|host| trial.world.ip(host));
    let held: Vec<_> = (0..3).map(|_| Peer::dial_from(one, trial.gateway.tls)).collect();
    trial.gateway.telemetry.wait_for("vestibule_handshakes", 3);
    Peer::dial_from(one, trial.gateway.tls).ending();
    Peer::dial_from(one, trial.gateway.plain).ending();
    trial.gateway.telemetry.wait_for(&ended("address_full"), 2);
    trial.gateway.process.line("connections turned away", &[("reason", "address_full")]);
    assert_served(&trial, other);
    drop(held);
    trial.assert_unharmed();
    assert_served(&trial, one);
    trial.assert_unharmed();
}

#[test]
fn the_addresses_of_one_prefix_have_a_limit_together() {
    let more = format!("[addresses]\n{HOME}\nmax_handshakes = 2\nmax_handshakes_of_prefix = 3");
    let mut trial = Trial::new(&GatewayFile { more: &more, ..GatewayFile::DEFAULT });
    let neighbours = [7, 7, 8].map(|host| trial.world.ip(host));
    let held = neighbours.map(|from| Peer::dial_from(from, trial.gateway.tls));
    trial.gateway.telemetry.wait_for("vestibule_handshakes", 3);
    Peer::dial_from(trial.world.ip(7), trial.gateway.tls).ending();
    trial.gateway.telemetry.wait_for(&ended("address_full"), 1);
    Peer::dial_from(trial.world.ip(9), trial.gateway.tls).ending();
    trial.gateway.telemetry.wait_for(&ended("prefix_full"), 1);
    assert_served(&trial, ELSEWHERE);
    drop(held);
    trial.assert_unharmed();
}

#[test]
fn an_address_that_dials_too_fast_is_turned_away_and_another_is_served() {
    let more = format!("[addresses]\n{HOME}\nconnections_per_s = 1\nconnections_burst = 3");
    let mut trial = Trial::new(&GatewayFile { more: &more, ..GatewayFile::DEFAULT });
    let mut dialled = 0;
    wait_until("one is turned away", || {
        Peer::dial_from(trial.world.ip(7), trial.gateway.tls).reset();
        dialled += 1;
        trial.gateway.telemetry.metric(&ended("address_too_fast")) > 0
    });
    assert!(dialled > 3, "a burst is allowed");
    assert_served(&trial, trial.world.ip(8));
    trial.assert_unharmed();
}

#[test]
fn a_server_that_has_proved_itself_brings_as_many_data_connections_as_there_are_agents() {
    let more = "[addresses]\nmax_connections = 3\nmax_handshakes = 3\nconnections_burst = 3";
    let mut trial = Trial::new(&GatewayFile { more, ..GatewayFile::DEFAULT });
    let mut sessions = Vec::new();
    for host in 10..20 {
        let mut agent = Peer::dial_from(trial.world.ip(host), trial.gateway.plain);
        let mut data = trial.server.join();
        agent.send(b"hello");
        data.expect(b"hello");
        sessions.push((agent, data));
    }
    drop(sessions);
    trial.assert_unharmed();
}

#[test]
fn nobody_is_asked_for_a_servers_certificate_from_an_address_that_no_server_has() {
    let servers = "addresses = [\"127.0.0.1\"]";
    let mut trial = Trial::new(&GatewayFile { servers, ..GatewayFile::DEFAULT });
    for protocol in [alpn::SIGNAL, alpn::DATA] {
        let config = trial.world.server_client("server-2.test", vec![protocol.to_vec()]);
        let name = World::GATEWAY_NAME.try_into().expect("a name");
        let tls = ClientConnection::new(config, name).expect("a configuration");
        let stranger = Peer::dial_from(trial.world.ip(7), trial.gateway.tls);
        assert!(stranger.begin_tls(tls.into()).is_err());
    }
    trial.assert_ended("server_address_not_allowed", 2);
    let finished = "vestibule_handshakes_finished_total{role=\"signal\",kind=\"full\"}";
    assert_eq!(trial.gateway.telemetry.metric(finished), 1, "that of the trial's own server");
}

// ---- whose address ----

#[test]
fn behind_a_balancer_the_address_is_that_of_its_header() {
    let file = GatewayFile {
        internet: FROM_BALANCER,
        agents_from: "\"any\"",
        old: FROM_BALANCER,
        ..GatewayFile::DEFAULT
    };
    let mut trial = Trial::new(&file);
    let mut agent = Peer::dial_from(BALANCER, trial.gateway.tls);
    agent.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 13000\r\n");
    let name = World::ECHO.try_into().expect("a name");
    let tls = ClientConnection::new(trial.world.foreign_config(), name).expect("a configuration");
    let agent = agent.begin_tls(tls.into()).expect("a handshake");
    let (data, header) = trial.server.claim(&trial.server.invitation());
    assert_eq!((&header.agent_ip[..], header.agent_port), (&[203, 0, 113, 7][..], 40_000));
    drop((agent, data));

    let mut agent = Peer::dial_from(BALANCER, trial.gateway.plain);
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x08\xc0\0\x02\x01\x9c\x40\x36\xb0";
    for piece in header.chunks(5) {
        agent.send(piece);
        thread::sleep(Duration::from_millis(5));
    }
    agent.send(b"hello");
    let (data, header) = trial.server.claim(&trial.server.invitation());
    assert_eq!((&header.agent_ip[..], header.agent_port), (&[203, 0, 113, 8][..], 40_000));
    data.accept().expect(b"hello");
    drop(agent);
    trial.assert_unharmed();
}

#[test]
fn limits_hold_for_the_address_behind_a_balancer_and_not_for_the_balancer() {
    let more = format!("[addresses]\n{HOME}\nmax_connections = 2");
    let agents_from = "\"any\"";
    let file = GatewayFile { agents_from, old: FROM_BALANCER, more: &more, ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let mut held = Vec::new();
    for host in [7, 7, 8, 8, 9] {
        let mut agent = Peer::dial_from(BALANCER, trial.gateway.plain);
        agent.send(format!("PROXY TCP4 203.0.113.{host} 192.0.2.1 1 2\r\n").as_bytes());
        held.push((agent, trial.server.join()));
    }
    let mut third = Peer::dial_from(BALANCER, trial.gateway.plain);
    third.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n");
    third.ending();
    trial.gateway.process.line("connection ended", &[("reason", "address_full")]);
    drop((held, third));
    trial.assert_unharmed();
}

#[test]
fn a_header_is_taken_from_balancers_only_and_they_must_send_one() {
    let file = GatewayFile { internet: FROM_BALANCER, ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let mut pretender = Peer::dial_from(trial.world.ip(7), trial.gateway.tls);
    pretender.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 13000\r\n");
    pretender.ending();
    trial.assert_ended("not_tls", 1);
    let mut balancer = Peer::dial_from(BALANCER, trial.gateway.tls);
    balancer.send(&trial.world.client_hello());
    balancer.ending();
    trial.assert_ended("proxy_header_invalid", 1);
    let mut half = Peer::dial_from(BALANCER, trial.gateway.tls);
    half.send(b"PROXY TCP4 203.0.");
    half.truncate();
    half.ending();
    trial.assert_ended("proxy_header_invalid", 2);
}

// ---- floods ----

#[test]
fn a_newcomer_takes_the_place_of_whoever_keeps_silent() {
    let file = GatewayFile { limits: "max_handshakes = 4", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let mut silent: Vec<_> = (0..4).map(|_| Peer::dial(trial.gateway.tls)).collect();
    trial.gateway.telemetry.wait_for("vestibule_handshakes", 4);
    let config = trial.world.foreign_config();
    let mut agent = None;
    wait_until("an agent gets in", || {
        agent = Peer::try_dial_tls(trial.gateway.tls, World::ECHO, &config).ok();
        agent.is_some()
    });
    drop((agent, trial.server.join()));
    silent[0].ending();
    trial.assert_ended("too_slow", 1);
    drop(silent);
    trial.assert_unharmed();
}

/// Opens connections that say nothing, with that pause between them, until it is dropped. As many as a
/// gateway takes in and more are held.
struct Flood {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    fn of(site: &Site, pause: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let address = site.gateway.tls;
        let hosts = (10..200).map(|host| site.world.ip(host)).collect::<Vec<_>>();
        let until = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut held = VecDeque::new();
            for &from in hosts.iter().cycle() {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                held.push_back(Peer::dial_from(from, address));
                if held.len() > 400 {
                    held.pop_front();
                }
                thread::sleep(pause);
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed.
            let _ = thread.join();
        }
    }
}

/// The session that lives goes on; a server that was killed comes back; a new session begins.
fn assert_survived(file: &GatewayFile<'_>, pause: Duration) {
    let backend = Backend::by_hand();
    let services = [("echo", backend.address), ("old", backend.address)];
    let server = |world: &World| ServerFile::new(world, &services);
    let mut site = Site::with(file, server);
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    let flood = Flood::of(&site, pause);
    let telemetry = site.gateway.telemetry;
    wait_until("all places of strangers are taken", || {
        telemetry.metric(&ended("too_slow")) + telemetry.metric(&ended("handshakes_full")) > 0
    });
    agent.send(b"still here");
    service.expect(b"still here");
    site.server.kill();
    telemetry.wait_unready();
    site.server = site.world.server(&server(&site.world)).0;
    telemetry.wait_ready();
    let (mut agent, mut service) = site.session(Kind::Plain, &backend);
    agent.send(b"here again");
    service.expect(b"here again");
    drop(flood);
}

#[test]
fn a_server_comes_back_in_a_flood_of_strangers() {
    let file = GatewayFile { limits: "max_handshakes = 100", ..GatewayFile::DEFAULT };
    // Faster than places would become free by the time limit of 10 s, slower than they are taken back.
    assert_survived(&file, Duration::from_millis(10));
}

#[test]
fn a_server_whose_address_is_known_comes_back_in_any_flood_of_strangers() {
    let servers = "addresses = [\"127.0.0.1\"]";
    let file = GatewayFile { limits: "max_handshakes = 16", servers, ..GatewayFile::DEFAULT };
    assert_survived(&file, Duration::ZERO);
}
