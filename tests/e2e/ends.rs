//! How sessions end: what one side says arrives at the other, and a cut is never a clean end.

use std::io::Write;
use std::time::Duration;

use super::harness::{
    Backend, Ending, GatewayFile, Kind, ServerFile, Site, assert_agent_may_end_first,
    assert_backend_may_end_first, payload,
};

#[test]
fn half_close_keeps_the_return_path_open() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    for kind in Kind::ALL {
        assert_agent_may_end_first(site.session(kind, &backend));
    }
    site.assert_ended("finished", 2);
}

#[test]
fn half_close_of_the_backend_keeps_the_way_there_open() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    for kind in Kind::ALL {
        assert_backend_may_end_first(site.session(kind, &backend));
    }
    site.assert_ended("finished", 2);
}

#[test]
fn a_truncated_agent_arrives_at_the_backend_as_a_reset() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    agent.send(b"half a sen");
    service.expect(b"half a sen");
    agent.truncate();
    assert_eq!(service.ending(), Ending::Reset);
    assert_ne!(agent.ending(), Ending::Clean);
    site.assert_ended("agent_truncated", 1);
}

#[test]
fn a_reset_agent_arrives_at_the_backend_as_a_reset() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    for kind in Kind::ALL {
        let (agent, mut service) = site.session(kind, &backend);
        service.send(b"unread");
        agent.reset();
        assert_eq!(service.ending(), Ending::Reset);
    }
    site.assert_ended("agent_reset", 2);
}

#[test]
fn a_reset_backend_arrives_at_the_agent_as_no_clean_end() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    for kind in Kind::ALL {
        let (mut agent, mut service) = site.session(kind, &backend);
        service.send(b"half an ans");
        agent.expect(b"half an ans");
        service.reset();
        assert_ne!(agent.ending(), Ending::Clean);
    }
    let process = &site.server;
    process.line("session ended", &[("reason", "backend_reset")]);
    site.gateway.telemetry.wait_for("vestibule_sessions", 0);
}

#[test]
fn a_quiet_session_ends_with_the_idle_timeout() {
    let backend = Backend::by_hand();
    let file = GatewayFile { limits: "idle_timeout_ms = 1500", ..GatewayFile::DEFAULT };
    let services = [("echo", backend.address)];
    let site = Site::with(&file, |world| ServerFile::new(world, &services));
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    agent.send(b"last words");
    service.expect(b"last words");
    assert_ne!(agent.ending(), Ending::Clean);
    assert_eq!(service.ending(), Ending::Reset);
    site.assert_ended("idle_timeout", 1);
}

#[test]
fn a_quiet_half_closed_session_ends_with_its_own_timeout() {
    let backend = Backend::by_hand();
    let file = GatewayFile { limits: "half_closed_timeout_ms = 1500", ..GatewayFile::DEFAULT };
    let services = [("echo", backend.address)];
    let site = Site::with(&file, |world| ServerFile::new(world, &services));
    let (mut agent, mut service) = site.session(Kind::Tls, &backend);
    agent.end();
    assert_eq!(service.ending(), Ending::Clean);
    assert_ne!(agent.ending(), Ending::Clean);
    site.assert_ended("half_closed_timeout", 1);
}

#[test]
fn a_reader_that_stops_makes_the_writer_stop_and_nobody_else_notices() {
    /// More than the buffers of all kernels and processes on the way.
    const FAR_TOO_MUCH: usize = 256 * 1024 * 1024;

    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let (mut agent, mut service) = site.session(Kind::Plain, &backend);
    let (mut other, mut its_service) = site.session(Kind::Tls, &backend);
    agent.socket().set_write_timeout(Some(Duration::from_secs(1))).expect("a socket");
    let portion = payload(1, 64 * 1024);
    let mut sent = 0;
    while agent.write_all(&portion).is_ok() {
        sent += portion.len();
        assert!(sent < FAR_TOO_MUCH, "somebody on the way takes all of it");
    }
    other.send(b"unhindered");
    its_service.expect(b"unhindered");
    its_service.send(b"both ways");
    other.expect(b"both ways");
    // What was sent before it stopped is there, in order.
    for _ in 0..sent / portion.len() {
        assert!(service.take(portion.len()) == portion, "the bytes as sent");
    }
}
