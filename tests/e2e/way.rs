//! The whole way, from an agent through gateway and server to a backend: bytes arrive as sent.

use std::thread;

use super::harness::{
    AgentFile, Backend, Digest, Ending, GatewayFile, Kind, Peer, ServerFile, Site, World,
    assert_bulk, payload,
};

const MANY: usize = 4 * 1024 * 1024;

#[test]
fn a_foreign_agent_gets_back_what_it_sends() {
    let site = Site::new(Backend::echo());
    let mut agent = site.world.foreign_agent(&site.gateway);
    agent.expect_echo(&payload(1, MANY));
    agent.end();
    assert_eq!(agent.ending(), Ending::Clean);
    site.assert_ended("finished", 1);
}

#[test]
fn an_old_agent_on_14000_gets_back_what_it_sends() {
    let site = Site::new(Backend::echo());
    let mut agent = Peer::dial(site.gateway.plain);
    agent.expect_echo(&payload(2, MANY));
    agent.end();
    assert_eq!(agent.ending(), Ending::Clean);
    site.assert_ended("finished", 1);
}

#[test]
fn a_program_reaches_the_service_through_our_agents_port() {
    let site = Site::new(Backend::echo());
    let (agent, port) = site.world.agent(&AgentFile::new(&site.world));
    let mut program = Peer::dial(port);
    program.expect_echo(&payload(3, MANY));
    program.end();
    assert_eq!(program.ending(), Ending::Clean);
    agent.line("session ended", &[("reason", "finished")]);
    site.assert_ended("finished", 1);
}

#[test]
fn bulk_arrives_whole_in_both_directions_at_once() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    for kind in Kind::ALL {
        assert_bulk(site.session(kind, &backend), 2 * MANY);
    }
    site.assert_ended("finished", 2);
}

#[test]
fn each_byte_of_many_sessions_at_once_is_accounted_for() {
    const SESSIONS: u64 = 200;
    let services = [("echo", Backend::sink()), ("old", Backend::sink())];
    let file = GatewayFile { workers: 3, ..GatewayFile::DEFAULT };
    let site =
        Site::with(&file, |world| ServerFile { workers: 2, ..ServerFile::new(world, &services) });
    let config = site.world.foreign_config();
    thread::scope(|scope| {
        for seed in 0..SESSIONS {
            let (config, gateway) = (&config, &site.gateway);
            scope.spawn(move || {
                let mut agent = match seed % 4 {
                    0 => Peer::dial(gateway.plain),
                    _ => Peer::dial_tls(gateway.tls, World::ECHO, config),
                };
                let bytes = payload(seed, 50_000);
                agent.send(&bytes);
                agent.end();
                let digest = Digest::of(&mut &bytes[..]).expect("memory is readable").to_bytes();
                assert_eq!(agent.rest(), (digest, Ending::Clean));
            });
        }
    });
    site.assert_ended("finished", 200);
    let relayed = |direction: &str| -> u64 {
        let sample = |worker| {
            let labels = format!("direction=\"{direction}\",worker=\"{worker}\"");
            site.gateway.telemetry.metric(&format!("vestibule_relayed_bytes_total{{{labels}}}"))
        };
        (0..3).map(sample).sum()
    };
    assert_eq!(relayed("agent_to_server"), SESSIONS * 50_000);
    assert_eq!(relayed("server_to_agent"), SESSIONS * 40);
}

