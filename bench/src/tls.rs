//! TLS as every process of the bench speaks it: 1.3, AES-256-GCM, X25519. Devices never resume; the
//! connection between the two relays does. Peers that differ in these can't be compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;

/// The names of gateway, server and device in the certificates of a run.
pub(crate) const GATEWAY_NAME: &str = "localhost";
/// See [`GATEWAY_NAME`].
pub(crate) const SERVER_NAME: &str = "server-1.test";
/// See [`GATEWAY_NAME`].
pub(crate) const DEVICE_NAME: &str = "device-1.test";

/// The server name of the service whose TLS goes through.
pub(crate) const PASSTHROUGH_NAME: &str = "passthrough.test";

/// What a client offers to agree on keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Group {
    /// Known to every peer.
    #[value(name = "x25519")]
    X25519,
    /// Post-quantum as well, as Vestibule offers between server and gateway; OpenSSL 3.0 can't.
    #[value(name = "x25519mlkem768")]
    X25519Mlkem768,
}

/// Whether a server lets its clients resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tickets {
    /// Two with each handshake, as rustls does by default; no state is kept.
    Sent,
    /// None.
    Withheld,
}

/// A folder of CAs, certificates and keys, as `vestibule pki` lays it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// A folder that is there, or will be.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Certificate of the CA of `role`: `gateways`, `servers` or `devices`.
    pub(crate) fn ca(&self, role: &str) -> PathBuf {
        self.folder.join(format!("{role}-ca.crt"))
    }

    /// Certificate of `name`, and its key.
    pub(crate) fn credentials(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.folder.join(format!("{name}.crt")), self.folder.join(format!("{name}.key")))
    }

    /// As a device that never resumes: each session is a full handshake.
    pub(crate) fn device_config(&self) -> Result<Arc<ClientConfig>, BenchError> {
        let mut config = self.client_config(Group::X25519, DEVICE_NAME)?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// As a relay to the next one: it resumes where it can.
    pub(crate) fn relay_config(&self, group: Group) -> Result<Arc<ClientConfig>, BenchError> {
        self.client_config(group, DEVICE_NAME).map(Arc::new)
    }

    /// As a server towards its gateway, for one of its protocols.
    pub(crate) fn server_client(
        &self,
        protocols: Vec<Vec<u8>>,
    ) -> Result<Arc<ClientConfig>, BenchError> {
        let mut config = self.client_config(Group::X25519Mlkem768, SERVER_NAME)?;
        config.alpn_protocols = protocols;
        Ok(Arc::new(config))
    }

    fn client_config(&self, group: Group, name: &str) -> Result<ClientConfig, BenchError> {
        let roots = self.roots("gateways")?;
        let (chain, key) = self.load_credentials(name)?;
        ClientConfig::builder_with_provider(provider(vec![group.exchange()]))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| self.refused(error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| self.refused(error))
    }

    /// As a gateway that requires a device's certificate.
    pub(crate) fn server_config(&self, tickets: Tickets) -> Result<Arc<ServerConfig>, BenchError> {
        let provider = provider(vec![Group::X25519.exchange(), Group::X25519Mlkem768.exchange()]);
        let roots = Arc::new(self.roots("devices")?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| damaged(&self.ca("devices"), &error))?;
        let (chain, key) = self.load_credentials(GATEWAY_NAME)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| self.refused(error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| self.refused(error))?;
        match tickets {
            Tickets::Sent => {
                config.ticketer = Ticketer::new().map_err(|error| self.refused(error))?;
            }
            Tickets::Withheld => {
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
            }
        }
        Ok(Arc::new(config))
    }

    fn roots(&self, role: &str) -> Result<RootCertStore, BenchError> {
        let path = self.ca(role);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&path)? {
            roots.add(certificate).map_err(|error| self.refused(error))?;
        }
        Ok(roots)
    }

    fn load_credentials(
        &self,
        name: &str,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BenchError> {
        let (certificate, key) = self.credentials(name);
        let chain = certificates(&certificate)?;
        let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| damaged(&key, &error))?;
        Ok((chain, key))
    }

    fn refused(&self, source: rustls::Error) -> BenchError {
        BenchError::Tls { folder: self.folder.clone(), source }
    }
}

impl Group {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X25519 => "x25519",
            Self::X25519Mlkem768 => "x25519mlkem768",
        }
    }

    fn exchange(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::X25519 => kx_group::X25519,
            Self::X25519Mlkem768 => kx_group::X25519MLKEM768,
        }
    }
}

fn provider(kx_groups: Vec<&'static dyn SupportedKxGroup>) -> Arc<CryptoProvider> {
    let cipher_suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
    Arc::new(CryptoProvider { cipher_suites, kx_groups, ..default_provider() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BenchError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| damaged(path, &error))
}

fn damaged(path: &Path, error: &impl std::error::Error) -> BenchError {
    BenchError::File { path: path.to_owned(), what: error.to_string() }
}
