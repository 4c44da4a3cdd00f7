//! Spares: data connections that wait for an agent, and what becomes of the agent when they fail it.

use std::time::Duration;

use vestibule::wire::{
    Accepted, Decline, Invitation, RefusalReason, from_data_connection, from_server, to_server,
};

use super::harness::{
    Backend, DataConnection, Ending, Gateway, GatewayFile, Kind, Peer, ScriptedServer, ServerFile,
    Site, World, wait_until,
};

const HELD: &str = "vestibule_spares";
const USED: &str = "vestibule_spares_ended_total{outcome=\"used\"}";
const UNUSED: &str = "vestibule_spares_ended_total{outcome=\"unused\"}";
const LOST: &str = "vestibule_spares_ended_total{outcome=\"lost\"}";
const SENT: &str = "vestibule_invitations_total{outcome=\"sent\"}";

impl Site {
    /// Lets agents come until spares are held.
    fn fill(&self, backend: &Backend) -> Vec<(Peer, Peer)> {
        let mut sessions = Vec::new();
        while self.gateway.telemetry.metric(HELD) == 0 {
            assert!(sessions.len() < 1000, "agents come, and no spare does");
            sessions.push(self.session(Kind::Tls, backend));
        }
        sessions
    }

    fn wait_for_no_spare(&self) {
        for telemetry in [self.gateway.telemetry, self.server_telemetry] {
            telemetry.wait_for(HELD, 0);
        }
    }

    fn assert_nothing_to_worry_about(&self) {
        for process in [&self.gateway.process, &self.server] {
            for level in ["WARN", "ERROR"] {
                for message in ["connection ended", "signal connection"] {
                    assert_eq!(process.count(message, &[("level", level)]), 0);
                }
            }
        }
    }
}

/// A gateway, a server that a test plays, and a spare that it was asked for and has brought.
struct Scene {
    world: World,
    gateway: Gateway,
    server: ScriptedServer,
    asked: Invitation,
    /// The two agents that called for it, and their data connections.
    _sessions: [(Peer, Peer); 2],
}

impl Scene {
    /// Two agents have come; of one spare at most the server hears.
    fn new() -> Self {
        let world = World::new();
        let gateway = world.gateway(&GatewayFile::DEFAULT);
        let (name, services) = ("server-1.test", ["echo", "old"]);
        let server = ScriptedServer::with_spares(&world, name, gateway.tls, &services, 1);
        let sessions = [(); 2].map(|()| (world.foreign_agent(&gateway), server.join()));
        // Behind the invitation for the second.
        let asked = server.invitation();
        assert!(asked.spare_for_ms > 0 && asked.service.is_empty(), "{asked:?}");
        Self { world, gateway, server, asked, _sessions: sessions }
    }

    fn with_spare() -> (Self, DataConnection) {
        let scene = Self::new();
        let mut spare = scene.server.data_connection(&scene.asked);
        spare.claim(scene.asked.id, &scene.asked.ticket);
        scene.gateway.telemetry.wait_for(HELD, 1);
        (scene, spare)
    }

    /// What comes over the spare when the next agent does.
    fn agent(&self, spare: &mut DataConnection) -> Peer {
        let agent = self.world.foreign_agent(&self.gateway);
        let header = spare.answer().expect("the agent comes over the spare");
        assert_eq!((&*header.service, &*header.device), ("echo", "laptop-7.test"));
        agent
    }

    /// Claims the agent that waits by an invitation, and has it talk.
    fn assert_served_plainly(&self, agent: &mut Peer) {
        let invitation = loop {
            match self.server.hear() {
                to_server::Message::Invitation(sent) if sent.spare_for_ms == 0 => break sent,
                to_server::Message::Invitation(_) | to_server::Message::Withdraw(_) => {}
                other => panic!("expected an invitation, got {other:?}"),
            }
        };
        let (data, _) = self.server.claim(&invitation);
        talk(agent, &mut data.accept());
    }

    fn refusal(&self, server: &ScriptedServer) -> RefusalReason {
        let mut data = server.data_connection(&self.asked);
        data.claim(self.asked.id, &self.asked.ticket);
        data.answer().expect_err("a bad claim")
    }
}

fn talk(agent: &mut Peer, data: &mut Peer) {
    agent.send(b"from the agent");
    data.expect(b"from the agent");
    data.send(b"from the server");
    agent.expect(b"from the server");
}