#[test]
fn alpn_chooses_the_backend() {
    let (h1, h2) = (Backend::by_hand(), Backend::by_hand());
    let file = GatewayFile { echo: "alpn = [\"h2\", \"http/1.1\"]", ..GatewayFile::DEFAULT };
    let site = Site::with(&file, |world| {
        let mut server = ServerFile::new(world, &[("echo", h1.address)]);
        server.services += "[[services.by_alpn]]\nalpn = \"h2\"\n";
        server.services += &["backend = \"", &h2.address.to_string(), "\"\n"].concat();
        server
    });
    let own = site.world.credentials("laptop-7.test");
    for (offered, agreed, backend) in [
        (vec!["h2", "http/1.1"], Some("h2"), &h2),
        (vec!["http/1.1"], Some("http/1.1"), &h1),
        (vec![], None, &h1),
    ] {
        let offered = offered.into_iter().map(|name| name.as_bytes().to_vec()).collect();
        let config = site.world.client(Some(&own), offered);
        let mut agent = Peer::dial_tls(site.gateway.tls, World::ECHO, &config);
        assert_eq!(agent.alpn().as_deref(), agreed);
        agent.send(b"to this one");
        backend.accept().expect(b"to this one");
    }
    assert!(h1.is_untouched() && h2.is_untouched());
}

#[test]
fn a_proxy_header_tells_the_backend_who_the_agent_is() {
    let backend = Backend::by_hand();
    let site = Site::with(&GatewayFile::DEFAULT, |world| {
        let mut server = ServerFile::new(world, &[("echo", backend.address)]);
        server.services += "proxy_protocol = true\n";
        server
    });
    let mut agent = site.world.foreign_agent(&site.gateway);
    let mut service = backend.accept();
    agent.send(b"payload");
    let start = service.take(16);
    assert_eq!(start[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(start[12..14], [0x21, 0x11], "version 2, PROXY; TCP over IPv4");
    let rest = service.take(usize::from(u16::from_be_bytes([start[14], start[15]])));
    let local = agent.socket().local_addr().expect("it is connected");
    assert_eq!(rest[..4], [127, 0, 0, 1]);
    assert_eq!(rest[8..10], local.port().to_be_bytes());
    assert_eq!(rest[10..12], 13_000_u16.to_be_bytes());
    let device = b"laptop-7.test";
    assert!(rest.windows(device.len()).any(|part| part == device), "the device in a TLV");
    service.expect(b"payload");
}

#[test]
fn an_agent_over_ipv6_gets_back_what_it_sends() {
    let port = std::net::TcpListener::bind("[::1]:0").expect("IPv6 on loopback");
    let address = port.local_addr().expect("it is bound");
    drop(port);
    let listener = format!(
        "[[listeners]]\nname = \"six\"\naddresses = [\"{address}\"]\nkind = \"tls\"\n\
         device_certificates = \"none\"\ncertificate = \"pki/gateway.test.crt\"\n\
         key = \"pki/gateway.test.key\"\n[[services]]\nname = \"six\"\nlisteners = [\"six\"]\n\
         sni = [\"six.gateway.test\"]\ndevices = \"any\"\n"
    );
    let echo = Backend::echo();
    let file =
        GatewayFile { more: &listener, echo: "listeners = [\"internet\"]", ..GatewayFile::DEFAULT };
    let site = Site::with(&file, |world| ServerFile::new(world, &[("six", echo)]));
    let config = site.world.client(None, vec![]);
    let mut agent = Peer::dial_tls(address, "six.gateway.test", &config);
    agent.expect_echo(&payload(6, 100_000));
}

#[test]
fn curl_talks_through_the_gateway_with_its_own_certificate() {
    let site = Site::new(Backend::http());
    let own = site.world.credentials("laptop-7.test");
    let keys = ["--http1.1", "--no-alpn"];
    let output = site.world.curl(site.gateway.tls, World::ECHO, Some(&own), &keys);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from the LAN");
}

#[test]
fn a_backend_that_refuses_ends_the_session_at_once() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = nobody.local_addr().expect("it is bound");
    drop(nobody);
    let site = Site::new(address);
    let mut agent = site.world.ask(&site.gateway, "echo");
    let (reason, again) = agent.refusal();
    assert_eq!((reason.word(), again), ("backend_refused", true));
    site.gateway.process.line("connection ended", &[("reason", "backend_refused")]);
    site.server.line("ended", &[("reason", "backend_refused")]);
}
