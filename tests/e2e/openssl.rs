//! OpenSSL as the other side, with its own records, tickets and key updates.

use std::process::Command;

use super::harness::{Backend, GatewayFile, OpenSsl, ServerFile, Site, World};

const SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Updates keys, of both directions in even rounds; `done` is what OpenSSL says after it.
fn update_keys(openssl: &mut OpenSsl, round: u32, done: &str) {
    openssl.say(if round.is_multiple_of(2) { "K\n" } else { "k\n" });
    openssl.hear(done);
}

#[test]
#[ignore = "needs openssl"]
fn openssl_as_an_agent_talks_in_every_suite_and_updates_its_keys() {
    let site = Site::new(Backend::echo());
    for suite in SUITES {
        let mut command = OpenSsl::device(&site.world, site.gateway.tls);
        let mut agent = OpenSsl::start(command.args(["-ciphersuites", suite]));
        agent.hear("Verify return code: 0 (ok)");
        for round in 0..8 {
            let line = format!("{suite} in round {round}");
            agent.say(&format!("{line}\n"));
            agent.hear(&line);
            update_keys(&mut agent, round, "KEYUPDATE");
        }
        agent.quit();
    }
    site.assert_ended("finished", SUITES.len());
}

#[test]
#[ignore = "needs openssl"]
fn openssl_as_a_backend_talks_in_every_suite_and_updates_its_keys() {
    for suite in SUITES {
        let mut backend = None;
        let site = Site::with(&GatewayFile::DEFAULT, |world| {
            let own = world.credentials(World::GATEWAY_NAME);
            let address = world.address(20, 8443);
            // Line by line, though it writes to a pipe.
            let mut command = Command::new("stdbuf");
            command.args(["-oL", "openssl", "s_server"]);
            command.args(["-accept", &address.to_string(), "-ciphersuites", suite]);
            command.arg("-cert").arg(own.certificate).arg("-key").arg(own.key);
            let process = OpenSsl::start(&mut command);
            process.hear("ACCEPT");
            backend = Some(process);
            let mut server = ServerFile::new(world, &[("echo", address)]);
            server.services += "tls = { ca = \"pki/gateways-ca.crt\", name = \"gateway.test\" }\n";
            server
        });
        let mut backend = backend.expect("started above");
        let mut agent = site.world.foreign_agent(&site.gateway);
        for round in 0..8 {
            let question = format!("question {round}");
            agent.send(format!("{question}\n").as_bytes());
            backend.hear(&question);
            update_keys(&mut backend, round, "SSL_do_handshake -> 1");
            let answer = format!("answer {round}\n");
            backend.say(&answer);
            agent.expect(answer.as_bytes());
        }
        agent.end();
        site.assert_ended("finished", 1);
    }
}
