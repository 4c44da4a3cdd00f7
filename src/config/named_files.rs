//! The files that a configuration names: what a reload reads again, and what is looked at for changes.

use std::path::Path;

use super::{
    AgentTls, AgentTlsEnd, BackendTls, Credentials, DeviceCertificates, GatewayConfig,
    ListenerKind, ServerConfig,
};

impl GatewayConfig {
    /// Every file that it names.
    pub fn files(&self) -> Vec<&Path> {
        let mut files = self.certificate_files();
        files.extend(self.credentials().map(|own| &*own.key));
        files.extend(self.crl_files());
        unique(files)
    }

    /// Those that hold lists of revoked certificates.
    pub fn crl_files(&self) -> impl Iterator<Item = &Path> {
        let of_devices = self.listeners.iter().filter_map(|listener| match &listener.kind {
            ListenerKind::Tls { device_revocation, .. } => Some(&device_revocation.crls),
            ListenerKind::Plain { .. } => None,
        });
        of_devices.chain([&self.servers.revocation.crls]).flatten().map(|file| &**file)
    }

    /// Those that hold certificates: its own and the CAs.
    pub fn certificate_files(&self) -> Vec<&Path> {
        let mut files: Vec<&Path> = self.credentials().map(|own| &*own.certificate).collect();
        files.push(&self.servers.ca);
        files.extend(self.listeners.iter().filter_map(|listener| match &listener.kind {
            ListenerKind::Tls {
                device_certificates:
                    DeviceCertificates::Required(ca) | DeviceCertificates::Optional(ca),
                ..
            } => Some(&**ca),
            _ => None,
        }));
        unique(files)
    }

    /// Its own, of each TLS listener.
    pub fn credentials(&self) -> impl Iterator<Item = &Credentials> {
        self.listeners.iter().filter_map(|listener| match &listener.kind {
            ListenerKind::Tls { credentials, .. } => Some(credentials),
            ListenerKind::Plain { .. } => None,
        })
    }
}

impl ServerConfig {
    /// Every file that it names.
    pub fn files(&self) -> Vec<&Path> {
        let mut files = self.certificate_files();
        files.extend(self.all_credentials().map(|own| &*own.key));
        files.extend(self.crls.iter().map(|file| &**file));
        unique(files)
    }

    /// Those that hold certificates: its own and the CAs.
    pub fn certificate_files(&self) -> Vec<&Path> {
        let mut files: Vec<&Path> = self.all_credentials().map(|own| &*own.certificate).collect();
        files.push(&self.gateway_ca);
        files.extend(self.backend_tls().map(|tls| &*tls.ca));
        files.extend(self.agent_tls().filter_map(|tls| tls.device_ca.as_deref()));
        unique(files)
    }

    fn all_credentials(&self) -> impl Iterator<Item = &Credentials> {
        let for_backends = self.backend_tls().filter_map(|tls| tls.credentials.as_ref());
        let for_agents = self.agent_tls().map(|tls| &tls.credentials);
        std::iter::once(&self.credentials).chain(for_backends).chain(for_agents)
    }

    /// Those that end the TLS of agents here.
    fn agent_tls(&self) -> impl Iterator<Item = &AgentTlsEnd> {
        self.services.iter().filter_map(|service| match &service.agent_tls {
            AgentTls::Here(end) => Some(end),
            AgentTls::AtGateway | AgentTls::AtBackend => None,
        })
    }

    fn backend_tls(&self) -> impl Iterator<Item = &BackendTls> {
        let backends = self.services.iter().flat_map(|service| {
            let others = service.backend_by_alpn.iter().map(|(_, backend)| backend);
            std::iter::once(&service.backend).chain(others)
        });
        backends.filter_map(|backend| backend.tls.as_ref())
    }
}

fn unique(mut files: Vec<&Path>) -> Vec<&Path> {
    files.sort_unstable();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse_gateway, parse_server};

    #[test]
    fn every_file_of_the_example_configurations_is_known_once() {
        let path = |name| Path::new("/etc/vestibule").join(name);
        let gateway = include_str!("../../deploy/gateway.toml");
        let gateway = parse_gateway(gateway, &path("gateway.toml")).expect("sound").config;
        let server = include_str!("../../deploy/server.toml");
        let server = parse_server(server, &path("server.toml")).expect("sound").config;
        for (text, files) in [
            (include_str!("../../deploy/gateway.toml"), gateway.files()),
            (include_str!("../../deploy/server.toml"), server.files()),
        ] {
            let written = text.lines().filter(|line| !line.starts_with('#'));
            let written = written.flat_map(|line| line.split('"').skip(1).step_by(2));
            let mut named: Vec<_> =
                written.filter(|value| value.starts_with("pki/")).map(path).collect();
            named.sort_unstable();
            named.dedup();
            assert_eq!(files, named);
        }
    }
}
