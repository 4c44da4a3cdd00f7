use std::time::Duration;

use rustls::client::ClientSessionMemoryCache;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConnection};

use super::*;
use crate::config::{DeviceCertificates, ListenerKind};
use crate::relay::CloseReason;
use crate::tls::testing::{NAME, World, gateway_config, handshake};
use crate::tls::{
    BroughtLists, HelloReader, ListenerRoles, expiry, handshake_failure, listener_roles,
    load_certificates, provider,
};
use crate::wire::alpn;

fn name() -> ServerName<'static> {
    NAME.try_into().expect("a DNS name")
}

/// The same client, which keeps its tickets, offering another protocol.
fn offering(client: &Arc<ClientConfig>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut client = ClientConfig::clone(client);
    client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(client)
}

fn keeping_tickets(mut client: ClientConfig) -> Arc<ClientConfig> {
    client.resumption = gateway_resumption(name());
    Arc::new(client)
}

fn meet(
    client: &Arc<ClientConfig>,
    role: &RoleConfig,
) -> Result<(ClientConnection, ServerConnection), Error> {
    handshake(client, NAME, &role.config)
}

fn kind(client: &Arc<ClientConfig>, role: &RoleConfig) -> HandshakeKind {
    meet(client, role).expect("let in").1.handshake_kind().expect("it is over")
}

fn foreign(roles: &ListenerRoles, service: usize) -> &RoleConfig {
    roles.foreign.get(&service).expect("offered here")
}

/// The chain that a resumed connection brings, by way of that role.
fn resumed_chain(client: &Arc<ClientConfig>, role: &RoleConfig) -> Vec<CertificateDer<'static>> {
    assert_eq!(kind(client, role), HandshakeKind::Full);
    let (_, server) = meet(client, role).expect("let in");
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    server.peer_certificates().unwrap_or_default().to_vec()
}

/// Whether the next ClientHello of this client says that it resumes.
fn says_it_resumes(client: &Arc<ClientConfig>) -> bool {
    let mut connection = ClientConnection::new(Arc::clone(client), name()).expect("accepted");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a Vec takes it");
    let read = HelloReader::default().read(&hello).expect("well-formed");
    read.expect("whole").resumes
}

#[test]
fn a_hello_says_whether_it_resumes() {
    let world = World::new();
    let roles = world.strict_roles();
    let client = keeping_tickets(world.client(Some(&world.device), &[alpn::AGENT]));
    assert!(!says_it_resumes(&client));
    assert_eq!(kind(&client, &roles.agent), HandshakeKind::Full);
    assert!(says_it_resumes(&client));
}

#[test]
fn whoever_comes_back_to_a_role_resumes_and_is_who_it_was() {
    let world = World::new();
    let roles = world.strict_roles();
    let cases: [(_, &[&[u8]], _); 4] = [
        (&world.server, &[alpn::DATA, b"vestibule-at/0.0"], roles.data.as_ref().expect("taken")),
        (&world.device, &[alpn::AGENT], &roles.agent),
        (&world.device, &[b"h2"], foreign(&roles, 0)),
        (&world.device, &[], foreign(&roles, 2)),
    ];
    for (own, protocols, role) in cases {
        let client = keeping_tickets(world.client(Some(own), protocols));
        let chain = resumed_chain(&client, role);
        assert_eq!(role.check_chain(&chain, UnixTime::now()), Ok(()));
        assert_eq!(chain.len(), 1);
        // Each ticket is used once, and a resumed connection brings the next.
        assert_eq!(kind(&client, role), HandshakeKind::Resumed);
    }
}

#[test]
fn a_hint_to_another_worker_does_not_keep_a_data_connection_from_resuming() {
    let world = World::new();
    let data = world.strict_roles().data.expect("servers are taken");
    let client = keeping_tickets(world.client(Some(&world.server), &[]));
    let first = offering(&client, &[alpn::DATA, b"vestibule-at/0011223344556677.0"]);
    let second = offering(&client, &[alpn::DATA, b"vestibule-at/0011223344556677.1"]);
    assert_eq!(kind(&first, &data), HandshakeKind::Full);
    assert_eq!(kind(&second, &data), HandshakeKind::Resumed);
}

#[test]
fn a_signal_connection_gets_no_ticket_and_takes_none() {
    let world = World::new();
    let roles = world.strict_roles();
    let (signal, data) = (roles.signal.expect("taken"), roles.data.expect("taken"));
    let client = keeping_tickets(world.client(Some(&world.server), &[alpn::SIGNAL]));
    let (connection, _) = meet(&client, &signal).expect("let in");
    assert_eq!(connection.tls13_tickets_received(), 0);
    let data_client = offering(&client, &[alpn::DATA]);
    assert_eq!(kind(&data_client, &data), HandshakeKind::Full);
    assert_eq!(kind(&client, &signal), HandshakeKind::Full);
}

