//! Real processes in their sandbox.

use std::process::Output;

use super::super::harness::{Backend, GatewayFile, Kind, Process, ServerFile, Site, World};

/// Of a thread, as `/proc` has it.
fn field<'s>(status: &'s str, name: &str) -> &'s str {
    let mut lines = status.lines().filter_map(|line| line.strip_prefix(name));
    lines.find_map(|rest| rest.strip_prefix(':')).expect("Linux 5.9").trim()
}

#[test]
fn every_thread_of_gateway_and_server_is_confined() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let _session = site.session(Kind::Tls, &backend);
    for process in [&site.gateway.process, &site.server] {
        let threads = process.threads();
        assert!(threads.len() >= 3, "control, log and worker: {threads:?}");
        for status in threads {
            let name = field(&status, "Name");
            assert_eq!(field(&status, "NoNewPrivs"), "1", "{name}");
            // What is fatal for all, and what this one needs.
            assert_eq!(field(&status, "Seccomp"), "2", "{name}");
            assert_eq!(field(&status, "Seccomp_filters"), "2", "{name}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(field(&status, set), "0000000000000000", "{name} {set}");
            }
        }
    }
}

#[test]
fn where_every_part_is_on_it_may_be_required_and_elsewhere_that_is_an_error() {
    let backend = Backend::by_hand();
    let mut site = Site::new(backend.address);
    let off = "this part of the sandbox is off";
    let is_all_on = site.gateway.process.count(off, &[]) == 0;
    site.gateway.process.kill();
    site.server.kill();
    let config = site.world.write_gateway(&GatewayFile::DEFAULT);
    let mut command = Process::command();
    command.args(["--log", "json", "gateway", "--require-sandbox", "--config"]).arg(config);
    if !is_all_on {
        let Output { status, stderr, .. } = command.output().expect("it was built");
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(71), "{said}");
        assert!(said.contains("--require-sandbox: not every part is on\n"), "{said}");
        return;
    }
    site.gateway.process = Process::spawn(&mut command);
    site.gateway.process.line("gateway runs", &[]);
    let services = [("echo", backend.address)];
    let config = site.world.write_server(&ServerFile::new(&site.world, &services));
    let mut command = Process::command();
    command.args(["--log", "json", "server", "--require-sandbox", "--config"]).arg(config);
    site.server = Process::spawn(&mut command);
    site.gateway.telemetry.wait_ready();
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    agent.send(b"inside");
    service.expect(b"inside");
}

#[test]
fn a_part_that_is_turned_off_is_named_in_log_and_status() {
    let world = World::new();
    let config = world.write_gateway(&GatewayFile::DEFAULT);
    let mut command = Process::command();
    command.args(["--log", "json", "gateway", "--without-sandbox", "scope,core-dumps"]);
    let process = Process::spawn(command.arg("--config").arg(config));
    process.line("gateway runs", &[]);
    for part in ["scope", "core-dumps"] {
        process.line("this part of the sandbox is off", &[("part", part)]);
    }
    let address = world.address(1, 9113).to_string();
    let status = Process::command().args(["status", "--address", &address]).output();
    let page = String::from_utf8(status.expect("it was built").stdout).expect("text");
    assert!(page.contains("\nSandbox\n"), "{page}");
    assert!(page.contains("  off  scope: turned off by --without-sandbox\n"), "{page}");
}

#[test]
fn parts_cant_be_both_required_and_turned_off() {
    let arguments =
        ["gateway", "--require-sandbox", "--without-sandbox", "tcp", "--config", "g.toml"];
    let output = Process::command().args(arguments).output().expect("it was built");
    assert_eq!(output.status.code(), Some(2));
}
