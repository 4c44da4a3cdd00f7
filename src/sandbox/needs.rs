//! What a role needs of files and ports, by its configuration.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::Part;
use crate::config::{
    AgentTls, AgentTlsEnd, Backend, Credentials, DeviceCertificates, GatewayConfig, HostPort,
    ListenerKind, RelayMode, Role, ServerConfig,
};

/// Ports below this need a capability, unless the host says otherwise.
const UNPRIVILEGED_PORT_START: u16 = 1024;
/// For answers that are too long for UDP (RFC 7766).
const DNS_PORT: u16 = 53;

/// What a process reads and connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a need of its own")]
pub struct Needs {
    pub(super) role: Role,
    /// The configuration and the files that it names. They may be replaced while the process runs.
    pub(super) files: BTreeSet<PathBuf>,
    /// Where a file is written, if any is.
    pub(super) writes_in: Option<PathBuf>,
    /// Whether names of hosts are looked up.
    pub(super) names: bool,
    /// TCP ports of other hosts.
    pub(super) connect: BTreeSet<u16>,
    pub(super) binds_privileged_port: bool,
    /// Whether descriptors go to and come from another process of the same gateway.
    pub(super) passes_descriptors: bool,
    /// Whether the kernel moves bytes between sockets that have no TLS of ours, or have the kernel's.
    pub(super) splices: bool,
    /// Whether the kernel has the records of sessions.
    pub(super) kernel_tls: bool,
}

impl Needs {
    /// Of a gateway with this configuration, which was read from `file`. It connects to nobody.
    pub fn of_gateway(config: &GatewayConfig, file: &Path) -> Self {
        let mut files = BTreeSet::from([file.to_owned(), config.servers.ca.clone()]);
        files.extend(config.crl_files().map(Path::to_owned));
        let mut ports: Vec<u16> = config.telemetry.address.iter().map(SocketAddr::port).collect();
        for listener in &config.listeners {
            ports.extend(listener.addresses.iter().map(SocketAddr::port));
            let ListenerKind::Tls { credentials, device_certificates, .. } = &listener.kind else {
                continue;
            };
            add(&mut files, credentials);
            match device_certificates {
                DeviceCertificates::Required(ca) | DeviceCertificates::Optional(ca) => {
                    files.insert(ca.clone());
                }
                DeviceCertificates::None => {}
            }
        }
        Self {
            role: Role::Gateway,
            files,
            writes_in: config.operator.state.as_deref().map(folder_of),
            names: false,
            connect: BTreeSet::new(),
            binds_privileged_port: ports.into_iter().any(is_privileged),
            passes_descriptors: config.upgrade_socket.is_some(),
            splices: config.services.iter().any(|service| service.passthrough)
                || config.relay == RelayMode::KernelSplice,
            kernel_tls: config.relay != RelayMode::Userspace,
        }
    }

    /// Of a server with this configuration, which was read from `file`. It connects to its gateways and
    /// backends, and looks their names up.
    pub fn of_server(config: &ServerConfig, file: &Path) -> Self {
        let mut files = BTreeSet::from([file.to_owned(), config.gateway_ca.clone()]);
        files.extend(config.crls.iter().cloned());
        add(&mut files, &config.credentials);
        let mut hosts: Vec<&HostPort> = config.gateways.iter().map(|g| &g.address).collect();
        for Backend { address, tls, .. } in config.services.iter().flat_map(|service| {
            let others = service.backend_by_alpn.iter().map(|(_, backend)| backend);
            std::iter::once(&service.backend).chain(others)
        }) {
            hosts.push(address);
            if let Some(tls) = tls {
                files.insert(tls.ca.clone());
                tls.credentials.iter().for_each(|own| add(&mut files, own));
            }
        }
        for service in &config.services {
            if let AgentTls::Here(AgentTlsEnd { credentials, device_ca, .. }) = &service.agent_tls {
                add(&mut files, credentials);
                files.extend(device_ca.clone());
            }
        }
        let names = hosts.iter().any(|host| host.host.parse::<IpAddr>().is_err());
        let mut connect: BTreeSet<u16> = hosts.iter().map(|host| host.port).collect();
        if names {
            connect.insert(DNS_PORT);
        }
        let telemetry = config.telemetry.address.map(|address| address.port());
        Self {
            role: Role::Server,
            files,
            writes_in: None,
            names,
            connect,
            binds_privileged_port: telemetry.is_some_and(is_privileged),
            passes_descriptors: false,
            splices: config.services.iter().any(|service| service.agent_tls == AgentTls::AtBackend)
                || config.relay == RelayMode::KernelSplice,
            kernel_tls: config.relay != RelayMode::Userspace,
        }
    }

