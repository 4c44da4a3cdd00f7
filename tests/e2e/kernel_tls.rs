//! `relay = "ktls"` where the kernel has no TLS. `kernels::kernel_tls` looks at kernels that have it.

use rustix::io::Errno;
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::harness::{
    Backend, GatewayFile, Kind, Process, ServerFile, Site, World, assert_bulk, with_answer,
};

#[test]
fn where_the_kernel_has_no_tls_gateway_and_server_say_so_and_keep_the_records() {
    let is = |index, value| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .expect("an argument")
    };
    // As on a kernel without the module.
    let [level, option] = [libc::IPPROTO_TCP, libc::TCP_ULP].map(|n| u64::from(n.cast_unsigned()));
    let ulp = SeccompRule::new(vec![is(1, level), is(2, option)]).expect("a rule");
    with_answer(Errno::NOENT, (libc::SYS_setsockopt, vec![ulp]), || {
        let backend = Backend::by_hand();
        let site = site(&backend);
        let (gateway, server) = (&site.gateway, &site.server);
        for (process, telemetry) in
            [(&gateway.process, gateway.telemetry), (server, site.server_telemetry)]
        {
            let line = process.line("the kernel's TLS is not there", &[("level", "WARN")]);
            let message = line["message"].as_str().expect("text");
            assert!(message.contains("run `modprobe tls`"), "{message}");
            assert_eq!(telemetry.status().relay, "userspace");
        }
        assert_bulk(site.session(Kind::Tls, &backend), 500_000);
        site.assert_ended("finished", 1);
        gateway.process.line("session ended", &[("path", "tls")]);
    });
}

/// Where gateway and server are told to leave the records to the kernel.
fn site(backend: &Backend) -> Site {
    let world = World::new();
    let path = world.write_gateway(&GatewayFile::DEFAULT);
    world.edit("gateway-1.toml", "workers = 1", "workers = 1\nrelay = \"ktls\"");
    let process = Process::start("gateway", path.as_os_str());
    process.line("gateway runs", &[]);
    let gateway = world.running(&GatewayFile::DEFAULT, process);
    let services = [("echo", backend.address), ("old", backend.address)];
    let file = ServerFile { keys: "relay = \"ktls_splice\"", ..ServerFile::new(&world, &services) };
    let (server, server_telemetry) = world.server(&file);
    gateway.telemetry.wait_ready();
    Site { world, gateway, server, server_telemetry }
}
