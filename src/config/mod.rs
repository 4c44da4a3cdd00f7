//! Configuration: TOML as written → checked values. Whoever holds one of these structs holds values
//! that `check` has passed: within their ranges, consistent with each other, names unique.

mod agent;
mod file;
mod gateway;
mod gateway_rules;
mod named_files;
mod names;
mod numbers;
mod passthrough_rules;
mod platform;
mod problem;
mod quotas;
mod revocation;
mod section;
mod server;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::control::{ServiceId, SessionQuota};
use crate::relay::{Bandwidth, RelayLimits};

pub use file::{
    Role, guess_role, parse_agent, parse_gateway, parse_server, read_agent, read_gateway,
    read_server, read_text,
};
pub use platform::{EventLoop, RelayMode};
pub use problem::{Checked, Place, Problem, Problems};
#[cfg(feature = "engine")]
pub(crate) use value::{address_range, device_pattern};

/// `gateway.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayConfig {
    /// Data-plane threads; never 0 here.
    pub workers: usize,
    /// What they wait in.
    pub event_loop: EventLoop,
    /// Who has the records of sessions.
    pub relay: RelayMode,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// Who may connect as a server.
    pub servers: ServersPolicy,
    /// At least one.
    pub services: Vec<Service>,
    /// Bounds.
    pub limits: GatewayLimits,
    /// What one address may have.
    pub addresses: AddressLimits,
    /// What one device may have.
    pub devices: DeviceLimits,
    /// Where metrics and health are served.
    pub telemetry: Telemetry,
    /// Where operators are heard.
    pub operator: Operator,
    /// Where the process that takes the place of this one asks for it; `None` where none may.
    pub upgrade_socket: Option<PathBuf>,
}

/// A named set of addresses with one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique among listeners.
    pub name: String,
    /// At least one; port 0 lets the kernel choose.
    pub addresses: Vec<SocketAddr>,
    /// Balancers whose connections begin with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// TLS or plain.
    pub kind: ListenerKind,
}

impl Listener {
    /// Whether foreign agents may come with TLS 1.2.
    pub fn takes_older_agents(&self) -> bool {
        matches!(self.kind, ListenerKind::Tls { older_agents: true, .. })
    }
}

/// What is spoken on a listener.
#[derive(Debug, Clone, PartialEq)]
pub enum ListenerKind {
    /// TLS 1.3, usually port 13000; from agents 1.2 as well where it says so.
    Tls {
        /// The gateway's own certificate.
        credentials: Credentials,
        /// What is asked of devices.
        device_certificates: DeviceCertificates,
        /// Which of their certificates count no more.
        device_revocation: RevocationRules,
        /// Whether servers may connect here too (`servers = true`, the default).
        servers: bool,
        /// Whether foreign agents may come with TLS 1.2 (`tls_1_2_agents = true`).
        older_agents: bool,
    },
    /// Plain TCP of old agents, usually port 14000.
    Plain {
        /// The one service of this listener.
        service: ServiceId,
        /// Takes TLS as an opaque stream instead of refusing it (`allow_tls = true`).
        allow_tls: bool,
        /// Where agents may come from: they prove nothing else.
        agents_from: AgentsFrom,
    },
}

/// Addresses of the agents of a plain listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentsFrom {
    /// All (`agents_from = "any"`).
    Any,
    /// Those in one of these ranges; at least one.
    Listed(Vec<IpNet>),
}

impl AgentsFrom {
    /// Whether an agent may come from there.
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(ranges) => ranges.iter().any(|range| range.contains(&address)),
        }
    }
}

/// What a TLS listener asks of devices.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceCertificates {
    /// No certificate, no session. Holds the file of the devices' CA.
    Required(PathBuf),
    /// A certificate is checked where one is shown. Holds the file of the devices' CA.
    Optional(PathBuf),
    /// None is asked for.
    None,
}

/// What becomes of certificates that their CA has revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationRules {
    /// What lists are for.
    pub policy: RevocationPolicy,
    /// Files of lists; there may be none where servers bring them.
    pub crls: Vec<PathBuf>,
}

/// What a list of revoked certificates (CRL), or the lack of one, means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RevocationPolicy {
    /// No list is looked at. So it is where none is named and none is brought.
    #[default]
    Off,
    /// What the lists at hand revoke is refused; one that is missing or stale is warned of.
    Known,
    /// Without a current list of its CA no certificate is let in.
    Required,
}

