//! A gateway that was taken over, at a server: whatever it says, the server connects to nothing but its
//! gateways and backends, bears no more than its bounds, and serves the agents of another gateway.

use vestibule::wire::{
    FromDataConnection, FromServer, GatewayHello, Goodbye, Invitation, Ping, Pong, RefusalReason,
    SessionHeader, ToDataConnection, ToServer, Withdraw, from_data_connection, from_server,
    to_data_connection, to_server,
};

use super::harness::{
    Backend, Gateway, GatewayFile, Peer, Process, ScriptedGateway, ServerFile, SignalConnection,
    Telemetry, World, wait_until,
};

/// A server of two gateways, one of which is hostile.
struct Scene {
    world: World,
    honest: Gateway,
    hostile: ScriptedGateway,
    signal: SignalConnection,
    server: Process,
    telemetry: Telemetry,
    backend: Backend,
    /// Where the hostile gateway would like the server to connect to.
    trap: Backend,
}

impl Scene {
    fn new() -> Self {
        Self::with_limits("")
    }

    fn with_limits(limits: &'static str) -> Self {
        let world = World::new();
        // Without spares, so that each session is one that an invitation brought.
        let file = GatewayFile { limits: "max_spares = 0", ..GatewayFile::DEFAULT };
        let honest = world.gateway(&file);
        let hostile = ScriptedGateway::new(&world, 9);
        let (backend, trap) = (Backend::by_hand(), Backend::by_hand());
        let services = [("echo", backend.address), ("old", backend.address)];
        let mut file = ServerFile { limits, ..ServerFile::new(&world, &services) };
        file.gateways.insert(0, hostile.address.to_string());
        let (server, telemetry) = world.server(&file);
        let signal = hostile.signal();
        honest.telemetry.wait_ready();
        Self { world, honest, hostile, signal, server, telemetry, backend, trap }
    }

    /// A data connection that the server opened for an invitation, and that has claimed it.
    fn claimed(&mut self, id: u64, service: &str) -> Peer {
        self.signal.invite(id, service);
        let (data, claim) = self.hostile.claim();
        assert_eq!(claim.id, id);
        data
    }

    fn expect_decline(&mut self, id: u64, reason: RefusalReason) {
        let from_server::Message::Decline(decline) = self.signal.hear() else {
            panic!("the server declines");
        };
        assert_eq!((decline.id, decline.reason()), (id, reason));
    }

    /// A header with the trap wherever an address has its place.
    fn header(&self) -> SessionHeader {
        let port = self.trap.address.port().into();
        SessionHeader {
            session: "00ff00ff00ff00ff-1".to_owned(),
            service: "echo".to_owned(),
            device: self.trap.address.to_string(),
            agent_ip: vec![127, 0, 0, 1],
            agent_port: port,
            listener_ip: vec![127, 0, 0, 1],
            listener_port: port,
            sni: "localhost".to_owned(),
            alpn: String::new(),
            passthrough: false,
        }
    }

    /// Asserts that the agents of the other gateway are served, that the hostile one has brought nothing
    /// to the backend and made the server connect to nothing else.
    fn assert_harmless(&self) {
        assert!(self.backend.is_untouched() && self.trap.is_untouched());
        let mut agent = self.world.foreign_agent(&self.honest);
        agent.send(b"from the agent");
        let mut service = self.backend.accept();
        service.expect(b"from the agent");
        service.send(b"from the backend");
        agent.expect(b"from the backend");
        let allowed = [self.honest.tls, self.hostile.address, self.backend.address];
        let connected = self.server.connected_to(self.telemetry.0);
        assert!(connected.contains(&self.backend.address), "the kernel tells");
        assert!(connected.iter().all(|to| allowed.contains(to)), "{connected:?}");
        assert!(self.trap.is_untouched());
    }

    /// Waits until the server holds nothing but signal connections.
    fn wait_until_at_rest(&self) {
        self.telemetry.wait_for("vestibule_connections", 0);
    }
}

fn say_header(data: &mut Peer, header: SessionHeader) {
    let message = Some(to_data_connection::Message::SessionHeader(header));
    data.say(&ToDataConnection { message });
}

#[test]
fn invitations_for_services_that_the_server_does_not_have_are_declined() {
    let mut scene = Scene::new();
    let long = "x".repeat(10_000);
    let trap = scene.trap.address.to_string();
    for (id, service) in (1..).zip(["payroll", "ECHO", " echo", &long[..], &trap[..], "echo\n"]) {
        scene.signal.invite(id, service);
        scene.expect_decline(id, RefusalReason::ServiceUnknown);
    }
    assert!(scene.hostile.has_no_data_connection());
    scene.assert_harmless();
}

