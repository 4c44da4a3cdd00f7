//! Programs of others, as well configured as their manuals allow: `bench/peers/` has their
//! configurations.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ground, Running};
use crate::error::BenchError;
use crate::load::Ends;
use crate::process::{Process, Readiness, free_addresses, wait_for_all};
use crate::scenario::Listener;
use crate::setup;
use crate::tls::{DEVICE_NAME, GATEWAY_NAME};

/// Where Debian's package keeps the module that relays TCP.
const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Group, suite and tickets of all that use OpenSSL, as in `crate::tls`.
const OPENSSL: &str = include_str!("../../peers/openssl.cnf");

/// A program of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// TCP mode, TLS on both sides.
    Haproxy,
    /// Its stream module, TLS on both sides.
    Nginx,
    /// Its TLS transport.
    Rathole,
}

/// What a configuration needs to know.
struct Addresses {
    tls: SocketAddr,
    plain: SocketAddr,
    passthrough: SocketAddr,
    inner: SocketAddr,
    /// Between the two places, without TLS of theirs.
    inner_bare: SocketAddr,
}

impl Peer {
    /// What is missing, and how to install it.
    pub(crate) fn missing(self) -> Option<String> {
        let program = self.program();
        let module = self == Self::Nginx && !Path::new(NGINX_STREAM_MODULE).exists();
        let missing = match self.find() {
            None => program,
            Some(_) if module => NGINX_STREAM_MODULE,
            Some(_) => return None,
        };
        Some(format!("{missing} was not found; install it with `{}`", self.install()))
    }

    /// What it says of itself.
    pub(crate) fn version(self) -> String {
        let Some(program) = self.find() else { return "missing".to_owned() };
        let argument = if self == Self::Rathole { "--version" } else { "-v" };
        let Ok(output) = Command::new(program).arg(argument).output() else {
            return "unknown".to_owned();
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.to_lowercase().contains("version"));
        let words: Vec<&str> = line.unwrap_or("unknown").split_whitespace().collect();
        let differs = match self {
            Self::Rathole => "; TLS 1.2 with ChaCha20-Poly1305, a token, no resumption",
            Self::Haproxy | Self::Nginx => "",
        };
        format!("{}{differs}", words.join(" "))
    }

    /// Starts it in the gateway's place, and once more in the server's.
    pub(super) fn start(self, ground: &Ground, listener: Listener) -> Result<Running, BenchError> {
        let [tls, plain, passthrough, inner, inner_bare] = free_addresses()?;
        let addresses = Addresses { tls, plain, passthrough, inner, inner_bare };
        let mut gateway = self.start_one(ground, "gateway", &addresses)?;
        let mut server = self.start_one(ground, "server", &addresses)?;
        let address = match listener {
            Listener::Tls => tls,
            Listener::Plain => plain,
            Listener::Passthrough => passthrough,
        };
        wait_for_all(&mut [
            (&mut gateway, Readiness::Accepts(address)),
            (&mut server, Readiness::Accepts(inner)),
        ])?;
        let running = Running::new(ground, listener, address, vec![gateway, server]);
        let ends = if self == Self::Nginx { Ends::Unanswered } else { Ends::Answered };
        Ok(Running { ends, ..running })
    }

    fn start_one(
        self,
        ground: &Ground,
        place: &'static str,
        addresses: &Addresses,
    ) -> Result<Process, BenchError> {
        let program = self.find().ok_or_else(|| BenchError::Missing(self.install()))?;
        let configuration = write(ground, self.program(), place, self.template(place), addresses)?;
        let openssl = write(ground, "openssl", place, OPENSSL, addresses)?;
        let mut command = Command::new(program);
        command.env("OPENSSL_CONF", openssl);
        match self {
            Self::Haproxy => command.arg("-db").arg("-f").arg(&configuration),
            Self::Nginx => {
                command.arg("-p").arg(&ground.folder).args(["-e", "stderr", "-c"]);
                command.arg(&configuration)
            }
            Self::Rathole => {
                setup::make_pkcs12(&ground.pki, &ground.folder.join("gateway.p12"))?;
                // One thread, as all others have; the log of each session is nobody's work.
                command.env("TOKIO_WORKER_THREADS", "1").env("RUST_LOG", "warn");
                let role = if place == "gateway" { "--server" } else { "--client" };
                command.arg(role).arg(&configuration)
            }
        };
        Process::start(place, &mut command, &ground.folder)
    }

