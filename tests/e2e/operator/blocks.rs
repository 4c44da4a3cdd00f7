//! Devices and addresses that are blocked.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::{AlertDescription, ClientConfig, HandshakeKind};
use vestibule::wire::RefusalReason;

use super::super::harness::{
    Backend, Ending, Gateway, GatewayFile, Kind, Peer, Process, ScriptedServer, World, wait_until,
};
use super::{DEVICE, FILE, assert_talks, done, said, site, socket, verb, world};

/// How an agent of the device fares that dials with this configuration.
fn visit(gateway: &Gateway, config: &Arc<ClientConfig>) -> (Ending, HandshakeKind) {
    let mut agent = Peer::dial_tls(gateway.tls, World::ECHO, config);
    let ending = agent.ending();
    (ending, agent.handshake_kind())
}

#[test]
fn a_blocked_device_is_out_at_once_also_when_it_resumes_and_gets_in_once_it_is_unblocked() {
    let backend = Backend::by_hand();
    let site = site(&backend);
    let (socket, device) = (socket(&site.world), site.world.foreign_config());
    let dial = || Peer::dial_tls(site.gateway.tls, World::ECHO, &device);
    let (mut agent, mut service) = (dial(), backend.accept());
    service.send(b"welcome");
    agent.expect(b"welcome");
    let mut old = site.session(Kind::Plain, &backend);
    let said = done(&socket, &["block", "device", "LAPTOP-7.*", "--why", "stolen"]);
    assert_eq!(said, "blocked; ended 1 session and 0 agents that waited\n");
    assert_ne!(agent.ending(), Ending::Clean);
    assert_eq!(service.ending(), Ending::Reset);
    let blocked = ("reason", "device_blocked");
    site.gateway.process.line("session ended", &[blocked]);

    let denied = Ending::Alert(AlertDescription::AccessDenied);
    assert_eq!(visit(&site.gateway, &device), (denied, HandshakeKind::Resumed));
    assert_eq!(visit(&site.gateway, &site.world.foreign_config()), (denied, HandshakeKind::Full));
    let mut ours = site.world.ask(&site.gateway, "echo");
    assert_eq!(ours.refusal(), (RefusalReason::DeviceBlocked, false));
    wait_until("each is recorded", || {
        site.gateway.process.count("connection ended", &[blocked, ("name", DEVICE)]) == 3
    });
    assert_talks(&mut old);
    assert!(backend.is_untouched());
    let page = done(&socket, &["blocks"]);
    assert!(page.contains("device LAPTOP-7.*") && page.contains("stolen"), "{page}");
    let status = Process::command()
        .args(["status", "--address", &site.gateway.telemetry.0.to_string()])
        .output()
        .expect("it was built");
    assert!(String::from_utf8_lossy(&status.stdout).contains("\n  blocked  "), "the status has it");

    assert_eq!(verb(&socket, &["unblock", "device", DEVICE]).0, Some(1), "as it was written");
    done(&socket, &["unblock", "device", "LAPTOP-7.*"]);
    assert_talks(&mut site.session(Kind::Tls, &backend));
    for (verb, result) in [("block", "done"), ("unblock", "not_found"), ("unblock", "done")] {
        site.gateway.process.line("operator", &[("verb", verb), ("result", result)]);
    }
}

#[test]
fn an_agent_that_waits_is_sent_away_when_its_device_is_blocked() {
    let world = world();
    let gateway = world.gateway(&FILE);
    let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo"]);
    let mut waiting = world.ask(&gateway, "echo");
    server.invitation();
    let mut claimed = world.ask(&gateway, "echo");
    let invitation = server.invitation();
    let mut data = server.data_connection(&invitation);
    data.claim(invitation.id, &invitation.ticket);
    data.answer().expect("the session header");
    let said = done(&socket(&world), &["block", "device", DEVICE]);
    assert_eq!(said, "blocked; ended 0 sessions and 2 agents that waited\n");
    for agent in [&mut waiting, &mut claimed] {
        assert_eq!(agent.refusal(), (RefusalReason::DeviceBlocked, false));
    }
    gateway.telemetry.wait_for("vestibule_waiting_agents", 0);
    wait_until("nothing is left but the signal connection", || {
        gateway.telemetry.metric("vestibule_connections") == 0
    });
}

