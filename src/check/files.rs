use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

use super::lists;
use crate::config::{
    AgentConfig, AgentTls, Credentials, DeviceCertificates, DevicePolicy, GatewayConfig,
    ListenerKind, ServerConfig,
};
use crate::tls::{self, CredentialError, Expiry, Identity};

/// What is wrong with a file that a configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// Whether it prevents work.
    pub severity: Severity,
    /// The file, what is wrong with it, and what to do.
    pub message: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing will start, or nobody will get in.
    Error,
    /// It works today.
    Warning,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Loads every file that `gateway.toml` names.
pub fn files_of_gateway(config: &GatewayConfig) -> Vec<FileProblem> {
    let mut files = Files::default();
    let servers_ca = &config.servers.ca;
    let servers = files.ca(servers_ca);
    lists::of_role(&mut files, &config.servers.revocation, servers_ca);
    for (index, listener) in config.listeners.iter().enumerate() {
        let ListenerKind::Tls { credentials, device_certificates, device_revocation, .. } =
            &listener.kind
        else {
            continue;
        };
        let own = files.own(credentials, Holder::Gateway);
        files.warn_of_shared_issuer(credentials, own.as_deref(), servers_ca, servers.as_deref());
        let (DeviceCertificates::Required(ca) | DeviceCertificates::Optional(ca)) =
            device_certificates
        else {
            continue;
        };
        let devices = files.ca(ca);
        lists::of_role(&mut files, device_revocation, ca);
        files.warn_of_shared_issuer(credentials, own.as_deref(), ca, devices.as_deref());
        // Where both are one file, the configuration itself is refused, with the line.
        let shared = ca != servers_ca && share_a_key(devices.as_deref(), servers.as_deref());
        if shared && !names_its_devices(config, index) {
            let (ca, servers_ca) = (ca.display(), servers_ca.display());
            files.error(format!(
                "{ca}: the same CA as {servers_ca}, so a server's certificate would pass as a \
                 device's; give the devices a CA of their own, or name the devices of each service"
            ));
        }
    }
    files.problems
}

/// Loads every file that `server.toml` names.
pub fn files_of_server(config: &ServerConfig) -> Vec<FileProblem> {
    let mut files = Files::default();
    let own = files.own(&config.credentials, Holder::Server);
    let gateways = files.ca(&config.gateway_ca);
    let ca = &config.gateway_ca;
    files.warn_of_shared_issuer(&config.credentials, own.as_deref(), ca, gateways.as_deref());
    lists::of_server(&mut files, &config.crls);
    for service in &config.services {
        let others = service.backend_by_alpn.iter().map(|(_, backend)| backend);
        for tls in std::iter::once(&service.backend).chain(others).filter_map(|b| b.tls.as_ref()) {
            files.ca(&tls.ca);
            if let Some(credentials) = &tls.credentials {
                files.own(credentials, Holder::BackendClient);
            }
        }
        if let AgentTls::Here(end) = &service.agent_tls {
            files.own(&end.credentials, Holder::Service);
            if let Some(ca) = &end.device_ca {
                files.ca(ca);
            }
        }
    }
    files.problems
}

/// Loads every file that `agent.toml` names.
pub fn files_of_agent(config: &AgentConfig) -> Vec<FileProblem> {
    let mut files = Files::default();
    let gateways = files.ca(&config.gateway_ca);
    if let Some(credentials) = &config.credentials {
        let own = files.own(credentials, Holder::Device);
        let ca = &config.gateway_ca;
        files.warn_of_shared_issuer(credentials, own.as_deref(), ca, gateways.as_deref());
    }
    files.problems
}

/// Who shows a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Gateway,
    Server,
    Device,
    BackendClient,
    /// A server, to agents whose TLS ends there.
    Service,
}

/// The problems so far, each once, however often its file is named.
#[derive(Default)]
pub(super) struct Files {
    problems: Vec<FileProblem>,
}

impl Files {
    fn error(&mut self, message: String) {
        self.push(Severity::Error, message);
    }

    pub(super) fn warning(&mut self, message: String) {
        self.push(Severity::Warning, message);
    }

