//! Scanners of TLS, as anybody may run them against the open port.

use std::process::Stdio;

use super::harness::{GatewayFile, Process, Trial, World};

#[test]
#[ignore = "needs sslscan"]
fn a_scanner_finds_tls_1_3_and_nothing_older_or_weaker() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let output = Process::any("sslscan")
        .args(["--no-colour", &format!("--sni-name={}", World::ECHO)])
        .arg(trial.gateway.tls.to_string())
        .stdout(Stdio::piped())
        .output()
        .expect("sslscan is installed");
    let report = String::from_utf8_lossy(&output.stdout);
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<_> = report.lines().map(cells).collect();
    for (version, state) in [
        ("SSLv2", "disabled"),
        ("SSLv3", "disabled"),
        ("TLSv1.0", "disabled"),
        ("TLSv1.1", "disabled"),
        ("TLSv1.2", "disabled"),
        ("TLSv1.3", "enabled"),
    ] {
        assert!(rows.iter().any(|row| row[..] == [version, state]), "{version}:\n{report}");
    }
    let is_suite = |row: &&Vec<String>| {
        row.first().is_some_and(|cell| ["Preferred", "Accepted"].contains(&&cell[..]))
    };
    let mut suites: Vec<_> = rows.iter().filter(is_suite).map(|row| &row[4][..]).collect();
    suites.sort_unstable();
    let expected =
        ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
    assert_eq!(suites, expected, "{report}");
    assert!(report.contains("Session renegotiation not supported"), "{report}");
    assert!(report.contains("TLSv1.3 not vulnerable to heartbleed"), "{report}");
    trial.assert_unharmed();
}
