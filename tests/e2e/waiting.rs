//! Agents that were let in and wait for a server: what becomes of them.

use rustls::AlertDescription;
use vestibule::wire::{Decline, RefusalReason, Withdraw, from_server, to_server};

use super::harness::{Ending, GatewayFile, Kind, Peer, ScriptedServer, Trial, World};

const IMPATIENT: GatewayFile<'_> =
    GatewayFile { limits: "invitation_timeout_ms = 1500", ..GatewayFile::DEFAULT };

#[test]
fn an_invitation_that_nobody_answers_is_told_to_each_agent_in_its_own_way() {
    let mut trial = Trial::new(&IMPATIENT);
    let mut ours = trial.world.ask(&trial.gateway, "echo");
    assert_eq!(ours.refusal(), (RefusalReason::InvitationTimeout, true));
    drop(ours);
    trial.assert_ended("invitation_timeout", 1);

    let mut foreign = trial.world.foreign_agent(&trial.gateway);
    assert_eq!(foreign.ending(), Ending::Alert(AlertDescription::InternalError));
    drop(foreign);
    trial.assert_ended("invitation_timeout", 2);

    let mut plain = Peer::dial(trial.gateway.plain);
    assert_eq!(plain.ending(), Ending::Reset);
    trial.assert_ended("invitation_timeout", 3);

    for _ in 0..3 {
        let invitation = trial.server.invitation();
        let withdrawn = to_server::Message::Withdraw(Withdraw { id: invitation.id });
        assert_eq!(trial.server.hear(), withdrawn);
    }
}

#[test]
fn an_agent_that_leaves_while_it_waits_is_withdrawn() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let leaves: [fn(Peer); 2] = [Peer::reset, |agent| agent.truncate()];
    for (count, leave) in leaves.into_iter().enumerate() {
        let agent = trial.world.foreign_agent(&trial.gateway);
        let invitation = trial.server.invitation();
        leave(agent);
        let withdrawn = to_server::Message::Withdraw(Withdraw { id: invitation.id });
        assert_eq!(trial.server.hear(), withdrawn);
        trial.assert_ended("agent_left", count as u64 + 1);
    }
}

#[test]
fn a_plain_agent_that_leaves_while_it_waits_is_withdrawn() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let agent = Peer::dial(trial.gateway.plain);
    let invitation = trial.server.invitation();
    drop(agent);
    let withdrawn = to_server::Message::Withdraw(Withdraw { id: invitation.id });
    assert_eq!(trial.server.hear(), withdrawn);
    trial.assert_ended("agent_left", 1);
}

#[test]
fn what_an_agent_sends_while_it_waits_arrives_and_so_does_its_end() {
    let trial = Trial::new(&GatewayFile::DEFAULT);
    for kind in Kind::ALL {
        // One after the other: of two that wait, either may be invited for first.
        let mut agent = match kind {
            Kind::Tls => trial.world.foreign_agent(&trial.gateway),
            Kind::Plain => Peer::dial(trial.gateway.plain),
        };
        let invitation = trial.server.invitation();
        let request = b"what it came for";
        agent.send(request);
        agent.end();
        let (data, _) = trial.server.claim(&invitation);
        let mut data = data.accept();
        assert_eq!(data.rest(), (request.to_vec(), Ending::Clean));
        data.send(b"answer");
        data.end();
        assert_eq!(agent.rest(), (b"answer".to_vec(), Ending::Clean));
    }
}

