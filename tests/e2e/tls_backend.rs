//! Backends that speak TLS themselves.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use vestibule::tls::{load_credentials, provider};

use super::harness::{Backend, Ending, GatewayFile, ServerFile, Site, World, payload};

/// The configuration of a backend with that certificate.
fn config(world: &World) -> Arc<ServerConfig> {
    let own = load_credentials(&world.credentials(World::GATEWAY_NAME)).expect("a pair");
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions of the provider")
        .with_client_cert_verifier(WebPkiClientVerifier::no_client_auth())
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    Arc::new(config)
}

fn echo(stream: TcpStream, config: Arc<ServerConfig>) {
    let tls = ServerConnection::new(config).expect("accepted");
    let mut stream = StreamOwned::new(tls, stream);
    let mut reader = [0; 16 * 1024];
    // Ends with the agent, or with whoever refuses the other.
    while let Ok(len @ 1..) = io::Read::read(&mut stream, &mut reader) {
        if stream.write_all(&reader[..len]).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
    stream.conn.send_close_notify();
    // The agent may be gone.
    let _ = stream.flush();
}

/// A site whose backend must bear that name.
fn site(name: &str) -> Site {
    Site::with(&GatewayFile::DEFAULT, |world| {
        let config = config(world);
        let backend = Backend::serve(move |stream| echo(stream, Arc::clone(&config)));
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
