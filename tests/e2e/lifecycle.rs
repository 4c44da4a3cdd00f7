//! Processes that come and go: drains, kills, restarts.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::harness::{
    Backend, Ending, GatewayFile, Kind, LONG, Peer, Process, ServerFile, Site, World, wait_until,
};

#[test]
fn a_draining_gateway_lets_its_sessions_finish_and_takes_no_new_ones() {
    let backend = Backend::by_hand();
    let mut site = Site::new(backend.address);
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    site.gateway.process.terminate();
    site.gateway.telemetry.wait_unready();
    wait_until("new connections are refused", || {
        std::net::TcpStream::connect(site.gateway.tls).is_err()
    });
    agent.send(b"last words");
    agent.end();
    assert_eq!(service.rest(), (b"last words".to_vec(), Ending::Clean));
    service.send(b"goodbye");
    service.end();
    assert_eq!(agent.rest(), (b"goodbye".to_vec(), Ending::Clean));
    assert_eq!(site.gateway.process.status().code(), Some(0));
    site.gateway.process.line("session ended", &[("reason", "finished")]);
}

#[test]
fn a_drain_that_takes_too_long_ends_with_a_reset() {
    let backend = Backend::by_hand();
    let file = GatewayFile { limits: "drain_timeout_ms = 200", ..GatewayFile::DEFAULT };
    let services = [("echo", backend.address)];
    let mut site = Site::with(&file, |world| ServerFile::new(world, &services));
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    site.gateway.process.terminate();
    assert_ne!(agent.ending(), Ending::Clean);
    assert_eq!(service.ending(), Ending::Reset);
    assert_eq!(site.gateway.process.status().code(), Some(0));
    site.gateway.process.line("session ended", &[("reason", "drain_timeout")]);
}

#[test]
fn a_second_sigterm_does_not_wait() {
    let backend = Backend::by_hand();
    let mut site = Site::new(backend.address);
    let (mut agent, _service) = site.session(Kind::Tls, &backend);
    site.gateway.process.terminate();
    site.gateway.process.line("drains", &[]);
    site.gateway.process.terminate();
    assert_ne!(agent.ending(), Ending::Clean);
    assert_eq!(site.gateway.process.status().code(), Some(0));
    site.gateway.process.line("session ended", &[("reason", "drain_timeout")]);
}

#[test]
fn a_draining_server_lets_its_sessions_finish() {
    let backend = Backend::by_hand();
    let mut site = Site::new(backend.address);
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    site.server.terminate();
    site.gateway.telemetry.wait_unready();
    agent.send(b"last words");
    agent.end();
    assert_eq!(service.rest(), (b"last words".to_vec(), Ending::Clean));
    service.end();
    assert_eq!(agent.ending(), Ending::Clean);
    assert_eq!(site.server.status().code(), Some(0));
}

#[test]
fn sessions_flow_again_after_a_killed_server_is_back() {
    let backend = Backend::by_hand();
    let mut site = Site::new(backend.address);
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    site.server.kill();
    assert_ne!(agent.ending(), Ending::Clean);
    service.rest();
    site.gateway.telemetry.wait_unready();
    // This one waits, and is served by whoever comes.
    let mut waiting = site.world.foreign_agent(&site.gateway);
    site.gateway.telemetry.wait_for("vestibule_waiting_agents", 1);
    let services = [("echo", backend.address)];
    let _server = site.world.server(&ServerFile::new(&site.world, &services));
    let mut service = backend.accept();
    waiting.send(b"as before");
    service.expect(b"as before");
}

#[test]
fn a_server_finds_its_gateway_again_after_a_restart() {
    let backend = Backend::by_hand();
    let mut site = Site::new(backend.address);
    site.gateway.process.kill();
    site.gateway = site.world.gateway(&GatewayFile::DEFAULT);
    site.gateway.telemetry.wait_ready();
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    agent.send(b"as before");
    service.expect(b"as before");
}

#[test]
fn the_least_loaded_server_is_chosen_and_the_other_serves_when_it_is_killed() {
    let (one, two) = (Backend::by_hand(), Backend::by_hand());
    let site = Site::new(one.address);
    let (mut other, _) = site.world.server(&ServerFile {
        host: 3,
        name: "server-2.test",
        ..ServerFile::new(&site.world, &[("echo", two.address)])
    });
    let up = "vestibule_signal_connections{server=\"server-2.test\"}";
    site.gateway.telemetry.wait_for(up, 1);
    let agents: Vec<Peer> = (0..6).map(|_| site.world.foreign_agent(&site.gateway)).collect();
    for _ in 0..3 {
        one.accept();
        two.accept();
    }
    drop(agents);
    other.kill();
    site.gateway.telemetry.wait_for(up, 0);
    for _ in 0..2 {
        let (mut agent, mut service) = site.session(Kind::Tls, &one);
        agent.send(b"as before");
        service.expect(b"as before");
    }
}

#[test]
fn systemd_is_told_when_a_gateway_is_ready_and_when_it_stops() {
    let world = World::new();
    let path = world.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a new path");
    socket.set_read_timeout(Some(LONG)).expect("a socket");
    let config = world.write_gateway(&GatewayFile::DEFAULT);
    let mut command = Process::command();
    command.args(["--log", "json", "gateway", "--config"]).arg(config).env("NOTIFY_SOCKET", &path);
    let mut process = Process::spawn(&mut command);
    let hear = || {
        let mut notice = [0; 1024];
        let len = socket.recv(&mut notice).expect("a notice");
        String::from_utf8_lossy(&notice[..len]).into_owned()
    };
    assert!(hear().lines().any(|line| line == "READY=1"));
    process.terminate();
    assert!(hear().lines().any(|line| line == "STOPPING=1"));
    assert_eq!(process.status().code(), Some(0));
}

#[test]
fn a_frozen_server_is_known_within_ten_seconds_and_its_agents_are_served_by_another() {
    let (one, two) = (Backend::by_hand(), Backend::by_hand());
    let file = GatewayFile { limits: "invitation_timeout_ms = 20000", ..GatewayFile::DEFAULT };
    let site = Site::with(&file, |world| ServerFile::new(world, &[("echo", one.address)]));
    site.server.freeze();
    let mut agent = site.world.foreign_agent(&site.gateway);
    site.gateway.telemetry.wait_for("vestibule_waiting_agents", 1);
    let _other = site.world.server(&ServerFile {
        host: 3,
        name: "server-2.test",
        ..ServerFile::new(&site.world, &[("echo", two.address)])
    });
    let mut service = two.accept();
    agent.send(b"not forgotten");
    service.expect(b"not forgotten");
    let line = site.gateway.process.line("connection ended", &[("reason", "signal_silent")]);
    let silence = Duration::from_secs_f64(line["duration_ms"].as_f64().unwrap_or(0.0) / 1e3);
    assert!(silence >= Duration::from_secs(5), "it was given time: {line}");
}