    fn push(&mut self, severity: Severity, message: String) {
        let problem = FileProblem { severity, message };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    pub(super) fn loaded<T>(&mut self, result: Result<T, CredentialError>) -> Option<T> {
        result.map_err(|error| self.error(error.to_string())).ok()
    }

    fn ca(&mut self, path: &Path) -> Option<Arc<RootCertStore>> {
        let roots = self.loaded(tls::load_roots(path))?;
        for certificate in tls::load_certificates(path).into_iter().flatten() {
            let Some(parsed) = parse(&certificate) else { continue };
            self.warn_of_expiry(path, &parsed);
            if !parsed.is_ca() {
                self.warning(format!(
                    "{}: holds a certificate that is not that of a CA; name the CA that issued it",
                    path.display()
                ));
            }
        }
        Some(roots)
    }

    fn own(&mut self, files: &Credentials, holder: Holder) -> Option<Arc<CertifiedKey>> {
        if let Some(warning) = tls::key_file_warning(&files.key) {
            self.warning(warning);
        }
        let own = self.loaded(tls::load_credentials(files))?;
        for parsed in own.cert.iter().filter_map(parse) {
            self.warn_of_expiry(&files.certificate, &parsed);
        }
        let leaf = own.cert.first()?;
        self.check_use(&files.certificate, &parse(leaf)?, holder);
        self.check_names(&files.certificate, leaf, holder);
        Some(own)
    }

    fn check_use(&mut self, path: &Path, leaf: &X509Certificate<'_>, holder: Holder) {
        // Without the extension, a certificate may be used for anything.
        let Ok(Some(usage)) = leaf.extended_key_usage() else { return };
        let (allowed, needed) = match holder {
            Holder::Gateway | Holder::Service => (usage.value.server_auth, "serverAuth"),
            _ => (usage.value.client_auth, "clientAuth"),
        };
        if !allowed {
            self.error(format!(
                "{}: its extended key usage lacks {needed}, so every peer will refuse it; issue it \
                 anew{}",
                path.display(),
                command(holder)
            ));
        }
    }

    fn check_names(&mut self, path: &Path, leaf: &CertificateDer<'_>, holder: Holder) {
        let problem = match holder {
            Holder::BackendClient => None,
            Holder::Gateway | Holder::Service => {
                let named = parse(leaf).is_some_and(|parsed| names_a_host(&parsed));
                (!named).then(|| {
                    "names no host (subjectAltName), so its peers can't know whom they have reached"
                        .to_owned()
                })
            }
            Holder::Server | Holder::Device => match Identity::of(leaf) {
                Err(error) => Some(error.to_string()),
                Ok(identity) if holder == Holder::Server && identity.name().contains(':') => {
                    Some("has no DNS name (subjectAltName), by which gateways know a server".into())
                }
                Ok(_) => None,
            },
        };
        if let Some(problem) = problem {
            self.error(format!("{}: {problem}; issue it anew{}", path.display(), command(holder)));
        }
    }

    fn warn_of_expiry(&mut self, path: &Path, certificate: &X509Certificate<'_>) {
        if let Some(warning) = Expiry::of(path, certificate).warning(ASN1Time::now().timestamp()) {
            self.warning(warning);
        }
    }

    /// Names are checked as well, so this works; but a CA for each role is one wall more.
    fn warn_of_shared_issuer(
        &mut self,
        files: &Credentials,
        own: Option<&CertifiedKey>,
        peers_ca: &Path,
        peers: Option<&RootCertStore>,
    ) {
        let (Some(own), Some(peers)) = (own, peers) else { return };
        if is_issued_by(&own.cert, peers) {
            self.warning(format!(
                "{}: issued by {}, the CA of its peers, which could pose as it; use a CA for each \
                 role",
                files.certificate.display(),
                peers_ca.display()
            ));
        }
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate).ok().map(|(_, parsed)| parsed)
}

const fn command(holder: Holder) -> &'static str {
    match holder {
        Holder::Gateway => ", for example with vestibule pki gateway",
        Holder::Server => ", for example with vestibule pki server",
        Holder::Device => ", for example with vestibule pki device",
        Holder::BackendClient | Holder::Service => "",
    }
}

fn names_a_host(certificate: &X509Certificate<'_>) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    let is_host = |name: &GeneralName<'_>| {
        matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_))
    };
    names.value.general_names.iter().any(is_host)
}

fn names_its_devices(config: &GatewayConfig, listener: usize) -> bool {
    let offered = config.services.iter().filter(|service| service.listeners.contains(&listener));
    // A lone star names nobody.
    let named = |patterns: &[String]| patterns.iter().all(|p| p.bytes().any(|byte| byte != b'*'));
    offered
        .filter(|service| !service.passthrough)
        .all(|service| matches!(&service.devices, DevicePolicy::Named(patterns) if named(patterns)))
}

fn share_a_key(one: Option<&RootCertStore>, other: Option<&RootCertStore>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return false };
    let keys = || other.roots.iter().map(|anchor| &anchor.subject_public_key_info);
    one.roots.iter().any(|anchor| keys().any(|key| *key == anchor.subject_public_key_info))
}

