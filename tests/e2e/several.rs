//! Several gateways and several servers: all are used, and the loss of one costs only what was on it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::harness::{
    AgentFile, Backend, Ending, Gateway, GatewayFile, Peer, Process, ServerFile, Telemetry, World,
    wait_until,
};

/// Two gateways; two servers, each at both gateways and with a backend of its own; an agent of ours that
/// knows both gateways.
struct Pair {
    world: World,
    gateways: [Gateway; 2],
    servers: [Process; 2],
    server_telemetry: [Telemetry; 2],
    backends: [Backend; 2],
    _agent: Process,
    forward: SocketAddr,
}

const GATEWAY_HOSTS: [u8; 2] = [1, 5];

fn gateway_file(index: usize) -> GatewayFile<'static> {
    GatewayFile { host: GATEWAY_HOSTS[index], ..GatewayFile::DEFAULT }
}

fn gateway_addresses(world: &World) -> Vec<String> {
    GATEWAY_HOSTS.map(|host| world.address(host, 13_000).to_string()).to_vec()
}

fn start_server(world: &World, index: usize, backend: &Backend) -> (Process, Telemetry) {
    let (host, name) = [(2, "server-1.test"), (3, "server-2.test")][index];
    let file = ServerFile::new(world, &[("echo", backend.address)]);
    world.server(&ServerFile { host, name, gateways: gateway_addresses(world), ..file })
}

impl Pair {
    fn new() -> Self {
        let world = World::new();
        let backends = [Backend::by_hand(), Backend::by_hand()];
        let gateways = [0, 1].map(|index| world.gateway(&gateway_file(index)));
        let started = [0, 1].map(|index| start_server(&world, index, &backends[index]));
        let server_telemetry = [started[0].1, started[1].1];
        let servers = started.map(|(process, _)| process);
        let file = AgentFile { gateways: gateway_addresses(&world), ..AgentFile::new(&world) };
        let (agent, forward) = world.agent(&file);
        let pair =
            Self { world, gateways, servers, server_telemetry, backends, _agent: agent, forward };
        (0..2).for_each(|gateway| pair.wait_for_servers(gateway, [1, 1]));
        pair
    }

    /// Waits until the gateway has so many signal connections of each server.
    fn wait_for_servers(&self, gateway: usize, counts: [u64; 2]) {
        for (name, count) in ["server-1.test", "server-2.test"].into_iter().zip(counts) {
            let sample = format!("vestibule_signal_connections{{server=\"{name}\"}}");
            self.gateways[gateway].telemetry.wait_for(&sample, count);
        }
    }

    /// A foreign agent at a gateway, and what its backend has of it.
    fn foreign(&self, gateway: usize) -> Session {
        self.served(self.world.foreign_agent(&self.gateways[gateway]))
    }

    /// A program behind our agent.
    fn forwarded(&self) -> Session {
        self.served(Peer::dial(self.forward))
    }

    /// Finds out which backend got it.
    fn served(&self, mut agent: Peer) -> Session {
        let mut found = None;
        wait_until("one of the backends has the session", || {
            let mut tried = (0..2).filter_map(|i| Some((i, self.backends[i].try_accept()?)));
            found = tried.next();
            found.is_some()
        });
        let (server, mut service) = found.expect("it was waited for");
        service.send(b"welcome");
        agent.expect(b"welcome");
        Session { agent, service, server }
    }
}

struct Session {
    agent: Peer,
    service: Peer,
    server: usize,
}

impl Session {
    fn moves_bytes(&mut self) {
        self.agent.send(b"ping");
        self.service.expect(b"ping");
        self.service.send(b"pong");
        self.agent.expect(b"pong");
    }

    fn was_cut(mut self) {
        assert_ne!(self.agent.ending(), Ending::Clean);
        // Its server may have been killed, and the kernel ends plain TCP cleanly.
        self.service.rest();
    }
}

#[test]
fn all_gateways_and_all_servers_are_used() {
    let pair = Pair::new();
    let mut sessions: Vec<_> = (0..8).map(|number| pair.foreign(number % 2)).collect();
    sessions.extend((0..2).map(|_| pair.forwarded()));
    sessions.iter_mut().for_each(Session::moves_bytes);
    let servers: BTreeSet<_> = sessions.iter().map(|session| session.server).collect();
    assert_eq!(servers, BTreeSet::from([0, 1]));
    for gateway in &pair.gateways {
        assert!(gateway.telemetry.metric("vestibule_sessions") >= 4);
    }
    for telemetry in pair.server_telemetry {
        assert!(telemetry.metric("vestibule_sessions") >= 4, "the load is shared");
    }
}

#[test]
fn the_loss_of_a_gateway_costs_only_its_sessions_and_new_ones_flow_at_once() {
    let mut pair = Pair::new();
    let mut kept: Vec<_> = (0..4).map(|_| pair.foreign(1)).collect();
    let lost: Vec<_> = (0..4).map(|_| pair.foreign(0)).collect();
    pair.gateways[0].process.kill();
    // At once: nobody waits for anybody to notice.
    pair.foreign(1).moves_bytes();
    pair.forwarded().moves_bytes();
    lost.into_iter().for_each(Session::was_cut);
    kept.iter_mut().for_each(Session::moves_bytes);
    pair.gateways[0] = pair.world.gateway(&gateway_file(0));
    pair.wait_for_servers(0, [1, 1]);
    pair.foreign(0).moves_bytes();
    kept.iter_mut().for_each(Session::moves_bytes);
}

#[test]
fn the_loss_of_a_server_costs_only_its_sessions_and_new_ones_flow_at_once() {
    let mut pair = Pair::new();
    let sessions: Vec<_> = (0..8).map(|number| pair.foreign(number % 2)).collect();
    let (lost, mut kept): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|session| session.server == 0);
    assert!(!lost.is_empty() && !kept.is_empty());
    pair.servers[0].kill();
    for gateway in 0..2 {
        let mut session = pair.foreign(gateway);
        assert_eq!(session.server, 1);
        session.moves_bytes();
    }
    pair.forwarded().moves_bytes();
    lost.into_iter().for_each(Session::was_cut);
    kept.iter_mut().for_each(Session::moves_bytes);
    (pair.servers[0], pair.server_telemetry[0]) = start_server(&pair.world, 0, &pair.backends[0]);
    (0..2).for_each(|gateway| pair.wait_for_servers(gateway, [1, 1]));
    let mut found = BTreeSet::new();
    let mut more = Vec::new();
    while found.len() < 2 && more.len() < 8 {
        more.push(pair.foreign(more.len() % 2));
        found.extend(more.last().map(|session| session.server));
    }
    assert_eq!(found, BTreeSet::from([0, 1]), "the server that is back is used");
    more.iter_mut().for_each(Session::moves_bytes);
}
