//! What one device, one service and one address may have: whoever is over it is refused, and told so;
//! everybody else is served.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use rustls::{AlertDescription, ClientConfig};
use vestibule::pki::Role;
use vestibule::wire::{FromAgent, Open, RefusalReason, alpn, from_agent, to_server};

use super::harness::{
    Authority, Ending, Gateway, GatewayFile, Peer, ScriptedServer, Trial, World, payload,
    wait_until,
};

fn ended(reason: &str) -> String {
    format!("vestibule_connections_ended_total{{reason=\"{reason}\"}}")
}

/// A device of its own, with a certificate of that name.
struct Device {
    foreign: Arc<ClientConfig>,
    ours: Arc<ClientConfig>,
}

impl Device {
    fn new(world: &World, name: &str) -> Self {
        let credentials = world.forge(name, Authority::Of(Role::Device), |_| {});
        let foreign = world.client(Some(&credentials), vec![]);
        let ours = world.client(Some(&credentials), vec![alpn::AGENT.to_vec()]);
        Self { foreign, ours }
    }

    /// As a program that knows nothing of us.
    fn dial(&self, gateway: &Gateway) -> Peer {
        Peer::dial_tls(gateway.tls, World::ECHO, &self.foreign)
    }

    /// As our own agent, which asks for that service.
    fn ask(&self, gateway: &Gateway, service: &str) -> Peer {
        let mut agent = Peer::dial_tls(gateway.tls, World::GATEWAY_NAME, &self.ours);
        let open = from_agent::Message::Open(Open { service: service.to_owned() });
        agent.say(&FromAgent { message: Some(open) });
        agent
    }

    /// Gets a session, which lives as long as what is returned.
    fn join(&self, trial: &Trial) -> (Peer, Peer) {
        let mut agent = self.dial(&trial.gateway);
        let mut data = trial.server.join();
        agent.send(b"hello");
        data.expect(b"hello");
        (agent, data)
    }
}

fn internal_error() -> Ending {
    Ending::Alert(AlertDescription::InternalError)
}

// ---- sessions ----

#[test]
fn a_device_over_its_sessions_is_refused_and_another_device_is_served() {
    let more = "[devices]\nmax_sessions = 2";
    let mut trial = Trial::new(&GatewayFile { workers: 2, more, ..GatewayFile::DEFAULT });
    let [one, other] = ["one.test", "other.test"].map(|name| Device::new(&trial.world, name));
    let held = [one.join(&trial), one.join(&trial)];
    assert_eq!(one.dial(&trial.gateway).ending(), internal_error());
    let refusal = one.ask(&trial.gateway, "echo").refusal();
    assert_eq!(refusal, (RefusalReason::DeviceFull, true), "our agent hears it, and when to come");
    trial.gateway.telemetry.wait_for(&ended("device_full"), 2);
    trial.gateway.process.line("connection ended", &[("reason", "device_full")]);
    drop(other.join(&trial));
    drop(held);
    trial.gateway.telemetry.wait_for("vestibule_sessions", 1);
    drop(one.join(&trial));
    trial.assert_unharmed();
}

#[test]
fn a_device_that_waits_has_its_place_and_gives_it_back_when_it_leaves() {
    let more = "[devices]\nmax_sessions = 1";
    let mut trial = Trial::new(&GatewayFile { more, ..GatewayFile::DEFAULT });
    let device = Device::new(&trial.world, "one.test");
    let waiting = device.dial(&trial.gateway);
    trial.gateway.telemetry.wait_for("vestibule_waiting_agents", 1);
    let invitation = trial.server.invitation();
    assert_eq!(device.dial(&trial.gateway).ending(), internal_error());
    waiting.reset();
    trial.gateway.telemetry.wait_for("vestibule_waiting_agents", 0);
    drop(invitation);
    // The withdrawal.
    trial.server.hear();
    drop(device.join(&trial));
    trial.assert_unharmed();
}

#[test]
fn a_service_that_is_full_is_refused_to_every_device_and_another_is_served() {
    let echo = "[services.limits]\nmax_sessions = 2";
    let mut trial = Trial::new(&GatewayFile { echo, ..GatewayFile::DEFAULT });
    let [one, other] = ["one.test", "other.test"].map(|name| Device::new(&trial.world, name));
    // The witness has the first.
    let held = one.join(&trial);
    assert_eq!(other.ask(&trial.gateway, "echo").refusal(), (RefusalReason::ServiceFull, true));
    trial.gateway.telemetry.wait_for(&ended("service_full"), 1);
    let mut old = Peer::dial(trial.gateway.plain);
    let mut data = trial.server.join();
    old.send(b"hello");
    data.expect(b"hello");
    drop((held, old, data));
    trial.gateway.telemetry.wait_for("vestibule_sessions", 1);
    drop(other.join(&trial));
    trial.assert_unharmed();
}

