//! A new process takes a gateway's place: nobody is refused, and nothing that began before is lost.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use vestibule::wire::{RefusalReason, ServerHello, ToAgent, from_server, to_agent, to_server};

use super::harness::{
    Backend, Ending, Gateway, GatewayFile, Kind, LONG, Peer, Process, ScriptedServer, ServerFile,
    Site, World, wait_until,
};

const UPGRADE: &str = "[upgrade]\nsocket = \"upgrade.sock\"";

fn file() -> GatewayFile<'static> {
    GatewayFile { workers: 2, more: UPGRADE, ..GatewayFile::DEFAULT }
}

fn site(file: &GatewayFile<'_>, backend: std::net::SocketAddr) -> Site {
    let services = [("echo", backend), ("old", backend)];
    Site::with(file, |world| ServerFile::new(world, &services))
}

/// The next process of the gateway, once it serves.
fn take_over(world: &World, file: &GatewayFile<'_>) -> Gateway {
    let process = world.take_over(file);
    process.line("gateway runs", &[]);
    world.running(file, process)
}

/// One visit of an agent of each kind; a panic where it fails in any way.
fn visit(world: &World, gateway: &GatewayAddresses, kind: usize) {
    let mut agent = match kind {
        0 => Peer::dial_tls(gateway.tls, World::ECHO, &world.foreign_config()),
        1 => Peer::dial(gateway.plain),
        _ => {
            let mut agent = world.ask_at(gateway.tls, "echo");
            let answer = agent.hear::<ToAgent>().message;
            assert!(matches!(answer, Some(to_agent::Message::Opened(_))), "{answer:?}");
            agent
        }
    };
    agent.send(b"a request");
    agent.expect(b"a request");
    agent.end();
    assert_eq!(agent.ending(), Ending::Clean);
}

#[derive(Clone, Copy)]
struct GatewayAddresses {
    tls: std::net::SocketAddr,
    plain: std::net::SocketAddr,
}

/// Agents of every kind that come one after another, on threads of their own, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    visits: Arc<Vec<AtomicUsize>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    const THREADS: usize = 6;

    fn start(world: &Arc<World>, gateway: &Gateway) -> Self {
        let addresses = GatewayAddresses { tls: gateway.tls, plain: gateway.plain };
        let stop = Arc::<AtomicBool>::default();
        let visits: Arc<Vec<AtomicUsize>> =
            Arc::new((0..Self::THREADS).map(|_| AtomicUsize::new(0)).collect());
        let start = |index: usize| {
            let (world, stop, visits) = (Arc::clone(world), Arc::clone(&stop), Arc::clone(&visits));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    visit(&world, &addresses, index % 3);
                    visits[index].fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..Self::THREADS).map(start).collect();
        Self { stop, visits, threads }
    }

    /// Waits until each thread has made so many visits more.
    fn goes_on(&self, more: usize) {
        let before: Vec<_> = self.visits.iter().map(|v| v.load(Ordering::Relaxed)).collect();
        for (index, before) in before.into_iter().enumerate() {
            wait_until("agents come and go", || {
                assert!(!self.threads[index].is_finished(), "a visit failed");
                self.visits[index].load(Ordering::Relaxed) >= before + more
            });
        }
    }

    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no visit failed");
        }
        self.visits.iter().map(|v| v.load(Ordering::Relaxed)).sum()
    }
}

#[test]
fn not_one_connection_fails_while_a_new_gateway_takes_over_under_load() {
    let file = file();
    let Site { world, gateway, server, .. } = site(&file, Backend::echo());
    let world = Arc::new(world);
    let load = Load::start(&world, &gateway);
    load.goes_on(10);
    let mut running = gateway;
    for workers in [3, 1] {
        let next = take_over(&world, &GatewayFile { workers, ..file });
        load.goes_on(10);
        let mut before = std::mem::replace(&mut running, next);
        assert_eq!(before.process.status().code(), Some(0));
        before.process.line("another process has taken over", &[]);
        load.goes_on(10);
    }
    let visits = load.end();
    assert!(visits >= 6 * 50, "{visits}");
    running.telemetry.wait_ready();
    assert_eq!(server.count("signal connection is up", &[]), 3);
}

