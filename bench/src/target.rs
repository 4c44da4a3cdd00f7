//! What is measured: the processes that stand between load generator and backend.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::load::Plan;
use crate::process::{Process, Readiness, free_addresses, wait_for_all};
use crate::scenario::Work;
use crate::setup;
use crate::tls::Pki;
use crate::usage::Usage;

/// A way from devices to the backend.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// Gateway and server, one worker each
    Vestibule,
    /// Two plain relays on tokio-rustls in a row, with the cryptography of gateway and server
    Relay,
    /// Copying with two AEAD passes, for the bulk scenarios
    Floor,
}

/// Where everything of a run is.
#[derive(Debug)]
pub(crate) struct Ground {
    /// Keys, configurations and logs.
    pub(crate) folder: PathBuf,
    /// The `vestibule` binary.
    pub(crate) vestibule: PathBuf,
    /// This binary.
    pub(crate) bench: PathBuf,
    /// Certificates of gateway, server and device.
    pub(crate) pki: Pki,
    /// Where the backend listens.
    pub(crate) backend: SocketAddr,
}

/// A target that is ready.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where devices connect.
    pub(crate) address: SocketAddr,
    /// What devices need for TLS; `None` for plain TCP.
    pub(crate) pki: Option<Pki>,
    /// In the order of the table.
    pub(crate) processes: Vec<Process>,
}

impl Target {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::Vestibule, Self::Relay, Self::Floor];

    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vestibule => "vestibule",
            Self::Relay => "relay",
            Self::Floor => "floor",
        }
    }

    /// Whether it needs certificates.
    pub(crate) fn speaks_tls(self) -> bool {
        self != Self::Floor
    }

    /// Starts its processes, fresh for each sample: none inherits another's memory.
    pub(crate) fn start(self, ground: &Ground) -> Result<Running, BenchError> {
        match self {
            Self::Vestibule => start_vestibule(ground),
            Self::Relay => start_relay(ground),
            Self::Floor => start_floor(ground),
        }
    }
}

impl Running {
    /// A plan for the load generator.
    pub(crate) fn plan(&self, work: Work) -> Plan {
        Plan { address: self.address, pki: self.pki.clone(), work }
    }

    /// What each process has used so far, in the order of [`Running::processes`].
    pub(crate) fn usages(&mut self) -> Result<Vec<Usage>, BenchError> {
        self.processes.iter_mut().map(Process::usage).collect()
    }

    /// Ends all processes; the error is that of the first that did not end well.
    pub(crate) fn stop(self) -> Result<(), BenchError> {
        // The gateway first: a server that loses it has nothing left to drain.
        self.processes.into_iter().try_for_each(Process::stop)
    }
}

fn start_vestibule(ground: &Ground) -> Result<Running, BenchError> {
    let [listen, gateway_telemetry, server_telemetry] = free_addresses()?;
    let gateway_toml = setup::gateway_toml(&ground.pki, listen, gateway_telemetry);
    let server_toml = setup::server_toml(&ground.pki, listen, ground.backend, server_telemetry);
    // Both before either is waited for: a gateway without a server is not ready.
    let mut gateway = start_role(ground, "gateway", &gateway_toml)?;
    let mut server = start_role(ground, "server", &server_toml)?;
    wait_for_all(&mut [
        (&mut gateway, Readiness::Answers(gateway_telemetry)),
        (&mut server, Readiness::Answers(server_telemetry)),
    ])?;
    Ok(Running { address: listen, pki: Some(ground.pki.clone()), processes: vec![gateway, server] })
}

fn start_role(ground: &Ground, role: &'static str, toml: &str) -> Result<Process, BenchError> {
    let path = ground.folder.join(format!("{role}.toml"));
    std::fs::write(&path, toml).map_err(BenchError::io(format!("writing {}", path.display())))?;
    let mut command = Command::new(&ground.vestibule);
    command.arg(role).arg("--config").arg(&path);
    Process::start(role, &mut command, &ground.folder)
}

fn start_relay(ground: &Ground) -> Result<Running, BenchError> {
    let [outer, inner] = free_addresses()?;
    let processes = vec![
        start_hop(ground, "gateway", outer, inner, "tls")?,
        start_hop(ground, "server", inner, ground.backend, "plain")?,
    ];
    Ok(Running { address: outer, pki: Some(ground.pki.clone()), processes })
}

fn start_hop(
    ground: &Ground,
    name: &'static str,
    listen: SocketAddr,
    next: SocketAddr,
    outward: &str,
) -> Result<Process, BenchError> {
    let mut command = Command::new(&ground.bench);
    command.args(["relay", "--outward", outward, "--pki"]).arg(ground.pki.folder());
    command.args(["--listen", &listen.to_string(), "--next", &next.to_string()]);
    start_own(name, &mut command, &ground.folder, listen)
}

fn start_floor(ground: &Ground) -> Result<Running, BenchError> {
    let [listen] = free_addresses()?;
    let mut command = Command::new(&ground.bench);
    command.arg("floor");
    command.args(["--listen", &listen.to_string(), "--backend", &ground.backend.to_string()]);
    let process = start_own("floor", &mut command, &ground.folder, listen)?;
    Ok(Running { address: listen, pki: None, processes: vec![process] })
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

fn start_own(
    name: &'static str,
    command: &mut Command,
    folder: &Path,
    listen: SocketAddr,
) -> Result<Process, BenchError> {
    let mut process = Process::start(name, command, folder)?;
    wait_for_all(&mut [(&mut process, Readiness::Accepts(listen))])?;
    Ok(process)
}
