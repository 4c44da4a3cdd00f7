//! Reload: certificates, CAs and configurations that change while everything runs.

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use rustls::{AlertDescription, ClientConfig, ClientConnection};
use vestibule::pki::Role;
use vestibule::wire::{RefusalReason, to_server};

use super::harness::{
    Authority, Backend, Ending, Gateway, GatewayFile, Kind, LONG, Peer, Process, ScriptedServer,
    Site, Telemetry, World, assert_talks, wait_until,
};

const GATEWAY: &str = "gateway-1.toml";
const SERVER: &str = "server-2.toml";
const APPLIED: &str = "vestibule_reloads_total{result=\"applied\"}";
const REFUSED: &str = "vestibule_reloads_total{result=\"refused\"}";
const OPENED: &str = "signal connection opened";

/// Sends SIGHUP, and waits until the reload was applied.
fn reload(process: &Process, telemetry: Telemetry) {
    let applied = telemetry.metric(APPLIED);
    process.hang_up();
    wait_until("the reload is applied", || telemetry.metric(APPLIED) > applied);
}

/// Sends SIGHUP, and waits until the reload was refused; returns why.
fn refusal(process: &Process, telemetry: Telemetry) -> String {
    let refused = telemetry.metric(REFUSED);
    process.hang_up();
    wait_until("the reload is refused", || telemetry.metric(REFUSED) > refused);
    let line = process.line("the configuration of before stays", &[("level", "ERROR")]);
    line["reason"].as_str().expect("a reason").to_owned()
}

impl Gateway {
    pub(super) fn reload(&self) {
        reload(&self.process, self.telemetry);
    }

    pub(super) fn refusal(&self) -> String {
        refusal(&self.process, self.telemetry)
    }
}

impl Site {
    /// The certificate that the gateway shows, to an agent that asks for nothing.
    fn shown(&self) -> Vec<u8> {
        self.world.our_agent(&self.gateway).certificate()
    }

    fn reload_server(&self) {
        reload(&self.server, self.server_telemetry);
    }

    /// Nothing was dropped: the signal connection is the first one.
    fn assert_one_signal_connection(&self) {
        assert_eq!(self.gateway.process.count(OPENED, &[]), 1);
    }
}

// ---- certificates ----

#[test]
fn a_renewed_certificate_is_served_after_sighup_and_live_sessions_go_on() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut sessions = [Kind::Tls, Kind::Plain].map(|kind| site.session(kind, &backend));
    let before = site.shown();
    site.world.renew("gateway.test");
    site.gateway.reload();
    assert_ne!(site.shown(), before);
    sessions.iter_mut().for_each(assert_talks);
    assert_talks(&mut site.session(Kind::Tls, &backend));
    site.assert_one_signal_connection();
}

#[test]
fn a_renewed_certificate_is_served_without_a_signal() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    let before = site.shown();
    site.world.renew("gateway.test");
    wait_until("the new certificate is served", || site.shown() != before);
    assert_talks(&mut session);
    site.assert_one_signal_connection();
}

#[test]
fn a_half_written_certificate_harms_nobody_and_is_read_once_it_is_whole() {
    let site = Site::new(Backend::echo());
    let before = site.shown();
    let name = "pki/gateway.test.crt";
    let old = std::fs::read_to_string(site.world.path(name)).expect("it was issued");
    site.world.write(name, &old[..old.len() / 2]);
    let telemetry = site.gateway.telemetry;
    wait_until("the half is refused", || telemetry.metric(REFUSED) == 1);
    let line = site.gateway.process.line("the configuration of before stays", &[]);
    let reason = line["reason"].as_str().expect("a reason");
    assert!(reason.contains("gateway.test.crt: ") && reason.contains("PEM"), "{reason}");
    assert_eq!(site.shown(), before);

    site.world.write(name, &old);
    wait_until("the whole is read", || telemetry.metric(APPLIED) == 1);
    assert_eq!(telemetry.metric(REFUSED), 1, "each change was refused once");
    site.world.foreign_agent(&site.gateway).expect_echo(b"as before");
}

#[test]
fn a_server_shows_its_renewed_certificate_and_keeps_its_signal_connection() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    site.world.renew("server-1.test");
    site.reload_server();
    assert_talks(&mut session);
    assert_talks(&mut site.session(Kind::Tls, &backend));
    site.assert_one_signal_connection();
}

