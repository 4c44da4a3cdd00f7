//! The targets that this workspace builds: gateway and server, the relays, the floor; and the
//! backend behind all of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Ground, Running};
use crate::error::BenchError;
use crate::process::{Process, Readiness, free_addresses, wait_for_all};
use crate::scenario::Listener;
use crate::setup::{self, Threads};

pub(super) fn start_vestibule(
    ground: &Ground,
    listener: Listener,
    program: &Path,
    threads: Threads,
) -> Result<Running, BenchError> {
    let [tls, plain, gateway_telemetry, server_telemetry] = free_addresses()?;
    let gateway_toml = setup::gateway_toml(&ground.pki, threads, [tls, plain, gateway_telemetry]);
    let server_toml =
        setup::server_toml(&ground.pki, threads, tls, ground.backend, server_telemetry);
    // Both before either is waited for: a gateway without a server is not ready.
    let mut gateway = start_role(ground, program, "gateway", &gateway_toml)?;
    let mut server = start_role(ground, program, "server", &server_toml)?;
    wait_for_all(&mut [
        (&mut gateway, Readiness::Answers(gateway_telemetry)),
        (&mut server, Readiness::Answers(server_telemetry)),
    ])?;
    let address = match listener {
        Listener::Tls | Listener::Passthrough => tls,
        Listener::Plain => plain,
    };
    Ok(Running::new(ground, listener, address, vec![gateway, server]))
}

fn start_role(
    ground: &Ground,
    program: &Path,
    role: &'static str,
    toml: &str,
) -> Result<Process, BenchError> {
    let path = ground.folder.join(format!("{role}.toml"));
    std::fs::write(&path, toml).map_err(BenchError::io(format!("writing {}", path.display())))?;
    let mut command = Command::new(program);
    command.arg(role).arg("--config").arg(&path);
    Process::start(role, &mut command, &ground.folder)
}

pub(super) fn start_relay(ground: &Ground, listener: Listener) -> Result<Running, BenchError> {
    let [outer, inner] = free_addresses()?;
    let (inward, within) = match listener {
        Listener::Tls => ("tls", "tls"),
        Listener::Plain => ("plain", "tls"),
        Listener::Passthrough => ("plain", "plain"),
    };
    let processes = vec![
        start_hop(ground, "gateway", (inward, outer), (within, inner))?,
        start_hop(ground, "server", (within, inner), ("plain", ground.backend))?,
    ];
    Ok(Running::new(ground, listener, outer, processes))
}

fn start_hop(
    ground: &Ground,
    name: &'static str,
    (inward, listen): (&str, SocketAddr),
    (outward, next): (&str, SocketAddr),
) -> Result<Process, BenchError> {
    let mut command = Command::new(&ground.bench);
    command.args(["relay", "--inward", inward, "--outward", outward]);
    command.args(["--group", ground.relay_group.name(), "--pki"]).arg(ground.pki.folder());
    command.args(["--listen", &listen.to_string(), "--next", &next.to_string()]);
    start_own(name, &mut command, &ground.folder, listen)
}

pub(super) fn start_floor(ground: &Ground, listener: Listener) -> Result<Running, BenchError> {
    let [listen] = free_addresses()?;
    let mut command = Command::new(&ground.bench);
    command.arg("floor");
    if listener == Listener::Passthrough {
        command.arg("--bare");
    }
    command.args(["--listen", &listen.to_string(), "--backend", &ground.backend.to_string()]);
    let process = start_own("floor", &mut command, &ground.folder, listen)?;
    Ok(Running::new(ground, listener, listen, vec![process]))
}

/// Starts the backend of all targets.
pub(crate) fn start_backend(
    bench: &Path,
    folder: &Path,
    listen: SocketAddr,
) -> Result<Process, BenchError> {
    let mut command = Command::new(bench);
    command.args(["backend", "--listen", &listen.to_string()]);
    start_own("backend", &mut command, folder, listen)
}

/// Starts a command of this binary, and returns when it listens.
pub(crate) fn start_own(
    name: &'static str,
    command: &mut Command,
    folder: &Path,
    listen: SocketAddr,
) -> Result<Process, BenchError> {
    let mut process = Process::start(name, command, folder)?;
    wait_for_all(&mut [(&mut process, Readiness::Accepts(listen))])?;
    Ok(process)
}