#[test]
fn a_device_that_begins_sessions_too_fast_is_refused_and_another_is_served() {
    let more = "[devices]\nsessions_per_s = 1\nsessions_burst = 3";
    let mut trial = Trial::new(&GatewayFile { more, ..GatewayFile::DEFAULT });
    let [one, other] = ["one.test", "other.test"].map(|name| Device::new(&trial.world, name));
    let mut begun = 0;
    wait_until("one is refused", || {
        // Nobody serves it, and it counts all the same.
        one.dial(&trial.gateway).reset();
        begun += 1;
        trial.gateway.telemetry.metric(&ended("device_too_fast")) > 0
    });
    assert!(begun > 3, "a burst is allowed");
    let mut agent = other.dial(&trial.gateway);
    // The invitations of those who left are void.
    let mut data = loop {
        let to_server::Message::Invitation(invitation) = trial.server.hear() else { continue };
        let mut data = trial.server.data_connection(&invitation);
        data.claim(invitation.id, &invitation.ticket);
        if data.answer().is_ok() {
            break data.accept();
        }
    };
    agent.send(b"hello");
    data.expect(b"hello");
    drop((agent, data));
    trial.assert_unharmed();
}

#[test]
fn a_service_whose_sessions_begin_too_fast_is_refused_for_a_while() {
    let echo = "[services.limits]\nsessions_per_s = 1\nsessions_burst = 1";
    let mut trial = Trial::new(&GatewayFile { echo, ..GatewayFile::DEFAULT });
    let devices = ["one.test", "other.test"].map(|name| Device::new(&trial.world, name));
    wait_until("some are refused, whichever device they are", || {
        for device in &devices {
            device.dial(&trial.gateway).reset();
        }
        trial.gateway.telemetry.metric(&ended("service_too_fast")) >= 4
    });
    trial.assert_unharmed();
}

#[test]
fn what_a_reload_changes_holds_for_the_next_session() {
    let more = "[devices]\nmax_sessions = 1";
    let mut trial = Trial::new(&GatewayFile { more, ..GatewayFile::DEFAULT });
    let device = Device::new(&trial.world, "one.test");
    let held = device.join(&trial);
    assert_eq!(device.dial(&trial.gateway).ending(), internal_error());
    trial.world.edit("gateway-1.toml", more, "[devices]\nmax_sessions = 2");
    trial.gateway.process.hang_up();
    trial.gateway.telemetry.wait_for("vestibule_reloads_total{result=\"applied\"}", 1);
    let further = device.join(&trial);
    drop((held, further));
    trial.assert_unharmed();
}

// ---- bytes and time ----

/// What a session may have on its way beyond its limit.
const PORTIONS: u64 = 64 * 1024;

/// Bytes that a limit with a burst of 64 KiB has let pass since then.
fn allowed(bytes_per_s: u64, start: Instant) -> u64 {
    let ms = u64::try_from(start.elapsed().as_millis()).expect("a short test");
    64 * 1024 + bytes_per_s * ms / 1000
}

/// Has an agent send as much as it is let, until the other side is gone, and counts what comes.
fn pour((mut agent, mut data): (Peer, Peer)) -> Arc<AtomicU64> {
    thread::spawn(move || while agent.write_all(&[7; 16 * 1024]).is_ok() {});
    let heard = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&heard);
    thread::spawn(move || {
        let mut portion = [0; 16 * 1024];
        while let Ok(len @ 1..) = data.read(&mut portion) {
            count.fetch_add(len as u64, Ordering::Relaxed);
        }
    });
    heard
}

#[test]
fn a_device_over_its_bandwidth_is_paced_and_another_is_not() {
    // Its burst, and what fits the sockets on the way, passes at once.
    const RATE: u64 = 100_000;
    const MUCH: usize = 16 << 20;
    let more = format!("[devices]\nbytes_per_s = {RATE}\nbytes_burst = 65536");
    let file = GatewayFile {
        workers: 2,
        device_certificates: "optional",
        echo: "devices = \"any\"",
        more: &more,
        ..GatewayFile::DEFAULT
    };
    let trial = Trial::new(&file);
    let limited = Device::new(&trial.world, "one.test");
    let start = Instant::now();
    let heard = pour(limited.join(&trial));
    // Somebody without a certificate is no device, and moves far more meanwhile.
    let anonymous = trial.world.client(None, vec![]);
    let mut free = Peer::dial_tls(trial.gateway.tls, World::ECHO, &anonymous);
    let mut data = trial.server.join();
    let writer = thread::spawn(move || {
        free.send(&vec![7; MUCH]);
        free
    });
    assert!(Peer::take(&mut data, MUCH).iter().all(|byte| *byte == 7));
    // Closed before, it would have reset what was still on its way.
    drop(writer.join().expect("all is taken"));
    wait_until("the limited one gets on", || heard.load(Ordering::Relaxed) > 3 * RATE);
    let passed = heard.load(Ordering::Relaxed);
    assert!(passed <= allowed(RATE, start) + PORTIONS, "{passed} bytes");
    assert!(trial.gateway.telemetry.metric("vestibule_throttle_pauses_total") > 0);
}

