//! Certificates for tests: of CAs that live for a test, with whatever names, dates and uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS12;
use rustls::{
    ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection, SupportedCipherSuite,
};
use tempfile::TempDir;

use super::{
    BroughtLists, ListenerRoles, client_config, listener_roles, load_credentials, load_roots,
    provider,
};
use crate::config::{
    AddressLimits, Credentials, DeviceCertificates, DeviceLimits, DevicePolicy, EventLoop,
    GatewayConfig, GatewayLimits, Listener, ListenerKind, Operator, RelayMode, RevocationRules,
    ServersPolicy, Service, ServiceLimits, SessionLimits, Telemetry,
};
use crate::control::SessionQuota;
use crate::relay::RelayLimits;

/// Name of the gateway.
pub(crate) const NAME: &str = "gw.example.com";

/// A folder that holds what the authorities in it make, for as long as the test runs.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, contents).expect("the folder is writable");
        path
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A CA whose certificate is in a file.
pub(crate) struct Authority<'a> {
    folder: &'a Folder,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
}

impl<'a> Authority<'a> {
    pub(crate) fn new(folder: &'a Folder, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let file = folder.write(&format!("{name}.crt"), &certificate.pem());
        Self { folder, issuer: Issuer::new(params, key), file }
    }

    /// A certificate for clients and servers, valid now.
    pub(crate) fn issue(&self, name: &str) -> Credentials {
        self.issue_with(name, &params(name))
    }

    /// An empty list of revoked certificates in DER, whose next one is due at that second since 1970.
    pub(crate) fn list(&self, next_update: i64) -> Vec<u8> {
        let at = |second| {
            x509_parser::time::ASN1Time::from_timestamp(second).expect("a time").to_datetime()
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: at(next_update - 86_400 * 10_000),
            next_update: at(next_update),
            crl_number: rcgen::SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").der().to_vec()
    }

    pub(crate) fn issue_with(&self, name: &str, params: &CertificateParams) -> Credentials {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Credentials {
            certificate: self.folder.write(&format!("{name}.crt"), &certificate.pem()),
            key: self.folder.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }
}

/// A CA for each role, and a certificate of each.
pub(crate) struct World {
    pub(crate) gateways: PathBuf,
    pub(crate) servers: PathBuf,
    pub(crate) devices: PathBuf,
    pub(crate) gateway: Credentials,
    pub(crate) server: Credentials,
    pub(crate) device: Credentials,
    _folder: Folder,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let gateways = Authority::new(&folder, "gateways-ca");
        let servers = Authority::new(&folder, "servers-ca");
        let devices = Authority::new(&folder, "devices-ca");
        Self {
            gateway: gateways.issue(NAME),
            server: servers.issue("lan.example.com"),
            device: devices.issue("pc.example.com"),
            gateways: gateways.file,
            servers: servers.file,
            devices: devices.file,
            _folder: folder,
        }
    }

    pub(crate) fn roles(&self, asked: DeviceCertificates) -> ListenerRoles {
        let config = gateway_config(self.gateway.clone(), asked, &self.servers);
        listener_roles(&config, 0, &BroughtLists::default()).expect("good files")
    }

    /// Roles of a listener where devices must show a certificate.
    pub(crate) fn strict_roles(&self) -> ListenerRoles {
        self.roles(DeviceCertificates::Required(self.devices.clone()))
    }

    /// The same where devices may come with TLS 1.2.
    pub(crate) fn older_roles(&self) -> ListenerRoles {
        let asked = DeviceCertificates::Required(self.devices.clone());
        let mut config = gateway_config(self.gateway.clone(), asked, &self.servers);
        let ListenerKind::Tls { older_agents, .. } = &mut config.listeners[0].kind else {
            panic!("it speaks TLS");
        };
        *older_agents = true;
        listener_roles(&config, 0, &BroughtLists::default()).expect("good files")
    }

    /// A client that knows TLS 1.2 only, and these suites.
    pub(crate) fn older_client(
        &self,
        credentials: Option<&Credentials>,
        suites: &[SupportedCipherSuite],
    ) -> ClientConfig {
        let provider = CryptoProvider { cipher_suites: suites.to_vec(), ..(*provider()).clone() };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS12])
            .expect("one of the suites is of TLS 1.2")
            .with_root_certificates(load_roots(&self.gateways).expect("a CA"));
        let mut config = match credentials {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let own = load_credentials(files).expect("a pair");
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
        };
        config.enable_secret_extraction = true;
        config
    }

    pub(crate) fn client(&self, credentials: Option<&Credentials>, alpn: &[&[u8]]) -> ClientConfig {
        let credentials = credentials.map(|files| load_credentials(files).expect("a pair"));
        let roots = load_roots(&self.gateways).expect("a CA");
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        client_config(roots, credentials, alpn).expect("accepted")
    }
}

