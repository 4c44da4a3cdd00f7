//! The files of the demo: what an operator would make by hand, with the same commands and keys.

use std::fs;
use std::path::{Path, PathBuf};

use super::addresses::Addresses;
use super::failure::Problem;
use crate::config::Credentials;
use crate::pki::{LEAF_DAYS, Leaf, Pki, Role, SubjectName};

/// By which agents and the server dial the gateway.
pub(super) const GATEWAY: &str = "localhost";
/// Name of the server.
const SERVER: &str = "server.demo";
/// Device for the commands that the viewer tries.
pub(super) const YOU: &str = "you.demo";
/// Device whose programs know no TLS, and go through `vestibule agent`.
pub(super) const KIOSK: &str = "kiosk.demo";
/// Devices that speak TLS themselves.
pub(super) const LAPTOPS: [&str; 3] = ["laptop-1.demo", "laptop-2.demo", "laptop-3.demo"];

/// Certificate and key of a device, in the demo's folder.
pub(super) fn device_credentials(folder: &Path, device: &str) -> Credentials {
    let file = |end: &str| folder.join(format!("{device}.{end}"));
    Credentials { certificate: file("crt"), key: file("key") }
}

/// The CA of the gateways, in the demo's folder.
pub(super) fn gateway_ca(folder: &Path) -> PathBuf {
    Pki::open(folder).ca_certificate(Role::Gateway)
}

/// Makes the certificates and writes the three configurations.
pub(super) fn write(folder: &Path, addresses: &Addresses) -> Result<(), Problem> {
    let pki = Pki::create(folder)?;
    let issue = |role, name: &str| {
        let names = vec![SubjectName::Dns(name.to_owned())];
        let leaf = Leaf { role, names, days: LEAF_DAYS };
        pki.issue(&leaf)?.write(folder, &leaf.names[0]).map(drop)
    };
    issue(Role::Gateway, GATEWAY)?;
    issue(Role::Server, SERVER)?;
    for device in LAPTOPS.into_iter().chain([KIOSK, YOU]) {
        issue(Role::Device, device)?;
    }
    for (name, text) in [
        ("gateway.toml", gateway(addresses)),
        ("server.toml", server(addresses)),
        ("agent.toml", agent(addresses)),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|source| Problem::File { path, source })?;
    }
    Ok(())
}

fn gateway(addresses: &Addresses) -> String {
    let Addresses { tls, plain, gateway_telemetry, .. } = addresses;
    format!(
        r#"# The gateway of `vestibule demo`. deploy/gateway.toml explains every key.
workers = 2

[[listeners]]
name = "internet"
addresses = ["{tls}"]
kind = "tls"
certificate = "{GATEWAY}.crt"
key = "{GATEWAY}.key"
device_certificates = "required"
device_ca = "devices-ca.crt"

[[listeners]]
name = "old-agents"
addresses = ["{plain}"]
kind = "plain"
service = "old"
agents_from = ["127.0.0.0/8"]

[servers]
ca = "servers-ca.crt"

[[servers.allow]]
name = "{SERVER}"
services = "all"

[[services]]
name = "web"
alpn = ["http/1.1"]
default = true
listeners = ["internet"]

[[services]]
name = "old"
listeners = ["old-agents"]
devices = "any"

[limits]
drain_timeout_ms = 500

# A load generator on this machine is one address, however many devices it plays.
[addresses]
exempt = ["127.0.0.0/8"]

[telemetry]
address = "{gateway_telemetry}"
"#
    )
}

fn server(addresses: &Addresses) -> String {
    let Addresses { tls, backend, server_telemetry, .. } = addresses;
    format!(
        r#"# The server of `vestibule demo`. deploy/server.toml explains every key.
workers = 2
certificate = "{SERVER}.crt"
key = "{SERVER}.key"
gateway_ca = "gateways-ca.crt"

[[gateways]]
address = "{tls}"
name = "{GATEWAY}"

[[services]]
name = "web"
backend = "{backend}"
proxy_protocol = true

[[services]]
name = "old"
backend = "{backend}"
proxy_protocol = true

[limits]
drain_timeout_ms = 500

[telemetry]
address = "{server_telemetry}"
"#
    )
}

fn agent(addresses: &Addresses) -> String {
    let Addresses { tls, forward, .. } = addresses;
    format!(
        r#"# The agent of `vestibule demo`. deploy/agent.toml explains every key.
certificate = "{KIOSK}.crt"
key = "{KIOSK}.key"
gateway_ca = "gateways-ca.crt"

[[gateways]]
address = "{tls}"
name = "{GATEWAY}"

[[forwards]]
address = "{forward}"
service = "web"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::check;
    use crate::demo::addresses;

    #[test]
    fn check_finds_no_error_in_the_configurations() {
        let folder = tempfile::tempdir().expect("a folder");
        let (addresses, _backend) = addresses::choose().expect("ports");
        write(folder.path(), &addresses).expect("written");
        for name in ["gateway.toml", "server.toml", "agent.toml"] {
            let report = check(&folder.path().join(name), None);
            assert!(report.passed(), "{report}");
        }
    }
}