#[test]
fn an_agent_is_joined_over_a_spare_without_an_invitation() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut sessions = site.fill(&backend);
    let telemetry = site.gateway.telemetry;
    loop {
        let [sent, used] = telemetry.metrics([SENT, USED]);
        let (mut agent, mut service) = site.session(Kind::Tls, &backend);
        talk(&mut agent, &mut service);
        sessions.push((agent, service));
        assert!(sessions.len() < 1000, "agents come, and a spare takes none");
        let [sent_then, used_then] = telemetry.metrics([SENT, USED]);
        // News of the first spare may have crossed with the agent.
        if used_then > used {
            assert_eq!(sent_then, sent);
            break;
        }
    }
    assert!(site.server_telemetry.metric(USED) > 0);
    site.assert_nothing_to_worry_about();
}

#[test]
fn a_spare_that_died_costs_the_agent_nothing() {
    type Death = fn(&Scene, DataConnection) -> Option<DataConnection>;
    let deaths: [(&str, Death); 5] = [
        ("reset", |_, spare| {
            spare.0.reset();
            None
        }),
        ("truncated", |_, spare| {
            spare.0.truncate();
            Some(spare)
        }),
        ("silent", |_, spare| Some(spare)),
        ("broken at its other end", |scene, spare| {
            let reason = RefusalReason::InternalError.into();
            scene.server.say(from_server::Message::Decline(Decline { id: scene.asked.id, reason }));
            Some(spare)
        }),
        ("confused", |_, mut spare| {
            spare.say(from_data_connection::Message::Accepted(Accepted {}));
            Some(spare)
        }),
    ];
    for (death, die) in deaths {
        let (scene, mut spare) = Scene::with_spare();
        let mut agent = scene.agent(&mut spare);
        let _dead = die(&scene, spare);
        scene.assert_served_plainly(&mut agent);
        wait_until(&format!("a spare that was {death} counts as no use"), || {
            let [used, unused, lost] = scene.gateway.telemetry.metrics([USED, UNUSED, LOST]);
            (used, unused + lost) == (0, 1)
        });
    }
}

#[test]
fn a_spare_that_breaks_while_it_waits_is_given_to_nobody() {
    type Break = fn(DataConnection);
    let breaks: [(&str, Break); 3] = [
        ("server_reset", |spare| spare.0.reset()),
        ("message_unexpected", |mut spare| {
            spare.say(from_data_connection::Message::Accepted(Accepted {}));
            spare.0.rest();
        }),
        ("frame_invalid", |mut spare| {
            spare.0.send(&[0xff; 4]);
            spare.0.rest();
        }),
    ];
    for (reason, break_it) in breaks {
        let (scene, spare) = Scene::with_spare();
        break_it(spare);
        let telemetry = scene.gateway.telemetry;
        telemetry.wait_for(HELD, 0);
        telemetry.wait_for(LOST, 1);
        scene.gateway.process.line("connection ended", &[("reason", reason)]);
        scene.assert_served_plainly(&mut scene.world.foreign_agent(&scene.gateway));
    }
}

#[test]
fn a_server_that_has_taken_an_agent_may_take_its_time() {
    let (scene, mut spare) = Scene::with_spare();
    let mut agent = scene.agent(&mut spare);
    spare.take();
    scene.gateway.telemetry.wait_for(USED, 1);
    // Longer than a spare may be silent.
    std::thread::sleep(vestibule::limits::SPARE_ANSWER_TIMEOUT + Duration::from_millis(300));
    talk(&mut agent, &mut spare.accept());
    assert_eq!(scene.gateway.telemetry.metric(LOST), 0);
}

#[test]
fn an_agent_that_a_server_refuses_after_all_hears_why() {
    let (scene, mut spare) = Scene::with_spare();
    let mut agent = scene.world.ask(&scene.gateway, "echo");
    spare.answer().expect("the agent comes over the spare");
    spare.take();
    spare.refuse(RefusalReason::BackendRefused);
    assert_eq!(agent.refusal().0, RefusalReason::BackendRefused);
}

#[test]
fn an_agent_that_leaves_before_it_is_taken_takes_the_spare_with_it() {
    let (scene, mut spare) = Scene::with_spare();
    let agent = scene.agent(&mut spare);
    agent.reset();
    scene.gateway.process.line("connection ended", &[("reason", "agent_left")]);
    spare.0.rest();
    scene.gateway.telemetry.wait_for(UNUSED, 1);
    scene.gateway.telemetry.wait_for("vestibule_waiting_agents", 0);
}

#[test]
fn an_agent_whose_server_is_lost_before_it_is_taken_goes_to_another() {
    let (scene, mut spare) = Scene::with_spare();
    let mut agent = scene.agent(&mut spare);
    let Scene { world, gateway, server, _sessions, .. } = scene;
    let other = ScriptedServer::new(&world, "server-2.test", gateway.tls, &["echo"]);
    drop(server);
    let mut data = other.join();
    // Too late.
    assert_ne!(spare.0.rest().1, Ending::Clean);
    talk(&mut agent, &mut data);
    assert_eq!(gateway.telemetry.metrics([UNUSED, LOST]), [1, 0], "it was called back");
}

