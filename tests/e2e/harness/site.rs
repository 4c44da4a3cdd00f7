use std::net::SocketAddr;
use std::thread;

use super::{
    Backend, Ending, Gateway, GatewayFile, Peer, Process, ServerFile, Telemetry, World, payload,
    wait_until,
};

/// The whole way: a gateway and a server that serves it.
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) gateway: Gateway,
    pub(crate) server: Process,
    pub(crate) server_telemetry: Telemetry,
}

impl Site {
    /// Both services lead to that backend.
    pub(crate) fn new(backend: SocketAddr) -> Self {
        Self::of(&GatewayFile::DEFAULT, backend)
    }

    /// The same with that gateway.
    pub(crate) fn of(gateway: &GatewayFile<'_>, backend: SocketAddr) -> Self {
        let services = [("echo", backend), ("old", backend)];
        Self::with(gateway, |world| ServerFile::new(world, &services))
    }

    /// Waits until sessions are possible.
    pub(crate) fn with(
        gateway: &GatewayFile<'_>,
        server: impl FnOnce(&World) -> ServerFile,
    ) -> Self {
        Self::in_world(World::new(), gateway, server)
    }

    /// The same in a world that was made before.
    pub(crate) fn in_world(
        world: World,
        gateway: &GatewayFile<'_>,
        server: impl FnOnce(&World) -> ServerFile,
    ) -> Self {
        let gateway = world.gateway(gateway);
        let (server, server_telemetry) = world.server(&server(&world));
        gateway.telemetry.wait_ready();
        Self { world, gateway, server, server_telemetry }
    }

    /// An agent over TLS, or on the plain port, and what the backend has of it. They have talked
    /// already, so the gateway too knows that the session stands.
    pub(crate) fn session(&self, kind: Kind, backend: &Backend) -> (Peer, Peer) {
        let agent = match kind {
            Kind::Tls => self.world.foreign_agent(&self.gateway),
            Kind::Plain => Peer::dial(self.gateway.plain),
        };
        welcomed(agent, backend)
    }

    /// Asserts that `count` sessions ended for that reason, in the gateway's log and metric, and
    /// that none is left at either.
    pub(crate) fn assert_ended(&self, reason: &str, count: usize) {
        let Gateway { process, telemetry, .. } = &self.gateway;
        wait_until(&format!("{count} sessions ended for {reason}"), || {
            process.count("session ended", &[("reason", reason)]) == count
        });
        let sum: u64 = ["echo", "old"]
            .map(|service| {
                let labels = format!("service=\"{service}\",reason=\"{reason}\"");
                telemetry.metric(&format!("vestibule_sessions_ended_total{{{labels}}}"))
            })
            .iter()
            .sum();
        assert_eq!(sum, count as u64, "the metric says the same");
        for telemetry in [telemetry, &self.server_telemetry] {
            telemetry.wait_for("vestibule_sessions", 0);
            wait_until("no connection is left but spares", || {
                let [connections, spares] =
                    telemetry.metrics(["vestibule_connections", "vestibule_spares"]);
                connections == spares
            });
        }
    }
}

/// How an agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tls,
    Plain,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Tls, Self::Plain];
}

/// A message each way of a session.
pub(crate) fn assert_talks((agent, service): &mut (Peer, Peer)) {
    agent.send(b"from the agent");
    service.expect(b"from the agent");
    service.send(b"from the backend");
    agent.expect(b"from the backend");
}

/// An agent, and what the backend has of it, once the backend has spoken.
pub(crate) fn welcomed(mut agent: Peer, backend: &Backend) -> (Peer, Peer) {
    let mut service = backend.accept();
    service.send(b"welcome");
    agent.expect(b"welcome");
    (agent, service)
}

/// Asserts that the return path stays open behind the agent's end.
pub(crate) fn assert_agent_may_end_first((mut agent, mut service): (Peer, Peer)) {
    agent.send(b"question");
    agent.end();
    assert_eq!(service.rest(), (b"question".to_vec(), Ending::Clean));
    service.send(b"answer");
    service.end();
    assert_eq!(agent.rest(), (b"answer".to_vec(), Ending::Clean));
}

/// Asserts that the way there stays open behind the backend's end.
pub(crate) fn assert_backend_may_end_first((mut agent, mut service): (Peer, Peer)) {
    service.send(b"greeting");
    service.end();
    assert_eq!(agent.rest(), (b"greeting".to_vec(), Ending::Clean));
    agent.send(b"late words");
    agent.end();
    assert_eq!(service.rest(), (b"late words".to_vec(), Ending::Clean));
}

/// Asserts that as many bytes arrive whole in both directions at once, with both ends.
pub(crate) fn assert_bulk((mut agent, mut service): (Peer, Peer), len: usize) {
    let (up, down) = (payload(4, len), payload(5, len));
    thread::scope(|scope| {
        let upload = up.clone();
        let mut writer = Peer::plain(service.socket().try_clone().expect("a descriptor"));
        scope.spawn(move || {
            writer.send(&down);
            writer.end();
        });
        // One after the other at the agent, whose TLS is one object; the way is full meanwhile.
        scope.spawn(move || assert!(service.rest() == (upload, Ending::Clean)));
        agent.send(&up);
        agent.end();
        assert!(agent.rest() == (payload(5, len), Ending::Clean));
    });
}