#[test]
fn a_thousand_invitations_at_once_get_no_more_than_a_share_of_the_seats() {
    let mut scene = Scene::with_limits("max_sessions = 16");
    assert_eq!(scene.signal.hello.capacity, 12, "three quarters, where there are two gateways");
    for id in 1..=1000 {
        scene.signal.invite(id, "echo");
    }
    let held: Vec<_> = (1..=12).map(|_| scene.hostile.claim()).collect();
    for id in 13..=1000 {
        scene.expect_decline(id, RefusalReason::ServerFull);
    }
    assert!(scene.hostile.has_no_data_connection());
    scene.assert_harmless();
    drop(held);
    scene.wait_until_at_rest();
}

#[test]
fn spares_in_excess_are_declined() {
    let mut scene = Scene::with_limits("max_spares = 2");
    for id in 1..=50 {
        scene.signal.invite(id, "");
    }
    // Twice what was told: some may be in use.
    let held: Vec<_> = (1..=4).map(|_| scene.hostile.claim()).collect();
    for id in 5..=50 {
        scene.expect_decline(id, RefusalReason::ServerFull);
    }
    assert!(scene.hostile.has_no_data_connection());
    scene.assert_harmless();
    drop(held);
    scene.wait_until_at_rest();
}

#[test]
fn one_id_stands_for_one_spare() {
    let mut scene = Scene::new();
    let _spare = scene.claimed(1, "");
    scene.signal.invite(1, "");
    scene.server.line("signal connection closed", &[("reason", "message_unexpected")]);
    scene.assert_harmless();
}

#[test]
fn a_session_header_that_lies_reaches_no_backend() {
    let mut scene = Scene::new();
    let honest = scene.header();
    let headers = [
        SessionHeader { service: "old".to_owned(), ..honest.clone() },
        SessionHeader { service: "payroll".to_owned(), ..honest.clone() },
        SessionHeader { session: "x".repeat(256), ..honest.clone() },
        SessionHeader { device: "x".repeat(261), ..honest.clone() },
        SessionHeader { sni: "x".repeat(15_000), ..honest.clone() },
        SessionHeader { alpn: "h2\nreason=finished".to_owned(), ..honest.clone() },
        SessionHeader { device: "\u{1b}[2J".to_owned(), ..honest.clone() },
        SessionHeader { agent_ip: vec![127, 1], ..honest.clone() },
        SessionHeader { listener_ip: Vec::new(), ..honest.clone() },
        SessionHeader { listener_port: 65_536, ..honest },
    ];
    let count = headers.len() as u64;
    for (id, header) in (1..).zip(headers) {
        let mut data = scene.claimed(id, "echo");
        say_header(&mut data, header);
        data.rest();
        scene.expect_decline(id, RefusalReason::InternalError);
    }
    let ended = "vestibule_connections_ended_total{reason=\"frame_invalid\"}";
    scene.telemetry.wait_for(ended, count);
    scene.wait_until_at_rest();
    scene.assert_harmless();
}

#[test]
fn a_spare_leads_to_no_service_that_the_server_does_not_have() {
    let mut scene = Scene::new();
    let mut spare = scene.claimed(1, "");
    let header = SessionHeader { service: "payroll".to_owned(), ..scene.header() };
    say_header(&mut spare, header);
    let answer = spare.hear::<FromDataConnection>().message;
    let Some(from_data_connection::Message::Refused(refused)) = answer else {
        panic!("the server refuses: {answer:?}");
    };
    assert_eq!(refused.reason(), RefusalReason::ServiceUnknown);
    drop(spare);
    scene.wait_until_at_rest();
    scene.assert_harmless();
}

#[test]
fn no_word_of_a_gateway_makes_the_server_connect_elsewhere() {
    let mut scene = Scene::new();
    let mut data = scene.claimed(1, "echo");
    say_header(&mut data, scene.header());
    // A session of the gateway's own making, with the backend of that service.
    let mut service = scene.backend.accept();
    data.hear::<FromDataConnection>();
    let request = format!("CONNECT {} HTTP/1.1\r\n\r\n", scene.trap.address);
    data.send(request.as_bytes());
    service.expect(request.as_bytes());
    scene.assert_harmless();
}

