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

use super::credentials::{CredentialError, load_certificates, load_credentials, load_roots};
use super::hkdf;
use super::known_chains::KnownChains;
use super::resumption::RoleConfig;
use super::revocation::{Anchor, BroughtLists, HeldList, Revocation, load_lists};
use crate::config::{
    AgentTlsEnd, BackendTls, DeviceCertificates, GatewayConfig, ListenerKind, RevocationPolicy,
    RevocationRules,
};
use crate::control::ServiceId;
use crate::limits::MAX_BACKEND_SESSIONS;
use crate::wire::alpn;

const CURRENT: &[&SupportedProtocolVersion] = &[&TLS13];
/// For those who may be older.
const OLDER: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

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
    /// Those of them that do not offer TLS 1.3, where the listener takes TLS 1.2 from agents; else none.
    pub older_foreign: HashMap<ServiceId, RoleConfig>,
    /// Which certificates of devices count no more; `None` where no list is looked at.
    pub device_revocation: Option<Arc<Revocation>>,
    /// Which certificates of servers count no more.
    pub server_revocation: Option<Arc<Revocation>>,
    files: Arc<ListenerFiles>,
}

/// What the files of a TLS listener hold.
#[derive(Debug)]
struct ListenerFiles {
    own: Arc<CertifiedKey>,
    /// `None` where no certificate is asked for.
    devices: Option<Trust>,
    /// `None` where the listener takes no servers.
    servers: Option<Trust>,
}

/// The CAs of a role, and what files say of the certificates that count no more.
#[derive(Debug)]
struct Trust {
    roots: Arc<RootCertStore>,
    anchors: Arc<[Anchor]>,
    policy: RevocationPolicy,
    lists: Vec<HeldList>,
    /// Whether who shows no certificate may come as well.
    optional: bool,
}

/// Loads the files of the TLS listener at that index and builds its roles.
///
/// # Panics
/// Where the listener is plain: it has no roles.
pub fn listener_roles(
    config: &GatewayConfig,
    listener: usize,
    brought: &BroughtLists,
) -> Result<ListenerRoles, CredentialError> {
    let ListenerKind::Tls { credentials, device_certificates, device_revocation, servers, .. } =
        &config.listeners[listener].kind
    else {
        panic!("listener {} is plain and has no TLS roles", config.listeners[listener].name);
    };
    let devices = match device_certificates {
        DeviceCertificates::Required(ca) => Some(Trust::load(ca, device_revocation, false)?),
        DeviceCertificates::Optional(ca) => Some(Trust::load(ca, device_revocation, true)?),
        DeviceCertificates::None => None,
    };
    let policy = &config.servers;
    let servers =
        servers.then(|| Trust::load(&policy.ca, &policy.revocation, false)).transpose()?;
    let files = ListenerFiles { own: load_credentials(credentials)?, devices, servers };
    ListenerRoles::build(config, listener, Arc::new(files), brought, None)
}

impl ListenerRoles {
    /// The same roles, once servers have brought other lists. No file is read, and tickets stay good: whoever comes
    /// with one is verified again.
    pub fn with_lists(
        &self,
        config: &GatewayConfig,
        listener: usize,
        brought: &BroughtLists,
    ) -> Result<Self, CredentialError> {
        Self::build(config, listener, Arc::clone(&self.files), brought, Some(self))
    }

