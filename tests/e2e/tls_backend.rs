//! Backends that speak TLS themselves.

use super::harness::{Backend, Ending, GatewayFile, ServerFile, Site, World, payload};

/// A site whose backend must bear that name.
fn site(name: &str) -> Site {
    Site::with(&GatewayFile::DEFAULT, |world| {
        let backend = Backend::tls_echo(&world.credentials(World::GATEWAY_NAME));
        let mut server = ServerFile::new(world, &[("echo", backend)]);
        let tls = ["tls = { ca = \"pki/gateways-ca.crt\", name = \"", name, "\" }\n"].concat();
        server.services += &tls;
        server
    })
}

#[test]
fn a_tls_backend_gets_and_gives_each_byte() {
    let site = site(World::GATEWAY_NAME);
    let mut agent = site.world.foreign_agent(&site.gateway);
    agent.expect_echo(&payload(1, 1024 * 1024));
    agent.end();
    site.assert_ended("finished", 1);
}

#[test]
fn sessions_with_a_tls_backend_resume() {
    let site = site(World::GATEWAY_NAME);
    for _ in 0..2 {
        let mut agent = site.world.foreign_agent(&site.gateway);
        agent.expect_echo(b"to and fro");
        agent.end();
        assert_eq!(agent.ending(), Ending::Clean);
    }
    for kind in ["full", "resumed"] {
        let labels = format!("role=\"backend\",kind=\"{kind}\"");
        let sample = format!("vestibule_handshakes_finished_total{{{labels}}}");
        assert_eq!(site.server_telemetry.metric(&sample), 1, "{kind}");
    }
}

#[test]
fn a_tls_backend_of_another_name_is_not_trusted() {
    let site = site("somebody-else.test");
    let _agent = site.world.foreign_agent(&site.gateway);
    let refused = [("reason", "backend_tls_failed")];
    site.gateway.process.line("connection ended", &refused);
    site.server.line("connection ended", &refused);
}
