//! Certificates for tests: of CAs that live for a test, with whatever names, dates and uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use tempfile::TempDir;

use crate::config::{
    Credentials, DeviceCertificates, DevicePolicy, GatewayConfig, GatewayLimits, Listener,
    ListenerKind, ServersPolicy, Service, SessionLimits, Telemetry,
};

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

    pub(crate) fn issue_with(&self, name: &str, params: &CertificateParams) -> Credentials {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Credentials {
            certificate: self.folder.write(&format!("{name}.crt"), &certificate.pem()),
            key: self.folder.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }
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
    let kind = ListenerKind::Tls { credentials, device_certificates, servers: true };
    GatewayConfig {
        workers: 1,
        listeners: vec![Listener { name: "main".to_owned(), addresses: vec![], kind }],
        servers: ServersPolicy { ca: servers_ca.to_owned(), allow: vec![] },
        services: vec![
            service("web", &[0], &["h2", "http/1.1"]),
            service("elsewhere", &[], &[]),
            service("raw", &[0], &[]),
        ],
        limits: limits(),
        telemetry: Telemetry { address: None },
    }
}

fn service(name: &str, listeners: &[usize], alpn: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        listeners: listeners.to_vec(),
        sni: vec![],
        alpn: alpn.iter().map(ToString::to_string).collect(),
        default: false,
        devices: DevicePolicy::Verified,
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