#[test]
fn a_blocked_address_is_turned_away_at_accept_and_its_sessions_end() {
    let backend = Backend::by_hand();
    let site = site(&backend);
    let socket = socket(&site.world);
    let from = |host: u8| Peer::dial_from(site.world.ip(host), site.gateway.plain);
    let session = |host: u8| {
        let (mut agent, mut service) = (from(host), backend.accept());
        service.send(b"welcome");
        agent.expect(b"welcome");
        (agent, service)
    };
    let ((mut agent, mut service), mut neighbour) = (session(7), session(8));
    let address = site.world.ip(7).to_string();
    let said = done(&socket, &["block", "address", &address]);
    assert_eq!(said, "blocked; ended 1 session and 0 agents that waited\n");
    assert_eq!(agent.ending(), Ending::Reset);
    assert_eq!(service.ending(), Ending::Reset);
    site.gateway.process.line("session ended", &[("reason", "address_blocked")]);
    from(7).rest();
    site.gateway.process.line("connections turned away", &[("reason", "address_blocked")]);
    assert!(backend.is_untouched());
    assert_talks(&mut neighbour);

    let own = site.world.ip(0).to_string() + "/24";
    let (code, said) = verb(&socket, &["block", "address", "127.0.0.0/8"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("server-1.test connects from"), "{said}");
    assert_eq!(verb(&socket, &["unblock", "address", &own]).0, Some(1));
    done(&socket, &["unblock", "address", &address]);
    assert_talks(&mut session(7));
}

#[test]
fn a_block_with_a_time_ends_by_itself() {
    let backend = Backend::by_hand();
    let site = site(&backend);
    let socket = socket(&site.world);
    let refused = || site.world.ask(&site.gateway, "echo").refusal();
    done(&socket, &["block", "device", DEVICE, "--for", "1h"]);
    assert_eq!(refused(), (RefusalReason::DeviceBlocked, false));
    done(&socket, &["block", "device", DEVICE, "--for", "1s"]);
    site.gateway.process.line("a block has ended", &[("what", "device laptop-7.test")]);
    assert_talks(&mut site.session(Kind::Tls, &backend));
    assert_eq!(done(&socket, &["blocks"]), "nobody is blocked\n");
}

#[test]
fn blocks_outlive_the_process_and_a_file_of_them_that_is_damaged_is_not_ignored() {
    let world = world();
    let socket = socket(&world);
    let mut gateway = world.gateway(&FILE);
    done(&socket, &["block", "device", DEVICE]);
    done(&socket, &["block", "address", "203.0.113.0/24", "--for", "2h", "--why", "scans \"us\""]);
    gateway.process.kill();
    gateway = world.gateway(&FILE);
    let page = done(&socket, &["blocks"]);
    for shown in [DEVICE, "203.0.113.0/24", "scans \"us\"", "for good"] {
        assert!(page.contains(shown), "{page}");
    }
    let refusal = world.ask(&gateway, "echo").refusal();
    assert_eq!(refusal, (RefusalReason::DeviceBlocked, false));
    done(&socket, &["drain"]);
    assert_eq!(gateway.process.status().code(), Some(0));

    world.write("state/blocks.toml", "[[blocks]]\ndevice = \"laptop");
    let config = world.write_gateway(&FILE);
    let output = Process::command().args(["gateway", "--config"]).arg(config).output();
    let (code, said) = said(&output.expect("it was built"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("blocks.toml") && said.contains("mend it"), "{said}");
}

#[test]
fn without_a_file_blocks_hold_until_the_process_ends_and_say_so() {
    let world = World::new();
    let more = "[operator]\nsocket = \"gateway.sock\"\n";
    let gateway = world.gateway(&GatewayFile { more, ..GatewayFile::DEFAULT });
    let said = done(&socket(&world), &["block", "device", DEVICE]);
    assert!(said.contains("until the process ends"), "{said}");
    let refusal = world.ask(&gateway, "echo").refusal();
    assert_eq!(refusal, (RefusalReason::DeviceBlocked, false));
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_fails_a_block_and_changes_nothing() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Process::any("umount").arg("-l").arg(&self.0).status();
        }
    }
    let world = world();
    let folder = world.path("state");
    let mounted = Process::any("mount")
        .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "none"])
        .arg(&folder)
        .status();
    assert!(mounted.expect("mount(8)").success());
    let _mounted = Mounted(folder.clone());
    let gateway = world.gateway(&FILE);
    let socket = socket(&world);
    done(&socket, &["block", "device", "laptop-8.test"]);
    let ballast = folder.join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("there is room");
    while file.write_all(&[0; 512]).is_ok() {}
    drop(file);
    let (code, said) = verb(&socket, &["block", "device", DEVICE]);
    assert!(code == Some(1) && said.contains("nothing was changed"), "{said}");
    gateway.process.line("operator", &[("verb", "block"), ("result", "failed")]);
    assert!(!done(&socket, &["blocks"]).contains(DEVICE));
    let refusal = world.ask(&gateway, "echo").refusal();
    assert_eq!(refusal.0, RefusalReason::NoServer, "it is let in as far as there is a server");

    std::fs::remove_file(ballast).expect("root may");
    done(&socket, &["block", "device", DEVICE]);
    let kept = std::fs::read_to_string(folder.join("blocks.toml")).expect("it was written");
    assert!(kept.contains("laptop-8.test") && kept.contains(DEVICE), "{kept}");
}
