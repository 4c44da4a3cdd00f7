//! The server: keeps a signal connection to each gateway, opens data connections when it is invited,
//! and delivers each session to its backend. It opens every connection itself, and accepts none.

mod backends;
mod control;
mod data;
mod mail;
mod pages;
mod proxy_protocol;
mod seats;
mod signal;
mod spares;
mod stage;
mod visitor;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::sync::Notify;

use crate::config::{BackendTls, ServerConfig};
use crate::engine::{self, Post, StartError, WorkerSettings};
use crate::relay::RelayLimits;
use crate::sandbox;
use crate::telemetry::counters::WorkerCounters;
use crate::tls::{
    CredentialError, backend_config, client_config, file_expiry, load_credentials, load_roots,
    warn_of_key_file,
};
use crate::uring::Waker;
use crate::wire::alpn;
use control::Control;
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

/// What all threads of a server know, and none changes but for the seats.
struct Shared {
    config: ServerConfig,
    /// Addresses of the gateways as configured, for logs.
    gateways: Vec<Arc<str>>,
    /// Names that the gateways' certificates must bear.
    gateway_names: Vec<ServerName<'static>>,
    services: Vec<Arc<str>>,
    /// For signal connections; data connections differ in ALPN only.
    gateway_tls: Arc<ClientConfig>,
    backend_tls: HashMap<TlsKey, (Arc<ClientConfig>, ServerName<'static>)>,
    certificates: Vec<(String, i64)>,
    seats: Seats,
}

/// Index of the service, and the ALPN of the agents.
type TlsKey = (usize, String);

impl Shared {
    fn new(config: ServerConfig) -> Result<Self, RunError> {
        let roots = load_roots(&config.gateway_ca)?;
        let own = load_credentials(&config.credentials)?;
        let gateway_tls = client_config(roots, Some(own), vec![alpn::SIGNAL.to_vec()])?;
        let name = |name: &str| {
            ServerName::try_from(name.to_owned()).expect("`check` holds names of gateways to this")
        };
        let mut backend_tls = HashMap::new();
        for (index, service) in config.services.iter().enumerate() {
            let special =
                service.backend_by_alpn.iter().map(|(alpn, backend)| (&alpn[..], backend));
            for (protocol, backend) in special.chain([("", &service.backend)]) {
                if let Some(tls) = &backend.tls {
                    let prepared = prepare(tls, protocol)?;
                    backend_tls.insert((index, protocol.to_owned()), prepared);
                }
            }
        }
        Ok(Self {
            gateways: config.gateways.iter().map(|g| g.address.to_string().into()).collect(),
            gateway_names: config.gateways.iter().map(|gateway| name(&gateway.name)).collect(),
            services: config.services.iter().map(|s| s.name.as_str().into()).collect(),
            gateway_tls: Arc::new(gateway_tls),
            backend_tls,
            certificates: file_expiry(&config.credentials.certificate).into_iter().collect(),
            seats: Seats::new(config.max_sessions, config.gateways.len()),
            config,
        })
    }

    /// TLS for a backend: that of the agent's ALPN, or the service's own.
    fn backend_tls(
        &self,
        service: usize,
        alpn: &str,
    ) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        let special = self.backend_tls.get(&(service, alpn.to_owned()));
        special.or_else(|| self.backend_tls.get(&(service, String::new()))).cloned()
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

/// Runs a server until a signal ends it. The calling thread becomes the control thread.
pub fn run(config: ServerConfig) -> Result<(), RunError> {
    engine::raise_descriptor_limit(max_connections(&config));
    warn_of_key_file(&config.credentials.key);
    let shared = Arc::new(Shared::new(config)?);
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
            draining: false,
        };
        let settings = settings(&shared.config);
        let counters = Arc::clone(counters);
        threads.push(engine::start_worker(index, role, settings, vec![], mails, waker, counters)?);
    }
    let control = Control::new(shared, posts, counters);
    engine::run_control(control.run(control_mails, notify, threads, telemetry))?;
    Ok(())
}

fn settings(config: &ServerConfig) -> WorkerSettings {
    let session = &config.session;
    WorkerSettings {
        // The seats keep to the bound on all workers.
        max_connections: max_connections(config),
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
