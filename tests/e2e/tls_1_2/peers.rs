//! Real programs that speak TLS 1.2.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use vestibule::pki::Role;

use super::{FILE, OLDER_HANDSHAKES, site};
use crate::e2e::harness::{Backend, GatewayFile, LONG, Process, Site, Trial, World};

const SUITES: [&str; 3] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
];

/// `openssl s_client` with TLS 1.2, whose lines are commands where they begin with `R` (renegotiate) or
/// `Q` (end).
struct OpenSsl {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl OpenSsl {
    fn start(world: &World, gateway: std::net::SocketAddr, more: &[&str]) -> Self {
        Self::configured(world, gateway, more, None)
    }

    /// With a file of settings of its own.
    fn configured(
        world: &World,
        gateway: std::net::SocketAddr,
        more: &[&str],
        settings: Option<&Path>,
    ) -> Self {
        let own = world.credentials("laptop-7.test");
        let mut command = Command::new("openssl");
        command.args(["s_client", "-tls1_2", "-connect", &gateway.to_string()]);
        command.args(["-servername", World::ECHO, "-verify_return_error"]).args(more);
        command.arg("-CAfile").arg(world.ca(Role::Gateway));
        command.arg("-cert").arg(own.certificate).arg("-key").arg(own.key);
        command.envs(settings.map(|file| ("OPENSSL_CONF", file)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("openssl is installed");
        let input = process.stdin.take().expect("piped");
        let (sender, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [
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
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "needs openssl"]
fn openssl_as_an_agent_talks_in_every_suite_of_tls_1_2() {
    let site = site(&FILE, Backend::echo());
    for suite in SUITES {
        let mut agent = OpenSsl::start(&site.world, site.gateway.tls, &["-cipher", suite]);
        agent.hear(&format!("New, TLSv1.2, Cipher is {suite}"));
        agent.hear("Extended master secret: yes");
        for round in 0..8 {
            let line = format!("{suite} in round {round}");
            agent.say(&format!("{line}\n"));
            agent.hear(&line);
        }
        agent.say("Q\n");
        assert!(agent.process.wait().expect("it ends").success());
    }
    site.assert_ended("finished", SUITES.len());
    assert_eq!(site.gateway.telemetry.metric(OLDER_HANDSHAKES), SUITES.len() as u64);
}

#[test]
#[ignore = "needs openssl"]
fn openssl_with_suites_that_are_no_aead_is_refused() {
    let mut trial = Trial::new(&FILE);
    for (count, suite) in
        ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA"].into_iter().enumerate()
    {
        let agent = OpenSsl::start(&trial.world, trial.gateway.tls, &["-cipher", suite]);
        agent.hear("alert handshake failure");
        drop(agent);
        trial.assert_ended("handshake_failed", count as u64 + 1);
    }
}

#[test]
#[ignore = "needs openssl"]
fn openssl_without_the_extended_master_secret_is_refused() {
    let mut trial = Trial::new(&FILE);
    let settings = trial.world.write(
        "openssl.cnf",
        "openssl_conf = settings\n[settings]\nssl_conf = ssl\n[ssl]\nsystem_default = own\n\
         [own]\nOptions = -ExtendedMasterSecret\n",
    );
    let agent = OpenSsl::configured(&trial.world, trial.gateway.tls, &[], Some(&settings));
    agent.hear("alert handshake failure");
    drop(agent);
    trial.assert_ended("handshake_failed", 1);
}

#[test]
#[ignore = "needs openssl"]
fn openssl_gets_nothing_to_resume_tls_1_2_with() {
    let site = site(&FILE, Backend::echo());
    let session = site.world.path("session.pem");
    let keys = ["-sess_out", &session.display().to_string()];
    let mut agent = OpenSsl::start(&site.world, site.gateway.tls, &keys);
    agent.hear("New, TLSv1.2");
    agent.say("to and fro\n");
    agent.hear("to and fro");
    agent.say("Q\n");
    assert!(agent.process.wait().expect("it ends").success());
    site.assert_ended("finished", 1);
    assert!(!session.exists(), "openssl writes one that it could resume");
}

#[test]
#[ignore = "needs openssl"]
fn a_renegotiation_by_openssl_ends_its_session_with_a_reason_and_no_other() {
    let site = site(&FILE, Backend::echo());
    let mut other = site.world.foreign_agent(&site.gateway);
    other.expect_echo(b"before");
    let mut agent = OpenSsl::start(&site.world, site.gateway.tls, &[]);
    agent.say("to and fro\n");
    agent.hear("to and fro");
    agent.say("R\n");
    agent.hear("no renegotiation");
    let ended = site.gateway.process.line("session ended", &[("path", "tls_1_2")]);
    let reason = ended["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("agent_"), "{ended}");
    other.expect_echo(b"after");
}

/// The answer of an HTTP backend to curl with that version at most, and what curl says.
fn curl(site: &Site, newest: &str) -> (String, String) {
    let pki = |name: &str| site.world.path("pki").join(name);
    let output = Process::any("curl")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .args(["--silent", "--show-error", "--max-time", "20", "--http1.1", "--no-alpn"])
        .args(["--tls-max", newest, "--connect-to"])
        .arg(format!("{}:443:{}", World::ECHO, site.gateway.tls))
        .arg("--cacert")
        .arg(pki("gateways-ca.crt"))
        .arg("--cert")
        .arg(pki("laptop-7.test.crt"))
        .arg("--key")
        .arg(pki("laptop-7.test.key"))
        .arg(format!("https://{}/", World::ECHO))
        .output()
        .expect("curl is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn curl_talks_with_tls_1_2_where_it_is_taken_and_hears_why_not_elsewhere() {
    let backend = || {
        Backend::serve(|mut stream| {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                request.push(byte[0]);
            }
            // curl may have left.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfrom the LAN");
        })
    };
    let taken = site(&FILE, backend());
    assert_eq!(curl(&taken, "1.2").0, "from the LAN");
    taken.gateway.process.line("session ended", &[("path", "tls_1_2")]);
    let (said, error) = curl(&site(&GatewayFile::DEFAULT, backend()), "1.2");
    assert!(said.is_empty() && error.contains("protocol version"), "{said} {error}");
}