#[test]
fn a_device_ticket_never_resumes_as_a_server() {
    let world = World::new();
    let roles = world.strict_roles();
    let device = keeping_tickets(world.client(Some(&world.device), &[alpn::AGENT]));
    for (role, protocol) in [(&roles.signal, alpn::SIGNAL), (&roles.data, alpn::DATA)] {
        let role = role.as_ref().expect("servers are taken");
        meet(&device, &roles.agent).expect("let in");
        let refused = meet(&offering(&device, &[protocol]), role).map(|_| ());
        assert_eq!(refused, Err(CertificateError::UnknownIssuer.into()));
        // The second look holds too, where the first would fail.
        let chain = resumed_chain(&device, &roles.agent);
        let refused = role.check_chain(&chain, UnixTime::now());
        assert_eq!(refused, Err(CertificateError::UnknownIssuer.into()));
    }
}

#[test]
fn a_ticket_crosses_neither_from_agent_to_foreign_nor_between_services() {
    let world = World::new();
    let mut config = gateway_config(
        world.gateway.clone(),
        DeviceCertificates::Required(world.devices.clone()),
        &world.servers,
    );
    config.services[1].listeners = vec![0];
    let roles = listener_roles(&config, 0, &BroughtLists::default()).expect("good files");
    let all = [&roles.agent, foreign(&roles, 0), foreign(&roles, 1), foreign(&roles, 2)];
    let protocols: [&[u8]; 2] = [alpn::AGENT, b"h2"];
    for (from, giver) in all.iter().enumerate() {
        for (to, taker) in all.iter().enumerate() {
            let client = keeping_tickets(world.client(Some(&world.device), &protocols));
            assert_eq!(kind(&client, giver), HandshakeKind::Full);
            let resumes = kind(&client, taker) == HandshakeKind::Resumed;
            assert_eq!(resumes, from == to, "from {from} to {to}");
        }
    }
}

#[test]
fn a_ticket_of_a_listener_without_certificates_opens_nothing_where_they_are_required() {
    let world = World::new();
    let strict = world.strict_roles();
    let ca = world.devices.clone();
    for asked in [DeviceCertificates::None, DeviceCertificates::Optional(ca)] {
        let open = world.roles(asked);
        let client = keeping_tickets(world.client(None, &[alpn::AGENT]));
        assert_eq!(kind(&client, &open.agent), HandshakeKind::Full);
        let refused = meet(&client, &strict.agent).map(|_| ());
        assert_eq!(refused, Err(Error::NoCertificatesPresented));
        // The second look holds too, where the first would fail.
        let chain = resumed_chain(&client, &open.agent);
        assert_eq!(open.agent.check_chain(&chain, UnixTime::now()), Ok(()));
        let refused = strict.agent.check_chain(&chain, UnixTime::now()).expect_err("no chain");
        assert_eq!(handshake_failure(&refused), CloseReason::CertificateMissing);
    }
}

#[test]
fn nobody_resumes_with_tls_1_2() {
    let world = World::new();
    let roles = world.older_roles();
    let older = roles.of_foreign(2, false).expect("offered");
    let kept = Arc::new(ClientSessionMemoryCache::new(8));
    let mut client = world.older_client(Some(&world.device), &provider().cipher_suites);
    client.resumption = Resumption::store(Arc::clone(&kept) as Arc<dyn ClientSessionStore>);
    let client = Arc::new(client);
    for _ in 0..2 {
        assert_eq!(kind(&client, older), HandshakeKind::Full);
        assert!(kept.tls12_session(&name()).is_none(), "neither a ticket nor a session id");
    }
}

#[test]
fn a_ticket_of_tls_1_3_is_worth_nothing_with_the_configuration_for_tls_1_2() {
    let world = World::new();
    let roles = world.older_roles();
    let client = keeping_tickets(world.client(Some(&world.device), &[]));
    assert_eq!(kind(&client, foreign(&roles, 2)), HandshakeKind::Full);
    assert!(says_it_resumes(&client));
    let older = roles.of_foreign(2, false).expect("offered");
    assert_eq!(kind(&client, older), HandshakeKind::Full);
}

#[test]
fn a_role_that_asks_for_no_certificate_trusts_none() {
    let world = World::new();
    let strict = world.strict_roles();
    let device = keeping_tickets(world.client(Some(&world.device), &[alpn::AGENT]));
    let chain = resumed_chain(&device, &strict.agent);
    let open = world.roles(DeviceCertificates::None).agent;
    let refused = open.check_chain(&chain, UnixTime::now());
    assert_eq!(refused, Err(CertificateError::UnknownIssuer.into()));
}

