//! TLS as every process of the bench speaks it: 1.3, AES-256-GCM, the groups that rustls prefers
//! (the post-quantum one first). Devices do full handshakes; between the two relays TLS resumes, as it
//! does on data connections. Peers that differ in these can't be compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider};
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

/// As the gateway gives.
const TICKETS_PER_HANDSHAKE: usize = 1;
/// rustls keeps eight tickets of each name, whatever is asked.
const KEPT_SESSIONS: usize = 8;

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

    /// As a device, which resumes nothing.
    pub(crate) fn device_config(&self) -> Result<Arc<ClientConfig>, BenchError> {
        self.client_config(Resumption::disabled())
    }

    /// As a relay towards its next hop.
    pub(crate) fn hop_config(&self) -> Result<Arc<ClientConfig>, BenchError> {
        self.client_config(Resumption::in_memory_sessions(KEPT_SESSIONS))
    }

    fn client_config(&self, resumption: Resumption) -> Result<Arc<ClientConfig>, BenchError> {
        let roots = self.roots("gateways")?;
        let (chain, key) = self.load_credentials(DEVICE_NAME)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| self.refused(error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| self.refused(error))?;
        config.resumption = resumption;
        Ok(Arc::new(config))
    }

    /// As a gateway that requires a device's certificate.
    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, BenchError> {
        let roots = Arc::new(self.roots("devices")?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| damaged(&self.ca("devices"), &error))?;
        let (chain, key) = self.load_credentials(GATEWAY_NAME)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| self.refused(error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| self.refused(error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Ticketer::new().map_err(|error| self.refused(error))?;
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
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

fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
    Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BenchError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| damaged(path, &error))
}

fn damaged(path: &Path, error: &impl std::error::Error) -> BenchError {
    BenchError::File { path: path.to_owned(), what: error.to_string() }
}
