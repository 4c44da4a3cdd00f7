use std::path::Path;
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::credentials::{CredentialError, load_credentials, load_roots};
use crate::config::{BackendTls, DeviceCertificates, GatewayConfig, ListenerKind};
use crate::wire::alpn;

/// One configuration for each role on a TLS listener; the `ClientHello` chooses.
#[derive(Debug, Clone)]
pub struct ListenerRoles {
    /// Signal connections of servers; `None` where the listener takes no servers.
    pub signal: Option<Arc<ServerConfig>>,
    /// Data connections of servers; `None` where the listener takes no servers.
    pub data: Option<Arc<ServerConfig>>,
    /// Our own agent.
    pub agent: Arc<ServerConfig>,
    /// Foreign agents, by index of the service; `None` where this listener does not offer it.
    pub foreign: Vec<Option<Arc<ServerConfig>>>,
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
        server_config(Arc::clone(&credentials), Arc::clone(verifier), protocols).map(Arc::new)
    };
    let (signal, data) = if *servers {
        let verifier = required(&config.servers.ca)?;
        let signal = role(&verifier, vec![alpn::SIGNAL.to_vec()])?;
        (Some(signal), Some(role(&verifier, vec![alpn::DATA.to_vec()])?))
    } else {
        (None, None)
    };
    let agent = role(&devices, vec![alpn::AGENT.to_vec()])?;
    let foreign = config
        .services
        .iter()
        .map(|service| {
            let protocols = || service.alpn.iter().map(|name| name.clone().into_bytes()).collect();
            let offered = service.listeners.contains(&listener);
            offered.then(|| role(&devices, protocols())).transpose()
        })
        .collect::<Result<_, _>>()?;
    Ok(ListenerRoles { signal, data, agent, foreign })
}

/// For connections to a gateway: TLS 1.3 only, these roots only.
pub fn client_config(
    roots: Arc<RootCertStore>,
    credentials: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
) -> Result<ClientConfig, CredentialError> {
    client_config_of(&[&TLS13], roots, credentials, alpn)
}

/// For connections to a TLS backend, which may be old: TLS 1.2 as well. Loads its files.
pub fn backend_config(
    tls: &BackendTls,
    alpn: Vec<Vec<u8>>,
) -> Result<ClientConfig, CredentialError> {
    let credentials = tls.credentials.as_ref().map(load_credentials).transpose()?;
    client_config_of(&[&TLS13, &TLS12], load_roots(&tls.ca)?, credentials, alpn)
}

/// The cryptography of every connection: aws-lc-rs, with the post-quantum group preferred. Always
/// given explicitly, so that no process default can change it.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

fn server_config(
    credentials: Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: Vec<Vec<u8>>,
) -> Result<ServerConfig, CredentialError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials)));
    config.alpn_protocols = alpn;
    // rustls resumes across roles and without a second look at the client's certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.enable_secret_extraction = true;
    Ok(config)
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
            Ok(builder.allow_unauthenticated().build()?)
        }
        DeviceCertificates::None => Ok(WebPkiClientVerifier::no_client_auth()),
    }
}

