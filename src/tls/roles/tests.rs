use rustls::crypto::SupportedKxGroup;
use rustls::{CertificateError, Error, NamedGroup, ProtocolVersion};

use super::*;
use crate::config::{Credentials, RevocationRules};
use crate::relay::CloseReason;
use crate::tls::handshake_failure;
use crate::tls::testing::{NAME, World, gateway_config, handshake};

/// Who connects, offering what, to which role, and what is agreed.
type Case<'a> = (&'a Credentials, &'a [&'a [u8]], &'a RoleConfig, Option<&'a [u8]>);

fn refusal(client: ClientConfig, name: &str, server: &Arc<ServerConfig>) -> Error {
    let result = handshake(&Arc::new(client), name, server);
    result.map(|_| ()).expect_err("the handshake fails")
}

fn foreign(roles: &ListenerRoles, service: usize) -> RoleConfig {
    roles.foreign[&service].clone()
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
        let (client, server) =
            handshake(&Arc::new(client), NAME, &server.config).expect("all is well");
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
        let error = refusal(client, NAME, &role.as_ref().expect("servers are let in").config);
        assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }
}

#[test]
fn a_server_certificate_does_not_pass_for_a_device() {
    let world = World::new();
    let client = world.client(Some(&world.server), &[alpn::AGENT]);
    let error = refusal(client, NAME, &world.strict_roles().agent.config);
    assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
}

#[test]
fn no_certificate_is_enough_only_where_none_is_required() {
    let world = World::new();
    let ca = || world.devices.clone();
    let client = || world.client(None, &[alpn::AGENT]);

    let roles = world.roles(DeviceCertificates::Required(ca()));
    assert_eq!(refusal(client(), NAME, &roles.agent.config), Error::NoCertificatesPresented);
    for asked in [DeviceCertificates::Optional(ca()), DeviceCertificates::None] {
        let roles = world.roles(asked);
        let (_, server) =
            handshake(&Arc::new(client()), NAME, &roles.agent.config).expect("none is required");
        assert!(server.peer_certificates().is_none());
        let signal = roles.signal.expect("servers are let in");
        let client = world.client(None, &[alpn::SIGNAL]);
        assert_eq!(refusal(client, NAME, &signal.config), Error::NoCertificatesPresented);
    }
}

#[test]
fn a_certificate_of_a_strange_ca_is_refused_even_where_none_is_required() {
    let world = World::new();
    let roles = world.roles(DeviceCertificates::Optional(world.devices.clone()));
    let client = world.client(Some(&world.server), &[alpn::AGENT]);
    let error = refusal(client, NAME, &roles.agent.config);
    assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
}

#[test]
fn a_gateway_of_another_name_or_another_ca_is_refused() {
    let world = World::new();
    let roles = world.strict_roles();
    let client = world.client(Some(&world.device), &[alpn::AGENT]);
    let error = refusal(client, "other.example.com", &roles.agent.config);
    assert!(
        matches!(error, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })),
        "{error:?}"
    );
    let roots = load_roots(&world.devices).expect("a CA");
    let client = client_config(roots, None, vec![alpn::AGENT.to_vec()]).expect("accepted");
    let error = refusal(client, NAME, &roles.agent.config);
    assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
}

#[test]
fn an_alpn_that_the_service_does_not_offer_is_refused() {
    let world = World::new();
    let client = world.client(Some(&world.device), &[b"smtp"]);
    let error = refusal(client, NAME, &foreign(&world.strict_roles(), 0).config);
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
        device_revocation: RevocationRules::default(),
        servers: false,
        older_agents: false,
    };
    let roles = listener_roles(&config, 0, &BroughtLists::default()).expect("good files");
    assert!(roles.signal.is_none() && roles.data.is_none());
    let mut offered: Vec<_> = roles.foreign.keys().copied().collect();
    offered.sort_unstable();
    assert_eq!(offered, [0, 2]);
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
fn a_backend_may_be_old_and_a_gateway_not() {
    let world = World::new();
    let backend =
        BackendTls { ca: world.gateways.clone(), name: NAME.to_owned(), credentials: None };
    let client = backend_config(&backend, vec![]).expect("good files");
    let (client, _) =
        handshake(&Arc::new(client), NAME, &old_server(&world)).expect("backends may be old");
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_2));

    let error = refusal(world.client(None, &[]), NAME, &old_server(&world));
    assert_eq!(handshake_failure(&error), CloseReason::TlsVersion, "{error:?}");
}

/// A client of TLS 1.2 alone, with all suites that rustls has for it.
fn old_client(world: &World, own: &Credentials, offer: &[&[u8]]) -> ClientConfig {
    let mut client = world.older_client(Some(own), &provider().cipher_suites);
    client.alpn_protocols = offer.iter().map(|name| name.to_vec()).collect();
    client
}

#[test]
fn tls_1_2_is_for_foreign_agents_of_a_listener_that_takes_it_and_for_nobody_else() {
    let world = World::new();
    let strict = world.strict_roles();
    assert!(strict.older_foreign.is_empty());
    let roles = world.older_roles();
    let agent = |offer: &[&[u8]]| Arc::new(old_client(&world, &world.device, offer));
    for (service, offer, agreed) in
        [(0, &[&b"h2"[..]][..], Some(&b"h2"[..])), (0, &[], None), (2, &[], None)]
    {
        let role = roles.of_foreign(service, false).expect("offered");
        let (_, server) = handshake(&agent(offer), NAME, &role.config).expect("taken");
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_2));
        assert_eq!(server.alpn_protocol(), agreed);
        assert!(server.peer_certificates().is_some());
        let strict = strict.of_foreign(service, false).expect("offered");
        let error = refusal(old_client(&world, &world.device, offer), NAME, &strict.config);
        assert_eq!(handshake_failure(&error), CloseReason::TlsVersion, "{error:?}");
    }
    for (role, own, protocol) in [
        (roles.signal.as_ref().expect("servers are let in"), &world.server, alpn::SIGNAL),
        (roles.data.as_ref().expect("servers are let in"), &world.server, alpn::DATA),
        (&roles.agent, &world.device, alpn::AGENT),
    ] {
        let error = refusal(old_client(&world, own, &[protocol]), NAME, &role.config);
        assert_eq!(handshake_failure(&error), CloseReason::TlsVersion, "{error:?}");
    }
}

#[test]
fn whoever_offers_tls_1_3_gets_it_where_tls_1_2_is_taken_as_well() {
    let world = World::new();
    let roles = world.older_roles();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(OLDER)
        .expect("both are known")
        .with_root_certificates(load_roots(&world.gateways).expect("a CA"));
    let own = load_credentials(&world.device).expect("a pair");
    let client = Arc::new(client.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))));
    // The second is for those who do not offer it, should one be taken for such.
    for role in [roles.of_foreign(2, true), roles.of_foreign(2, false)] {
        let role = role.expect("offered");
        let (_, server) = handshake(&client, NAME, &role.config).expect("taken");
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
}

#[test]
fn tls_1_2_has_the_suites_of_rustls_alone() {
    let mut names: Vec<_> = provider()
        .cipher_suites
        .iter()
        .filter(|suite| suite.tls13().is_none())
        .map(|suite| format!("{:?}", suite.suite()))
        .collect();
    names.sort_unstable();
    let expected = ["ECDSA", "RSA"].into_iter().flat_map(|kind| {
        ["AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256"]
            .map(|rest| format!("TLS_ECDHE_{kind}_WITH_{rest}"))
    });
    assert_eq!(names, expected.collect::<Vec<_>>());
}
