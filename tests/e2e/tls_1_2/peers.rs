//! Real programs that speak TLS 1.2.

use std::net::SocketAddr;
use std::process::Command;

use super::{FILE, OLDER_HANDSHAKES};
use crate::e2e::harness::{Backend, GatewayFile, OpenSsl, Site, Trial, World};

const SUITES: [&str; 3] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
];

/// The device as OpenSSL, with TLS 1.2.
fn older(world: &World, gateway: SocketAddr) -> Command {
    let mut command = OpenSsl::device(world, gateway);
    command.arg("-tls1_2");
    command
}

#[test]
#[ignore = "needs openssl"]
fn openssl_as_an_agent_talks_in_every_suite_of_tls_1_2() {
    let site = Site::of(&FILE, Backend::echo());
    for suite in SUITES {
        let mut agent =
            OpenSsl::start(older(&site.world, site.gateway.tls).args(["-cipher", suite]));
        agent.hear(&format!("New, TLSv1.2, Cipher is {suite}"));
        agent.hear("Extended master secret: yes");
        for round in 0..8 {
            let line = format!("{suite} in round {round}");
            agent.say(&format!("{line}\n"));
            agent.hear(&line);
        }
        agent.quit();
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
        let agent = OpenSsl::start(older(&trial.world, trial.gateway.tls).args(["-cipher", suite]));
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
    let agent =
        OpenSsl::start(older(&trial.world, trial.gateway.tls).env("OPENSSL_CONF", settings));
    agent.hear("alert handshake failure");
    drop(agent);
    trial.assert_ended("handshake_failed", 1);
}

#[test]
#[ignore = "needs openssl"]
fn openssl_gets_nothing_to_resume_tls_1_2_with() {
    let site = Site::of(&FILE, Backend::echo());
    let session = site.world.path("session.pem");
    let mut command = older(&site.world, site.gateway.tls);
    let mut agent = OpenSsl::start(command.arg("-sess_out").arg(&session));
    agent.hear("New, TLSv1.2");
    agent.say("to and fro\n");
    agent.hear("to and fro");
    agent.quit();
    site.assert_ended("finished", 1);
    assert!(!session.exists(), "openssl writes one that it could resume");
}

#[test]
#[ignore = "needs openssl"]
fn a_renegotiation_by_openssl_ends_its_session_with_a_reason_and_no_other() {
    let site = Site::of(&FILE, Backend::echo());
    let mut other = site.world.foreign_agent(&site.gateway);
    other.expect_echo(b"before");
    let mut agent = OpenSsl::start(&mut older(&site.world, site.gateway.tls));
    agent.say("to and fro\n");
    agent.hear("to and fro");
    agent.say("R\n");
    agent.hear("no renegotiation");
    let ended = site.gateway.process.line("session ended", &[("path", "tls_1_2")]);
    let reason = ended["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("agent_"), "{ended}");
    other.expect_echo(b"after");
}

/// The answer of an HTTP backend to curl with TLS 1.2 at most, and what curl says.
fn curl(site: &Site) -> (String, String) {
    let own = site.world.credentials("laptop-7.test");
    let keys = ["--http1.1", "--no-alpn", "--tls-max", "1.2"];
    let output = site.world.curl(site.gateway.tls, World::ECHO, Some(&own), &keys);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn curl_talks_with_tls_1_2_where_it_is_taken_and_hears_why_not_elsewhere() {
    let taken = Site::of(&FILE, Backend::http());
    assert_eq!(curl(&taken).0, "from the LAN");
    taken.gateway.process.line("session ended", &[("path", "tls_1_2")]);
    let (said, error) = curl(&Site::of(&GatewayFile::DEFAULT, Backend::http()));
    assert!(said.is_empty() && error.contains("protocol version"), "{said} {error}");
}
