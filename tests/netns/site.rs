//! A whole installation on the three hosts: certificates, gateway, server, and what is behind it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use vestibule::telemetry::status::Status;

use super::network::{Network, output};
use super::process::{Footprint, PATIENCE, Process, page, try_for, wait_for};

/// The binary under test: the one that cargo built for this test, or the one that is named here,
/// such as a release build.
fn vestibule() -> PathBuf {
    let other = std::env::var_os("VESTIBULE_BIN").map(PathBuf::from);
    other.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_vestibule")))
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const GATEWAY_TELEMETRY: SocketAddr = SocketAddr::new(LOOPBACK, 9113);
const SERVER_TELEMETRY: SocketAddr = SocketAddr::new(LOOPBACK, 9114);

/// In the LAN, on its loopback interface: nothing but the server reaches the backends.
pub(super) const HTTP_BACKEND: SocketAddr = SocketAddr::new(LOOPBACK, 8080);
pub(super) const H2C_BACKEND: SocketAddr = SocketAddr::new(LOOPBACK, 8081);
pub(super) const SSH_BACKEND: SocketAddr = SocketAddr::new(LOOPBACK, 2222);
pub(super) const ECHO_BACKEND: SocketAddr = SocketAddr::new(LOOPBACK, 7007);

const GATEWAY: &str = r#"
[[listeners]]
name = "internet"
addresses = ["0.0.0.0:13000", "[::]:13000"]
kind = "tls"
certificate = "gw.example.com.crt"
key = "gw.example.com.key"
device_certificates = "required"
device_ca = "devices-ca.crt"

[[listeners]]
name = "old-agents"
addresses = ["0.0.0.0:14000"]
kind = "plain"
service = "old"
agents_from = "any"

[servers]
ca = "servers-ca.crt"

[[servers.allow]]
name = "lan.example.com"
services = "all"

[[services]]
name = "web"
listeners = ["internet"]
sni = ["web.example.com"]
alpn = ["h2", "http/1.1"]

[[services]]
name = "ssh"
listeners = ["internet"]

[[services]]
name = "echo"
listeners = ["internet"]
sni = ["echo.example.com"]

[[services]]
name = "old"
listeners = ["old-agents"]
devices = "any"

[limits]
spare_life_ms = 2000

[addresses]
exempt = ["198.18.0.0/24"]

[devices]
max_sessions = 0
"#;

const SERVER: &str = r#"
certificate = "lan.example.com.crt"
key = "lan.example.com.key"
gateway_ca = "gateways-ca.crt"

[[gateways]]
address = "198.18.1.1:13000"
name = "gw.example.com"

[[services]]
name = "web"
backend = "127.0.0.1:8080"

[[services.by_alpn]]
alpn = "h2"
backend = "127.0.0.1:8081"

[[services]]
name = "ssh"
backend = "127.0.0.1:2222"

[[services]]
name = "echo"
backend = "127.0.0.1:7007"

[[services]]
name = "old"
backend = "127.0.0.1:7007"
"#;

const AGENT: &str = r#"
certificate = "device.example.com.crt"
key = "device.example.com.key"
gateway_ca = "gateways-ca.crt"

[[gateways]]
address = "198.18.0.1:13000"
name = "gw.example.com"

[[forwards]]
address = "127.0.0.1:2200"
service = "ssh"
"#;

/// Local port of the agent that leads to the service `ssh`.
pub(super) const AGENT_SSH_PORT: u16 = 2200;

/// The gateway and the server run; backends are started by the tests that need them.
#[derive(Debug)]
pub(super) struct Site {
    // Dropped in this order: processes, then the network, then the folder with their logs.
    pub(super) gateway: Role,
    pub(super) server: Role,
    pub(super) network: Network,
    folder: TempDir,
}

impl Site {
    /// Runs a test on it. At the end, whatever the test did, nothing may have tried to come in.
    pub(super) fn test(test: impl FnOnce(&mut Self)) {
        let mut site = Self::new();
        test(&mut site);
        let attempts = site.network.attempts_to_enter();
        println!("dropped by the firewall: {attempts} packets that would open a connection into");
        println!("the lan, {} late ones of ended connections", site.network.strays());
        assert_eq!(attempts, 0, "nothing in the dmz opens a connection into the lan");
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (file, text) in [("gateway", GATEWAY), ("server", SERVER), ("agent", AGENT)] {
            let path = folder.path().join(format!("{file}.toml"));
            fs::write(path, text).expect("room for a configuration");
        }
        for line in [
            "init",
            "gateway gw.example.com web.example.com echo.example.com",
            "server lan.example.com",
            "device device.example.com",
        ] {
            let mut pki = Command::new(vestibule());
            output(pki.arg("pki").args(line.split(' ')).arg("--dir").arg(folder.path()));
        }
        let mut site = Self {
            gateway: Role { name: "gateway", telemetry: GATEWAY_TELEMETRY, process: None },
            server: Role { name: "server", telemetry: SERVER_TELEMETRY, process: None },
            network: Network::new(),
            folder,
        };
        site.start_gateway();
        site.start_server();
        site.wait_until_ready();
        site
    }

    pub(super) fn start_gateway(&mut self) {
        let command = self.network.dmz.command(vestibule());
        self.gateway.start(command, self.folder.path(), self.folder.path());
    }

    /// The gateway anew, with spares that live so long.
    pub(super) fn restart_gateway(&mut self, spare_life: Duration) {
        self.configure_gateway(
            "spare_life_ms = 2000",
            &format!("spare_life_ms = {}", spare_life.as_millis()),
        );
        self.restart_the_gateway();
    }

    /// The gateway anew, with the configuration that is there now.
    pub(super) fn restart_the_gateway(&mut self) {
        self.gateway.kill();
        self.start_gateway();
        self.wait_until_ready();
    }

    /// Its configuration with one line replaced.
    pub(super) fn configure_gateway(&self, line: &str, by: &str) {
        assert!(GATEWAY.contains(line), "{line}");
        let text = GATEWAY.replace(line, by);
        fs::write(self.path("gateway.toml"), text).expect("room for a configuration");
    }

    /// The gateway anew, with its log in `folder`.
    pub(super) fn restart_gateway_logging_to(&mut self, folder: &Path) {
        self.gateway.kill();
        let command = self.network.dmz.command(vestibule());
        self.gateway.start(command, self.folder.path(), folder);
        self.wait_until_ready();
    }

    pub(super) fn start_server(&mut self) {
        let command = self.network.lan.command(vestibule());
        self.server.start(command, self.folder.path(), self.folder.path());
    }

    /// An agent with a local port that leads to the service `ssh`.
    pub(super) fn start_agent(&self) -> Process {
        let mut command = self.network.internet.command(vestibule());
        command.arg("agent").arg("--config").arg(self.path("agent.toml"));
        Process::start("agent", self.folder.path(), &mut command)
    }

    /// In the folder of certificates, configurations, logs, and whatever a test puts there.
    pub(super) fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn wait_until_ready(&self) {
        wait_for("the gateway is ready", PATIENCE, || self.gateway_is_ready().then_some(()));
        wait_for("the server is ready", PATIENCE, || {
            let (code, _) = page(&self.network.lan, SERVER_TELEMETRY, "/readyz")?;
            (code == 200).then_some(())
        });
    }

    /// What `/readyz` says: whether a server holds a signal connection.
    pub(super) fn gateway_is_ready(&self) -> bool {
        let answer = page(&self.network.dmz, GATEWAY_TELEMETRY, "/readyz");
        answer.is_some_and(|(code, _)| code == 200)
    }

    pub(super) fn gateway_status(&self) -> Status {
        let (_, body) = page(&self.network.dmz, self.gateway.telemetry, "/status")
            .expect("the gateway answers");
        serde_json::from_str(&body).expect("a status")
    }

    /// A number of its page `/metrics`; 0 where it is not there.
    pub(super) fn gateway_metric(&self, name: &str) -> u64 {
        let (_, body) =
            page(&self.network.dmz, self.gateway.telemetry, "/metrics").expect("it answers");
        let mut values = body.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values.next().map_or(0, |value| value.parse().expect("a whole number"))
    }

    pub(super) fn server_status(&self) -> Status {
        let (_, body) =
            page(&self.network.lan, self.server.telemetry, "/status").expect("the server answers");
        serde_json::from_str(&body).expect("a status")
    }

    /// Where the server's end of the signal connection is; `None` while the gateway has none.
    pub(super) fn signal_connection(&self) -> Option<SocketAddr> {
        let status = self.gateway_status();
        status.signal_connections.first().and_then(|connection| connection.address)
    }

    /// Whether the server believes that it is connected.
    pub(super) fn server_is_connected(&self) -> bool {
        self.server_status().signal_connections.iter().any(|signal| signal.up_s.is_some())
    }

    /// Waits until nothing but the signal connection is left, no spare either.
    pub(super) fn wait_until_at_rest(&self) {
        try_for("gateway and server have ended every session", PATIENCE, || {
            let gateway = self.gateway_status();
            let server = self.server_status();
            let connections = |status: &Status| -> u64 {
                status.workers.iter().map(|worker| worker.connections).sum()
            };
            let rest = gateway.sessions.live == 0
                && server.sessions.live == 0
                && gateway.waiting.agents == 0
                && gateway.signal_connections.iter().all(|s| s.sessions == 0 && s.waiting == 0)
                && connections(&gateway) <= 1
                && connections(&server) <= 1;
            rest.then_some(()).ok_or_else(|| format!("{gateway:?} {server:?}"))
        });
    }
}

/// A gateway or a server that can be killed and started again.
#[derive(Debug)]
pub(super) struct Role {
    name: &'static str,
    telemetry: SocketAddr,
    process: Option<Process>,
}

impl Role {
    fn start(&mut self, mut command: Command, folder: &Path, log_folder: &Path) {
        let config = folder.join(format!("{}.toml", self.name));
        command.arg(self.name).arg("--config").arg(config).args(["--log", "json"]);
        self.process = Some(Process::start(self.name, log_folder, &mut command));
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    pub(super) fn id(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub(super) fn log(&self) -> String {
        self.process.as_ref().expect("it runs").log()
    }

    pub(super) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// SIGTERM.
    pub(super) fn ask_to_end(&self) {
        self.process.as_ref().expect("it runs").ask_to_end();
    }

    pub(super) fn wait_for_end(&mut self) {
        self.process.take().expect("it runs").wait_for_end();
    }

    pub(super) fn footprint(&self) -> Footprint {
        self.process.as_ref().expect("it runs").footprint()
    }
}

/// Memory that a process may keep above its baseline: allocators keep some of what they got.
pub(super) const MEMORY_SLACK_KB: u64 = 16 * 1024;
/// How long descriptors may take to be closed after the last session ended: goodbyes linger.
const CLOSING: Duration = Duration::from_secs(30);

/// What a role held before a test did its worst.
#[derive(Debug)]
pub(super) struct Baseline(Footprint);

impl Baseline {
    pub(super) fn of(role: &Role) -> Self {
        Self(role.footprint())
    }

    /// Descriptors must be as many as before; memory may differ by a stated slack.
    pub(super) fn wait_for_return(&self, role: &Role) {
        let Self(before) = self;
        let what = format!("{} holds {} descriptors as before", role.name, before.descriptors);
        let after = wait_for(&what, CLOSING, || {
            let after = role.footprint();
            (after.descriptors <= before.descriptors).then_some(after)
        });
        println!("{}: {before} before, {after} after", role.name);
        let bound = before.memory_kb + MEMORY_SLACK_KB;
        assert!(after.memory_kb <= bound, "{}: memory above {bound} KB", role.name);
    }
}
