//! The server: keeps a signal connection to each gateway, opens data connections when it is invited,
//! and delivers each session to its backend. It opens every connection itself, and accepts none.

mod backends;
mod control;
mod data;
mod link;
mod lists;
mod mail;
mod operator;
mod pages;
mod passthrough;
mod proxy_protocol;
mod reload;
mod seats;
mod signal;
mod spares;
mod stage;
mod succession;
mod sweep;
mod visitor;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::sync::Notify;

use crate::config::{AgentTls, BackendTls, ServedService, ServerConfig};
use crate::control::{GatewayEvent, GatewayLink, ServiceOffer};
use crate::engine::{
    self, NoKernelTls, Platform, Post, RelayMode, StartError, WorkerSettings, fill_random,
};
use crate::operator::Door;
use crate::relay::RelayLimits;
use crate::reload::Watch;
use crate::sandbox;
use crate::telemetry::counters::WorkerCounters;
use crate::tls::{
    CredentialError, Expiry, Identity, RoleConfig, agent_end, backend_config, client_config,
    gateway_verifier, load_credentials, load_roots, warn_of_key_file,
};
use crate::uring::Waker;
use crate::wire::{ToServer, alpn, to_server};
use control::Control;
use lists::OwnList;
use reload::ServerReader;
use seats::Seats;
pub use visitor::Visitor;
use worker::ServerWorker;

/// Why a server does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// A certificate or key; the operator's to mend.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The kernel, or a worker that it stopped.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What all threads of a server know, and none changes but for the seats: a reload makes the next one, which
/// each thread takes between two turns of its loop.
struct Shared {
    config: ServerConfig,
    /// What this process runs on.
    platform: Platform,
    services: Vec<Arc<Service>>,
    /// For signal connections; data connections differ in ALPN only.
    gateway_tls: Arc<ClientConfig>,
    /// Of the gateways' chains, as `gateway_tls` verifies them.
    verifier: Arc<dyn ServerCertVerifier>,
    /// Those of its own certificate, by which gateways know it.
    own_names: Option<Identity>,
    /// When its own certificates and those of the CAs end.
    certificates: Vec<Expiry>,
    /// Lists of revoked certificates, to be brought to gateways.
    lists: Vec<OwnList>,
    /// The same ones after a reload.
    seats: Arc<Seats>,
}

/// A service, and the TLS of its backends.
struct Service {
    name: Arc<str>,
    config: ServedService,
    /// By the ALPN of the agents; empty for the service's own backend.
    tls: HashMap<String, (Arc<ClientConfig>, ServerName<'static>)>,
    /// Where the agents' own TLS ends here.
    agent_tls: Option<RoleConfig>,
}

impl Shared {
    fn new(config: ServerConfig, platform: Platform) -> Result<Self, CredentialError> {
        warn_of_key_file(&config.credentials.key);
        let seats = Arc::new(Seats::new(config.max_sessions, config.gateways.len()));
        Self::load(config, platform, seats)
    }

    /// What follows this one. Every file that the configuration names is read.
    fn next(&self, config: ServerConfig) -> Result<Self, CredentialError> {
        Self::load(config, self.platform, Arc::clone(&self.seats))
    }

    fn load(
        config: ServerConfig,
        platform: Platform,
        seats: Arc<Seats>,
    ) -> Result<Self, CredentialError> {
        let roots = load_roots(&config.gateway_ca)?;
        let own = load_credentials(&config.credentials)?;
        let own_names = own.cert.first().map(Identity::of).and_then(Result::ok);
        let verifier = gateway_verifier(Arc::clone(&roots))?;
        let gateway_tls = client_config(roots, Some(own), vec![alpn::SIGNAL.to_vec()])?;
        let services = config.services.iter().map(|service| Service::load(service).map(Arc::new));
        let certificates = config.certificate_files().into_iter().filter_map(Expiry::of_file);
        Ok(Self {
            services: services.collect::<Result<_, _>>()?,
            gateway_tls: Arc::new(gateway_tls),
            verifier,
            own_names,
            certificates: certificates.collect(),
            lists: lists::load(&config.crls)?,
            seats,
            platform,
            config,
        })
    }

    fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.iter().find(|service| *service.name == *name)
    }

    /// What gateways are told: services, sessions, spares.
    fn hello(&self) -> (Vec<ServiceOffer>, u32, u32) {
        let bounded = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let offer = |service: &Arc<Service>| ServiceOffer {
            name: service.name.to_string(),
            passthrough: service.config.agent_tls.is_passthrough(),
        };
        let services = self.services.iter().map(offer).collect();
        (services, bounded(self.seats.told()), bounded(self.config.max_spares))
    }

    /// The services that a gateway sends nobody for, by its hello; `None` where it takes them all. It does not have them,
    /// does not let this server serve them, or has their TLS end elsewhere.
    fn untaken(&self, message: &ToServer) -> Option<String> {
        let Some(to_server::Message::GatewayHello(hello)) = &message.message else { return None };
        let names = self.services.iter().map(|service| &*service.name);
        let untaken: Vec<_> =
            names.filter(|name| !hello.services.iter().any(|taken| taken == name)).collect();
        (!untaken.is_empty()).then(|| untaken.join(", "))
    }

