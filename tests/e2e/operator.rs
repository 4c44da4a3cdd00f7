//! The operator's socket: sessions that are listed and ended, devices and addresses that are blocked, servers
//! and gateways that are drained.

mod blocks;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use super::harness::{
    Backend, Ending, GatewayFile, Kind, Process, ServerFile, Site, World, assert_talks, wait_until,
};

const OPERATOR: &str = "[operator]\nsocket = \"gateway.sock\"\nstate = \"state/blocks.toml\"\n";
const FILE: GatewayFile<'static> = GatewayFile { more: OPERATOR, ..GatewayFile::DEFAULT };
/// The device of every world.
const DEVICE: &str = "laptop-7.test";

/// Runs a verb, and returns its exit code and all that it said.
fn verb(socket: &Path, words: &[&str]) -> (Option<i32>, String) {
    let output = Process::command().args(words).arg("--socket").arg(socket).output();
    said(&output.expect("it was built"))
}

fn said(Output { status, stdout, stderr }: &Output) -> (Option<i32>, String) {
    let said = [&stdout[..], stderr].concat();
    (status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The same, of one that is to succeed.
fn done(socket: &Path, words: &[&str]) -> String {
    let (code, said) = verb(socket, words);
    assert_eq!(code, Some(0), "{words:?}: {said}");
    said
}

fn socket(world: &World) -> PathBuf {
    world.path("gateway.sock")
}

/// A world with a folder for the file of blocks.
fn world() -> World {
    let world = World::new();
    std::fs::create_dir(world.path("state")).expect("a new folder");
    world
}

/// A gateway that hears operators, and a server of both services.
fn site(backend: &Backend) -> Site {
    site_with(&FILE, backend)
}

fn site_with(file: &GatewayFile<'_>, backend: &Backend) -> Site {
    let services = [("echo", backend.address), ("old", backend.address)];
    let world = world();
    let gateway = world.gateway(file);
    let (server, server_telemetry) = world.server(&ServerFile::new(&world, &services));
    gateway.telemetry.wait_ready();
    Site { world, gateway, server, server_telemetry }
}

/// Names of the sessions that are listed.
fn listed(socket: &Path, words: &[&str]) -> Vec<String> {
    let json = done(socket, &[&["sessions", "--json"], words].concat());
    let list: serde_json::Value = serde_json::from_str(&json).expect("one object");
    let sessions = list["sessions"].as_array().expect("a list");
    sessions.iter().map(|s| s["session"].as_str().expect("a name").to_owned()).collect()
}

fn wait_listed(socket: &Path, words: &[&str], count: usize) -> Vec<String> {
    let mut names = Vec::new();
    wait_until(&format!("{count} sessions are listed"), || {
        names = listed(socket, words);
        names.len() == count
    });
    names
}

// ---- sessions ----

#[test]
fn a_session_is_found_and_ended_with_a_reset_at_both_ends() {
    let backend = Backend::by_hand();
    let site = site(&backend);
    let socket = socket(&site.world);
    assert!(done(&socket, &["sessions"]).contains("no such session lives"));
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    let mut other = site.session(Kind::Plain, &backend);
    wait_listed(&socket, &[], 2);
    let page = done(&socket, &["sessions", "--device", "laptop-*"]);
    for shown in [DEVICE, "echo", "server-1.test"] {
        assert!(page.contains(shown), "{page}");
    }
    let [name] = &listed(&socket, &["--device", DEVICE])[..] else { panic!("one: {page}") };
    assert_eq!(done(&socket, &["end", name]), "1 session ended\n");
    assert_ne!(agent.ending(), Ending::Clean);
    assert_eq!(service.ending(), Ending::Reset);
    let reason = ("reason", "ended_by_operator");
    site.gateway.process.line("session ended", &[("session", name), reason]);
    site.server.line("session ended", &[("session", name), ("reason", "gateway_reset")]);
    assert_talks(&mut other);

    let (code, said) = verb(&socket, &["end", name]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no such session lives"), "{said}");
    let line = site.gateway.process.line("operator", &[("verb", "end"), ("result", "done")]);
    assert_eq!((line["hit"].as_u64(), line["target"].as_str()), (Some(1), Some("audit")));
    assert!(line["what"].as_str().is_some_and(|what| what.contains(name)), "{line}");
    assert!(line["uid"].as_u64().is_some() && line["pid"].as_u64().is_some(), "{line}");
    site.gateway.process.line("operator", &[("verb", "end"), ("result", "not_found")]);
    let count = |result: &str| {
        let labels = format!("verb=\"end\",result=\"{result}\"");
        site.gateway.telemetry.metric(&format!("vestibule_operator_requests_total{{{labels}}}"))
    };
    assert_eq!((count("done"), count("not_found"), count("failed")), (1, 1, 0));
}

#[test]
fn sessions_end_by_what_they_have_in_common_and_others_go_on() {
    let backend = Backend::by_hand();
    let site = site(&backend);
    let socket = socket(&site.world);
    let mut tls: Vec<_> = (0..3).map(|_| site.session(Kind::Tls, &backend)).collect();
    let mut plain = site.session(Kind::Plain, &backend);
    wait_listed(&socket, &[], 4);
    let here = site.world.ip(0).to_string() + "/24";
    for (words, code, said) in [
        (vec!["end"], Some(1), "name the sessions"),
        (vec!["end", "--service", "web"], Some(1), "no such session"),
        (vec!["end", "--server", "server-2.test"], Some(1), "no such session"),
        (vec!["end", "--service", "echo", "--address", &here], Some(1), "no such session"),
        (
            vec!["end", "--service", "echo", "--server", "server-1.test"],
            Some(0),
            "3 sessions ended",
        ),
    ] {
        let (got, text) = verb(&socket, &words);
        assert!(got == code && text.contains(said), "{words:?}: {got:?} {text}");
    }
    for (agent, service) in &mut tls {
        assert_ne!(agent.ending(), Ending::Clean);
        assert_eq!(service.ending(), Ending::Reset);
    }
    assert_talks(&mut plain);
    wait_listed(&socket, &[], 1);
}

#[test]
fn a_server_lists_and_ends_its_sessions_and_knows_no_blocks() {
    let backend = Backend::by_hand();
    let services = [("echo", backend.address)];
    let site = Site::with(&GatewayFile::DEFAULT, |world| {
        let mut file = ServerFile::new(world, &services);
        file.services.push_str("[operator]\nsocket = \"server.sock\"\n");
        file
    });
    let socket = site.world.path("server.sock");
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    wait_listed(&socket, &["--device", DEVICE], 1);
    let gateway = format!("{}:13000", site.world.ip(1));
    assert_eq!(done(&socket, &["end", "--gateway", &gateway]), "1 session ended\n");
    assert_ne!(agent.ending(), Ending::Clean);
    assert_eq!(service.ending(), Ending::Reset);
    site.server.line("session ended", &[("reason", "ended_by_operator")]);
    site.gateway.process.line("session ended", &[("reason", "server_reset")]);
    let (code, said) = verb(&socket, &["block", "device", DEVICE]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("at the gateways"), "{said}");
    done(&socket, &["drain"]);
    site.gateway.telemetry.wait_unready();
}

// ---- drains ----

#[test]
fn a_drained_server_keeps_its_sessions_and_gets_no_new_ones_until_it_is_undrained() {
    let (first, second) = (Backend::by_hand(), Backend::by_hand());
    let mut site = site(&first);
    let socket = socket(&site.world);
    let mut before = site.session(Kind::Tls, &first);
    wait_listed(&socket, &[], 1);
    let other = ServerFile {
        host: 3,
        name: "server-2.test",
        ..ServerFile::new(&site.world, &[("echo", second.address)])
    };
    let said = done(&socket, &["drain", "--server", "server-1.test"]);
    assert!(said.contains("1 session may finish"), "{said}");
    assert!(said.contains("no other server serves now: echo, old"), "{said}");
    site.gateway.telemetry.wait_unready();
    let _other = site.world.server(&other);
    site.gateway.telemetry.wait_ready();
    for _ in 0..4 {
        assert_talks(&mut site.session(Kind::Tls, &second));
    }
    // Also where it comes back.
    site.server.kill();
    before.0.rest();
    let services = [("echo", first.address), ("old", first.address)];
    let (server, _) = site.world.server(&ServerFile::new(&site.world, &services));
    server.line("signal connection is up", &[]);
    for _ in 0..4 {
        assert_talks(&mut site.session(Kind::Tls, &second));
    }
    assert!(first.is_untouched());

    let (code, said) = verb(&socket, &["drain", "--server", "server-9.test"]);
    assert!(code == Some(1) && said.contains("server-2.test"), "{said}");
    done(&socket, &["undrain", "--server", "server-1.test"]);
    done(&socket, &["drain", "--server", "server-2.test"]);
    assert_talks(&mut site.session(Kind::Tls, &first));
    assert_eq!(verb(&socket, &["undrain", "--server", "server-1.test"]).0, Some(1));
}

#[test]
fn a_gateway_that_an_operator_drains_lets_its_sessions_finish_and_ends() {
    let backend = Backend::by_hand();
    let mut site = site(&backend);
    let socket = socket(&site.world);
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    wait_listed(&socket, &[], 1);
    assert!(done(&socket, &["drain"]).starts_with("drains: 1 session may finish"));
    site.gateway.telemetry.wait_unready();
    let (code, said) = verb(&socket, &["drain"]);
    assert!(code == Some(1) && said.contains("drains already"), "{said}");
    agent.send(b"last words");
    agent.end();
    assert_eq!(service.rest(), (b"last words".to_vec(), Ending::Clean));
    service.end();
    assert_eq!(agent.ending(), Ending::Clean);
    assert_eq!(site.gateway.process.status().code(), Some(0));
    site.gateway.process.line("session ended", &[("reason", "finished")]);
}

// ---- the socket ----

#[test]
fn a_socket_that_nobody_serves_or_that_another_process_has_is_said_to_be_so() {
    let world = world();
    let socket = socket(&world);
    let (code, said) = verb(&socket, &["sessions"]);
    assert!(code == Some(69) && said.contains("nothing answers at"), "{said}");
    let config = world.write_gateway(&GatewayFile { host: 5, ..GatewayFile::DEFAULT });
    let output = Process::command().args(["sessions", "--config"]).arg(config).output();
    let (code, said) = self::said(&output.expect("it was built"));
    assert!(code == Some(78) && said.contains("`[operator]` has no `socket`"), "{said}");

    let _gateway = world.gateway(&FILE);
    let config = world.write_gateway(&GatewayFile { host: 5, ..FILE });
    let output = Process::command().args(["gateway", "--config"]).arg(&config).output();
    let (code, said) = self::said(&output.expect("it was built"));
    assert!(code == Some(1) && said.contains("another process has it"), "{said}");
    let output = Process::command().args(["sessions", "--config"]).arg(config).output();
    assert_eq!(self::said(&output.expect("it was built")).0, Some(0), "found by its configuration");
}

#[test]
fn what_is_not_a_request_changes_nothing_and_is_answered() {
    let world = world();
    let gateway = world.gateway(&FILE);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "405"),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}", "400"),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 70000\r\n\r\n", "400"),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 25\r\n\r\n{\"request\":{\"reboot\":{}}} ",
            "400",
        ),
    ] {
        let mut stream = UnixStream::connect(socket(&world)).expect("it is served");
        stream.write_all(request.as_bytes()).expect("it takes it");
        if request.contains("70000") {
            stream.write_all(" ".repeat(70_000).as_bytes()).expect("it takes it");
        }
        let mut answer = String::new();
        // A body that was not read to its end resets the connection.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    assert_eq!(gateway.process.count("operator", &[("target", "audit")]), 0);
    assert_eq!(done(&socket(&world), &["blocks"]), "nobody is blocked\n");
}