#[test]
fn two_listeners_that_differ_in_nothing_share_no_tickets() {
    let world = World::new();
    let mut config = gateway_config(
        world.gateway.clone(),
        DeviceCertificates::Required(world.devices.clone()),
        &world.servers,
    );
    config.listeners.push(config.listeners[0].clone());
    assert!(matches!(config.listeners[1].kind, ListenerKind::Tls { .. }));
    let [one, other] = [0, 1]
        .map(|index| listener_roles(&config, index, &BroughtLists::default()).expect("good files"));
    let client = keeping_tickets(world.client(Some(&world.device), &[alpn::AGENT]));
    assert_eq!(kind(&client, &one.agent), HandshakeKind::Full);
    assert_eq!(kind(&client, &other.agent), HandshakeKind::Full);
}

#[test]
fn a_resumed_chain_is_checked_again() {
    let world = World::new();
    let roles = world.strict_roles();
    let client = keeping_tickets(world.client(Some(&world.device), &[alpn::AGENT]));
    let chain = resumed_chain(&client, &roles.agent);
    assert_eq!(roles.agent.check_chain(&chain, UnixTime::now()), Ok(()));

    let refused = roles.agent.check_chain(&chain, end_of(&chain, 1)).expect_err("expired");
    assert_eq!(handshake_failure(&refused), CloseReason::CertificateExpired);
}

/// So many seconds after the last that its leaf is valid in.
fn end_of(chain: &[CertificateDer<'_>], more: u64) -> UnixTime {
    let end = expiry(&chain[0]).expect("a certificate");
    let end = u64::try_from(end).expect("after 1970");
    UnixTime::since_unix_epoch(Duration::from_secs(end + more))
}

#[test]
fn whoever_dials_sees_when_a_chain_has_expired() {
    let world = World::new();
    let gateway = load_certificates(&world.gateway.certificate).expect("a certificate");
    let device = load_certificates(&world.device.certificate).expect("a certificate");
    let chain = [gateway, device].concat();
    assert_eq!(check_dates(&chain, UnixTime::now()), Ok(()));
    assert_eq!(check_dates(&chain, end_of(&chain, 0)), Ok(()));
    let expired = Err(CertificateError::Expired.into());
    assert_eq!(check_dates(&chain, end_of(&chain, 1)), expired);
    let young = UnixTime::since_unix_epoch(Duration::ZERO);
    assert_eq!(check_dates(&chain, young), Err(CertificateError::NotValidYet.into()));
    let damaged = [CertificateDer::from(vec![0x30, 0x82])];
    let refused = Err(CertificateError::BadEncoding.into());
    assert_eq!(check_dates(&damaged, UnixTime::now()), refused);
}

#[test]
fn a_ticket_that_would_not_fit_a_hello_is_not_given_out() {
    let tickets = RoleTickets(Ticketer::new().expect("random bits"));
    let plain = vec![7; MAX_TICKET_LEN / 2];
    let ticket = tickets.encrypt(&plain).expect("short enough");
    assert_eq!(tickets.decrypt(&ticket), Some(plain));
    assert_eq!(tickets.encrypt(&vec![7; MAX_TICKET_LEN]), None);
    assert_eq!(tickets.lifetime(), 12 * 3600, "what limits say of it");
}

#[test]
fn a_client_keeps_no_more_tickets_than_its_bound() {
    let world = World::new();
    let roles = world.strict_roles();
    let store = |name| Arc::new(KeptTickets { name, tickets: Mutex::default() });
    let (fresh, kept) = (store(name()), store(name()));
    let mut client = world.client(Some(&world.device), &[alpn::AGENT]);
    client.resumption = Resumption::store(Arc::clone(&fresh) as Arc<dyn ClientSessionStore>);
    let client = Arc::new(client);
    for _ in 0..=MAX_KEPT_TICKETS {
        meet(&client, &roles.agent).expect("let in");
        let ticket = fresh.take_tls13_ticket(&name()).expect("one was given");
        kept.insert_tls13_ticket(name(), ticket);
    }
    assert_eq!(kept.tickets().len(), MAX_KEPT_TICKETS);

    let elsewhere = ServerName::try_from("elsewhere.example.com").expect("a DNS name");
    assert!(kept.take_tls13_ticket(&elsewhere).is_none(), "a ticket is for one name");
    let ticket = kept.take_tls13_ticket(&name()).expect("it is full");
    kept.insert_tls13_ticket(elsewhere, ticket);
    assert_eq!(kept.tickets().len(), MAX_KEPT_TICKETS - 1);
}
