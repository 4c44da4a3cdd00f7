//! A server that was taken over, at a gateway: it gets the agents of its own services and no others, and
//! neither another server nor a session of anybody notices.

use std::io::Write;

use vestibule::limits::MAX_SIGNAL_CONNECTIONS_OF_SERVER;
use vestibule::pki::Role;
use vestibule::wire::{
    Claim, Decline, FromDataConnection, FromServer, Goodbye, Invitation, Ping, Pong, RefusalReason,
    ServerHello, ToDataConnection, ToServer, alpn, encode, from_data_connection, from_server,
    to_server,
};

use super::harness::{Authority, GatewayFile, Peer, ScriptedServer, Trial, World};

const HOSTILE: &str = "server-2.test";
const TICKETS_INVALID: &str = "vestibule_connections_ended_total{reason=\"ticket_invalid\"}";
/// For agents that wait until everything was tried.
const PATIENT: GatewayFile<'_> =
    GatewayFile { limits: "invitation_timeout_ms = 60000", ..GatewayFile::DEFAULT };

impl Trial {
    /// The hostile server, which says that it has these services.
    fn hostile(&self, services: &[&str]) -> ScriptedServer {
        ScriptedServer::new(&self.world, HOSTILE, self.gateway.tls, services)
    }

    /// A signal connection of the hostile server with nobody to read it, after both hellos.
    fn unread_signal(&self) -> Peer {
        let config = self.world.server_client(HOSTILE, vec![alpn::SIGNAL.to_vec()]);
        let mut signal = Peer::dial_tls(self.gateway.tls, World::GATEWAY_NAME, &config);
        let hello = from_server::Message::ServerHello(ServerHello::default());
        signal.say(&FromServer { message: Some(hello) });
        signal.hear::<ToServer>();
        signal
    }

    /// Asserts that an agent is served by the honest server.
    fn assert_served(&self) {
        let mut agent = self.world.foreign_agent(&self.gateway);
        let mut data = self.server.join();
        agent.send(b"from the agent");
        data.expect(b"from the agent");
    }
}

fn frame(message: from_server::Message) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&FromServer { message: Some(message) }, &mut frame);
    frame
}

#[test]
fn a_server_is_invited_for_the_services_that_it_may_serve_whatever_it_says() {
    let more = "[[servers.allow]]\nname = \"server-3.test\"\nservices = [\"old\"]\n";
    let mut trial = Trial::new(&GatewayFile { more, ..GatewayFile::DEFAULT });
    trial.world.forge("server-3.test", Authority::Of(Role::Server), |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    for file in ["server-3.test.crt", "server-3.test.key"] {
        std::fs::rename(trial.world.path(file), trial.world.path("pki").join(file))
            .expect("a file of this world");
    }
    {
        let everything = ["echo", "old", "payroll", ""];
        let tls = trial.gateway.tls;
        let greedy = ScriptedServer::new(&trial.world, "server-3.test", tls, &everything);
        assert_eq!(greedy.hello.services, ["old"]);
        // It has no sessions, and would be chosen before the other.
        trial.assert_served();
        let agent = Peer::dial(trial.gateway.plain);
        assert_eq!(greedy.invitation().service, "old");
        agent.reset();
    }
    trial.assert_unharmed();
}

#[test]
fn a_server_has_no_say_in_the_invitations_of_another() {
    let mut trial = Trial::new(&PATIENT);
    let hostile = trial.hostile(&[]);
    let mut agent = trial.world.foreign_agent(&trial.gateway);
    let invitation = trial.server.invitation();
    let reasons = [
        RefusalReason::Draining,
        RefusalReason::ServiceUnknown,
        RefusalReason::ServerFull,
        RefusalReason::BackendRefused,
    ];
    for id in [invitation.id, invitation.id + 1, 0, u64::MAX] {
        for reason in reasons {
            let reason = reason.into();
            hostile.say(from_server::Message::Decline(Decline { id, reason }));
        }
    }
    // Answered in their order: what came before was heard.
    hostile.say(from_server::Message::Ping(Ping { nonce: 77 }));
    assert_eq!(hostile.hear(), to_server::Message::Pong(Pong { nonce: 77 }));
    let (data, _) = trial.server.claim(&invitation);
    let mut data = data.accept();
    agent.send(b"still for the other");
    data.expect(b"still for the other");
    drop((agent, data, hostile));
    trial.assert_unharmed();
}

#[test]
fn a_server_that_declines_every_agent_costs_none_its_session() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    {
        let hostile = trial.hostile(&["echo"]);
        for _ in 0..20 {
            let mut agent = trial.world.foreign_agent(&trial.gateway);
            let Invitation { id, .. } = hostile.invitation();
            let reason = RefusalReason::ServerFull.into();
            for _ in 0..10 {
                hostile.say(from_server::Message::Decline(Decline { id, reason }));
            }
            let mut data = trial.server.join();
            agent.send(b"from the agent");
            data.expect(b"from the agent");
        }
    }
    trial.assert_unharmed();
}

#[test]
fn a_flood_of_messages_out_of_turn_disturbs_nobody() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    {
        let hostile = trial.hostile(&[]);
        let pong = frame(from_server::Message::Pong(Pong { nonce: u64::MAX }));
        let reason = RefusalReason::ServerFull.into();
        let decline = frame(from_server::Message::Decline(Decline { id: 1, reason }));
        let goodbye = frame(from_server::Message::Goodbye(Goodbye {}));
        let flood = [pong, decline, goodbye].concat().repeat(5_000);
        hostile.say_raw(&flood);
        trial.assert_served();
        hostile.say(from_server::Message::Ping(Ping { nonce: 77 }));
        assert_eq!(hostile.hear(), to_server::Message::Pong(Pong { nonce: 77 }));
    }
    trial.assert_unharmed();
}