#[test]
fn the_metric_of_expiry_follows_the_certificate() {
    let site = Site::new(Backend::echo());
    let expiry = |file: &str| {
        let file = site.world.path(file);
        let labels = format!("file=\"{}\"", file.display());
        let sample = format!("vestibule_certificate_expiry_timestamp_seconds{{{labels}}}");
        site.gateway.telemetry.metric(&sample)
    };
    assert!(expiry("pki/gateway.test.crt") > 0 && expiry("pki/devices-ca.crt") > 0);
    site.world.forge("gateway.test", Authority::Of(Role::Gateway), |params| {
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    });
    site.world.edit(GATEWAY, "pki/gateway.test", "gateway.test");
    site.gateway.reload();
    assert_eq!((expiry("gateway.test.crt"), expiry("pki/gateway.test.crt")), (1_893_456_000, 0));
}

// ---- what is refused ----

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    site.world.edit(GATEWAY, "[limits]", "no_such_key = 1\n[limits]");
    let reason = site.gateway.refusal();
    assert!(reason.contains("gateway-1.toml:") && reason.contains("no_such_key"), "{reason}");
    assert_talks(&mut session);
    assert_talks(&mut site.session(Kind::Tls, &backend));
    let shown = Process::command()
        .args(["status", "--address"])
        .arg(site.gateway.telemetry.0.to_string())
        .output()
        .expect("it was built");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("reload refused ") && shown.contains("no_such_key"), "{shown}");

    site.world.edit(GATEWAY, "no_such_key = 1\n", "");
    site.gateway.reload();
    site.assert_one_signal_connection();
}

#[test]
fn a_file_of_a_server_that_is_bad_changes_nothing_and_says_why() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    site.world.edit(SERVER, "pki/gateways-ca.crt", "pki/absent.crt");
    let reason = refusal(&site.server, site.server_telemetry);
    assert!(reason.contains("absent.crt: "), "{reason}");
    assert_talks(&mut site.session(Kind::Tls, &backend));
    site.assert_one_signal_connection();
}

#[test]
fn what_needs_a_restart_refuses_the_whole_reload_and_is_named() {
    let site = Site::new(Backend::echo());
    site.world.edit(GATEWAY, "workers = 1", "workers = 2");
    site.world.edit(GATEWAY, "name = \"echo\"", "name = \"renamed\"");
    let reason = site.gateway.refusal();
    assert_eq!(reason, "another `workers` needs a restart");
    site.world.foreign_agent(&site.gateway).expect_echo(b"as before");
}

// ---- who is let in ----

#[test]
fn a_removed_server_loses_its_signal_connection() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    site.world.edit(GATEWAY, "name = \"server-1.test\"", "name = \"server-9.test\"");
    site.gateway.reload();
    let reason = ("reason", "certificate_not_allowed");
    site.gateway.process.line("signal connection closed", &[reason]);
    site.gateway.telemetry.wait_unready();
    assert_talks(&mut session);
    wait_until("it has dialled again, and was turned away", || {
        site.gateway.process.count("connection ended", &[reason]) > 1
    });
    site.gateway.telemetry.wait_unready();

    site.world.edit(GATEWAY, "name = \"server-9.test\"", "name = \"server-1.test\"");
    site.gateway.reload();
    site.gateway.telemetry.wait_ready();
    assert_talks(&mut site.session(Kind::Tls, &backend));
}

#[test]
fn a_server_of_a_ca_that_is_gone_loses_its_signal_connection_and_its_spares() {
    let world = World::new();
    let gateway = world.gateway(&GatewayFile::DEFAULT);
    let services = ["echo", "old"];
    let server = ScriptedServer::with_spares(&world, "server-1.test", gateway.tls, &services, 1);
    let _sessions = [(); 2].map(|()| (world.foreign_agent(&gateway), server.join()));
    let asked = server.invitation();
    let mut spare = server.data_connection(&asked);
    spare.claim(asked.id, &asked.ticket);
    gateway.telemetry.wait_for("vestibule_spares", 1);
    world.replace_ca(Role::Server);
    gateway.reload();
    server.wait_until_closed();
    gateway.process.line("signal connection closed", &[("reason", "certificate_untrusted")]);
    gateway.telemetry.wait_for("vestibule_spares", 0);
    gateway.telemetry.wait_for("vestibule_sessions", 2);
}

/// How a foreign agent that dials with this configuration fares.
fn ending(gateway: &Gateway, config: &Arc<ClientConfig>) -> Ending {
    Peer::dial_tls(gateway.tls, World::ECHO, config).ending()
}

#[test]
fn a_device_of_a_ca_that_is_gone_is_turned_away_also_with_its_ticket() {
    let site = Site::new(Backend::echo());
    let device = site.world.foreign_config();
    let mut live = Peer::dial_tls(site.gateway.tls, World::ECHO, &device);
    live.expect_echo(b"before");
    site.world.replace_ca(Role::Device);
    site.gateway.reload();
    // The new CA has the old one's name: the signature is what fails.
    let untrusted = Ending::Alert(AlertDescription::DecryptError);
    assert_eq!(ending(&site.gateway, &device), untrusted);
    assert_eq!(ending(&site.gateway, &site.world.foreign_config()), untrusted);
    live.expect_echo(b"its session is older than the reload");
}