#[test]
fn garbage_on_a_data_connection_ends_that_one_alone() {
    // The last is a frame cut short.
    let broken: [&[u8]; 4] = [&[0xff; 4], &[0, 0, 0, 2, 0x0a, 0x7f], &LATER_MESSAGE, &[0, 0, 0, 9]];
    let mut scene = Scene::new();
    let mut witness = scene.claimed(1, "echo");
    for (id, bytes) in (2..).zip(broken) {
        let mut data = scene.claimed(id, "echo");
        data.send(bytes);
        data.end();
        scene.expect_decline(id, RefusalReason::InternalError);
        data.rest();
    }
    for (reason, count) in [("frame_invalid", 2), ("message_unknown", 1), ("gateway_truncated", 1)]
    {
        let ended = format!("vestibule_connections_ended_total{{reason=\"{reason}\"}}");
        scene.telemetry.wait_for(&ended, count);
    }
    scene.assert_harmless();
    say_header(&mut witness, scene.header());
    scene.backend.accept();
}

#[test]
fn a_signal_connection_that_makes_no_sense_is_closed_and_dialled_again() {
    let hello =
        GatewayHello { instance: ScriptedGateway::INSTANCE.to_owned(), ..Default::default() };
    let second = ToServer { message: Some(to_server::Message::GatewayHello(hello)) };
    let ticket = Invitation { id: 1, service: "echo".to_owned(), ..Default::default() };
    let ticket = ToServer { message: Some(to_server::Message::Invitation(ticket)) };
    let frame = |message: &ToServer| {
        let mut frame = Vec::new();
        vestibule::wire::encode(message, &mut frame);
        frame
    };
    let broken: [(&str, Vec<u8>); 5] = [
        ("frame_invalid", vec![0xff; 4]),
        ("frame_invalid", vec![0, 0, 0, 2, 0x0a, 0x7f]),
        ("message_unknown", LATER_MESSAGE.to_vec()),
        ("message_unexpected", frame(&second)),
        // An invitation without a ticket.
        ("frame_invalid", frame(&ticket)),
    ];
    for (reason, bytes) in broken {
        let mut scene = Scene::new();
        scene.signal.peer.send(&bytes);
        scene.server.line("signal connection closed", &[("reason", reason)]);
        scene.signal = scene.hostile.signal();
        scene.assert_harmless();
    }
}

#[test]
fn a_gateway_that_names_its_process_as_no_gateway_does_is_left() {
    let scene = Scene::new();
    drop(scene.signal.peer);
    let long = "a".repeat(10_000);
    for instance in ["127.0.0.1:4444", "00ff00ff00ff00f\n", &long[..]] {
        let mut signal = scene.hostile.silent_signal();
        signal.greet(instance);
        assert!(signal.peer.try_hear::<FromServer>().is_err(), "{instance:?}");
    }
    wait_until("each is called by its name", || {
        scene.server.count("signal connection closed", &[("reason", "frame_invalid")]) == 3
    });
}

#[test]
fn messages_out_of_turn_mean_nothing() {
    let mut scene = Scene::new();
    for id in 0..1000 {
        scene.signal.say(to_server::Message::Withdraw(Withdraw { id }));
        scene.signal.say(to_server::Message::Pong(Pong { nonce: id }));
    }
    scene.signal.say(to_server::Message::Ping(Ping { nonce: 77 }));
    assert_eq!(scene.signal.hear(), from_server::Message::Pong(Pong { nonce: 77 }));
    scene.signal.say(to_server::Message::Goodbye(Goodbye {}));
    scene.signal.say(to_server::Message::Goodbye(Goodbye {}));
    // After its goodbye, a gateway has nobody to invite for.
    scene.signal.invite(1, "echo");
    scene.server.line("signal connection closed", &[("reason", "message_unexpected")]);
    scene.assert_harmless();
}

#[test]
fn whoever_has_no_gateways_certificate_hears_nothing_of_a_server() {
    let world = World::new();
    let own = world.credentials("server-2.test");
    let posing = ScriptedGateway::with_certificate(&world, 9, &own);
    let backend = Backend::by_hand();
    let mut file = ServerFile::new(&world, &[("echo", backend.address)]);
    file.gateways = vec![posing.address.to_string()];
    let (server, _) = world.server(&file);
    server.line("no signal connection; will dial again", &[]);
    assert!(posing.has_no_signal_connection() && posing.has_no_data_connection());
}

/// Field 99, an empty message.
const LATER_MESSAGE: [u8; 7] = [0, 0, 0, 3, 0x9a, 0x06, 0x00];