    /// The signal connection to a gateway, to be dialled.
    fn new_link(&self) -> GatewayLink {
        let (services, capacity, spares) = self.hello();
        let mut link = GatewayLink::new(&services, capacity, spares, Instant::now());
        link.handle(GatewayEvent::Crls(self.own_lists()), Instant::now(), &mut fill_random);
        link
    }
}

impl Service {
    fn load(config: &ServedService) -> Result<Self, CredentialError> {
        let special = config.backend_by_alpn.iter().map(|(alpn, backend)| (&alpn[..], backend));
        let mut tls = HashMap::new();
        for (protocol, backend) in special.chain([("", &config.backend)]) {
            if let Some(of_backend) = &backend.tls {
                tls.insert(protocol.to_owned(), prepare(of_backend, protocol)?);
            }
        }
        let agent_tls = match &config.agent_tls {
            AgentTls::Here(end) => Some(agent_end(end)?),
            AgentTls::AtGateway | AgentTls::AtBackend => None,
        };
        Ok(Self { name: config.name.as_str().into(), config: config.clone(), tls, agent_tls })
    }

    /// TLS for a backend: that of the agent's ALPN, or the service's own.
    fn backend_tls(&self, alpn: &str) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        self.tls.get(alpn).or_else(|| self.tls.get("")).cloned()
    }
}

/// A backend that serves one ALPN is offered that one.
fn prepare(
    tls: &BackendTls,
    protocol: &str,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), CredentialError> {
    let offered = if protocol.is_empty() { vec![] } else { vec![protocol.as_bytes().to_vec()] };
    let name =
        ServerName::try_from(tls.name.clone()).expect("`check` holds names of backends to this");
    Ok((Arc::new(backend_config(tls, offered)?), name))
}

/// Runs a server until a signal ends it. `file` is where the configuration was read, and is read again by a
/// reload; `door` is where operators are heard, `relay` what the kernel was found to have before the sandbox. The calling thread becomes the control thread.
pub fn run(
    config: ServerConfig,
    file: &Path,
    door: Option<Door>,
    relay: Result<RelayMode, NoKernelTls>,
) -> Result<(), RunError> {
    engine::within_descriptors(max_connections(&config), engine::raise_descriptor_limit());
    let watch = Watch::new(file, &config.files());
    let platform = Platform::choose(config.event_loop, relay).map_err(StartError::Ring)?;
    let shared = Arc::new(Shared::new(config, platform)?);
    let workers = shared.config.workers;
    let telemetry = shared.config.telemetry.address.map(engine::bind_telemetry).transpose()?;
    sandbox::close_doors().map_err(StartError::Kernel)?;
    let notify = Arc::new(Notify::new());
    let (to_control, control_mails) = engine::queue();
    let counters: Vec<_> = (0..workers).map(|_| Arc::new(WorkerCounters::default())).collect();
    let (mut posts, mut threads) = (Vec::new(), Vec::new());
    for (index, counters) in counters.iter().enumerate() {
        let waker = Arc::new(Waker::new().map_err(StartError::Kernel)?);
        let (sender, mails) = engine::queue();
        posts.push(Post::new(sender, Arc::clone(&waker)));
        let role = ServerWorker {
            index: u32::try_from(index).expect("workers are few"),
            shared: Arc::clone(&shared),
            control: Post::new(to_control.clone(), Arc::clone(&notify)),
            backends: Arc::default(),
            spares: HashMap::new(),
            sweeps: VecDeque::new(),
            draining: false,
        };
        let settings = settings(&shared);
        let counters = Arc::clone(counters);
        threads.push(engine::start_worker(index, role, settings, vec![], mails, waker, counters)?);
    }
    let reader = ServerReader { file: file.to_owned(), running: Arc::clone(&shared) };
    let reloads = crate::reload::start(reader, watch).map_err(StartError::Kernel)?;
    let control = Control::new(shared, posts, counters);
    let control = control.run(control_mails, notify, threads, telemetry, door, reloads);
    engine::run_control(platform.event_loop, control)?;
    Ok(())
}

fn settings(shared: &Shared) -> WorkerSettings {
    let session = &shared.config.session;
    WorkerSettings {
        platform: shared.platform,
        // The seats keep to the bound on all workers.
        max_connections: max_connections(&shared.config),
        keepalive: session.keepalive,
        user_timeout: session.user_timeout,
        relay: RelayLimits {
            idle_timeout: session.idle_timeout,
            half_closed_timeout: session.half_closed_timeout,
        },
    }
}

/// A session is a data connection and a connection to its backend.
fn max_connections(config: &ServerConfig) -> usize {
    config.max_sessions * 2 + config.max_spares * config.gateways.len()
}