#[test]
fn a_server_that_asks_and_does_not_listen_is_cut_off() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut signal = trial.unread_signal();
    let pings = frame(from_server::Message::Ping(Ping { nonce: u64::MAX })).repeat(1_000);
    // 17 MB of answers: far more than the kernels of both ends hold.
    let cut_off = (0..1_000).any(|_| signal.write_all(&pings).is_err());
    assert!(cut_off, "the gateway keeps answers that nobody reads");
    drop(signal);
    trial.assert_ended("signal_stalled", 1);
}

#[test]
fn a_server_that_has_keys_updated_and_does_not_listen_is_cut_off() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut signal = trial.unread_signal();
    // Byte after byte of a message without an answer, and between them what TLS itself answers.
    let pong = frame(from_server::Message::Pong(Pong { nonce: u64::MAX }));
    let mut bytes = pong.iter().cycle();
    let cut_off = (0..500_000).any(|_| {
        let byte = *bytes.next().expect("a cycle");
        signal.write_all(&[byte]).is_err() || signal.update_keys().is_err()
    });
    assert!(cut_off, "the gateway keeps answers that nobody reads");
    drop(signal);
    trial.assert_ended("signal_stalled", 1);
}

#[test]
fn huge_numbers_in_a_hello_call_for_no_more_spares_than_are_configured() {
    let file = GatewayFile { limits: "max_spares = 2", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    {
        let tls = trial.gateway.tls;
        let services = ["echo", "echo", "echo"];
        let hostile = ScriptedServer::with_spares(&trial.world, HOSTILE, tls, &services, u32::MAX);
        assert_eq!(hostile.hello.services, ["echo"]);
        let mut spares = 0;
        for _ in 0..20 {
            let agent = trial.world.foreign_agent(&trial.gateway);
            loop {
                let invitation = hostile.invitation();
                if invitation.spare_for_ms == 0 {
                    break;
                }
                spares += 1;
            }
            agent.reset();
            let withdrawn = |message| matches!(message, to_server::Message::Withdraw(_));
            while !withdrawn(hostile.hear()) {
                spares += 1;
            }
        }
        assert!((1..=2).contains(&spares), "{spares} spares were asked for");
    }
    trial.assert_unharmed();
}

#[test]
fn a_server_takes_no_more_than_its_part_of_the_signal_connections() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let signals: Vec<_> =
        (0..MAX_SIGNAL_CONNECTIONS_OF_SERVER).map(|_| trial.hostile(&["old"])).collect();
    let config = trial.world.server_client(HOSTILE, vec![alpn::SIGNAL.to_vec()]);
    let mut one_more = Peer::dial_tls(trial.gateway.tls, World::GATEWAY_NAME, &config);
    one_more.rest();
    trial.assert_served();
    drop((signals, one_more));
    trial.gateway.telemetry.wait_for("vestibule_signal_connections{peer=\"server-2.test\"}", 0);
    trial.assert_ended("connections_full", 1);
}

#[test]
fn guesses_win_no_agent_and_cost_it_nothing() {
    let mut trial = Trial::new(&PATIENT);
    let mut agent = trial.world.foreign_agent(&trial.gateway);
    let invitation = trial.server.invitation();
    {
        let hostile = trial.hostile(&["echo"]);
        for guess in 0..100_u8 {
            let mut ticket = invitation.ticket.clone();
            ticket[usize::from(guess) % 16] ^= guess + 1;
            // The invited server's own guesses, and those of another.
            let server = if guess % 2 == 0 { &trial.server } else { &hostile };
            let mut data = server.data_connection(&invitation);
            data.claim(invitation.id, &ticket);
            assert_eq!(data.answer(), Err(RefusalReason::TicketInvalid));
        }
    }
    trial.gateway.telemetry.wait_for(TICKETS_INVALID, 100);
    let (data, _) = trial.server.claim(&invitation);
    let mut data = data.accept();
    agent.send(b"not guessed");
    data.expect(b"not guessed");
    drop((agent, data));
    trial.assert_unharmed();
}

#[test]
fn a_data_connection_has_one_guess() {
    let mut trial = Trial::new(&PATIENT);
    let mut agent = trial.world.foreign_agent(&trial.gateway);
    let invitation = trial.server.invitation();
    let mut claims = Vec::new();
    for ticket in [vec![0; 16], vec![1; 16], invitation.ticket.clone()] {
        let claim = Claim { id: invitation.id, ticket };
        let message = Some(from_data_connection::Message::Claim(claim));
        encode(&FromDataConnection { message }, &mut claims);
    }
    let mut data = trial.server.data_connection(&invitation);
    data.0.send(&claims);
    assert_eq!(data.answer(), Err(RefusalReason::TicketInvalid));
    assert!(data.0.try_hear::<ToDataConnection>().is_err(), "one answer");
    let (data, _) = trial.server.claim(&invitation);
    let mut data = data.accept();
    agent.send(b"claimed by the second connection");
    data.expect(b"claimed by the second connection");
    drop((agent, data));
    trial.assert_ended("ticket_invalid", 1);
}