    /// What these are beyond those that a process began with, where these parts are on.
    pub(super) fn beyond(&self, begun: &Self, on: &[Part]) -> Vec<String> {
        let mut missing = Vec::new();
        if on.contains(&Part::Files) {
            let known: BTreeSet<_> = begun.files.iter().map(|file| file.parent()).collect();
            let new = self.files.iter().filter(|file| !known.contains(&file.parent()));
            missing.extend(new.map(|file| {
                format!("{}: in a folder that the sandbox does not have", file.display())
            }));
            if self.names && !begun.names {
                missing.push("names of hosts, where there were addresses only".to_owned());
            }
        }
        if on.contains(&Part::Tcp) {
            let new = self.connect.difference(&begun.connect);
            missing.extend(new.map(|port| format!("port {port}: the sandbox does not have it")));
        }
        missing.iter().map(|what| format!("{what}; restart")).collect()
    }
}

fn add(files: &mut BTreeSet<PathBuf>, credentials: &Credentials) {
    files.extend([credentials.certificate.clone(), credentials.key.clone()]);
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Port 0 is one that the kernel chooses.
fn is_privileged(port: u16) -> bool {
    (1..UNPRIVILEGED_PORT_START).contains(&port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse_gateway, parse_server};

    const ALL: [Part; 2] = [Part::Files, Part::Tcp];

    fn gateway(text: &str) -> Needs {
        let file = Path::new("/etc/vestibule/gateway.toml");
        Needs::of_gateway(&parse_gateway(text, file).expect("sound").config, file)
    }

    fn server(text: &str) -> Needs {
        let file = Path::new("/etc/vestibule/server.toml");
        Needs::of_server(&parse_server(text, file).expect("sound").config, file)
    }

    /// Values of an example configuration that begin so.
    fn written(text: &str, start: &str) -> BTreeSet<PathBuf> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let values = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
        let folder = Path::new("/etc/vestibule");
        values.filter(|value| value.starts_with(start)).map(|value| folder.join(value)).collect()
    }

    #[test]
    fn a_gateway_needs_its_files_and_connects_to_nobody() {
        let text = include_str!("../../deploy/gateway.toml");
        let needs = gateway(text);
        let mut files = written(text, "pki/");
        files.insert("/etc/vestibule/gateway.toml".into());
        assert_eq!(needs.files, files);
        assert_eq!(needs.writes_in.as_deref(), Some(Path::new("/var/lib/vestibule")));
        assert!(needs.connect.is_empty() && !needs.names && !needs.binds_privileged_port);
        assert!(gateway(&text.replace(":13000", ":443")).binds_privileged_port);
    }

    #[test]
    fn a_server_needs_its_files_and_the_ports_of_gateways_backends_and_name_servers() {
        let text = include_str!("../../deploy/server.toml");
        let needs = server(text);
        let mut files = written(text, "pki/");
        files.insert("/etc/vestibule/server.toml".into());
        assert_eq!(needs.files, files);
        assert_eq!(needs.connect, BTreeSet::from([22, 53, 80, 443, 13_000]));
        assert!(needs.names);
        let addresses = text.replace("gw.example.com:", "192.0.2.1:");
        let addresses = addresses.replace("web.lan.example.com:443", "192.0.2.2:443");
        let addresses = addresses.replace("#name = \"gw", "name = \"gw");
        let needs = server(&addresses);
        assert_eq!(needs.connect, BTreeSet::from([22, 80, 443, 13_000]));
        assert!(!needs.names);
    }

    #[test]
    fn what_a_new_configuration_needs_beyond_the_old_one_is_named() {
        let text = include_str!("../../deploy/server.toml");
        let begun = server(text);
        assert_eq!(server(text).beyond(&begun, &ALL), Vec::<String>::new());
        let changed =
            text.replace("[::1]:22", "[::1]:2022").replace("pki/server.key", "new/server.key");
        let missing = server(&changed).beyond(&begun, &ALL);
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].starts_with("/etc/vestibule/new/server.key: "), "{missing:?}");
        assert!(missing[1].starts_with("port 2022: "), "{missing:?}");
        assert_eq!(server(&changed).beyond(&begun, &[]), Vec::<String>::new());
    }
}