#[test]
#[ignore = "needs root"]
fn a_user_who_is_neither_root_nor_the_process_is_refused() {
    let world = world();
    let gateway = world.gateway(&FILE);
    let socket = socket(&world);
    let as_nobody = || {
        let mut command = Process::command();
        command.args(["drain", "--socket"]).arg(&socket).uid(65_534).gid(65_534);
        said(&command.output().expect("root may"))
    };
    let folder = socket.parent().expect("a folder");
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("root may");
    };
    open(folder, 0o755);
    let (code, said) = as_nobody();
    assert!(code == Some(77) && said.contains("try sudo"), "by its mode: {said}");
    open(&socket, 0o666);
    let (code, said) = as_nobody();
    assert!(code == Some(77) && said.contains("uid 65534 may not"), "by who it is: {said}");
    let line = gateway.process.line("operator", &[("verb", "drain"), ("result", "forbidden")]);
    assert_eq!(line["uid"].as_u64(), Some(65_534));
    assert_eq!(done(&socket, &["blocks"]), "nobody is blocked\n");
}

#[test]
fn who_takes_the_place_of_a_gateway_hears_operators_in_its_stead_and_keeps_its_blocks() {
    let backend = Backend::by_hand();
    let more = format!("{OPERATOR}[upgrade]\nsocket = \"upgrade.sock\"\n");
    let file = GatewayFile { more: &more, ..GatewayFile::DEFAULT };
    let mut site = site_with(&file, &backend);
    let socket = socket(&site.world);
    done(&socket, &["block", "device", "kiosk-9.test"]);
    let process = site.world.take_over(&file);
    process.line("gateway runs", &[]);
    let next = site.world.running(&file, process);
    let mut before = std::mem::replace(&mut site.gateway, next);
    assert_eq!(before.process.status().code(), Some(0));
    let _session = site.session(Kind::Tls, &backend);
    wait_listed(&socket, &[], 1);
    assert!(done(&socket, &["blocks"]).contains("kiosk-9.test"));
    done(&socket, &["end", "--device", DEVICE]);
    site.gateway.process.line("session ended", &[("reason", "ended_by_operator")]);
}