/// Whether a chain leads to one of these CAs, in whichever of the two uses it has.
fn is_issued_by(chain: &[CertificateDer<'_>], roots: &RootCertStore) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else { return false };
    let (now, provider) = (UnixTime::now(), tls::provider());
    let as_gateway = ParsedCertificate::try_from(leaf).and_then(|parsed| {
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
    });
    let as_client = || {
        let roots = Arc::new(roots.clone());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        verifier.is_ok_and(|verifier| verifier.verify_client_cert(leaf, intermediates, now).is_ok())
    };
    as_gateway.is_ok() || as_client()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};

    use super::*;
    use crate::config::{
        Backend, BackendTls, EventLoop, HostPort, Operator, RelayMode, ServedService,
        SessionLimits, Telemetry,
    };
    use crate::tls::testing::{Authority, Folder, gateway_config, params};

    fn lines(problems: &[FileProblem], severity: Severity) -> Vec<String> {
        let wanted = problems.iter().filter(|problem| problem.severity == severity);
        wanted.map(ToString::to_string).collect()
    }

    fn errors(problems: &[FileProblem]) -> Vec<String> {
        lines(problems, Severity::Error)
    }

    /// Warnings, apart from those about key files, which tests write as the umask has it.
    fn warnings(problems: &[FileProblem]) -> Vec<String> {
        let mut warnings = lines(problems, Severity::Warning);
        warnings.retain(|warning| !warning.contains("chmod 600"));
        warnings
    }

    fn server_config(credentials: Credentials, gateway_ca: &Path) -> ServerConfig {
        let second = std::time::Duration::from_secs(1);
        let [half_closed_timeout, keepalive, user_timeout] = [second; 3];
        let session =
            SessionLimits { idle_timeout: None, half_closed_timeout, keepalive, user_timeout };
        ServerConfig {
            workers: 1,
            event_loop: EventLoop::Auto,
            relay: RelayMode::Userspace,
            credentials,
            gateway_ca: gateway_ca.to_owned(),
            crls: vec![],
            gateways: vec![],
            services: vec![],
            max_sessions: 1,
            max_spares: 0,
            session,
            drain_timeout: second,
            telemetry: Telemetry { address: None, allow: vec![] },
            operator: Operator::default(),
        }
    }

    fn used_for(name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
        let mut params = params(name);
        params.extended_key_usages = vec![usage];
        params
    }

    #[test]
    fn good_files_of_three_cas_give_no_problem() {
        let folder = Folder::new();
        let own = Authority::new(&folder, "gateways-ca").issue("gw.example.com");
        let devices = Authority::new(&folder, "devices-ca").file;
        let servers = Authority::new(&folder, "servers-ca").file;
        let config = gateway_config(own, DeviceCertificates::Required(devices), &servers);
        let problems = files_of_gateway(&config);
        assert_eq!((errors(&problems), warnings(&problems)), (vec![], vec![]));
    }

    #[test]
    fn every_bad_file_is_named_at_once() {
        let folder = Folder::new();
        let ca = Authority::new(&folder, "ca");
        let own = Credentials { key: ca.issue("other").key, ..ca.issue("gw.example.com") };
        let devices = folder.write("devices.crt", "nothing");
        let servers = folder.path().join("missing.crt");
        let config = gateway_config(own, DeviceCertificates::Optional(devices), &servers);
        let errors = errors(&files_of_gateway(&config));
        assert_eq!(errors.len(), 3, "{errors:#?}");
        for (error, part) in errors.iter().zip(["missing.crt", "does not belong", "devices.crt"]) {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_certificate_for_the_wrong_use_is_an_error() {
        let folder = Folder::new();
        let (ca, peers) = (Authority::new(&folder, "ca"), Authority::new(&folder, "peers"));
        let client = used_for("gw.example.com", ExtendedKeyUsagePurpose::ClientAuth);
        let gateway = ca.issue_with("gw.example.com", &client);
        let config = gateway_config(gateway, DeviceCertificates::None, &peers.file);
        let found = errors(&files_of_gateway(&config));
        assert!(found.len() == 1 && found[0].contains("lacks serverAuth"), "{found:?}");

        let host = used_for("lan.example.com", ExtendedKeyUsagePurpose::ServerAuth);
        let config = server_config(ca.issue_with("lan.example.com", &host), &peers.file);
        let found = errors(&files_of_server(&config));
        assert!(found.len() == 1 && found[0].contains("lacks clientAuth"), "{found:?}");
    }

    #[test]
    fn a_certificate_without_the_names_of_its_role_is_an_error() {
        let folder = Folder::new();
        let (ca, peers) = (Authority::new(&folder, "ca"), Authority::new(&folder, "peers"));
        let mut nameless = params("old");
        nameless.subject_alt_names.clear();
        let own = ca.issue_with("old", &nameless);
        let config = gateway_config(own.clone(), DeviceCertificates::None, &peers.file);
        let found = errors(&files_of_gateway(&config));
        assert!(found.len() == 1 && found[0].contains("names no host"), "{found:?}");
        let found = errors(&files_of_server(&server_config(own.clone(), &peers.file)));
        assert!(found.len() == 1 && found[0].contains("no DNS name"), "{found:?}");
        let device = AgentConfig {
            credentials: Some(own),
            gateway_ca: peers.file.clone(),
            gateways: vec![],
            forwards: vec![],
            max_connections: 1,
            retry_for: std::time::Duration::ZERO,
        };
        assert_eq!(errors(&files_of_agent(&device)), Vec::<String>::new());
    }

    #[test]
    fn the_end_of_a_certificate_is_announced_in_its_last_month_or_last_third() {
        let folder = Folder::new();
        let (ca, peers) = (Authority::new(&folder, "ca"), Authority::new(&folder, "peers"));
        let now = ASN1Time::now().to_datetime();
        let hours = |count: u64| std::time::Duration::from_secs(count * 3600);
        for (name, past, left, announced) in [
            ("last-month", 8000, 29 * 24, true),
            ("month-before", 8000, 31 * 24, false),
            ("short-and-fresh", 1, 23, false),
            ("short-and-due", 18, 6, true),
        ] {
            let mut dates = params(name);
            dates.not_before = now - hours(past);
            dates.not_after = now + hours(left);
            let config = server_config(ca.issue_with(name, &dates), &peers.file);
            let found = warnings(&files_of_server(&config));
            assert_eq!(found.iter().any(|w| w.contains("expires on")), announced, "{name}");
        }
    }

    #[test]
    fn one_ca_under_two_names_is_found_by_its_key() {
        let folder = Folder::new();
        let own = Authority::new(&folder, "gateways-ca").issue("gw.example.com");
        let servers = Authority::new(&folder, "servers-ca").file;
        let pem = std::fs::read_to_string(&servers).expect("it is readable");
        let devices = folder.write("devices-ca.crt", &pem);
        let mut config = gateway_config(own, DeviceCertificates::Required(devices), &servers);
        let found = errors(&files_of_gateway(&config));
        assert!(found.len() == 1 && found[0].contains("the same CA as"), "{found:?}");

        for service in &mut config.services {
            service.devices = DevicePolicy::Named(vec!["pc-*".to_owned()]);
        }
        assert_eq!(errors(&files_of_gateway(&config)), Vec::<String>::new());
    }

    #[test]
    fn a_gateway_of_the_devices_ca_is_warned_about_once() {
        let folder = Folder::new();
        let devices = Authority::new(&folder, "devices-ca");
        let servers = Authority::new(&folder, "servers-ca").file;
        let asked = DeviceCertificates::Required(devices.file.clone());
        let mut config = gateway_config(devices.issue("gw.example.com"), asked, &servers);
        config.listeners.push(config.listeners[0].clone());
        let problems = files_of_gateway(&config);
        let found = warnings(&problems);
        assert!(found.len() == 1 && found[0].contains("use a CA for each role"), "{found:?}");
        assert_eq!(errors(&problems), Vec::<String>::new());
    }

    #[test]
    fn the_files_of_every_backend_are_loaded() {
        let folder = Folder::new();
        let (ca, peers) = (Authority::new(&folder, "ca"), Authority::new(&folder, "peers"));
        let backend = |ca: &str| Backend {
            address: HostPort { host: "localhost".to_owned(), port: 443 },
            proxy_protocol: false,
            tls: Some(BackendTls {
                ca: folder.path().join(ca),
                name: "localhost".to_owned(),
                credentials: None,
            }),
            connect_timeout: std::time::Duration::from_secs(1),
        };
        let mut config = server_config(ca.issue("lan.example.com"), &peers.file);
        config.services = vec![ServedService {
            agent_tls: AgentTls::AtGateway,
            name: "web".to_owned(),
            backend: backend("one.crt"),
            backend_by_alpn: vec![("h2".to_owned(), backend("two.crt"))],
        }];
        let found = errors(&files_of_server(&config));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("one.crt") && found[1].contains("two.crt"), "{found:?}");
    }
}
