//! Old agents, which speak no TLS.

use std::process::Command;

use super::echo::EchoBackend;
use super::network::DMZ_OUTSIDE;
use super::site::{ECHO_BACKEND, Site};

/// bash's own sockets: as plain as a client can be.
const TALK: &str = r#"
exec 3<>"/dev/tcp/$1/14000"
printf 'hello from the last century\n' >&3
IFS= read -r answer <&3
printf '%s' "$answer"
"#;

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn an_old_plain_client_talks_through_14000() {
    Site::test(|site| {
        let backend = EchoBackend::start(&site.network.lan, ECHO_BACKEND);
        let mut bash: Command = site.network.internet.command("bash");
        bash.args(["-c", TALK, "talk", &DMZ_OUTSIDE.to_string()]);
        assert_eq!(super::network::output(&mut bash), "hello from the last century");
        site.wait_until_at_rest();
        assert_eq!(backend.received(), 28);
        assert_eq!(site.gateway_status().totals.bytes_to_agent, 28);
        backend.stop(&site.network.lan);
    });
}