fn required(ca: &Path) -> Result<Arc<dyn ClientCertVerifier>, CredentialError> {
    Ok(WebPkiClientVerifier::builder_with_provider(load_roots(ca)?, provider()).build()?)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustls::crypto::SupportedKxGroup;
    use rustls::{
        CertificateError, ClientConnection, Error, NamedGroup, ProtocolVersion, ServerConnection,
    };

    use super::*;
    use crate::config::Credentials;
    use crate::tls::testing::{Authority, Folder, gateway_config};

    const NAME: &str = "gw.example.com";

    /// Who connects, offering what, to which role, and what is agreed.
    type Case<'a> = (&'a Credentials, &'a [&'a [u8]], &'a Arc<ServerConfig>, Option<&'a [u8]>);

    /// A CA for each role, and a certificate of each.
    struct World {
        gateways: PathBuf,
        servers: PathBuf,
        devices: PathBuf,
        gateway: Credentials,
        server: Credentials,
        device: Credentials,
        _folder: Folder,
    }

    impl World {
        fn new() -> Self {
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

        fn roles(&self, asked: DeviceCertificates) -> ListenerRoles {
            let config = gateway_config(self.gateway.clone(), asked, &self.servers);
            listener_roles(&config, 0).expect("good files")
        }

        /// Roles of a listener where devices must show a certificate.
        fn strict_roles(&self) -> ListenerRoles {
            self.roles(DeviceCertificates::Required(self.devices.clone()))
        }

        fn client(&self, credentials: Option<&Credentials>, alpn: &[&[u8]]) -> ClientConfig {
            let credentials = credentials.map(|files| load_credentials(files).expect("a pair"));
            let roots = load_roots(&self.gateways).expect("a CA");
            let alpn = alpn.iter().map(|name| name.to_vec()).collect();
            client_config(roots, credentials, alpn).expect("accepted")
        }
    }

    /// Shakes hands in memory, until both have finished or one refuses.
    fn handshake(
        client: ClientConfig,
        name: &str,
        server: &Arc<ServerConfig>,
    ) -> Result<(ClientConnection, ServerConnection), Error> {
        let name = name.to_owned().try_into().expect("a DNS name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
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

    fn refusal(client: ClientConfig, name: &str, server: &Arc<ServerConfig>) -> Error {
        let result = handshake(client, name, server);
        result.map(|_| ()).expect_err("the handshake fails")
    }

    fn foreign(roles: &ListenerRoles, service: usize) -> Arc<ServerConfig> {
        roles.foreign[service].clone().expect("offered here")
    }

    #[test]
    fn each_role_is_agreed_over_tls_1_3_with_a_post_quantum_group() {
        let world = World::new();
        let roles = world.strict_roles();
        let signal = roles.signal.clone().expect("servers are let in");
        let data = roles.data.clone().expect("servers are let in");
        let cases: [Case<'_>; 6] = [
            (&world.server, &[alpn::SIGNAL], &signal, Some(alpn::SIGNAL)),
            (&world.server, &[b"vestibule-at/0.0", alpn::DATA], &data, Some(alpn::DATA)),
            (&world.device, &[alpn::AGENT], &roles.agent, Some(alpn::AGENT)),
            (&world.device, &[b"http/1.1", b"h2"], &foreign(&roles, 0), Some(b"h2")),
            (&world.device, &[], &foreign(&roles, 0), None),
            (&world.device, &[b"h2"], &foreign(&roles, 2), None),
        ];
        for (credentials, offer, server, agreed) in cases {
            let client = world.client(Some(credentials), offer);
            let (client, server) = handshake(client, NAME, server).expect("all is well");
            assert_eq!(server.alpn_protocol(), agreed);
            assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            let group = server.negotiated_key_exchange_group().map(SupportedKxGroup::name);
            assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
            assert!(server.peer_certificates().is_some());
            assert!(client.dangerous_extract_secrets().is_ok());
            assert!(server.dangerous_extract_secrets().is_ok());
        }
    }

    #[test]
    fn a_device_certificate_with_a_servers_alpn_is_refused() {
        let world = World::new();
        let roles = world.strict_roles();
        for (role, name) in [(&roles.signal, alpn::SIGNAL), (&roles.data, alpn::DATA)] {
            let client = world.client(Some(&world.device), &[name]);
            let error = refusal(client, NAME, role.as_ref().expect("servers are let in"));
            assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }
    }

    #[test]
    fn a_server_certificate_does_not_pass_for_a_device() {
        let world = World::new();
        let client = world.client(Some(&world.server), &[alpn::AGENT]);
        let error = refusal(client, NAME, &world.strict_roles().agent);
        assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }

    #[test]
    fn no_certificate_is_enough_only_where_none_is_required() {
        let world = World::new();
        let ca = || world.devices.clone();
        let client = || world.client(None, &[alpn::AGENT]);

        let roles = world.roles(DeviceCertificates::Required(ca()));
        assert_eq!(refusal(client(), NAME, &roles.agent), Error::NoCertificatesPresented);
        for asked in [DeviceCertificates::Optional(ca()), DeviceCertificates::None] {
            let roles = world.roles(asked);
            let (_, server) = handshake(client(), NAME, &roles.agent).expect("none is required");
            assert!(server.peer_certificates().is_none());
            let signal = roles.signal.expect("servers are let in");
            let client = world.client(None, &[alpn::SIGNAL]);
            assert_eq!(refusal(client, NAME, &signal), Error::NoCertificatesPresented);
        }
    }

    #[test]
    fn a_certificate_of_a_strange_ca_is_refused_even_where_none_is_required() {
        let world = World::new();
        let roles = world.roles(DeviceCertificates::Optional(world.devices.clone()));
        let client = world.client(Some(&world.server), &[alpn::AGENT]);
        let error = refusal(client, NAME, &roles.agent);
        assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }

    #[test]
    fn a_gateway_of_another_name_or_another_ca_is_refused() {
        let world = World::new();
        let roles = world.strict_roles();
        let client = world.client(Some(&world.device), &[alpn::AGENT]);
        let error = refusal(client, "other.example.com", &roles.agent);
        assert!(
            matches!(
                error,
                Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
            ),
            "{error:?}"
        );
        let roots = load_roots(&world.devices).expect("a CA");
        let client = client_config(roots, None, vec![alpn::AGENT.to_vec()]).expect("accepted");
        let error = refusal(client, NAME, &roles.agent);
        assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }

    #[test]
    fn an_alpn_that_the_service_does_not_offer_is_refused() {
        let world = World::new();
        let client = world.client(Some(&world.device), &[b"smtp"]);
        let error = refusal(client, NAME, &foreign(&world.strict_roles(), 0));
        assert_eq!(error, Error::NoApplicationProtocol);
    }

    #[test]
    fn a_listener_without_servers_and_services_elsewhere_have_no_configuration() {
        let world = World::new();
        let asked = DeviceCertificates::None;
        let mut config = gateway_config(world.gateway.clone(), asked.clone(), &world.servers);
        config.listeners[0].kind = ListenerKind::Tls {
            credentials: world.gateway.clone(),
            device_certificates: asked,
            servers: false,
        };
        let roles = listener_roles(&config, 0).expect("good files");
        assert!(roles.signal.is_none() && roles.data.is_none());
        let offered = roles.foreign.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(offered, [true, false, true]);
    }

    /// A server that knows TLS 1.2 only.
    fn old_server(world: &World) -> Arc<ServerConfig> {
        let credentials = load_credentials(&world.gateway).expect("a pair");
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&TLS12]).expect("aws-lc-rs knows it");
        let resolver = Arc::new(SingleCertAndKey::from(credentials));
        Arc::new(builder.with_no_client_auth().with_cert_resolver(resolver))
    }

    #[test]
    fn tls_1_2_is_for_backends_only() {
        let world = World::new();
        let backend =
            BackendTls { ca: world.gateways.clone(), name: NAME.to_owned(), credentials: None };
        let client = backend_config(&backend, vec![]).expect("good files");
        let (client, _) =
            handshake(client, NAME, &old_server(&world)).expect("backends may be old");
        assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_2));

        let error = refusal(world.client(None, &[]), NAME, &old_server(&world));
        assert!(matches!(error, Error::PeerIncompatible(_)), "{error:?}");
    }

    #[test]
    fn no_ticket_is_given_out() {
        let world = World::new();
        let client = world.client(Some(&world.device), &[alpn::AGENT]);
        let (client, server) =
            handshake(client, NAME, &world.strict_roles().agent).expect("all is well");
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}