#[test]
fn the_ticket_of_a_spare_counts_once_and_for_the_server_that_was_asked() {
    let scene = Scene::new();
    {
        let tls = scene.gateway.tls;
        let thief = ScriptedServer::new(&scene.world, "server-2.test", tls, &["echo"]);
        assert_eq!(scene.refusal(&thief), RefusalReason::TicketInvalid);
    }
    let mut spare = scene.server.data_connection(&scene.asked);
    spare.claim(scene.asked.id, &scene.asked.ticket);
    scene.gateway.telemetry.wait_for(HELD, 1);
    assert_eq!(scene.refusal(&scene.server), RefusalReason::TicketInvalid);
    let mut agent = scene.agent(&mut spare);
    assert_eq!(scene.refusal(&scene.server), RefusalReason::TicketInvalid);
    spare.take();
    talk(&mut agent, &mut spare.accept());
}

#[test]
fn spares_fall_away_when_no_agent_comes() {
    let backend = Backend::by_hand();
    let file = GatewayFile { limits: "spare_life_ms = 2000", ..GatewayFile::DEFAULT };
    let services = [("echo", backend.address)];
    let site = Site::with(&file, |world| ServerFile::new(world, &services));
    let _sessions = site.fill(&backend);
    wait_until("none is replaced any more", || {
        let [held, unused] = site.gateway.telemetry.metrics([HELD, UNUSED]);
        held == 0 && unused > 0
    });
    site.wait_for_no_spare();
    for process in [&site.gateway.process, &site.server] {
        process.line("connection ended", &[("reason", "spare_unused")]);
    }
    for telemetry in [site.gateway.telemetry, site.server_telemetry] {
        assert_eq!(telemetry.metric(LOST), 0);
    }
    site.assert_nothing_to_worry_about();
}

#[test]
fn where_the_configuration_wants_none_there_are_none() {
    let backend = Backend::by_hand();
    let services = [("echo", backend.address)];
    for (gateway, server) in [("max_spares = 0", ""), ("", "max_spares = 0")] {
        let file = GatewayFile { limits: gateway, ..GatewayFile::DEFAULT };
        let site = Site::with(&file, |world| ServerFile {
            limits: server,
            ..ServerFile::new(world, &services)
        });
        let _sessions = [(); 8].map(|()| site.session(Kind::Tls, &backend));
        assert_eq!(site.gateway.telemetry.metrics([HELD, USED]), [0, 0]);
        assert_eq!(site.server_telemetry.metrics([HELD, LOST]), [0, 0]);
    }
}

#[test]
fn a_spare_takes_no_seat_before_an_agent_comes() {
    let backend = Backend::by_hand();
    let services = [("echo", backend.address)];
    let site = Site::with(&GatewayFile::DEFAULT, |world| ServerFile {
        // The gateway is told of sixteen.
        limits: "max_sessions = 17",
        ..ServerFile::new(world, &services)
    });
    let [(first, _service), _others @ ..] = [(); 15].map(|()| site.session(Kind::Tls, &backend));
    wait_until("a spare is held", || site.gateway.telemetry.metric(HELD) > 0);
    let _sixteenth = site.session(Kind::Tls, &backend);
    let mut next = site.world.foreign_agent(&site.gateway);
    site.gateway.telemetry.wait_for("vestibule_waiting_agents", 1);
    first.reset();
    talk(&mut next, &mut backend.accept());
}

#[test]
fn a_killed_server_takes_its_spares_along_and_the_next_agent_is_served_by_its_successor() {
    let backend = Backend::by_hand();
    let mut site = Site::new(backend.address);
    let _sessions = site.fill(&backend);
    site.server.kill();
    site.gateway.telemetry.wait_for(HELD, 0);
    site.gateway.telemetry.wait_unready();
    let mut agent = site.world.foreign_agent(&site.gateway);
    site.gateway.telemetry.wait_for("vestibule_waiting_agents", 1);
    let services = [("echo", backend.address)];
    let _server = site.world.server(&ServerFile::new(&site.world, &services));
    talk(&mut agent, &mut backend.accept());
}

#[test]
fn spares_hold_no_drain_up() {
    let backend = Backend::by_hand();
    for is_server in [true, false] {
        let mut site = Site::new(backend.address);
        drop(site.fill(&backend));
        site.gateway.telemetry.wait_for("vestibule_sessions", 0);
        let process = if is_server { &mut site.server } else { &mut site.gateway.process };
        process.terminate();
        // Long before the drain would be cut short.
        assert_eq!(process.status().code(), Some(0));
        if is_server {
            site.gateway.telemetry.wait_for(HELD, 0);
        } else {
            site.server_telemetry.wait_for(HELD, 0);
        }
    }
}