    fn program(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Rathole => "rathole",
        }
    }

    fn install(self) -> &'static str {
        match self {
            Self::Haproxy => "apt install haproxy",
            Self::Nginx => "apt install nginx libnginx-mod-stream",
            Self::Rathole => "cargo install rathole@0.5.0 --root target/bench-tools",
        }
    }

    /// On PATH, among what administrators run, or where the line of [`Peer::install`] puts it.
    fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = std::env::current_exe().ok();
        let tools = own.as_deref().and_then(|own| own.ancestors().nth(2));
        std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin")])
            .chain(tools.map(|target| target.join("bench-tools/bin")))
            .map(|folder| folder.join(self.program()))
            .find(|program| program.is_file())
    }

    fn template(self, place: &str) -> &'static str {
        match (self, place) {
            (Self::Haproxy, "gateway") => include_str!("../../peers/haproxy-gateway.cfg"),
            (Self::Haproxy, _) => include_str!("../../peers/haproxy-server.cfg"),
            (Self::Nginx, "gateway") => include_str!("../../peers/nginx-gateway.conf"),
            (Self::Nginx, _) => include_str!("../../peers/nginx-server.conf"),
            (Self::Rathole, "gateway") => include_str!("../../peers/rathole-server.toml"),
            (Self::Rathole, _) => include_str!("../../peers/rathole-client.toml"),
        }
    }
}

/// Fills a template and writes it to the folder of the run.
fn write(
    ground: &Ground,
    program: &str,
    place: &str,
    template: &str,
    addresses: &Addresses,
) -> Result<PathBuf, BenchError> {
    let path = ground.folder.join(format!("{program}-{place}.conf"));
    std::fs::write(&path, fill(template, ground, place, addresses))
        .map_err(BenchError::io(format!("writing {}", path.display())))?;
    Ok(path)
}

fn fill(template: &str, ground: &Ground, place: &str, addresses: &Addresses) -> String {
    let path = |path: &Path| path.display().to_string();
    let pki = &ground.pki;
    let (gateway_certificate, gateway_key) = pki.credentials(GATEWAY_NAME);
    let (device_certificate, device_key) = pki.credentials(DEVICE_NAME);
    let tickets = if place == "gateway" { "0" } else { "2" };
    let values = [
        ("tickets", tickets.to_owned()),
        ("tls", addresses.tls.to_string()),
        ("plain", addresses.plain.to_string()),
        ("passthrough", addresses.passthrough.to_string()),
        ("inner", addresses.inner.to_string()),
        ("inner_bare", addresses.inner_bare.to_string()),
        ("backend", ground.backend.to_string()),
        ("folder", path(&ground.folder)),
        ("stream_module", NGINX_STREAM_MODULE.to_owned()),
        ("gateway_certificate", path(&gateway_certificate)),
        ("gateway_key", path(&gateway_key)),
        ("gateway_pkcs12", path(&ground.folder.join("gateway.p12"))),
        ("device_certificate", path(&device_certificate)),
        ("device_key", path(&device_key)),
        ("devices_ca", path(&pki.ca("devices"))),
        ("gateways_ca", path(&pki.ca("gateways"))),
    ];
    values.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{{{name}}}}}"), value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Group, Pki};

    #[test]
    fn every_blank_of_every_configuration_is_filled() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let addresses = Addresses {
            tls: address,
            plain: address,
            passthrough: address,
            inner: address,
            inner_bare: address,
        };
        let folder = PathBuf::from("/run");
        let ground = Ground {
            folder: folder.clone(),
            vestibule: folder.clone(),
            builds: vec![],
            bench: folder.clone(),
            pki: Pki::new(folder),
            backend: address,
            relay_group: Group::X25519,
            profiles: None,
        };
        for peer in [Peer::Haproxy, Peer::Nginx, Peer::Rathole] {
            for place in ["gateway", "server"] {
                let text = fill(peer.template(place), &ground, place, &addresses);
                assert!(!text.contains("{{") && text.contains("127.0.0.1:1"), "{text}");
                let openssl = fill(OPENSSL, &ground, place, &addresses);
                assert!(!openssl.contains("{{") && openssl.contains("NumTickets = "), "{openssl}");
            }
        }
    }
}
