//! Where io_uring is refused, as the default profiles of containers do: epoll serves instead.

use std::collections::BTreeMap;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use super::harness::{Backend, Ending, GatewayFile, Kind, Process, ServerFile, Site, World};

#[test]
fn where_io_uring_is_refused_gateway_and_server_say_so_and_serve_on_epoll() {
    let backend = Backend::by_hand();
    let services = [("echo", backend.address), ("old", backend.address)];
    let site = without_io_uring(|| {
        Site::with(&GatewayFile::DEFAULT, |world| ServerFile::new(world, &services))
    });
    for process in [&site.gateway.process, &site.server] {
        process.line("io_uring is refused", &[("level", "WARN")]);
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
    for (role, telemetry) in
        [("gateway", site.gateway.telemetry), ("server", site.server_telemetry)]
    {
        let labels = format!(
            "version=\"{}\",role=\"{role}\",event_loop=\"epoll\"",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(telemetry.metric(&format!("vestibule_build_info{{{labels}}}")), 1);
        assert_eq!(telemetry.status().event_loop, "epoll");
    }
}

#[test]
fn whoever_asks_for_io_uring_by_name_gets_no_epoll() {
    let world = World::new();
    let path = world.write_gateway(&GatewayFile::DEFAULT);
    world.edit("gateway-1.toml", "workers = 1", "workers = 1\nevent_loop = \"io_uring\"");
    let mut process = without_io_uring(|| Process::start("gateway", path.as_os_str()));
    assert_eq!(process.status().code(), Some(1));
    process.line("io_uring is refused", &[]);
}

/// Runs something, and the processes that it starts, where the kernel makes no ring.
fn without_io_uring<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, vec![])]);
    let refused = SeccompAction::Errno(u32::try_from(libc::EPERM).expect("a small number"));
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("one that seccomp knows");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a filter");
    let program = BpfProgram::try_from(filter).expect("a small filter");
    thread::scope(|scope| {
        let confined = scope.spawn(|| {
            apply_filter(&program).expect("the kernel knows seccomp");
            run()
        });
        confined.join().expect("it does not panic")
    })
}
