//! Whoever breaks the rules of where one TLS ends and another begins gets nothing, and nobody else notices.

use std::io::Write;

use vestibule::wire::{
    Accepted, FromDataConnection, RefusalReason, SessionHeader, ToDataConnection,
    from_data_connection, to_data_connection,
};

use super::super::harness::{
    Backend, DataConnection, Peer, Process, ScriptedGateway, ScriptedServer, SignalConnection,
    Trial, World,
};
use super::{FILE, VAULT, client, hello, server};

/// What a server does on a data connection instead of what it should, and the connection after that.
type ServersBreach = fn(DataConnection) -> Peer;
/// The same for a gateway.
type GatewaysBreach = fn(&mut Peer);

// ---- a server that breaks the rules ----

/// An agent of `vault` whose data connection a hostile server has claimed.
fn claimed(trial: &Trial, server: &ScriptedServer) -> (Peer, DataConnection) {
    let mut agent = Peer::dial(trial.gateway.tls);
    agent.send(&hello(&client(&trial.world)));
    let (data, header) = server.claim(&server.invitation());
    assert!(header.passthrough && header.sni == VAULT && header.device.is_empty(), "{header:?}");
    (agent, data)
}

#[test]
fn a_server_that_speaks_before_its_time_or_ends_nothing_gets_no_byte_of_the_agent() {
    let mut trial = Trial::new(&FILE);
    {
        let tls = trial.gateway.tls;
        let server = ScriptedServer::passing(&trial.world, "server-2.test", tls, &[], &["vault"]);
        let breaches: [(ServersBreach, &str); 4] = [
            // Payload in TLS that should have ended.
            (
                |data| {
                    let mut data = data.accept();
                    data.send(b"sealed");
                    data
                },
                "message_unexpected",
            ),
            // Bytes behind its close_notify, before ours.
            (
                |data| {
                    let mut data = data.accept();
                    data.end_tls_with(b"too early");
                    data
                },
                "message_unexpected",
            ),
            // The end of TCP, and none of TLS.
            (
                |data| {
                    let data = data.accept();
                    data.truncate();
                    data
                },
                "server_truncated",
            ),
            // Bare bytes where a close_notify should stand.
            (
                |data| {
                    let data = data.accept();
                    data.socket().write_all(b"bare bytes are no record").expect("it is taken");
                    data
                },
                "server_corrupt",
            ),
        ];
        for (breach, reason) in breaches {
            let (mut agent, data) = claimed(&trial, &server);
            let mut data = breach(data);
            let (bytes, _) = agent.rest();
            assert_eq!(
                bytes,
                [21, 3, 3, 0, 2, 2, 80],
                "the alert that there is no session: {reason}"
            );
            trial.gateway.process.line("connection ended", &[("reason", reason)]);
            let (bytes, _) = data.rest();
            assert_eq!(bytes, b"", "nothing of the agent's after {reason}");
        }
        // One that keeps the rules is served all the same.
        let (mut agent, data) = claimed(&trial, &server);
        let mut data = data.accept();
        data.end_tls();
        assert_eq!(data.take(3), [22, 3, 1], "a ClientHello, bare");
        data.send(b"bare");
        agent.expect(b"bare");
    }
    trial.assert_unharmed();
}

// ---- a gateway that breaks the rules ----

/// A server of `vault` at a gateway that a test plays, and its backend.
fn scene() -> (World, ScriptedGateway, SignalConnection, Process, Backend) {
    let world = World::new();
    let gateway = ScriptedGateway::new(&world, 1);
    let backend = Backend::by_hand();
    let file = server(&world, backend.address, "agent_tls = \"passthrough\"\n");
    let (server, _) = world.server(&file);
    let signal = gateway.signal();
    assert_eq!(signal.hello.passthrough, [1], "the second of its services");
    (world, gateway, signal, server, backend)
}

fn header(passthrough: bool) -> ToDataConnection {
    let header = SessionHeader {
        session: "00ff00ff00ff00ff-1".to_owned(),
        service: "vault".to_owned(),
        agent_ip: vec![203, 0, 113, 7],
        agent_port: 40_000,
        listener_ip: vec![198, 51, 100, 1],
        listener_port: 13_000,
        passthrough,
        ..SessionHeader::default()
    };
    ToDataConnection { message: Some(to_data_connection::Message::SessionHeader(header)) }
}

#[test]
fn a_gateway_that_ends_the_tls_of_a_service_that_passes_is_refused() {
    let (_world, gateway, mut signal, server, backend) = scene();
    signal.invite(1, "vault");
    let (mut data, _) = gateway.claim();
    data.say(&header(false));
    let Some(from_data_connection::Message::Refused(refused)) =
        data.hear::<FromDataConnection>().message
    else {
        panic!("the server refuses");
    };
    assert_eq!(refused.reason(), RefusalReason::PassthroughMismatch);
    server.line("connection ended", &[("reason", "passthrough_mismatch")]);
    assert!(backend.is_untouched());
}

#[test]
fn a_gateway_that_speaks_before_its_time_or_ends_nothing_delivers_no_byte() {
    let (_world, gateway, mut signal, server, backend) = scene();
    let breaches: [(GatewaysBreach, &str); 3] = [
        (|data| data.send(b"sealed"), "message_unexpected"),
        (|data| data.truncate(), "gateway_truncated"),
        (
            |data| data.socket().write_all(b"bare bytes are no record").expect("it is taken"),
            "gateway_corrupt",
        ),
    ];
    for (id, (breach, reason)) in (1..).zip(breaches) {
        signal.invite(id, "vault");
        let (mut data, _) = gateway.claim();
        data.say(&header(true));
        let accepted = data.hear::<FromDataConnection>().message;
        assert_eq!(accepted, Some(from_data_connection::Message::Accepted(Accepted {})));
        breach(&mut data);
        server.line("connection ended", &[("reason", reason)]);
        let (bytes, _) = backend.accept().rest();
        assert_eq!(bytes, b"", "nothing reached the backend after {reason}");
    }
    signal.invite(9, "vault");
    let (mut data, _) = gateway.claim();
    data.say(&header(true));
    data.hear::<FromDataConnection>();
    data.end_tls();
    data.send(b"the agent's own TLS");
    backend.accept().expect(b"the agent's own TLS");
}