/// A certificate chain and its key, as files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Leaf first, then intermediates.
    pub certificate: PathBuf,
    /// PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// Who may connect as a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServersPolicy {
    /// File of the servers' CA.
    pub ca: PathBuf,
    /// Which of their certificates count no more.
    pub revocation: RevocationRules,
    /// Whether servers bring lists, of devices and of servers.
    pub bring_crls: bool,
    /// Where servers connect from; empty: from anywhere.
    pub addresses: Vec<IpNet>,
    /// At least one.
    pub allow: Vec<AllowedServer>,
}

/// One entry of the allow-list of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedServer {
    /// Matched against the DNS names (SAN) of its certificate.
    pub name: String,
    /// Those it may serve.
    pub services: Vec<ServiceId>,
}

/// A service of the gateway: which agents may reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its place in the file, or the number that a process had given to its name before.
    pub id: ServiceId,
    /// Unique among services.
    pub name: String,
    /// Indexes into `listeners` where it is offered.
    pub listeners: Vec<usize>,
    /// Server names that choose it for a foreign agent; lower case. `*.example.com` matches one label.
    pub sni: Vec<String>,
    /// ALPN names that it offers to foreign agents, in order of preference; empty: none is agreed.
    pub alpn: Vec<String>,
    /// Taken for a foreign agent where no other service matches; at most one for each listener.
    pub default: bool,
    /// Whether its agents' own TLS goes through unread (`tls = "passthrough"`): to a gateway they are nobody.
    pub passthrough: bool,
    /// Who may reach it.
    pub devices: DevicePolicy,
    /// What all of its sessions together may have, and how long each may be quiet.
    pub limits: ServiceLimits,
}

/// What one service may have, over all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Sessions of all its agents.
    pub sessions: SessionQuota,
    /// Bytes of all its sessions together.
    pub bandwidth: Option<Bandwidth>,
    /// Bounds on those that are quiet: its own, or those of the gateway.
    pub relay: RelayLimits,
}

/// What one device may have, over all services and workers: whoever has proved an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Its sessions.
    pub sessions: SessionQuota,
    /// Bytes of all its sessions together.
    pub bandwidth: Option<Bandwidth>,
}

/// Which devices may reach a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DevicePolicy {
    /// Everyone that the listener lets in, also without a certificate (`devices = "any"`).
    Any,
    /// Every device with a valid certificate (`devices = "verified"`, the default on listeners that
    /// ask for certificates).
    Verified,
    /// Devices whose identity matches one of these patterns, in which `*` stands for any characters.
    Named(Vec<String>),
}

/// Bounds of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Connections over all workers.
    pub max_connections: usize,
    /// TLS handshakes in flight over all workers.
    pub max_handshakes: usize,
    /// Agents that wait for a server.
    pub max_waiting: usize,
    /// Connections opened ahead of need, for each worker; 0: none.
    pub max_spares: usize,
    /// Age at which one of them is replaced.
    pub spare_life: Duration,
    /// From accept to admitted.
    pub admission_timeout: Duration,
    /// From admitted to joined.
    pub invitation_timeout: Duration,
    /// Bounds of the relay.
    pub session: SessionLimits,
    /// How long SIGTERM lets live sessions finish.
    pub drain_timeout: Duration,
}

/// What one address may have, whoever is there: bounds that need no handshake to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressLimits {
    /// Connections of one address at once, over all workers.
    pub max_connections: usize,
    /// The same for all addresses of a /24 (IPv4) or /64 (IPv6).
    pub max_connections_of_prefix: usize,
    /// TLS connections of one address that are not admitted yet.
    pub max_handshakes: usize,
    /// The same for all addresses of a prefix.
    pub max_handshakes_of_prefix: usize,
    /// New connections of one address a second, in the long run.
    pub connections_per_s: u32,
    /// New connections of one address at once, after a rest.
    pub connections_burst: u32,
    /// Bytes of all sessions of one address together.
    pub bandwidth: Option<Bandwidth>,
    /// Addresses for which none of this holds.
    pub exempt: Vec<IpNet>,
}

/// Bounds of a session, the same for gateway and server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLimits {
    /// `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Bound on a quiet half-closed session.
    pub half_closed_timeout: Duration,
    /// TCP keepalive.
    pub keepalive: Duration,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout: Duration,
}

