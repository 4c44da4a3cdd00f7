use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use vestibule::config::Credentials;
use vestibule::pki::{Key, LEAF_DAYS, Leaf, Pki, Renewable, Role, SubjectName};
use vestibule::tls::{load_roots, provider};
use vestibule::wire::{FromAgent, Open, alpn, from_agent};

use super::{AgentFile, GatewayFile, Peer, Process, ServerFile, Telemetry};

/// What a test has for itself: a network, a folder, a PKI with a gateway, two servers and a device.
pub(crate) struct World {
    folder: TempDir,
    pub(super) pki: Pki,
    network: [u8; 2],
    /// Holds the network against other test processes.
    _claim: TcpListener,
}

/// Whose CA signs a certificate that a test makes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Authority {
    Of(Role),
    /// One that nobody trusts.
    Stranger,
}

/// A gateway that runs.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) tls: SocketAddr,
    pub(crate) plain: SocketAddr,
    pub(crate) telemetry: Telemetry,
}

impl World {
    pub(crate) const GATEWAY_NAME: &str = "gateway.test";
    /// Server name that chooses the service `echo`.
    pub(crate) const ECHO: &str = "echo.gateway.test";

    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::create(&folder.path().join("pki")).expect("a new folder");
        let (network, claim) = claim_network();
        let world = Self { folder, pki, network, _claim: claim };
        world.issue(Role::Gateway, &[Self::GATEWAY_NAME, "*.gateway.test"]);
        world.issue(Role::Server, &["server-1.test"]);
        world.issue(Role::Server, &["server-2.test"]);
        world.issue(Role::Device, &["laptop-7.test"]);
        world
    }

    /// An address in this world's network.
    pub(crate) fn ip(&self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.network[0], self.network[1], host).into()
    }

    pub(crate) fn address(&self, host: u8, port: u16) -> SocketAddr {
        (self.ip(host), port).into()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).expect("the folder is writable");
        path
    }

    /// Replaces a text in a file, which is then another file of that name.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(name)).expect("it was written");
        assert!(text.contains(from), "{from:?} stands in {name}");
        self.replace(name, &text.replace(from, to));
    }

    /// Puts another file in the place of one, at once.
    pub(crate) fn replace(&self, name: &str, contents: &str) {
        let draft = self.write(&format!("{name}.new"), contents);
        std::fs::rename(draft, self.path(name)).expect("the folder is writable");
    }

    pub(crate) fn ca(&self, role: Role) -> PathBuf {
        self.pki.ca_certificate(role)
    }

    /// Puts a CA that has issued nothing in the place of that of a role. Its name is the same.
    pub(crate) fn replace_ca(&self, role: Role) {
        let pki = Pki::create(&self.path("other-pki")).expect("a new folder");
        let other = std::fs::read_to_string(pki.ca_certificate(role)).expect("it was made");
        self.replace(&format!("pki/{role}s-ca.crt"), &other);
    }

    // ---- processes ----

    pub(crate) fn write_gateway(&self, file: &GatewayFile<'_>) -> PathBuf {
        self.write(&format!("gateway-{}.toml", file.host), &file.text(self))
    }

    /// Starts a gateway, and waits until it listens.
    pub(crate) fn gateway(&self, file: &GatewayFile<'_>) -> Gateway {
        let path = self.write_gateway(file);
        let process = Process::start("gateway", path.as_os_str());
        process.line("gateway runs", &[]);
        self.running(file, process)
    }

    /// A gateway by its process.
    pub(crate) fn running(&self, file: &GatewayFile<'_>, process: Process) -> Gateway {
        Gateway {
            process,
            tls: self.address(file.host, 13_000),
            plain: self.address(file.host, 14_000),
            telemetry: Telemetry(self.address(file.host, 9113)),
        }
    }

    /// Starts a gateway that is to take the place of the one that runs, and does not wait.
    pub(crate) fn take_over(&self, file: &GatewayFile<'_>) -> Process {
        Process::spawn(&mut self.command_to_take_over(file))
    }

    pub(crate) fn command_to_take_over(&self, file: &GatewayFile<'_>) -> Command {
        let path = self.write_gateway(file);
        let mut command = Process::command();
        command.args(["--log", "json", "gateway", "--take-over", "--config"]).arg(path);
        command
    }

    pub(crate) fn write_server(&self, file: &ServerFile) -> PathBuf {
        self.write(&format!("server-{}.toml", file.host), &file.text(self))
    }

    /// Starts a server, and does not wait for it.
    pub(crate) fn server(&self, file: &ServerFile) -> (Process, Telemetry) {
        let path = self.write_server(file);
        let telemetry = Telemetry(self.address(file.host, 9114));
        (Process::start("server", path.as_os_str()), telemetry)
    }

    /// Starts an agent, and waits until it listens; returns where.
    pub(crate) fn agent(&self, file: &AgentFile) -> (Process, SocketAddr) {
        let path = self.write(&format!("agent-{}.toml", file.host), &file.text(self));
        let process = Process::start("agent", path.as_os_str());
        process.line("forwarding", &[]);
        (process, self.address(file.host, 2222))
    }

    // ---- certificates ----

    fn issue(&self, role: Role, names: &[&str]) {
        let names: Vec<SubjectName> =
            names.iter().map(|name| name.parse().expect("a name")).collect();
        let leaf = Leaf { role, names, days: LEAF_DAYS };
        let issued = self.pki.issue(&leaf).expect("a CA of that role");
        issued.write(&self.path("pki"), &leaf.names[0]).expect("a new name");
    }

    /// Renews a certificate that the world came with, as `vestibule pki renew` does.
    pub(crate) fn renew(&self, name: &str) {
        let path = self.path("pki").join(format!("{name}.crt"));
        let renewable = Renewable::read(&path, &self.pki).expect("of this world");
        renewable.renew(&self.pki, Key::New, LEAF_DAYS).expect("renewed");
    }

    /// Of a certificate that the world came with.
    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        let path = |extension| self.path("pki").join(format!("{name}.{extension}"));
        Credentials { certificate: path("crt"), key: path("key") }
    }

    /// Makes a certificate that no command would make, and writes it to files of that name.
    pub(crate) fn forge(
        &self,
        name: &str,
        authority: Authority,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Credentials {
        let (ca_certificate, ca_key) = match authority {
            Authority::Of(role) => (
                std::fs::read_to_string(self.pki.ca_certificate(role)).expect("a CA"),
                std::fs::read_to_string(self.pki.ca_key(role)).expect("a CA"),
            ),
            Authority::Stranger => stranger(&self.path("strangers")),
        };
        let ca_key = KeyPair::from_pem(&ca_key).expect("a key");
        let issuer = Issuer::from_ca_cert_pem(&ca_certificate, ca_key).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        change(&mut params);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        Credentials {
            certificate: self.write(&format!("{name}.crt"), &certificate.pem()),
            key: self.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    /// Makes a device's certificate that so many others lead to from its CA, and that has so many bytes
    /// more than it needs.
    pub(crate) fn forge_chain(&self, name: &str, between: usize, padding: usize) -> Credentials {
        let read = |path| std::fs::read_to_string(path).expect("a CA");
        let certificate = read(self.pki.ca_certificate(Role::Device));
        let key = KeyPair::from_pem(&read(self.pki.ca_key(Role::Device))).expect("a key");
        let mut issuer = Issuer::from_ca_cert_pem(&certificate, key).expect("a CA");
        let mut chain = String::new();
        for number in 0..between {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, format!("between {number}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let signed = params.signed_by(&key, &issuer).expect("a certificate");
            chain.insert_str(0, &signed.pem());
            issuer = Issuer::new(params, key);
        }
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        // Of no meaning: the arc of examples (RFC 5612).
        let id = [1, 3, 6, 1, 4, 1, 32473, 1];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&id, vec![0; padding])];
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &issuer).expect("a certificate");
        Credentials {
            certificate: self.write(&format!("{name}.crt"), &(signed.pem() + &chain)),
            key: self.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    // ---- clients ----

    /// For TLS with a gateway.
    pub(crate) fn client(
        &self,
        credentials: Option<&Credentials>,
        alpn: Vec<Vec<u8>>,
    ) -> Arc<ClientConfig> {
        self.client_of(&[&TLS13], credentials, alpn)
    }

    /// For TLS with a gateway, in one of these versions.
    pub(crate) fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        credentials: Option<&Credentials>,
        alpn: Vec<Vec<u8>>,
    ) -> Arc<ClientConfig> {
        let roots = load_roots(&self.ca(Role::Gateway)).expect("a CA");
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("the provider knows them")
            .with_root_certificates(roots);
        let mut config = match credentials {
            None => builder.with_no_client_auth(),
            // Not by our own loader, which refuses what is to be shown here.
            Some(Credentials { certificate, key }) => builder
                .with_client_auth_cert(
                    CertificateDer::pem_file_iter(certificate)
                        .and_then(Iterator::collect)
                        .expect("a certificate"),
                    PrivateKeyDer::from_pem_file(key).expect("a key"),
                )
                .expect("a pair"),
        };
        config.alpn_protocols = alpn;
        Arc::new(config)
    }

    pub(crate) fn server_client(&self, name: &str, alpn: Vec<Vec<u8>>) -> Arc<ClientConfig> {
        self.client(Some(&self.credentials(name)), alpn)
    }

    /// The device, as a program that knows nothing of us.
    pub(crate) fn foreign_config(&self) -> Arc<ClientConfig> {
        self.client(Some(&self.credentials("laptop-7.test")), vec![])
    }

    pub(crate) fn foreign_agent(&self, gateway: &Gateway) -> Peer {
        Peer::dial_tls(gateway.tls, Self::ECHO, &self.foreign_config())
    }

    /// The device, as our own agent before it has asked for anything.
    pub(crate) fn our_agent(&self, gateway: &Gateway) -> Peer {
        self.our_agent_at(gateway.tls)
    }

    fn our_agent_at(&self, gateway: SocketAddr) -> Peer {
        let own = self.credentials("laptop-7.test");
        let config = self.client(Some(&own), vec![alpn::AGENT.to_vec()]);
        Peer::dial_tls(gateway, Self::GATEWAY_NAME, &config)
    }

    /// Our own agent, which has asked for that service.
    pub(crate) fn ask(&self, gateway: &Gateway, service: &str) -> Peer {
        self.ask_at(gateway.tls, service)
    }

    pub(crate) fn ask_at(&self, gateway: SocketAddr, service: &str) -> Peer {
        let mut agent = self.our_agent_at(gateway);
        let open = from_agent::Message::Open(Open { service: service.to_owned() });
        agent.say(&FromAgent { message: Some(open) });
        agent
    }

    /// curl, which asks for that name at a gateway.
    pub(crate) fn curl(
        &self,
        gateway: SocketAddr,
        name: &str,
        own: Option<&Credentials>,
        more: &[&str],
    ) -> Output {
        let mut command = Process::any("curl");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args(["--silent", "--show-error", "--max-time", "20"]).args(more);
        command.args(["--connect-to", &format!("{name}:443:{gateway}")]);
        command.arg("--cacert").arg(self.ca(Role::Gateway));
        if let Some(Credentials { certificate, key }) = own {
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command.arg(format!("https://{name}/")).output().expect("curl is installed")
    }

    /// The first flight of a foreign agent.
    pub(crate) fn client_hello(&self) -> Vec<u8> {
        let name = Self::ECHO.try_into().expect("a name");
        let mut tls = ClientConnection::new(self.foreign_config(), name).expect("a configuration");
        let mut bytes = Vec::new();
        tls.write_tls(&mut bytes).expect("a Vec takes it");
        bytes
    }
}

fn stranger(folder: &Path) -> (String, String) {
    let pki = Pki::create(folder).expect("one stranger in a world");
    let read = |path| std::fs::read_to_string(path).expect("it was made");
    (read(pki.ca_certificate(Role::Device)), read(pki.ca_key(Role::Device)))
}

/// A network that no other test has. The first two are left to whoever uses loopback by hand.
fn claim_network() -> ([u8; 2], TcpListener) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 200).expect("below 200") << 8;
    loop {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)).max(0x200);
        let network = number.to_be_bytes();
        // Its last address is never used by a test.
        let claim = TcpListener::bind((Ipv4Addr::new(127, network[0], network[1], 254), 1025));
        if let Ok(claim) = claim {
            return (network, claim);
        }
    }
}