#[test]
fn a_handshake_that_began_before_a_reload_is_judged_by_what_holds_after_it() {
    let site = Site::new(Backend::echo());
    let mut socket = TcpStream::connect(site.gateway.tls).expect("the gateway listens");
    socket.set_read_timeout(Some(LONG)).expect("a socket");
    let name = World::ECHO.try_into().expect("a name");
    let mut tls = ClientConnection::new(site.world.foreign_config(), name).expect("good files");
    tls.write_tls(&mut socket).expect("the gateway reads");
    while !tls.wants_write() {
        tls.read_tls(&mut socket).expect("the gateway answers");
        tls.process_new_packets().expect("its certificate is good");
    }
    site.world.replace_ca(Role::Device);
    site.gateway.reload();
    let mut failure = None;
    while failure.is_none() {
        while tls.wants_write() {
            tls.write_tls(&mut socket).expect("the gateway reads");
        }
        assert_ne!(tls.read_tls(&mut socket).expect("an alert comes first"), 0);
        failure = tls.process_new_packets().err();
    }
    let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
    assert_eq!(failure, Some(alert));
    site.gateway.process.line("connection ended", &[("reason", "certificate_untrusted")]);
}

#[test]
fn an_agent_that_waits_is_judged_again_before_it_is_given_to_a_server() {
    let world = World::new();
    let gateway = world.gateway(&GatewayFile::DEFAULT);
    let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo", "old"]);
    let mut agent = world.ask(&gateway, "echo");
    let invitation = server.invitation();
    world.edit(GATEWAY, "sni = [\"echo.gateway.test\"]", "devices = [\"other-*\"]");
    gateway.reload();
    let mut data = server.data_connection(&invitation);
    data.claim(invitation.id, &invitation.ticket);
    assert_eq!(data.answer().expect_err("nobody is there"), RefusalReason::TicketInvalid);
    assert_eq!(agent.refusal(), (RefusalReason::DeviceNotAllowed, false));
    gateway.telemetry.wait_for("vestibule_waiting_agents", 0);
}

// ---- services ----

const NEW: &str = "[[services]]\nname = \"new\"\nsni = [\"new.gateway.test\"]\n";

#[test]
fn a_service_that_was_added_is_reachable_at_once() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    // In front: the numbers of the others are not their places in the file.
    let first = "[[services]]\nname = \"echo\"";
    site.world.edit(GATEWAY, first, &format!("{NEW}{first}"));
    let served = format!("[[services]]\nname = \"new\"\nbackend = \"{}\"\n", backend.address);
    site.world.edit(SERVER, first, &format!("{served}{first}"));
    site.gateway.reload();
    site.reload_server();
    site.gateway.telemetry.wait_for_service("new");
    let config = site.world.foreign_config();
    let mut agent = Peer::dial_tls(site.gateway.tls, "new.gateway.test", &config);
    agent.send(b"to the new service");
    let mut service = backend.accept();
    service.expect(b"to the new service");
    assert_talks(&mut session);
    assert_talks(&mut site.session(Kind::Tls, &backend));
    assert_talks(&mut site.session(Kind::Plain, &backend));
    site.assert_one_signal_connection();
    agent.end();
    service.end();
    agent.ending();
    site.gateway.process.line("session ended", &[("service", "new"), ("reason", "finished")]);
}

#[test]
fn agents_that_wait_for_a_service_that_is_gone_are_told_so_and_its_sessions_stay() {
    let world = World::new();
    let gateway = world.gateway(&GatewayFile { more: NEW, ..GatewayFile::DEFAULT });
    let services = ["echo", "old", "new"];
    let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &services);
    let config = world.foreign_config();
    let agent = Peer::dial_tls(gateway.tls, "new.gateway.test", &config);
    let mut session = (agent, server.join());
    assert_talks(&mut session);
    let mut waiting = world.ask(&gateway, "new");
    let invitation = server.invitation();
    world.edit(GATEWAY, NEW, "");
    gateway.reload();
    assert_eq!(waiting.refusal(), (RefusalReason::ServiceUnknown, false));
    assert!(
        matches!(server.hear(), to_server::Message::Withdraw(void) if void.id == invitation.id)
    );
    assert_eq!(world.ask(&gateway, "new").refusal(), (RefusalReason::ServiceUnknown, false));
    assert_talks(&mut session);
    drop(session);
    gateway.process.line("session ended", &[("service", "new")]);
}