#[test]
fn a_session_of_before_lives_on_in_the_old_process() {
    let (backend, file) = (Backend::by_hand(), file());
    let mut site = site(&file, backend.address);
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    let new = take_over(&site.world, &file);
    agent.send(b"over the old one");
    service.expect(b"over the old one");
    let mut old = std::mem::replace(&mut site.gateway, new);
    let (mut later, mut later_service) = site.session(Kind::Tls, &backend);
    later.send(b"over the new one");
    later_service.expect(b"over the new one");
    service.send(b"an answer");
    agent.expect(b"an answer");
    agent.end();
    service.end();
    assert_eq!((agent.ending(), service.ending()), (Ending::Clean, Ending::Clean));
    assert_eq!(old.process.status().code(), Some(0));
    old.process.line("session ended", &[("reason", "finished")]);
    later_service.send(b"it goes on");
    later.expect(b"it goes on");
}

/// A server that a test plays, and that can follow to another process.
fn scripted(world: &World, gateway: &Gateway) -> ScriptedServer {
    let server = ScriptedServer::new(world, "server-1.test", gateway.tls, &["echo"]);
    let services = vec!["echo".to_owned()];
    let hello = ServerHello { services, successors: true, ..ServerHello::default() };
    server.say(from_server::Message::ServerHello(hello));
    server
}

#[test]
fn claims_of_the_old_process_reach_it() {
    // The invitation outlives a slow change.
    let file = GatewayFile { limits: "invitation_timeout_ms = 60000", ..file() };
    let world = World::new();
    let mut gateway = world.gateway(&file);
    let server = scripted(&world, &gateway);
    gateway.telemetry.wait_for_service("echo");
    let mut agent = world.foreign_agent(&gateway);
    let invitation = server.invitation();
    let process = world.take_over(&file);
    assert!(matches!(server.hear(), to_server::Message::Successor(_)));
    let next = scripted(&world, &gateway);
    process.line("gateway runs", &[]);
    assert_ne!(next.hello.instance, server.hello.instance);
    gateway.process.line("another process has taken over", &[]);
    // Its listeners belong to the new process; the ticket is one of the old.
    let (data, header) = server.claim(&invitation);
    assert_eq!(header.service, "echo");
    let mut service = data.accept();
    service.send(b"welcome");
    agent.expect(b"welcome");
    agent.end();
    service.end();
    assert_eq!(agent.ending(), Ending::Clean);
    assert_eq!(gateway.process.status().code(), Some(0));
    server.wait_until_closed();
    let mut agent = world.foreign_agent(&gateway);
    let mut service = next.join();
    service.send(b"welcome");
    agent.expect(b"welcome");
}

#[test]
fn a_new_process_without_a_signal_connection_gives_up_and_the_old_goes_on() {
    let (world, file) = (World::new(), file());
    let gateway = world.gateway(&file);
    // It is told, and stays where it is.
    let server = scripted(&world, &gateway);
    gateway.telemetry.wait_for_service("echo");
    let mut process = world.take_over(&file);
    assert!(matches!(server.hear(), to_server::Message::Successor(_)));
    process.line("not every service had its server here in time", &[]);
    assert_eq!(process.status().code(), Some(1));
    gateway.process.line("the other process did not take over", &[]);
    let mut agent = world.foreign_agent(&gateway);
    let mut service = server.join();
    service.send(b"as before");
    agent.expect(b"as before");
}

#[test]
fn a_new_process_that_is_killed_midway_costs_nothing() {
    let (world, file) = (World::new(), file());
    let mut gateway = world.gateway(&file);
    let server = scripted(&world, &gateway);
    gateway.telemetry.wait_for_service("echo");
    let mut process = world.take_over(&file);
    process.line("has the sockets", &[]);
    gateway.process.line("another process takes over", &[]);
    process.kill();
    gateway.process.line("the other process did not take over", &[]);
    let mut agent = world.foreign_agent(&gateway);
    assert!(matches!(server.hear(), to_server::Message::Successor(_)));
    let mut service = server.join();
    service.send(b"as before");
    agent.expect(b"as before");
    agent.end();
    service.end();
    // And another may try.
    let process = world.take_over(&file);
    assert!(matches!(server.hear(), to_server::Message::Successor(_)));
    let _next = scripted(&world, &gateway);
    process.line("gateway runs", &[]);
    assert_eq!(gateway.process.status().code(), Some(0));
}

#[test]
fn an_old_process_that_is_killed_midway_leaves_the_new_one_serving() {
    let (world, file) = (World::new(), file());
    let mut gateway = world.gateway(&file);
    let server = scripted(&world, &gateway);
    gateway.telemetry.wait_for_service("echo");
    let process = world.take_over(&file);
    process.line("has the sockets", &[]);
    gateway.process.kill();
    server.wait_until_closed();
    process.line("gateway runs", &[]);
    let gateway = world.running(&file, process);
    let server = scripted(&world, &gateway);
    let mut agent = world.foreign_agent(&gateway);
    let mut service = server.join();
    service.send(b"as before");
    agent.expect(b"as before");
}