/// Shakes hands in memory, until both have finished or one refuses.
pub(crate) fn handshake(
    client: &Arc<ClientConfig>,
    name: &str,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let name = name.to_owned().try_into().expect("a DNS name");
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    while client.wants_write() || server.wants_write() {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).expect("a Vec grows as needed");
        }
        server.read_tls(&mut flight.as_slice()).expect("a slice does not fail");
        server.process_new_packets()?;
        flight.clear();
        while server.wants_write() {
            server.write_tls(&mut flight).expect("a Vec grows as needed");
        }
        client.read_tls(&mut flight.as_slice()).expect("a slice does not fail");
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

/// For a certificate with one DNS name.
pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.subject_alt_names = vec![dns(name)];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}

/// A gateway with one TLS listener at index 0, and three services: 0 with ALPN, 1 elsewhere, 2 without
/// ALPN.
pub(crate) fn gateway_config(
    credentials: Credentials,
    device_certificates: DeviceCertificates,
    servers_ca: &Path,
) -> GatewayConfig {
    let kind = ListenerKind::Tls {
        credentials,
        device_certificates,
        device_revocation: RevocationRules::default(),
        servers: true,
        older_agents: false,
    };
    GatewayConfig {
        upgrade_socket: None,
        workers: 1,
        event_loop: EventLoop::Auto,
        relay: RelayMode::Userspace,
        listeners: vec![Listener {
            name: "main".to_owned(),
            addresses: vec![],
            proxy_protocol_from: vec![],
            kind,
        }],
        servers: ServersPolicy {
            ca: servers_ca.to_owned(),
            revocation: RevocationRules::default(),
            bring_crls: false,
            addresses: vec![],
            allow: vec![],
        },
        services: vec![
            service(0, "web", &[0], &["h2", "http/1.1"]),
            service(1, "elsewhere", &[], &[]),
            service(2, "raw", &[0], &[]),
        ],
        limits: limits(),
        addresses: AddressLimits {
            max_connections: 1,
            max_connections_of_prefix: 1,
            max_handshakes: 1,
            max_handshakes_of_prefix: 1,
            connections_per_s: 1,
            connections_burst: 1,
            bandwidth: None,
            exempt: vec![],
        },
        devices: DeviceLimits { sessions: SessionQuota::default(), bandwidth: None },
        telemetry: Telemetry { address: None, allow: vec![] },
        operator: Operator::default(),
    }
}

fn service(id: usize, name: &str, listeners: &[usize], alpn: &[&str]) -> Service {
    Service {
        id,
        name: name.to_owned(),
        listeners: listeners.to_vec(),
        sni: vec![],
        alpn: alpn.iter().map(ToString::to_string).collect(),
        default: false,
        passthrough: false,
        devices: DevicePolicy::Verified,
        limits: ServiceLimits {
            sessions: SessionQuota::default(),
            bandwidth: None,
            relay: RelayLimits { idle_timeout: None, half_closed_timeout: Duration::from_secs(1) },
        },
    }
}

fn limits() -> GatewayLimits {
    let second = Duration::from_secs(1);
    GatewayLimits {
        max_connections: 1,
        max_handshakes: 1,
        max_waiting: 1,
        max_spares: 0,
        spare_life: second,
        admission_timeout: second,
        invitation_timeout: second,
        session: SessionLimits {
            idle_timeout: None,
            half_closed_timeout: second,
            keepalive: second,
            user_timeout: second,
        },
        drain_timeout: second,
    }
}
