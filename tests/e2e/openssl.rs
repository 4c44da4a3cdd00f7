//! OpenSSL as the other side, with its own records, tickets and key updates.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use vestibule::pki::Role;

use super::harness::{Backend, GatewayFile, LONG, ServerFile, Site, World};

const SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// `openssl s_client` or `s_server`, which take commands in the first letter of a line: `K` updates
/// the keys of both directions, `k` its own, `Q` ends.
struct OpenSsl {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl OpenSsl {
    fn start(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        let input = process.stdin.take().expect("piped");
        let (sender, lines) = channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(process.stdout.take().expect("piped")),
            Box::new(process.stderr.take().expect("piped")),
        ];
        for stream in streams {
            let sender = sender.clone();
            thread::spawn(move || {
                // Ends with the process, or with the test.
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { process, input, lines }
    }

    fn say(&mut self, line: &str) {
        self.input.write_all(line.as_bytes()).expect("openssl runs");
        self.input.flush().expect("openssl runs");
    }

    /// Waits for a line with that text in it.
    fn hear(&self, text: &str) {
        let mut heard = Vec::new();
        while !heard.iter().any(|line: &String| line.contains(text)) {
            let line = self.lines.recv_timeout(LONG);
            heard.push(line.unwrap_or_else(|_| panic!("no `{text}`, but {heard:#?}")));
        }
    }

    /// Updates keys, of both directions in even rounds; `done` is what OpenSSL says after it.
    fn update_keys(&mut self, round: u32, done: &str) {
        self.say(if round.is_multiple_of(2) { "K\n" } else { "k\n" });
        self.hear(done);
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A device, as OpenSSL.
fn device(site: &Site, cipher: &str) -> OpenSsl {
    let own = site.world.credentials("laptop-7.test");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &site.gateway.tls.to_string()]);
    command.args(["-servername", World::ECHO, "-ciphersuites", cipher, "-verify_return_error"]);
    command.arg("-CAfile").arg(site.world.ca(Role::Gateway));
    command.arg("-cert").arg(own.certificate).arg("-key").arg(own.key);
    OpenSsl::start(&mut command)
}

#[test]
#[ignore = "needs openssl"]
fn openssl_as_an_agent_talks_in_every_suite_and_updates_its_keys() {
    let site = Site::new(Backend::echo());
    for suite in SUITES {
        let mut agent = device(&site, suite);
        agent.hear("Verify return code: 0 (ok)");
        for round in 0..8 {
            let line = format!("{suite} in round {round}");
            agent.say(&format!("{line}\n"));
            agent.hear(&line);
            agent.update_keys(round, "KEYUPDATE");
        }
        agent.say("Q\n");
        assert!(agent.process.wait().expect("it ends").success());
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
            backend.update_keys(round, "SSL_do_handshake -> 1");
            let answer = format!("answer {round}\n");
            backend.say(&answer);
            agent.expect(answer.as_bytes());
        }
        agent.end();
        site.assert_ended("finished", 1);
    }
}
