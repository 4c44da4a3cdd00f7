//! Bytes that have no place at a gateway's doors: each connection ends with its reason, and nobody
//! else notices.

use std::io::Write;
use std::time::{Duration, Instant};

use rustls::AlertDescription;
use vestibule::wire::{
    FromServer, Ping, Pong, RefusalReason, ServerHello, alpn, from_server, to_server,
};

use super::harness::{Ending, GatewayFile, LONG, Peer, Process, Trial, World, wait_until};

/// A time short enough to be met in a test, and long enough for whoever is to be let in on a slow machine.
const IMPATIENT: GatewayFile<'_> =
    GatewayFile { limits: "admission_timeout_ms = 2000", ..GatewayFile::DEFAULT };

#[test]
fn garbage_on_13000_is_not_tls() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut stranger = Peer::dial(trial.gateway.tls);
    stranger.send(&[0xa5; 4096]);
    stranger.rest();
    drop(stranger);
    trial.assert_ended("not_tls", 1);
}

#[test]
fn a_plain_http_client_on_13000_is_not_tls() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let url = format!("http://{}/", trial.gateway.tls);
    let status = Process::any("curl").args(["--silent", "--max-time", "20", &url]).status();
    assert!(!status.expect("curl is installed").success());
    trial.assert_ended("not_tls", 1);
}

#[test]
fn tls_on_14000_is_refused() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut stranger = Peer::dial(trial.gateway.plain);
    stranger.send(&trial.world.client_hello());
    assert_eq!(stranger.ending(), Ending::Reset);
    trial.assert_ended("unexpected_tls", 1);
}

#[test]
fn tls_on_14000_is_an_opaque_stream_where_the_listener_allows_it_by_name() {
    let file = GatewayFile { old: "allow_tls = true", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let hello = trial.world.client_hello();
    let mut agent = Peer::dial(trial.gateway.plain);
    agent.send(&hello);
    let mut data = trial.server.join();
    data.expect(&hello);
    agent.reset();
    assert_eq!(data.ending(), Ending::Reset);
    trial.assert_unharmed();
}

#[test]
fn silence_after_connect_ends_with_the_admission_timeout() {
    let mut trial = Trial::new(&IMPATIENT);
    let mut silent = Peer::dial(trial.gateway.tls);
    assert_eq!(silent.ending(), Ending::Clean);
    drop(silent);
    trial.assert_ended("admission_timeout", 1);
}

#[test]
fn silence_of_our_own_agent_after_the_handshake_ends_with_the_admission_timeout() {
    let mut trial = Trial::new(&IMPATIENT);
    let mut silent = trial.world.our_agent(&trial.gateway);
    assert_eq!(silent.ending(), Ending::Clean);
    drop(silent);
    trial.assert_ended("admission_timeout", 1);
}

#[test]
fn one_byte_after_the_other_does_not_stretch_the_admission_timeout() {
    let mut trial = Trial::new(&IMPATIENT);
    let mut slow = Peer::dial(trial.gateway.tls);
    let start = Instant::now();
    for byte in trial.world.client_hello() {
        if slow.write_all(&[byte]).is_err() {
            break;
        }
        assert!(start.elapsed() < LONG, "the gateway should have lost its patience");
        std::thread::sleep(Duration::from_millis(20));
    }
    trial.assert_ended("admission_timeout", 1);
}

#[test]
fn a_handshake_that_stops_halfway_fails() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let hello = trial.world.client_hello();
    let mut stranger = Peer::dial(trial.gateway.tls);
    stranger.send(&hello[..hello.len() / 2]);
    stranger.truncate();
    stranger.rest();
    drop(stranger);
    trial.assert_ended("handshake_failed", 1);
}

#[test]
fn a_damaged_client_hello_fails() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut hello = trial.world.client_hello();
    // The length of the session id, far beyond what is allowed.
    hello[43] = 0xff;
    let mut stranger = Peer::dial(trial.gateway.tls);
    stranger.send(&hello);
    stranger.rest();
    drop(stranger);
    trial.assert_ended("handshake_failed", 1);
}

#[test]
fn an_oversized_frame_of_an_agent_is_invalid() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut agent = trial.world.our_agent(&trial.gateway);
    agent.send(&[0xff, 0xff, 0xff, 0xff]);
    assert_eq!(agent.refusal(), (RefusalReason::ProtocolError, false));
    drop(agent);
    trial.assert_ended("frame_invalid", 1);
}

#[test]
fn a_malformed_frame_of_an_agent_is_invalid() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut agent = trial.world.our_agent(&trial.gateway);
    agent.send(&[0, 0, 0, 2, 0x0a, 0x7f]);
    assert_eq!(agent.refusal(), (RefusalReason::ProtocolError, false));
    drop(agent);
    trial.assert_ended("frame_invalid", 1);
}

#[test]
fn a_frame_cut_short_is_the_end_of_its_agent() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut agent = trial.world.our_agent(&trial.gateway);
    agent.send(&[0, 0, 0, 9, 0x0a]);
    agent.truncate();
    agent.rest();
    drop(agent);
    trial.assert_ended("agent_truncated", 1);
}

#[test]
fn a_message_of_a_later_release_is_unknown() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut agent = trial.world.our_agent(&trial.gateway);
    agent.send(&LATER_MESSAGE);
    assert_eq!(agent.refusal(), (RefusalReason::ProtocolError, false));
    drop(agent);
    trial.assert_ended("message_unknown", 1);
}