/// Where metrics, health and status are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// `None` turns the listener off.
    pub address: Option<SocketAddr>,
    /// Who is answered beside this host; not empty where `address` is no loopback address.
    pub allow: Vec<IpNet>,
}

/// Where operators are heard, and what they did is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operator {
    /// A Unix socket; `None` turns it off.
    pub socket: Option<PathBuf>,
    /// File of a gateway's blocks; without it they end with the process.
    pub state: Option<PathBuf>,
}

/// `server.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Data-plane threads; never 0 here.
    pub workers: usize,
    /// What they wait in.
    pub event_loop: EventLoop,
    /// Who has the records of sessions.
    pub relay: RelayMode,
    /// The server's own certificate.
    pub credentials: Credentials,
    /// File of the gateways' CA.
    pub gateway_ca: PathBuf,
    /// Files of lists of revoked certificates, which it brings to its gateways.
    pub crls: Vec<PathBuf>,
    /// At least one.
    pub gateways: Vec<Gateway>,
    /// At least one.
    pub services: Vec<ServedService>,
    /// Sessions at once. Each gateway is told how many of them it may have.
    pub max_sessions: usize,
    /// Connections opened ahead of need, for each gateway; told to the gateways.
    pub max_spares: usize,
    /// Bounds of the relay.
    pub session: SessionLimits,
    /// How long SIGTERM lets live sessions finish.
    pub drain_timeout: Duration,
    /// Where metrics and health are served.
    pub telemetry: Telemetry,
    /// Where operators are heard.
    pub operator: Operator,
}

/// A gateway as a server or an agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Host name or address, and port, to dial.
    pub address: HostPort,
    /// Name that its certificate must bear; the host of `address` unless given.
    pub name: String,
}

/// A host name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A service at the server: which backend it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedService {
    /// As the gateway names it.
    pub name: String,
    /// Where sessions go.
    pub backend: Backend,
    /// By ALPN of the agent, where it differs from `backend`.
    pub backend_by_alpn: Vec<(String, Backend)>,
    /// Where the TLS of its agents ends.
    pub agent_tls: AgentTls,
}

/// Where the TLS of agents ends, as their server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentTls {
    /// At the gateway, which reads what it relays.
    AtGateway,
    /// At the backend (`agent_tls = "passthrough"`).
    AtBackend,
    /// Here (`agent_tls = { ... }`): it goes through the gateway unread as well.
    Here(AgentTlsEnd),
}

impl AgentTls {
    /// Whether it goes through the gateway unread.
    pub fn is_passthrough(&self) -> bool {
        !matches!(self, Self::AtGateway)
    }
}

/// How a server ends the TLS of agents itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTlsEnd {
    /// The certificate that agents are shown.
    pub credentials: Credentials,
    /// File of the CA of which each must show a certificate; `None`: none is asked for.
    pub device_ca: Option<PathBuf>,
    /// ALPN names that are offered, in order of preference; empty: none is agreed.
    pub alpn: Vec<String>,
}

/// A TCP backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub address: HostPort,
    /// Sends a PROXY protocol v2 header first.
    pub proxy_protocol: bool,
    /// TLS towards the backend; `None`: plain TCP.
    pub tls: Option<BackendTls>,
    /// For the TCP connection and, if any, the TLS handshake.
    pub connect_timeout: Duration,
}

/// How TLS with a backend is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTls {
    /// File of the CA that its certificate must be of.
    pub ca: PathBuf,
    /// Name that its certificate must bear.
    pub name: String,
    /// Certificate that we show it, if it asks.
    pub credentials: Option<Credentials>,
}

/// `agent.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// The device's certificate; `None` for listeners that ask for none.
    pub credentials: Option<Credentials>,
    /// File of the gateways' CA.
    pub gateway_ca: PathBuf,
    /// At least one; tried in order, the one that worked last first.
    pub gateways: Vec<Gateway>,
    /// At least one.
    pub forwards: Vec<Forward>,
    /// Local connections at once.
    pub max_connections: usize,
    /// How long a local connection waits while no gateway gives it a session.
    pub retry_for: Duration,
}

/// A local port that leads to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Where local programs connect; loopback unless `allow_remote = true`.
    pub address: SocketAddr,
    /// Service at the gateway.
    pub service: String,
}
