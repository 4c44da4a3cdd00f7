//! Certificates and configurations of a run.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use vestibule::config::RelayMode;
use vestibule::engine::EventLoop;

use crate::error::BenchError;
use crate::tls::{DEVICE_NAME, GATEWAY_NAME, PASSTHROUGH_NAME, Pki, SERVER_NAME};

/// What gateway and server run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threads {
    /// Workers of the gateway; the server has one.
    pub(crate) workers: u16,
    /// What the threads of both wait in; `None` leaves it to them.
    pub(crate) event_loop: Option<EventLoop>,
    /// Who has the records of sessions at both; `None` leaves it to them.
    pub(crate) relay: Option<RelayMode>,
}

impl Threads {
    /// One worker, and a ring where the kernel allows it.
    pub(crate) const USUAL: Self = Self { workers: 1, event_loop: None, relay: None };

    /// The keys of both configurations. Older builds know the first alone.
    fn toml(self) -> String {
        let Self { workers, event_loop, relay } = self;
        let event_loop = event_loop.map_or_else(String::new, |event_loop| {
            format!("event_loop = \"{}\"\n", event_loop.word())
        });
        let relay =
            relay.map_or_else(String::new, |relay| format!("relay = \"{}\"\n", relay.word()));
        format!("workers = {workers}\n{event_loop}{relay}")
    }
}

/// Makes the certificates with the command that operators use.
pub(crate) fn make_pki(vestibule: &Path, pki: &Pki) -> Result<(), BenchError> {
    for arguments in [
        &["init"][..],
        &["gateway", GATEWAY_NAME, "--ip", "127.0.0.1"],
        &["server", SERVER_NAME],
        &["device", DEVICE_NAME],
    ] {
        let mut command = Command::new(vestibule);
        run(command.arg("pki").args(arguments).arg("--dir").arg(pki.folder()))?;
    }
    Ok(())
}

/// Certificate and key of the gateway in the form that rathole wants. The password is no secret.
pub(crate) fn make_pkcs12(pki: &Pki, file: &Path) -> Result<(), BenchError> {
    let (certificate, key) = pki.credentials(GATEWAY_NAME);
    let mut command = Command::new("openssl");
    command.args(["pkcs12", "-export", "-passout", "pass:bench", "-in"]).arg(certificate);
    run(command.arg("-inkey").arg(key).arg("-out").arg(file))
}

/// Runs a command to its end, which must be a good one.
pub(crate) fn run(command: &mut Command) -> Result<(), BenchError> {
    let text = format!("{command:?}");
    let output = command.output().map_err(BenchError::io(format!("running {text}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(BenchError::Command {
        command: text,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// A gateway with a service for all verified devices, and one for those without TLS.
pub(crate) fn gateway_toml(
    pki: &Pki,
    threads: Threads,
    [tls, plain, telemetry]: [SocketAddr; 3],
) -> String {
    let (certificate, key) = pki.credentials(GATEWAY_NAME);
    format!(
        r#"{threads}
[[listeners]]
name = "internet"
addresses = ["{tls}"]
kind = "tls"
certificate = "{certificate}"
key = "{key}"
device_certificates = "required"
device_ca = "{device_ca}"

[[listeners]]
name = "old-agents"
addresses = ["{plain}"]
kind = "plain"
service = "plain"
agents_from = ["127.0.0.0/8"]

[servers]
ca = "{server_ca}"

[[servers.allow]]
name = "{SERVER_NAME}"
services = "all"

[[services]]
name = "bench"
default = true
devices = "verified"

[[services]]
name = "plain"
devices = "any"

[[services]]
name = "passthrough"
sni = ["{PASSTHROUGH_NAME}"]
tls = "passthrough"
listeners = ["internet"]
devices = "any"

# The load of a fleet comes from one address here, and from one device.
[addresses]
exempt = ["0.0.0.0/0"]

[devices]
max_sessions = 0

[telemetry]
address = "{telemetry}"
"#,
        threads = threads.toml(),
        certificate = certificate.display(),
        key = key.display(),
        device_ca = pki.ca("devices").display(),
        server_ca = pki.ca("servers").display(),
    )
}

/// A server with one worker that delivers to the backend.
pub(crate) fn server_toml(
    pki: &Pki,
    threads: Threads,
    gateway: SocketAddr,
    backend: SocketAddr,
    telemetry: SocketAddr,
) -> String {
    let (certificate, key) = pki.credentials(SERVER_NAME);
    format!(
        r#"{threads}certificate = "{certificate}"
key = "{key}"
gateway_ca = "{gateway_ca}"

[[gateways]]
address = "{gateway}"
name = "{GATEWAY_NAME}"

[[services]]
name = "bench"
backend = "{backend}"

[[services]]
name = "plain"
backend = "{backend}"

[[services]]
name = "passthrough"
backend = "{backend}"
agent_tls = "passthrough"

[telemetry]
address = "{telemetry}"
"#,
        threads = Threads { workers: 1, ..threads }.toml(),
        certificate = certificate.display(),
        key = key.display(),
        gateway_ca = pki.ca("gateways").display(),
    )
}

/// An agent with one port that leads to the service of all verified devices.
pub(crate) fn agent_toml(
    pki: &Pki,
    gateway: SocketAddr,
    forward: SocketAddr,
    retry_for_ms: u64,
) -> String {
    let (certificate, key) = pki.credentials(DEVICE_NAME);
    format!(
        r#"certificate = "{certificate}"
key = "{key}"
gateway_ca = "{gateway_ca}"

[[gateways]]
address = "{gateway}"
name = "{GATEWAY_NAME}"

[[forwards]]
address = "{forward}"
service = "bench"

[limits]
retry_for_ms = {retry_for_ms}
"#,
        certificate = certificate.display(),
        key = key.display(),
        gateway_ca = pki.ca("gateways").display(),
    )
}

#[cfg(test)]
mod tests {
    use vestibule::config::{self, parse_gateway, parse_server};

    use super::*;

    #[test]
    fn gateway_and_server_are_told_what_they_run_on() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let pki = Pki::new("/pki".into());
        for (event_loop, expected) in [
            (None, config::EventLoop::Auto),
            (Some(EventLoop::IoUring), config::EventLoop::IoUring),
            (Some(EventLoop::Epoll), config::EventLoop::Epoll),
        ] {
            let threads = Threads { workers: 3, event_loop, relay: Some(RelayMode::Kernel) };
            let text =
                gateway_toml(&pki, threads, [1, 2, 3].map(|port| ([127, 0, 0, 1], port).into()));
            let gateway = parse_gateway(&text, Path::new("gateway.toml")).expect("sound").config;
            assert_eq!((gateway.workers, gateway.event_loop), (3, expected));
            assert_eq!(gateway.relay, RelayMode::Kernel);
            let text = server_toml(&pki, threads, address, address, address);
            let server = parse_server(&text, Path::new("server.toml")).expect("sound").config;
            assert_eq!((server.workers, server.event_loop), (1, expected));
            assert_eq!(server.relay, RelayMode::Kernel);
        }
    }
}
