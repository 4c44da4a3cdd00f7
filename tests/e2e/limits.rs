//! What one device, one service and one address may have: whoever is over it is refused, and told so;
//! everybody else is served.

use std::sync::Arc;

use rustls::{AlertDescription, ClientConfig};
use vestibule::pki::Role;
use vestibule::wire::{FromAgent, Open, RefusalReason, alpn, from_agent, to_server};

use super::harness::{Authority, Ending, Gateway, GatewayFile, Peer, Trial, World, wait_until};

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