#[test]
fn systemd_hears_that_the_new_process_is_ready_once_it_has_a_server() {
    let (world, file) = (World::new(), file());
    let gateway = world.gateway(&file);
    let server = scripted(&world, &gateway);
    gateway.telemetry.wait_for_service("echo");
    let path = world.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a new path");
    socket.set_nonblocking(true).expect("a socket");
    let process = Process::spawn(world.command_to_take_over(&file).env("NOTIFY_SOCKET", &path));
    process.line("has the sockets", &[]);
    assert!(matches!(server.hear(), to_server::Message::Successor(_)));
    let mut notice = [0; 1024];
    assert!(socket.recv(&mut notice).is_err(), "it has no server yet");
    let _next = scripted(&world, &gateway);
    process.line("gateway runs", &[]);
    socket.set_nonblocking(false).expect("a socket");
    socket.set_read_timeout(Some(LONG)).expect("a socket");
    let len = socket.recv(&mut notice).expect("a notice");
    assert!(String::from_utf8_lossy(&notice[..len]).lines().any(|line| line == "READY=1"));
}

#[test]
fn a_second_gateway_is_told_that_one_is_running() {
    let (world, file) = (World::new(), file());
    let gateway = world.gateway(&file);
    let path = world.write_gateway(&file);
    let mut second = Process::start("gateway", path.as_os_str());
    second.line("a gateway is running there", &[]);
    assert_eq!(second.status().code(), Some(1));
    assert_eq!(gateway.process.count("another process takes over", &[]), 0);
}

#[test]
fn without_a_gateway_that_runs_one_that_is_to_take_over_begins_like_any_other() {
    let (world, file) = (World::new(), file());
    let mut gateway = take_over(&world, &file);
    gateway.process.kill();
    // What it left of its socket is in nobody's way.
    let gateway = take_over(&world, &file);
    let server = scripted(&world, &gateway);
    let mut agent = world.foreign_agent(&gateway);
    let (data, _) = server.claim(&server.invitation());
    data.refuse(RefusalReason::BackendRefused);
    assert!(matches!(agent.ending(), Ending::Alert(_)));
}

/// Starts a gateway with two listening sockets that are open already, as systemd does.
fn activated(world: &World, file: &GatewayFile<'_>, sockets: [&TcpListener; 2]) -> Process {
    let path = world.write_gateway(file);
    let script = "exec 3<&0 4<&1 </dev/null >/dev/null; \
        LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=internet:other exec \"$@\"";
    let copies = sockets.map(|socket| OwnedFd::from(socket.try_clone().expect("a descriptor")));
    let [one, other] = copies;
    let mut command = Process::any("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_vestibule")]);
    command.args(["--log", "json", "gateway", "--config"]).arg(path);
    Process::spawn_with(&mut command, one, other)
}

#[test]
fn connections_wait_at_the_sockets_of_systemd_while_no_gateway_runs() {
    let (world, backend) = (World::new(), Backend::echo());
    let file = GatewayFile { workers: 2, ..GatewayFile::DEFAULT };
    let listen = |port| TcpListener::bind(world.address(1, port)).expect("a port of this test");
    let (internet, other) = (listen(13_000), listen(13_999));
    let services = [("echo", backend), ("old", backend)];
    let (_server, _) = world.server(&ServerFile::new(&world, &services));
    let mut gateway = world.running(&file, activated(&world, &file, [&internet, &other]));
    gateway.process.line("was passed to this process, and no listener has it", &[]);
    gateway.process.line("was not passed to this process: opened", &[("listener", "old-agents")]);
    gateway.telemetry.wait_ready();
    let addresses = GatewayAddresses { tls: gateway.tls, plain: gateway.plain };
    (0..3).for_each(|kind| visit(&world, &addresses, kind));
    gateway.process.terminate();
    assert_eq!(gateway.process.status().code(), Some(0));
    std::thread::scope(|scope| {
        // Nobody accepts it yet.
        let waits = scope.spawn(|| visit(&world, &addresses, 0));
        let process = activated(&world, &file, [&internet, &other]);
        let gateway = world.running(&file, process);
        waits.join().expect("it was served");
        gateway.telemetry.wait_ready();
    });
}
