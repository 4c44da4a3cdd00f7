//! More connections than anybody has use for, in every stage: those who have a session keep it, and a new
//! agent gets one meanwhile.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::ClientConnection;
use vestibule::wire::alpn::{self, Hint};

use super::harness::{GatewayFile, Peer, Trial, World, wait_until};

/// Within the limits of a gateway by default, and of what a process may open on most machines.
const MANY: usize = 1_500;

const ACCEPTED: &str = "vestibule_connections_accepted_total";
const HANDSHAKES: &str = "vestibule_handshakes";
const SHED: &str = "vestibule_connections_ended_total{reason=\"too_slow\"}";
const TURNED_AWAY: &str = "vestibule_connections_ended_total{reason=\"handshakes_full\"}";

/// The floods of all tests together would be more than that.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trial {
    /// Opens many connections, from many addresses; each says this much. They are there once the gateway
    /// has accepted them all.
    fn flood(&self, address: SocketAddr, count: usize, says: &[u8]) -> Vec<Peer> {
        // Each has a descriptor here as well.
        vestibule::engine::raise_descriptor_limit();
        let before = self.gateway.telemetry.metric(ACCEPTED);
        let flood = (0..count).map(|number| {
            let source = self.world.ip(u8::try_from(100 + number % 100).expect("below 200"));
            let mut peer = Peer::dial_from(source, address);
            // It may be turned away already.
            let _ = peer.write_all(says);
            peer
        });
        let flood = flood.collect();
        wait_until("all of the flood is accepted", || {
            self.gateway.telemetry.metric(ACCEPTED) >= before + count as u64
        });
        flood
    }

    /// A new agent gets a session.
    fn assert_open(&self) {
        let mut agent = self.world.foreign_agent(&self.gateway);
        let mut data = self.server.join();
        agent.send(b"from the agent");
        data.expect(b"from the agent");
        data.send(b"from the server");
        agent.expect(b"from the server");
    }
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let _alone = alone();
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let flood = trial.flood(trial.gateway.tls, MANY, b"");
    trial.assert_open();
    drop(flood);
    trial.assert_unharmed();
}

#[test]
fn hellos_that_never_end_keep_nobody_out() {
    let _alone = alone();
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let hello = trial.world.client_hello();
    let flood = trial.flood(trial.gateway.tls, MANY, &hello[..hello.len() - 1]);
    trial.assert_open();
    drop(flood);
    trial.assert_unharmed();
}

#[test]
fn handshakes_that_are_never_finished_keep_nobody_out() {
    let _alone = alone();
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let flood = trial.flood(trial.gateway.tls, MANY / 3, &trial.world.client_hello());
    trial.assert_open();
    drop(flood);
    trial.assert_unharmed();
}

/// Strangers know the hint of a worker from whoever saw a data connection begin.
#[test]
fn connections_that_one_worker_passes_on_to_another_count_there() {
    const BOUND: u64 = 8;
    let limits = "max_handshakes = 8\nadmission_timeout_ms = 60000";
    let file = GatewayFile { workers: 2, limits, ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let hint = Hint { instance: trial.server.hello.instance.clone(), worker: 0 };
    let config = trial.world.client(None, vec![alpn::DATA.to_vec(), hint.to_alpn()]);
    let name = World::GATEWAY_NAME.try_into().expect("a name");
    let mut tls = ClientConnection::new(config, name).expect("a configuration");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("a Vec takes it");
    let mut peers = Vec::new();
    // One after the other, so that none is turned away by the worker that accepts it.
    for count in 1..=40 {
        let mut peer = Peer::dial(trial.gateway.tls);
        // It may be turned away already.
        let _ = peer.write_all(&hello);
        peers.push(peer);
        let mut handshakes = 0;
        wait_until("each has its place, is turned away, or gave its place to another", || {
            let metrics = [HANDSHAKES, TURNED_AWAY, SHED];
            let [held, refused, shed] = trial.gateway.telemetry.metrics(metrics);
            handshakes = held;
            held + refused + shed == count
        });
        assert!(handshakes <= BOUND, "{handshakes} handshakes");
    }
    drop(peers);
    trial.assert_unharmed();
}

#[test]
fn a_flood_that_outlasts_its_welcome_is_gone_by_itself() {
    let _alone = alone();
    let file = GatewayFile { limits: "admission_timeout_ms = 2000", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let flood = trial.flood(trial.gateway.tls, MANY, b"");
    trial.assert_unharmed();
    drop(flood);
}