#[test]
fn sessions_of_one_device_share_its_bandwidth_on_all_workers() {
    const RATE: u64 = 200_000;
    let more = format!("[devices]\nbytes_per_s = {RATE}\nbytes_burst = 65536");
    let trial = Trial::new(&GatewayFile { workers: 2, more: &more, ..GatewayFile::DEFAULT });
    let device = Device::new(&trial.world, "one.test");
    let start = Instant::now();
    let heard: Vec<_> = (0..4).map(|_| pour(device.join(&trial))).collect();
    wait_until("each of them gets on", || {
        heard.iter().all(|count| count.load(Ordering::Relaxed) > RATE / 2)
    });
    let passed: u64 = heard.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    assert!(passed <= allowed(RATE, start) + 4 * PORTIONS, "{passed} bytes");
}

#[test]
fn a_session_that_is_held_back_ends_with_all_its_bytes() {
    let echo =
        "[services.limits]\nbytes_per_s = 200000\nbytes_burst = 65536\nidle_timeout_ms = 1000";
    let trial = Trial::new(&GatewayFile { echo, ..GatewayFile::DEFAULT });
    let device = Device::new(&trial.world, "one.test");
    let (mut agent, mut data) = device.join(&trial);
    let writer = thread::spawn(move || {
        agent.send(&payload(1, 400_000));
        agent.end();
        agent.rest()
    });
    assert_eq!(data.rest(), (payload(1, 400_000), Ending::Clean));
    data.send(b"thanks");
    data.end();
    assert_eq!(writer.join().expect("no panic"), (b"thanks".to_vec(), Ending::Clean));
}

#[test]
fn a_service_has_an_idle_timeout_of_its_own() {
    let more = "[[services]]\nname = \"short\"\nsni = [\"short.gateway.test\"]\n\
                [services.limits]\nidle_timeout_ms = 1500";
    let mut trial = Trial::new(&GatewayFile { more, ..GatewayFile::DEFAULT });
    let second = ScriptedServer::new(&trial.world, "server-2.test", trial.gateway.tls, &["short"]);
    let config = trial.world.foreign_config();
    let mut agent = Peer::dial_tls(trial.gateway.tls, "short.gateway.test", &config);
    let mut data = second.join();
    assert_eq!((agent.ending(), data.ending()), (Ending::Reset, Ending::Reset));
    let sample = "vestibule_sessions_ended_total{service=\"short\",reason=\"idle_timeout\"}";
    trial.gateway.telemetry.wait_for(sample, 1);
    drop(second);
    // The witness is of another service, and was as quiet.
    trial.assert_unharmed();
}

// ---- plain listeners ----

#[test]
fn a_plain_listener_turns_away_addresses_that_are_not_listed() {
    let agents_from = "[\"127.0.0.1\"]";
    let file = GatewayFile { agents_from, ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let stranger = trial.world.ip(7);
    for _ in 0..3 {
        Peer::dial_from(stranger, trial.gateway.plain).ending();
    }
    trial.gateway.telemetry.wait_for(&ended("address_not_allowed"), 3);
    let process = &trial.gateway.process;
    process.line("connections turned away", &[("reason", "address_not_allowed")]);
    let mut agent = Peer::dial(trial.gateway.plain);
    let mut data = trial.server.join();
    agent.send(b"hello");
    data.expect(b"hello");
    drop((agent, data));
    trial.assert_unharmed();
}

#[test]
fn behind_a_balancer_the_address_in_the_header_is_judged() {
    let agents_from = "[\"203.0.113.0/24\"]";
    let old = "proxy_protocol_from = [\"127.0.0.1\"]";
    let mut trial = Trial::new(&GatewayFile { agents_from, old, ..GatewayFile::DEFAULT });
    let dial = |header: &str| {
        let mut peer = Peer::dial(trial.gateway.plain);
        peer.send(header.as_bytes());
        peer
    };
    let mut agent = dial("PROXY TCP4 203.0.113.7 192.0.2.1 40000 14000\r\nhello");
    let mut data = trial.server.join();
    data.expect(b"hello");
    data.send(b"welcome");
    agent.expect(b"welcome");
    let headers = ["PROXY TCP4 198.51.100.7 192.0.2.1 40000 14000\r\n", "PROXY UNKNOWN\r\n"];
    for header in headers {
        assert_eq!(dial(header).ending(), Ending::Reset);
    }
    drop((agent, data));
    trial.assert_ended("address_not_allowed", 2);
}
