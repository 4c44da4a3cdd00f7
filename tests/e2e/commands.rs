//! The commands: what they say about files and running processes, and their exit codes.

use std::net::TcpListener;
use std::process::Output;

use super::harness::{Backend, GatewayFile, Process, Site, World, wait_until};

impl World {
    /// Starts a gateway that ends by itself, and returns its exit code and last words.
    fn failing_gateway(&self, file: &GatewayFile<'_>) -> (Option<i32>, String) {
        let config = self.write_gateway(file);
        said(Process::command().args(["gateway", "--config"]).arg(config).output())
    }
}

/// Exit code, and all that was said.
fn said(output: std::io::Result<Output>) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = output.expect("it was built");
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_port_that_is_taken_is_named() {
    let world = World::new();
    let _taken = TcpListener::bind(world.address(1, 13_000)).expect("a world of our own");
    let (code, said) = world.failing_gateway(&GatewayFile::DEFAULT);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&world.address(1, 13_000).to_string()), "{said}");
}

#[test]
fn a_port_that_another_gateway_has_is_named() {
    let world = World::new();
    let _running = world.gateway(&GatewayFile::DEFAULT);
    let (code, said) = world.failing_gateway(&GatewayFile::DEFAULT);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&world.address(1, 13_000).to_string()), "{said}");
}

#[test]
fn a_key_that_is_missing_or_of_another_certificate_is_named() {
    let world = World::new();
    let key = world.credentials(World::GATEWAY_NAME).key;
    let other = world.credentials("server-1.test").key;
    std::fs::copy(other, &key).expect("a file");
    let (code, said) = world.failing_gateway(&GatewayFile::DEFAULT);
    assert!(code.is_some_and(|code| code != 0), "{said}");
    assert!(said.contains("gateway.test.key"), "{said}");

    std::fs::remove_file(&key).expect("a file");
    let (code, said) = world.failing_gateway(&GatewayFile::DEFAULT);
    assert!(code.is_some_and(|code| code != 0), "{said}");
    assert!(said.contains("gateway.test.key"), "{said}");
}

#[test]
fn check_passes_a_good_file_and_names_the_line_of_what_is_wrong() {
    let world = World::new();
    let good = world.write_gateway(&GatewayFile::DEFAULT);
    let (code, report) = said(Process::command().arg("check").arg(good).output());
    assert_eq!(code, Some(0), "{report}");

    let bad =
        GatewayFile { limits: "max_wating = 5\nidle_timeout_ms = -1", ..GatewayFile::DEFAULT };
    let bad = world.write_gateway(&bad);
    let text = std::fs::read_to_string(&bad).expect("a file");
    let line = text.lines().position(|line| line.starts_with("max_wating")).expect("a line") + 1;
    let (code, report) = said(Process::command().arg("check").arg(bad).output());
    assert_eq!(code, Some(78), "{report}");
    assert!(report.contains(&format!(":{line}:")), "{report}");
    assert!(report.contains(&format!(":{}:", line + 1)), "{report}");
    assert!(report.contains("max_waiting"), "{report}");
}

#[test]
fn status_shows_a_running_gateway_to_people_and_to_programs() {
    let site = Site::new(Backend::echo());
    let mut agent = site.world.foreign_agent(&site.gateway);
    agent.expect_echo(b"alive");
    let status = |more: &[&str]| {
        let address = site.gateway.telemetry.0.to_string();
        said(Process::command().args(["status", "--address", &address]).args(more).output())
    };
    wait_until("the page names the device and its server", || {
        let (code, page) = status(&[]);
        assert_eq!(code, Some(0), "{page}");
        page.contains("laptop-7.test") && page.contains("server-1.test")
    });
    let (code, json) = status(&["--json"]);
    assert_eq!(code, Some(0), "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["role"], &json["state"]), (&"gateway".into(), &"ready".into()));
    assert_eq!(json["sessions"]["live"], 1);
}

#[test]
fn status_of_nobody_is_unavailable() {
    let world = World::new();
    let address = world.address(1, 9113).to_string();
    let (code, said) = said(Process::command().args(["status", "--address", &address]).output());
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains(&address), "{said}");
}
