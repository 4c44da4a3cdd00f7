use super::{Gateway, GatewayFile, Peer, ScriptedServer, World, assert_talks, wait_until};

/// A gateway on trial: a session lives while somebody misbehaves, and must not notice.
pub(crate) struct Trial {
    pub(crate) world: World,
    pub(crate) gateway: Gateway,
    pub(crate) server: ScriptedServer,
    /// The session that lives meanwhile: the agent, and its data connection.
    witness: (Peer, Peer),
    at_rest: Holdings,
}

/// What a gateway holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holdings {
    connections: u64,
    handshakes: u64,
    sessions: u64,
    waiting: u64,
    descriptors: u64,
}

impl Trial {
    pub(crate) fn new(file: &GatewayFile<'_>) -> Self {
        let world = World::new();
        let gateway = world.gateway(file);
        let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo", "old"]);
        let config = world.foreign_config();
        let agent = Peer::dial_tls(gateway.tls, World::ECHO, &config);
        let data = server.join();
        let mut witness = (agent, data);
        assert_talks(&mut witness);
        gateway.telemetry.wait_for("vestibule_sessions", 1);
        // The control thread hears a little later that nobody waits any more.
        gateway.telemetry.wait_for("vestibule_waiting_agents", 0);
        let at_rest = Holdings::of(&gateway);
        Self { world, gateway, server, witness, at_rest }
    }

    /// Asserts that `count` connections ended for that reason, in log and metric; that the witness
    /// noticed nothing; and that nothing is left of them.
    pub(crate) fn assert_ended(&mut self, reason: &str, count: u64) {
        let process = &self.gateway.process;
        let sample = format!("vestibule_connections_ended_total{{reason=\"{reason}\"}}");
        self.gateway.telemetry.wait_for(&sample, count);
        wait_until(&format!("{count} lines name the reason {reason}"), || {
            process.count("connection ended", &[("reason", reason)]) as u64 == count
        });
        self.assert_unharmed();
    }

    /// Asserts that the witness noticed nothing, and that nothing is left of whoever misbehaved.
    pub(crate) fn assert_unharmed(&mut self) {
        assert_talks(&mut self.witness);
        let mut holdings = Holdings::of(&self.gateway);
        wait_until("the gateway holds what it held before", || {
            holdings = Holdings::of(&self.gateway);
            holdings.is_within(self.at_rest)
        });
    }
}

impl Holdings {
    fn of(gateway: &Gateway) -> Self {
        let [connections, handshakes, sessions, waiting, descriptors] =
            gateway.telemetry.metrics([
                "vestibule_connections",
                "vestibule_handshakes",
                "vestibule_sessions",
                "vestibule_waiting_agents",
                "process_open_fds",
            ]);
        Self { connections, handshakes, sessions, waiting, descriptors }
    }

    /// Descriptors may be fewer: those of requests for metrics come and go.
    fn is_within(self, before: Self) -> bool {
        self.descriptors <= before.descriptors
            && Self { descriptors: 0, ..self } == Self { descriptors: 0, ..before }
    }
}