    fn build(
        config: &GatewayConfig,
        listener: usize,
        files: Arc<ListenerFiles>,
        brought: &BroughtLists,
        before: Option<&Self>,
    ) -> Result<Self, CredentialError> {
        let revocation =
            |trust: &Option<Trust>| trust.as_ref().and_then(|trust| trust.revocation(brought));
        let (device_revocation, server_revocation) =
            (revocation(&files.devices), revocation(&files.servers));
        let devices = match &files.devices {
            Some(trust) => trust.verifier(device_revocation.clone())?,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let role_of = |versions, verifier: &Arc<dyn ClientCertVerifier>, protocols| {
            role_config(versions, Arc::clone(&files.own), Arc::clone(verifier), protocols)
        };
        let role = |verifier: &Arc<dyn ClientCertVerifier>, protocols: Vec<Vec<u8>>| {
            role_of(CURRENT, verifier, protocols)
        };
        let (signal, data) = match &files.servers {
            Some(trust) => {
                let verifier = trust.verifier(server_revocation.clone())?;
                let signal = role(&verifier, vec![alpn::SIGNAL.to_vec()])?;
                let data = role(&verifier, vec![alpn::DATA.to_vec()])?;
                let before = before.and_then(|before| before.data.as_ref());
                (Some(signal), Some(data.with_tickets(before)?))
            }
            None => (None, None),
        };
        let agent = role(&devices, vec![alpn::AGENT.to_vec()])?;
        let agent = agent.with_tickets(before.map(|before| &before.agent))?;
        let offered =
            config.services.iter().filter(|service| service.listeners.contains(&listener));
        let offered = offered.filter(|service| !service.passthrough);
        let (mut foreign, mut older_foreign) = (HashMap::new(), HashMap::new());
        for service in offered {
            let protocols =
                || service.alpn.iter().map(|name| name.clone().into_bytes()).collect::<Vec<_>>();
            let before = before.and_then(|before| before.foreign.get(&service.id));
            foreign.insert(service.id, role(&devices, protocols())?.with_tickets(before)?);
            if config.listeners[listener].takes_older_agents() {
                // With TLS 1.3 as well, so that whoever was made to offer less is told (RFC 8446 §4.1.3). Without
                // tickets: one of TLS 1.2 opens what was recorded of each session that it resumes.
                older_foreign.insert(service.id, role_of(OLDER, &devices, protocols())?);
            }
        }
        Ok(Self {
            signal,
            data,
            agent,
            foreign,
            older_foreign,
            device_revocation,
            server_revocation,
            files,
        })
    }

    /// For a foreign agent of that service: whoever offers TLS 1.3 gets it, and is refused without it unless
    /// the listener takes TLS 1.2. `None` where the service is not offered.
    pub fn of_foreign(&self, service: ServiceId, offers_tls_1_3: bool) -> Option<&RoleConfig> {
        let older = self.older_foreign.get(&service).filter(|_| !offers_tls_1_3);
        older.or_else(|| self.foreign.get(&service))
    }

    /// Those of devices, and those of servers, where lists are looked at.
    pub fn revocations(&self) -> impl Iterator<Item = &Arc<Revocation>> {
        self.device_revocation.iter().chain(&self.server_revocation)
    }
}

impl Trust {
    fn load(ca: &Path, rules: &RevocationRules, optional: bool) -> Result<Self, CredentialError> {
        let anchors: Arc<[Anchor]> = load_certificates(ca)?.iter().filter_map(Anchor::of).collect();
        let mut lists = Vec::new();
        for file in &rules.crls {
            lists.extend(load_lists(file, &anchors)?);
        }
        Ok(Self { roots: load_roots(ca)?, anchors, policy: rules.policy, lists, optional })
    }

    fn revocation(&self, brought: &BroughtLists) -> Option<Arc<Revocation>> {
        Revocation::new(self.policy, &self.anchors, &self.lists, brought)
    }

    fn verifier(
        &self,
        revocation: Option<Arc<Revocation>>,
    ) -> Result<Arc<dyn ClientCertVerifier>, CredentialError> {
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider());
        let builder = if self.optional { builder.allow_unauthenticated() } else { builder };
        Ok(Arc::new(KnownChains::new(builder.build()?, revocation)))
    }
}

/// For connections to a gateway: TLS 1.3 only, these roots only. They do not resume, unless they are
/// given a store.
pub fn client_config(
    roots: Arc<RootCertStore>,
    credentials: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
) -> Result<ClientConfig, CredentialError> {
    client_config_of(CURRENT, roots, credentials, alpn)
}

/// Ends the TLS of agents at a server: TLS 1.3 only, with tickets. Loads its files.
pub fn agent_end(tls: &AgentTlsEnd) -> Result<RoleConfig, CredentialError> {
    let verifier = match &tls.device_ca {
        Some(ca) => Trust::load(ca, &RevocationRules::default(), false)?.verifier(None)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let protocols = tls.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    role_config(CURRENT, load_credentials(&tls.credentials)?, verifier, protocols)?
        .with_tickets(None)
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
    let mut config = client_config_of(OLDER, load_roots(&tls.ca)?, credentials, alpn)?;
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
    versions: &[&'static SupportedProtocolVersion],
    credentials: Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: Vec<Vec<u8>>,
) -> Result<RoleConfig, CredentialError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials)));
    config.alpn_protocols = alpn;
    // Else who is in the middle could make two sessions of TLS 1.2 that look the same (RFC 7627 §1).
    config.require_ems = true;
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

#[cfg(test)]
mod tests;