#[test]
fn a_server_without_a_service_is_invited_for_it_no_more_and_its_sessions_stay() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    let address = backend.address;
    site.world.edit(
        SERVER,
        &format!("[[services]]\nname = \"echo\"\nbackend = \"{address}\"\n"),
        "",
    );
    site.reload_server();
    assert_talks(&mut session);
    wait_until("the gateway knows", || {
        site.world.ask(&site.gateway, "echo").refusal() == (RefusalReason::NoServer, true)
    });
    assert_talks(&mut site.session(Kind::Plain, &backend));
    site.assert_one_signal_connection();
}

#[test]
fn a_backend_that_moved_is_found_and_sessions_with_the_old_one_stay() {
    let old = Backend::by_hand();
    // On the same port: the kernel lets the server connect to no other.
    let new = Backend::by_hand_at(([127, 0, 0, 2], old.address.port()).into());
    let site = Site::new(old.address);
    let mut session = site.session(Kind::Tls, &old);
    site.world.edit(SERVER, &old.address.to_string(), &new.address.to_string());
    site.reload_server();
    assert_talks(&mut site.session(Kind::Tls, &new));
    assert_talks(&mut session);
    assert!(old.is_untouched());
}

#[test]
fn bounds_hold_as_they_are_now() {
    let file =
        GatewayFile { limits: "max_connections = 1000\nmax_waiting = 10", ..GatewayFile::DEFAULT };
    let world = World::new();
    let gateway = world.gateway(&file);
    let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo", "old"]);
    let _first = world.ask(&gateway, "echo");
    server.invitation();
    world.edit(GATEWAY, "max_waiting = 10", "max_waiting = 1");
    gateway.reload();
    assert_eq!(world.ask(&gateway, "echo").refusal(), (RefusalReason::QueueFull, true));
}

// ---- gateways ----

#[test]
fn a_server_follows_its_list_of_gateways_and_sessions_of_a_removed_one_stay() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let other = site.world.gateway(&GatewayFile { host: 5, ..GatewayFile::DEFAULT });
    let mut session = site.session(Kind::Tls, &backend);
    let [first, second] = [1, 5].map(|host| format!("address = \"{}:13000\"", site.world.ip(host)));
    site.world.edit(SERVER, &first, &second);
    site.reload_server();
    other.telemetry.wait_ready();
    site.gateway.telemetry.wait_unready();
    site.gateway.process.line("signal connection closed", &[("reason", "finished")]);
    assert_talks(&mut session);
    let mut agent = site.world.foreign_agent(&other);
    let mut service = backend.accept();
    service.send(b"welcome");
    agent.expect(b"welcome");
}

#[test]
fn a_gateway_of_a_ca_that_is_gone_is_left_by_its_server() {
    let site = Site::new(Backend::echo());
    site.world.replace_ca(Role::Gateway);
    site.reload_server();
    site.server.line("signal connection closed", &[("reason", "certificate_untrusted")]);
    site.gateway.telemetry.wait_unready();
    site.server.line("no signal connection", &[]);
}

#[test]
fn a_server_whose_name_has_changed_connects_anew() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    site.world.edit(SERVER, "server-1.test", "server-2.test");
    site.reload_server();
    let up = "vestibule_signal_connections{server=\"server-2.test\"}";
    site.gateway.telemetry.wait_for(up, 1);
    assert_talks(&mut session);
    assert_talks(&mut site.session(Kind::Tls, &backend));
}

// ---- systemd ----

#[test]
fn systemd_is_told_of_a_reload_and_of_its_end() {
    let world = World::new();
    let path = world.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a new path");
    socket.set_read_timeout(Some(LONG)).expect("a socket");
    let config = world.write_gateway(&GatewayFile::DEFAULT);
    let mut command = Process::command();
    command.args(["--log", "json", "gateway", "--config"]).arg(config).env("NOTIFY_SOCKET", &path);
    let process = Process::spawn(&mut command);
    let hear = || {
        let mut notice = [0; 1024];
        let len = socket.recv(&mut notice).expect("a notice");
        String::from_utf8_lossy(&notice[..len]).into_owned()
    };
    assert!(hear().lines().any(|line| line == "READY=1"));
    for change in ["workers = 1", "workers = 2"] {
        world.edit(GATEWAY, "workers = 1", change);
        process.hang_up();
        let reloading = hear();
        assert!(reloading.lines().any(|line| line == "RELOADING=1"), "{reloading}");
        assert!(reloading.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading}");
        assert!(hear().lines().any(|line| line == "READY=1"));
    }
}
