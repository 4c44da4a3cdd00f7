//! Agents that do what the protocol allows, and more of it than anybody needs: slowly, in small pieces,
//! with keys that change all the time and chains as long as can be.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use vestibule::wire::{FromAgent, Open, encode, from_agent};

use super::harness::{Backend, Ending, GatewayFile, Kind, LONG, Peer, Site, Trial, World, payload};

/// A time short enough to be met in a test, and long enough for whoever is to be let in on a slow machine.
const IMPATIENT: GatewayFile<'_> =
    GatewayFile { limits: "admission_timeout_ms = 2000", ..GatewayFile::DEFAULT };

/// Sends one byte after the other, slowly, until the other side has had enough.
fn dribble(peer: &mut Peer, bytes: &[u8]) {
    let start = Instant::now();
    let sent = bytes.iter().take_while(|byte| {
        assert!(start.elapsed() < LONG, "the gateway should have lost its patience");
        std::thread::sleep(Duration::from_millis(20));
        peer.write_all(&[**byte]).is_ok()
    });
    assert!(sent.count() < bytes.len(), "the gateway has all the time in the world");
}

/// What a client says after its hello, up to the end of its handshake.
fn last_flight(socket: &mut TcpStream, mut tls: ClientConnection) -> Vec<u8> {
    tls.write_tls(socket).expect("the gateway takes a hello");
    let mut flight = Vec::new();
    while tls.is_handshaking() {
        tls.read_tls(socket).expect("the gateway answers");
        tls.process_new_packets().expect("the gateway is known");
        while tls.wants_write() {
            tls.write_tls(&mut flight).expect("a Vec takes it");
        }
    }
    flight
}

#[test]
fn a_handshake_byte_by_byte_does_not_stretch_the_admission_timeout() {
    let mut trial = Trial::new(&IMPATIENT);
    let name = World::ECHO.try_into().expect("a name");
    let tls = ClientConnection::new(trial.world.foreign_config(), name).expect("accepted");
    let mut slow = Peer::dial(trial.gateway.tls);
    let mut socket = slow.socket().try_clone().expect("a descriptor");
    let flight = last_flight(&mut socket, tls);
    dribble(&mut slow, &flight);
    drop((slow, socket));
    trial.assert_ended("admission_timeout", 1);
}

#[test]
fn a_request_byte_by_byte_does_not_stretch_the_admission_timeout() {
    let mut trial = Trial::new(&IMPATIENT);
    let mut slow = trial.world.our_agent(&trial.gateway);
    let open = from_agent::Message::Open(Open { service: "x".repeat(2_000) });
    let mut frame = Vec::new();
    encode(&FromAgent { message: Some(open) }, &mut frame);
    dribble(&mut slow, &frame);
    drop(slow);
    trial.assert_ended("admission_timeout", 1);
}

#[test]
fn records_of_one_byte_arrive_as_sent() {
    let site = Site::new(Backend::echo());
    let mut agent = site.world.foreign_agent(&site.gateway);
    let bytes = payload(1, 5_000);
    for byte in &bytes {
        agent.send(&[*byte]);
    }
    assert!(agent.take(bytes.len()) == bytes);
    agent.end();
    assert_eq!(agent.ending(), Ending::Clean);
    site.assert_ended("finished", 1);
}

#[test]
fn keys_that_change_with_every_byte_cost_a_session_nothing_but_time() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    for byte in payload(1, 500) {
        agent.update_keys().expect("the gateway listens");
        agent.send(&[byte]);
        service.expect(&[byte]);
        service.send(&[byte]);
        agent.expect(&[byte]);
    }
    agent.end();
    assert_eq!(service.ending(), Ending::Clean);
    service.end();
    assert_eq!(agent.ending(), Ending::Clean);
    site.assert_ended("finished", 1);
}

#[test]
fn a_storm_of_key_updates_ends_its_own_session_and_no_other() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut agent = trial.world.foreign_agent(&trial.gateway);
    let mut data = trial.server.join();
    agent.send(b"before the storm");
    data.expect(b"before the storm");
    // The gateway may end it before the last.
    let _ = (0..100).try_for_each(|_| agent.update_keys());
    assert_eq!(data.ending(), Ending::Reset);
    trial.gateway.process.line("session ended", &[("reason", "agent_corrupt")]);
    drop((agent, data));
    trial.assert_unharmed();
}

#[test]
fn chains_as_deep_and_as_large_as_allowed_are_let_in_and_others_hear_why_not() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    for (name, between, padding) in [("deep.test", 6, 0), ("large.test", 2, 28_000)] {
        let own = trial.world.forge_chain(name, between, padding);
        let config = trial.world.client(Some(&own), vec![]);
        let mut agent = Peer::dial_tls(trial.gateway.tls, World::ECHO, &config);
        let (data, header) = trial.server.claim(&trial.server.invitation());
        assert_eq!(header.device, name);
        let mut data = data.accept();
        agent.send(b"let in");
        data.expect(b"let in");
    }
    let refused = [
        ("deeper.test", 7, 0, "certificate_untrusted"),
        ("larger.test", 2, 34_000, "handshake_failed"),
        ("longest.test", 150, 0, "handshake_failed"),
    ];
    for (name, between, padding, reason) in refused {
        let own = trial.world.forge_chain(name, between, padding);
        let config = trial.world.client(Some(&own), vec![]);
        let count = trial.gateway.process.count("connection ended", &[("reason", reason)]);
        // It may be refused before all of the chain was sent.
        if let Ok(mut agent) = Peer::try_dial_tls(trial.gateway.tls, World::ECHO, &config) {
            agent.rest();
        }
        trial.assert_ended(reason, count as u64 + 1);
    }
}
