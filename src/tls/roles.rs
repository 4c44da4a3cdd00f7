use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::credentials::{CredentialError, load_credentials, load_roots};
use super::hkdf;
use super::known_chains::KnownChains;
use super::resumption::RoleConfig;
use crate::config::{BackendTls, DeviceCertificates, GatewayConfig, ListenerKind};
use crate::control::ServiceId;
use crate::limits::MAX_BACKEND_SESSIONS;
use crate::wire::alpn;

/// One configuration for each role on a TLS listener; the `ClientHello` chooses.
#[derive(Debug, Clone)]
pub struct ListenerRoles {
    /// Signal connections of servers; `None` where the listener takes no servers.
    pub signal: Option<RoleConfig>,
    /// Data connections of servers; `None` where the listener takes no servers.
    pub data: Option<RoleConfig>,
    /// Our own agent.
    pub agent: RoleConfig,
    /// Foreign agents, by the services that this listener offers.
    pub foreign: HashMap<ServiceId, RoleConfig>,
}

/// Loads the files of the TLS listener at that index and builds its roles.
///
/// # Panics
/// Where the listener is plain: it has no roles.
pub fn listener_roles(
    config: &GatewayConfig,
    listener: usize,
) -> Result<ListenerRoles, CredentialError> {
    let ListenerKind::Tls { credentials, device_certificates, servers } =
        &config.listeners[listener].kind
    else {
        panic!("listener {} is plain and has no TLS roles", config.listeners[listener].name);
    };
    let credentials = load_credentials(credentials)?;
    let devices = device_verifier(device_certificates)?;
    let role = |verifier: &Arc<dyn ClientCertVerifier>, protocols: Vec<Vec<u8>>| {
        role_config(Arc::clone(&credentials), Arc::clone(verifier), protocols)
    };
    let (signal, data) = if *servers {
        let verifier = required(&config.servers.ca)?;
        let signal = role(&verifier, vec![alpn::SIGNAL.to_vec()])?;
        (Some(signal), Some(role(&verifier, vec![alpn::DATA.to_vec()])?.with_tickets()?))
    } else {
        (None, None)
    };
    let agent = role(&devices, vec![alpn::AGENT.to_vec()])?.with_tickets()?;
    let offered = config.services.iter().filter(|service| service.listeners.contains(&listener));
    let foreign = offered.map(|service| {
        let protocols = service.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        Ok((service.id, role(&devices, protocols)?.with_tickets()?))
    });
    let foreign = foreign.collect::<Result<_, CredentialError>>()?;
    Ok(ListenerRoles { signal, data, agent, foreign })
}

/// For connections to a gateway: TLS 1.3 only, these roots only. They do not resume, unless they are
/// given a store.
pub fn client_config(
    roots: Arc<RootCertStore>,
    credentials: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
) -> Result<ClientConfig, CredentialError> {
    client_config_of(&[&TLS13], roots, credentials, alpn)
}

/// Verifies the chain of a gateway again, whose connection began before a reload. As [`client_config`] does.
pub fn gateway_verifier(
    roots: Arc<RootCertStore>,
) -> Result<Arc<dyn ServerCertVerifier>, CredentialError> {
    Ok(WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?)
}

/// For connections to a TLS backend, which may be old: TLS 1.2 as well. They resume. Loads its files.
pub fn backend_config(
    tls: &BackendTls,
    alpn: Vec<Vec<u8>>,
) -> Result<ClientConfig, CredentialError> {
    let credentials = tls.credentials.as_ref().map(load_credentials).transpose()?;
    let mut config = client_config_of(&[&TLS13, &TLS12], load_roots(&tls.ca)?, credentials, alpn)?;
    config.resumption = Resumption::in_memory_sessions(MAX_BACKEND_SESSIONS);
    Ok(config)
}

/// The cryptography of every connection: aws-lc-rs, with the post-quantum group preferred. Always
/// given explicitly, so that no process default can change it.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        for suite in &mut provider.cipher_suites {
            *suite = hkdf::with_expanded_keys(*suite);
        }
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// Without tickets: nobody resumes.
fn role_config(
    credentials: Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: Vec<Vec<u8>>,
) -> Result<RoleConfig, CredentialError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials)));
    config.alpn_protocols = alpn;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.enable_secret_extraction = true;
    Ok(RoleConfig { config: Arc::new(config), verifier })
}

fn client_config_of(
    versions: &[&'static SupportedProtocolVersion],
    roots: Arc<RootCertStore>,
    credentials: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
) -> Result<ClientConfig, CredentialError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .with_root_certificates(roots);
    let mut config = match credentials {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn;
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(config)
}

fn device_verifier(
    asked: &DeviceCertificates,
) -> Result<Arc<dyn ClientCertVerifier>, CredentialError> {
    match asked {
        DeviceCertificates::Required(ca) => required(ca),
        DeviceCertificates::Optional(ca) => {
            let roots = load_roots(ca)?;
            let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
            Ok(Arc::new(KnownChains::new(builder.allow_unauthenticated().build()?)))
        }
        DeviceCertificates::None => Ok(WebPkiClientVerifier::no_client_auth()),
    }
}

fn required(ca: &Path) -> Result<Arc<dyn ClientCertVerifier>, CredentialError> {
    let builder = WebPkiClientVerifier::builder_with_provider(load_roots(ca)?, provider());
    Ok(Arc::new(KnownChains::new(builder.build()?)))
}

#[cfg(test)]
mod tests;
