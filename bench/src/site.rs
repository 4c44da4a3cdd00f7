//! Gateway and server on hosts of their own, for measurements in network namespaces.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::error::BenchError;
use crate::namespaces::Namespace;
use crate::process::{Process, Readiness, wait_for_all};
use crate::setup::{self, Threads};
use crate::tls::Pki;

/// Where devices connect to a gateway, and servers as well.
pub(crate) const TLS_PORT: u16 = 13_000;
const PLAIN_PORT: u16 = 14_000;
const GATEWAY_TELEMETRY: SocketAddr = loopback(9_113);
const SERVER_TELEMETRY: SocketAddr = loopback(9_114);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// What every start of a run needs.
pub(crate) struct Site {
    pub(crate) vestibule: PathBuf,
    pub(crate) pki: Pki,
    folder: tempfile::TempDir,
}

impl Site {
    /// Finds the binary, beside this one unless told otherwise, and makes certificates.
    pub(crate) fn prepare(vestibule: Option<&Path>) -> Result<Self, BenchError> {
        let bench = std::env::current_exe().map_err(BenchError::io("finding the bench itself"))?;
        let beside = || bench.with_file_name("vestibule");
        let vestibule = vestibule.map_or_else(beside, Path::to_owned);
        let folder = tempfile::tempdir().map_err(BenchError::io("making a temporary folder"))?;
        let pki = Pki::new(folder.path().join("pki"));
        setup::make_pki(&vestibule, &pki)?;
        Ok(Self { vestibule, pki, folder })
    }

    /// Starts a gateway on one host and, on another or the same, a server that finds it at `address`
    /// and delivers to `backend`. They are ready.
    pub(crate) fn start(
        &self,
        (gateway_host, address): (&Namespace, IpAddr),
        (server_host, backend): (&Namespace, SocketAddr),
    ) -> Result<Vec<Process>, BenchError> {
        let anywhere = |port| (Ipv4Addr::UNSPECIFIED, port).into();
        let listen = [anywhere(TLS_PORT), anywhere(PLAIN_PORT), GATEWAY_TELEMETRY];
        let toml = setup::gateway_toml(&self.pki, Threads::USUAL, listen);
        let mut gateway = self.start_role(gateway_host, "gateway", &toml)?;
        let address = (address, TLS_PORT).into();
        let toml =
            setup::server_toml(&self.pki, Threads::USUAL, address, backend, SERVER_TELEMETRY);
        let mut server = self.start_role(server_host, "server", &toml)?;
        gateway_host
            .run(|| wait_for_all(&mut [(&mut gateway, Readiness::Answers(GATEWAY_TELEMETRY))]))?;
        server_host
            .run(|| wait_for_all(&mut [(&mut server, Readiness::Answers(SERVER_TELEMETRY))]))?;
        Ok(vec![gateway, server])
    }

    fn start_role(
        &self,
        host: &Namespace,
        role: &'static str,
        toml: &str,
    ) -> Result<Process, BenchError> {
        let folder = self.folder.path();
        let path = folder.join(format!("{role}.toml"));
        fs::write(&path, toml).map_err(BenchError::io(format!("writing {}", path.display())))?;
        let mut command = host.command(&self.vestibule);
        command.arg(role).arg("--config").arg(&path);
        Process::start(role, &mut command, folder)
    }
}