#[test]
fn agents_beyond_the_queue_are_refused_and_those_in_it_are_served() {
    let file = GatewayFile { limits: "max_waiting = 2", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let mut waiting: Vec<_> = (0..2).map(|_| trial.world.foreign_agent(&trial.gateway)).collect();
    trial.gateway.telemetry.wait_for("vestibule_waiting_agents", 2);
    let mut late = trial.world.ask(&trial.gateway, "echo");
    assert_eq!(late.refusal(), (RefusalReason::QueueFull, true));
    drop(late);
    for agent in &mut waiting {
        let mut data = trial.server.join();
        data.send(b"served");
        agent.expect(b"served");
    }
    drop(waiting);
    trial.assert_ended("queue_full", 1);
}

#[test]
fn without_a_server_agents_are_refused_at_once() {
    let world = World::new();
    let gateway = world.gateway(&GatewayFile::DEFAULT);
    assert_eq!(world.ask(&gateway, "echo").refusal(), (RefusalReason::NoServer, true));
    let alert = Ending::Alert(AlertDescription::InternalError);
    assert_eq!(world.foreign_agent(&gateway).ending(), alert);
    assert_eq!(Peer::dial(gateway.plain).ending(), Ending::Reset);
    gateway.telemetry.wait_for("vestibule_connections_ended_total{reason=\"no_server\"}", 3);
}

#[test]
fn a_backend_that_fails_ends_its_agents_at_once_with_the_reason() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let reasons = [
        RefusalReason::BackendRefused,
        RefusalReason::BackendTimeout,
        RefusalReason::BackendUnreachable,
        RefusalReason::BackendTlsFailed,
    ];
    for reason in reasons {
        let mut agent = trial.world.ask(&trial.gateway, "echo");
        let (data, _) = trial.server.claim(&trial.server.invitation());
        data.refuse(reason);
        assert_eq!(agent.refusal().0, reason);
        drop(agent);
        // The data connection and the agent.
        trial.assert_ended(reason.word(), 2);
    }
}

#[test]
fn a_server_that_claims_and_never_answers_ends_its_agent_in_time() {
    let mut trial = Trial::new(&IMPATIENT);
    let mut agent = trial.world.ask(&trial.gateway, "echo");
    let (data, _) = trial.server.claim(&trial.server.invitation());
    assert_eq!(agent.refusal(), (RefusalReason::BackendTimeout, true));
    drop((agent, data));
    trial.assert_ended("backend_timeout", 2);
}

#[test]
fn a_server_that_is_lost_between_claim_and_answer_ends_its_agent_at_once() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let mut agent = trial.world.ask(&trial.gateway, "echo");
    let (data, _) = trial.server.claim(&trial.server.invitation());
    data.0.reset();
    assert_eq!(agent.refusal(), (RefusalReason::NoServer, true));
    drop(agent);
    trial.assert_ended("server_reset", 2);
}

#[test]
fn an_agent_that_a_server_has_no_room_for_goes_to_another() {
    let trial = Trial::new(&GatewayFile::DEFAULT);
    let other = ScriptedServer::new(&trial.world, "server-2.test", trial.gateway.tls, &["echo"]);
    let mut agent = trial.world.foreign_agent(&trial.gateway);
    // Server 2 holds no session yet, so it is the less loaded one.
    let invitation = other.invitation();
    let full = RefusalReason::ServerFull.into();
    other.say(from_server::Message::Decline(Decline { id: invitation.id, reason: full }));
    let mut data = trial.server.join();
    data.send(b"served");
    agent.expect(b"served");
}

#[test]
fn the_unanswered_invitations_of_a_lost_server_go_to_another() {
    let trial = Trial::new(&GatewayFile::DEFAULT);
    let lost = ScriptedServer::new(&trial.world, "server-2.test", trial.gateway.tls, &["echo"]);
    let mut agent = trial.world.foreign_agent(&trial.gateway);
    lost.invitation();
    drop(lost);
    let mut data = trial.server.join();
    data.send(b"as if nothing had happened");
    agent.expect(b"as if nothing had happened");
}

#[test]
fn an_agent_waits_for_a_server_that_was_there_a_moment_ago() {
    let world = World::new();
    let gateway = world.gateway(&GatewayFile::DEFAULT);
    drop(ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo"]));
    gateway.process.line("signal connection closed", &[]);
    let mut agent = world.foreign_agent(&gateway);
    gateway.telemetry.wait_for("vestibule_waiting_agents", 1);
    let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo"]);
    let mut data = server.join();
    data.send(b"back again");
    agent.expect(b"back again");
}
