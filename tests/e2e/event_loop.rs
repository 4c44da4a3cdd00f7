//! Where io_uring is refused, as the default profiles of containers do: epoll serves instead.

use rustix::io::Errno;

use super::harness::{
    Backend, Ending, GatewayFile, Kind, Process, ServerFile, Site, World, with_answer,
};

#[test]
fn where_io_uring_is_refused_gateway_and_server_say_so_and_serve_on_epoll() {
    without_io_uring(Errno::PERM, || {
        assert_serves_on_epoll("not by kernel.io_uring_disabled, but by a seccomp filter");
    });
}

#[test]
fn where_there_is_no_io_uring_gateway_and_server_say_so_and_serve_on_epoll() {
    without_io_uring(Errno::NOSYS, || assert_serves_on_epoll("this kernel has none"));
}

#[test]
fn whoever_asks_for_io_uring_by_name_gets_no_epoll() {
    without_io_uring(Errno::PERM, || assert_fails_on_io_uring("seccomp"));
}

/// Asserts that gateway and server warn with that reason, and do on epoll what they do otherwise.
pub(crate) fn assert_serves_on_epoll(reason: &str) {
    let backend = Backend::by_hand();
    let site = site(&backend);
    for process in [&site.gateway.process, &site.server] {
        let line = process.line("io_uring is refused", &[("level", "WARN")]);
        let message = line["message"].as_str().expect("text");
        assert!(message.contains(reason), "{message}");
        assert!(message.ends_with("This process runs on epoll instead"), "{message}");
        assert_eq!(process.count("this part of the sandbox is off", &[("part", "rings")]), 0);
    }
    for kind in Kind::ALL {
        let (mut agent, mut service) = site.session(kind, &backend);
        agent.send(b"question");
        service.expect(b"question");
        service.send(b"answer");
        service.end();
        assert_eq!(agent.rest(), (b"answer".to_vec(), Ending::Clean));
        agent.end();
    }
    site.assert_ended("finished", 2);
    assert_runs_on("epoll", &site);
}

/// Asserts that gateway and server get their rings.
pub(crate) fn assert_serves_on_io_uring() {
    let backend = Backend::by_hand();
    let site = site(&backend);
    assert_runs_on("io_uring", &site);
    site.session(Kind::Tls, &backend);
}

/// Asserts that a gateway which was told to run on rings does not start, and says that reason.
pub(crate) fn assert_fails_on_io_uring(reason: &str) {
    let world = World::new();
    let path = world.write_gateway(&GatewayFile::DEFAULT);
    world.edit("gateway-1.toml", "workers = 1", "workers = 1\nevent_loop = \"io_uring\"");
    let mut process = Process::start("gateway", path.as_os_str());
    assert_eq!(process.status().code(), Some(1));
    let line = process.line("io_uring is refused", &[]);
    let message = line["message"].as_str().expect("text");
    assert!(message.contains(reason), "{message}");
}

fn site(backend: &Backend) -> Site {
    let services = [("echo", backend.address), ("old", backend.address)];
    Site::with(&GatewayFile::DEFAULT, |world| ServerFile::new(world, &services))
}

fn assert_runs_on(event_loop: &str, site: &Site) {
    for (role, telemetry) in
        [("gateway", site.gateway.telemetry), ("server", site.server_telemetry)]
    {
        let labels = format!(
            "version=\"{}\",role=\"{role}\",event_loop=\"{event_loop}\",\
             relay=\"userspace\"",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(telemetry.metric(&format!("vestibule_build_info{{{labels}}}")), 1);
        assert_eq!(telemetry.status().event_loop, event_loop);
    }
}

/// Runs something, and the processes that it starts, where whoever asks for a ring gets this answer.
fn without_io_uring(answer: Errno, run: impl FnOnce() + Send) {
    with_answer(answer, (libc::SYS_io_uring_setup, vec![]), run);
}
