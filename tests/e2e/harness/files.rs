//! The configurations, as TOML. What a test does not name has a value that serves most of them.

use super::World;

/// What gateways and servers are told to run on, so that the same tests can run on either; otherwise they
/// choose.
pub(crate) const EVENT_LOOP: &str = "VESTIBULE_TEST_EVENT_LOOP";

/// Who has the records of sessions there, if it is said.
pub(crate) const RELAY: &str = "VESTIBULE_TEST_RELAY";

/// `gateway.toml`: TLS on 13000, plain on 14000, and two services that servers 1 and 2 may serve:
/// `echo` for devices with a certificate, `old` for plain agents.
pub(crate) struct GatewayFile<'a> {
    /// Last byte of its address in the world's network.
    pub(crate) host: u8,
    pub(crate) workers: usize,
    /// More keys of the TLS listener.
    pub(crate) internet: &'a str,
    pub(crate) device_certificates: &'a str,
    /// Of the plain listener.
    pub(crate) agents_from: &'a str,
    /// More keys of the plain listener.
    pub(crate) old: &'a str,
    /// More keys of `[servers]`.
    pub(crate) servers: &'a str,
    /// More keys of the service `echo`.
    pub(crate) echo: &'a str,
    /// More tables, such as listeners and services.
    pub(crate) more: &'a str,
    /// Keys of `[limits]`.
    pub(crate) limits: &'a str,
}

impl GatewayFile<'_> {
    pub(crate) const DEFAULT: GatewayFile<'static> = GatewayFile {
        host: 1,
        workers: 1,
        internet: "",
        device_certificates: "required",
        agents_from: "[\"127.0.0.0/8\"]",
        old: "",
        servers: "",
        echo: "",
        more: "",
        limits: "",
    };

    pub(super) fn text(&self, world: &World) -> String {
        let Self { workers, internet, device_certificates, old, servers, .. } = self;
        let Self { agents_from, echo, more, limits, .. } = self;
        let (ip, platform) = (world.ip(self.host), platform());
        let device_ca = match *device_certificates {
            "none" => "",
            _ => "device_ca = \"pki/devices-ca.crt\"",
        };
        format!(
            r#"
workers = {workers}
{platform}
[[listeners]]
name = "internet"
addresses = ["{ip}:13000"]
kind = "tls"
certificate = "pki/gateway.test.crt"
key = "pki/gateway.test.key"
device_certificates = "{device_certificates}"
{device_ca}
{internet}
[[listeners]]
name = "old-agents"
addresses = ["{ip}:14000"]
kind = "plain"
service = "old"
agents_from = {agents_from}
{old}
[servers]
ca = "pki/servers-ca.crt"
{servers}
[[servers.allow]]
name = "server-1.test"
services = "all"
[[servers.allow]]
name = "server-2.test"
services = "all"
[[services]]
name = "echo"
sni = ["echo.gateway.test"]
{echo}
[[services]]
name = "old"
listeners = ["old-agents"]
devices = "any"
{more}
[limits]
{limits}
[telemetry]
address = "{ip}:9113"
"#
        )
    }
}

/// `server.toml`: serves the services that it is given, at one gateway.
pub(crate) struct ServerFile {
    /// Last byte of the address of its telemetry in the world's network.
    pub(crate) host: u8,
    pub(crate) workers: usize,
    pub(crate) name: &'static str,
    /// More keys of the file.
    pub(crate) keys: &'static str,
    /// Addresses of gateways.
    pub(crate) gateways: Vec<String>,
    /// Tables of services.
    pub(crate) services: String,
    /// Keys of `[limits]`.
    pub(crate) limits: &'static str,
}

impl ServerFile {
    /// Server 1, at the gateway that a [`GatewayFile`] describes unless told otherwise.
    pub(crate) fn new(world: &World, services: &[(&str, std::net::SocketAddr)]) -> Self {
        let service = |(name, backend): &(&str, std::net::SocketAddr)| {
            format!("[[services]]\nname = \"{name}\"\nbackend = \"{backend}\"\n")
        };
        Self {
            host: 2,
            workers: 1,
            name: "server-1.test",
            keys: "",
            gateways: vec![format!("{}:13000", world.ip(1))],
            services: services.iter().map(service).collect(),
            limits: "",
        }
    }

    pub(super) fn text(&self, world: &World) -> String {
        let Self { workers, name, keys, services, limits, .. } = self;
        let (ip, platform) = (world.ip(self.host), platform());
        format!(
            r#"
workers = {workers}
{platform}
{keys}
certificate = "pki/{name}.crt"
key = "pki/{name}.key"
gateway_ca = "pki/gateways-ca.crt"
{gateways}
{services}
[limits]
{limits}
[telemetry]
address = "{ip}:9114"
"#,
            gateways = gateways(&self.gateways),
        )
    }
}

/// `agent.toml`: forwards one port, 2222 of its address, to one service.
pub(crate) struct AgentFile {
    /// Last byte of its address in the world's network.
    pub(crate) host: u8,
    pub(crate) gateways: Vec<String>,
    pub(crate) service: &'static str,
}

impl AgentFile {
    pub(crate) fn new(world: &World) -> Self {
        Self { host: 4, gateways: vec![format!("{}:13000", world.ip(1))], service: "echo" }
    }

    pub(super) fn text(&self, world: &World) -> String {
        let Self { service, .. } = self;
        let ip = world.ip(self.host);
        format!(
            r#"
certificate = "pki/laptop-7.test.crt"
key = "pki/laptop-7.test.key"
gateway_ca = "pki/gateways-ca.crt"
{gateways}
[[forwards]]
address = "{ip}:2222"
service = "{service}"
"#,
            gateways = gateways(&self.gateways),
        )
    }
}

/// What gateways and servers are to run on.
fn platform() -> String {
    let line = |(variable, key)| {
        let word = std::env::var(variable).ok()?;
        Some(format!("{key} = \"{word}\"\n"))
    };
    [(EVENT_LOOP, "event_loop"), (RELAY, "relay")].into_iter().filter_map(line).collect()
}

fn gateways(addresses: &[String]) -> String {
    let table = |address: &String| {
        format!("[[gateways]]\naddress = \"{address}\"\nname = \"{}\"\n", World::GATEWAY_NAME)
    };
    addresses.iter().map(table).collect()
}
