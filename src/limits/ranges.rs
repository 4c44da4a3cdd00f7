//! Numbers that an operator may set: a default and a range for each.

/// Bytes of a configuration file. A thousand services fit; a device file named by mistake does not.
pub const MAX_CONFIG_LEN: usize = 1024 * 1024;

/// A number that an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Taken where the key is absent.
    pub default: u64,
    /// Smallest value allowed.
    pub min: u64,
    /// Largest value allowed.
    pub max: u64,
}

const fn range(default: u64, min: u64, max: u64) -> Range {
    Range { default, min, max }
}

/// `workers`: 0 stands for one for each core.
pub const WORKERS: Range = range(0, 0, 256);
/// `max_connections` of a gateway or server, over all workers.
pub const MAX_CONNECTIONS: Range = range(20_000, 16, 1_000_000);
/// `max_handshakes`: TLS connections that are not admitted yet, over all workers, those of servers
/// included. Each holds up to 40 KB. A fleet of 2,000 that dials at once has this many.
pub const MAX_HANDSHAKES: Range = range(4_096, 4, 100_000);
/// `max_connections` of one address. A branch office behind one address has hundreds of devices; one
/// hostile address gets a tenth of the agents' places, and rarely has the certificates that they need.
pub const ADDRESS_CONNECTIONS: Range = range(1_000, 1, 1_000_000);
/// `max_connections_of_prefix`: of a /24 of IPv4 or a /64 of IPv6.
pub const PREFIX_CONNECTIONS: Range = range(4_000, 1, 1_000_000);
/// `max_handshakes` of one address: at a round trip of 200 ms these are 1,280 new connections a second.
pub const ADDRESS_HANDSHAKES: Range = range(256, 1, 100_000);
/// `max_handshakes_of_prefix`.
pub const PREFIX_HANDSHAKES: Range = range(1_024, 1, 100_000);
/// `connections_per_s` of one address, in the long run: 2 to 5 % of a core.
pub const ADDRESS_RATE: Range = range(50, 1, 1_000_000);
/// `connections_burst` of one address: after a restart all devices of a branch office come at once.
pub const ADDRESS_BURST: Range = range(500, 1, 1_000_000);
/// `max_sessions` of one device, over all services; 0: no limit. A ninth of what a gateway has by default:
/// far more than any program on one device needs, and one that runs wild leaves the others their places.
pub const DEVICE_SESSIONS: Range = range(1_000, 0, 1_000_000);
/// `max_sessions` of one service; 0: no limit.
pub const SERVICE_SESSIONS: Range = range(0, 0, 1_000_000);
/// `sessions_per_s` of a device or a service, in the long run; 0: no limit.
pub const SESSIONS_PER_S: Range = range(0, 0, 1_000_000);
/// `sessions_burst` of one device: a browser opens some ten connections at once, and reloads.
pub const DEVICE_SESSIONS_BURST: Range = range(50, 1, 1_000_000);
/// `sessions_burst` of one service: half of the new sessions that one core can begin in a second.
pub const SERVICE_SESSIONS_BURST: Range = range(500, 1, 1_000_000);
/// `bytes_per_s` of a device, a service or an address, both directions together; 0: no limit.
pub const BYTES_PER_S: Range = range(0, 0, 1_000_000_000_000);
/// Smallest `bytes_per_s` that is a limit: 16 s for one TLS record, which is not cut into pieces.
pub const MIN_BYTES_PER_S: u64 = 1_024;
/// `bytes_burst`: a page, a policy or an inventory passes without a pause. At least a few records.
pub const BYTES_BURST: Range = range(1024 * 1024, 64 * 1024, 1024 * 1024 * 1024);
/// `max_waiting`: agents that wait for a server, over all workers.
pub const MAX_WAITING: Range = range(4_096, 1, 100_000);
/// `max_spares` of a gateway: connections opened ahead of need, for each worker. Enough for 100 agents
/// a second and worker where a spare is refilled in 80 ms; each holds a descriptor at both ends. 0
/// turns them off.
pub const MAX_SPARES: Range = range(16, 0, 256);
/// `max_spares` of a server, for each gateway: the default fits 16 workers with the gateway's own. While
/// some are being used, twice as many may be open.
pub const MAX_SPARES_OF_SERVER: Range = range(256, 0, 10_000);
/// `spare_life_ms`: the age at which a spare is replaced. Firewalls and proxies forget or end idle
/// connections after minutes; a spare that is probed every 3 s and is this young has met none of them.
pub const SPARE_LIFE_MS: Range = range(120_000, 1_000, 3_600_000);
/// `admission_timeout_ms`: from accept to admitted.
pub const ADMISSION_TIMEOUT_MS: Range = range(10_000, 100, 120_000);
/// `invitation_timeout_ms`: from admitted to joined.
pub const INVITATION_TIMEOUT_MS: Range = range(10_000, 100, 120_000);
/// `idle_timeout_ms`: a session that moves no byte; 0 turns it off. The default is above the two
/// hours of common keepalives, so that quiet but healthy sessions live.
pub const IDLE_TIMEOUT_MS: Range = range(3 * 3_600_000, 0, 7 * 86_400_000);
/// `half_closed_timeout_ms`: a session with one direction ended that moves no byte in the other.
pub const HALF_CLOSED_TIMEOUT_MS: Range = range(120_000, 100, 86_400_000);
/// `keepalive_ms`: TCP keepalive of agents; gentle, since each probe wakes a mobile radio.
pub const KEEPALIVE_MS: Range = range(300_000, 1_000, 7_200_000);
/// `user_timeout_ms`: unacknowledged bytes after which a leg is dead (`TCP_USER_TIMEOUT`).
pub const USER_TIMEOUT_MS: Range = range(120_000, 1_000, 3_600_000);
/// `drain_timeout_ms`: how long SIGTERM lets live sessions finish.
pub const DRAIN_TIMEOUT_MS: Range = range(30_000, 0, 86_400_000);
/// `retry_for_ms` of an agent: how long a local connection waits while no gateway gives it a session: a
/// gateway or a server that restarts is back by then. 0: it is reset at once.
pub const RETRY_FOR_MS: Range = range(30_000, 0, 600_000);
/// `connect_timeout_ms` of a backend.
pub const CONNECT_TIMEOUT_MS: Range = range(5_000, 50, 120_000);