#[test]
fn a_later_version_of_our_protocol_gets_no_session() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let own = trial.world.credentials("laptop-7.test");
    let config = trial.world.client(Some(&own), vec![b"vestibule-agent/2".to_vec()]);
    let failed = Peer::try_dial_tls(trial.gateway.tls, World::GATEWAY_NAME, &config);
    assert_eq!(
        failed.err().map(|error| Ending::of(&error)),
        Some(Ending::Alert(AlertDescription::UnrecognisedName))
    );
    trial.assert_ended("service_unknown", 1);
}

#[test]
fn an_unknown_service_is_refused_by_message_and_by_alert() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut agent = trial.world.ask(&trial.gateway, "payroll");
    assert_eq!(agent.refusal(), (RefusalReason::ServiceUnknown, false));
    drop(agent);
    trial.assert_ended("service_unknown", 1);

    let config = trial.world.foreign_config();
    let failed = Peer::try_dial_tls(trial.gateway.tls, "payroll.gateway.test", &config);
    assert_eq!(
        failed.err().map(|error| Ending::of(&error)),
        Some(Ending::Alert(AlertDescription::UnrecognisedName))
    );
    trial.assert_ended("service_unknown", 2);
}

#[test]
fn a_signal_connection_that_breaks_the_protocol_is_closed_and_its_agents_are_not() {
    let broken: [(&str, &[u8]); 3] = [
        ("frame_invalid", &[0xff, 0xff, 0xff, 0xff]),
        ("message_unknown", &LATER_MESSAGE),
        // An empty message, where something is to be said.
        ("frame_invalid", &[0, 0, 0, 2, 0x0a, 0x7f]),
    ];
    for (reason, bytes) in broken {
        let mut trial = Trial::new(&GatewayFile::DEFAULT);
        trial.server.say_raw(bytes);
        trial.server.wait_until_closed();
        trial.gateway.process.line("connection ended", &[("reason", reason), ("role", "server")]);
        trial.assert_ended(reason, 1);
    }
}

#[test]
fn the_last_hello_of_a_server_holds_also_one_that_offers_nothing() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    trial.server.say(from_server::Message::ServerHello(ServerHello::default()));
    // Once this is answered, the hello was heard.
    trial.server.say(from_server::Message::Ping(Ping { nonce: 7 }));
    assert_eq!(trial.server.hear(), to_server::Message::Pong(Pong { nonce: 7 }));
    let mut agent = trial.world.ask(&trial.gateway, "echo");
    assert_eq!(agent.refusal(), (RefusalReason::NoServer, true));
    drop(agent);
    trial.assert_ended("no_server", 1);
}

#[test]
fn a_signal_connection_that_does_not_begin_with_hello_is_closed() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let config = trial.world.server_client("server-2.test", vec![alpn::SIGNAL.to_vec()]);
    let mut signal = Peer::dial_tls(trial.gateway.tls, World::GATEWAY_NAME, &config);
    signal.say(&FromServer { message: Some(from_server::Message::Ping(Ping { nonce: 1 })) });
    signal.rest();
    drop(signal);
    trial.assert_ended("message_unexpected", 1);
}

#[test]
fn agents_beyond_their_part_of_the_connections_are_refused() {
    // A sixteenth is the reserve; of the rest half is for agents: the witness and six that wait.
    let file = GatewayFile { limits: "max_connections = 16", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let waiting: Vec<_> = (0..6).map(|_| trial.world.foreign_agent(&trial.gateway)).collect();
    trial.gateway.telemetry.wait_for("vestibule_waiting_agents", 6);
    let config = trial.world.foreign_config();
    assert!(Peer::try_dial_tls(trial.gateway.tls, World::ECHO, &config).is_err());
    Peer::dial(trial.gateway.plain).ending();
    trial.gateway.telemetry.wait_for(&ended("connections_full"), 2);
    // Those who wait still find room for their data connections.
    let mut joined: Vec<_> = waiting.iter().map(|_| trial.server.join()).collect();
    joined[0].send(b"hello");
    drop((waiting, joined));
    trial.assert_unharmed();
}

#[test]
fn handshakes_beyond_the_bound_are_turned_away() {
    let file = GatewayFile { limits: "max_handshakes = 4", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    // Until one comes while the four before it have not yet been silent for long.
    let mut silent = Vec::new();
    wait_until("one is turned away", || {
        silent.push(Peer::dial(trial.gateway.tls));
        trial.gateway.telemetry.metric(&ended("handshakes_full")) > 0
    });
    trial.gateway.process.line("connections turned away", &[("reason", "handshakes_full")]);
    drop(silent);
    trial.assert_unharmed();
}

#[test]
fn a_flood_of_garbage_leaves_nothing_behind() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    for seed in 0..100_u8 {
        let mut stranger = Peer::dial(trial.gateway.tls);
        // The gateway may have seen enough before all of it was sent.
        let _ = stranger.write_all(&vec![seed | 0x80; 64 * 1024]);
    }
    trial.gateway.telemetry.wait_for("vestibule_connections_ended_total{reason=\"not_tls\"}", 100);
    trial.gateway.process.line("suppressed lines about strangers", &[]);
    trial.assert_unharmed();
}

/// Field 99, an empty message.
const LATER_MESSAGE: [u8; 7] = [0, 0, 0, 3, 0x9a, 0x06, 0x00];

fn ended(reason: &str) -> String {
    format!("vestibule_connections_ended_total{{reason=\"{reason}\"}}")
}
