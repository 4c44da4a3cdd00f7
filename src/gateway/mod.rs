//! The gateway: workers that accept, authenticate and relay; a control thread that invites.

mod admission;
mod agents;
mod arrivals;
mod control;
mod data;
mod lists;
mod mail;
mod operator;
mod pages;
mod passthrough;
pub mod proxy_header;
mod reload;
mod return_times;
mod revoked;
mod serving;
mod sockets;
mod sources;
mod spares;
mod stage;
mod sweep;
mod tolls;
mod trust;
mod turned_away;
mod upgrade;
mod walk;
mod welcome;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use tokio::sync::Notify;

use self::operator::Kept;
use crate::config::{GatewayConfig, ListenerKind};
use crate::control::{DispatcherLimits, ServiceId, ServiceOffer, SessionQuota, Tickets};
use crate::engine::{
    self, ListenError, NoKernelTls, Platform, Post, RelayMode, StartError, WorkerSettings,
    WorkerThread,
};
use crate::limits::{MAX_SIGNAL_CONNECTIONS, SPARES_DIVISOR, UPGRADE_NEWS};
use crate::operator::{Blocks, Door, Keeper, KeeperError};
use crate::relay::RelayLimits;
use crate::reload::Watch;
use crate::sandbox;
use crate::telemetry::counters::WorkerCounters;
use crate::tls::{
    BroughtLists, CredentialError, Expiry, ListenerRoles, listener_roles, warn_of_key_file,
};
use crate::uring::Waker;
use control::Control;
use mail::{ControlMail, WorkerMail};
use reload::GatewayReader;
use return_times::ReturnTimes;
use sockets::{Opened, Sockets};
use sources::Sources;
use tolls::Tolls;
use turned_away::TurnedAway;
use upgrade::Upgrades;
use worker::{GatewayWorker, Life};

pub use upgrade::{Start, UpgradeError};

/// Why a gateway does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// A certificate or key; the operator's to mend.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// An address; the operator's to mend.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The file of blocks; the operator's to mend.
    #[error(transparent)]
    Blocks(#[from] KeeperError),
    /// The kernel, or a worker that it stopped.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The process whose place this one was to take.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
}

/// What all threads of a gateway know and none changes: a reload makes the next one, which each thread takes
/// between two turns of its loop.
struct Shared {
    config: GatewayConfig,
    /// How many there were before it in this process.
    generation: u64,
    /// What this process runs on.
    platform: Platform,
    /// What the descriptors of the process are enough for.
    connections_possible: usize,
    /// By listener; `None` for plain ones.
    roles: Vec<Option<ListenerRoles>>,
    /// Names this process: 16 hexadecimal digits.
    instance: String,
    /// Names by number, of those that are gone as well.
    services: Vec<Arc<str>>,
    listeners: Vec<Arc<str>>,
    /// When its own certificates and those of the CAs end.
    certificates: Vec<Expiry>,
    /// Lists of revoked certificates that servers have brought.
    brought: BroughtLists,
}

impl Shared {
    fn new(config: GatewayConfig, platform: Platform) -> Result<Self, CredentialError> {
        config.credentials().for_each(|own| warn_of_key_file(&own.key));
        let possible = engine::raise_descriptor_limit();
        let instance = engine::instance_name();
        Self::load(config, platform, instance, 0, possible, &[], BroughtLists::default())
    }

    /// What follows this one. Every file that the configuration names is read.
    fn next(&self, config: GatewayConfig) -> Result<Self, CredentialError> {
        let (instance, generation) = (self.instance.clone(), self.generation + 1);
        let (platform, possible) = (self.platform, self.connections_possible);
        let brought = self.brought.clone();
        Self::load(config, platform, instance, generation, possible, &self.services, brought)
    }

    /// What follows this one with other lists of revoked certificates. No file is read.
    fn with_lists(&self, brought: BroughtLists) -> Result<Self, CredentialError> {
        let roles = self.roles.iter().enumerate().map(|(listener, roles)| {
            let roles = roles.as_ref();
            roles.map(|roles| roles.with_lists(&self.config, listener, &brought)).transpose()
        });
        Ok(Self {
            roles: roles.collect::<Result<_, _>>()?,
            config: self.config.clone(),
            generation: self.generation + 1,
            platform: self.platform,
            connections_possible: self.connections_possible,
            instance: self.instance.clone(),
            services: self.services.clone(),
            listeners: self.listeners.clone(),
            certificates: self.certificates.clone(),
            brought,
        })
    }

    fn load(
        mut config: GatewayConfig,
        platform: Platform,
        instance: String,
        generation: u64,
        connections_possible: usize,
        known_services: &[Arc<str>],
        brought: BroughtLists,
    ) -> Result<Self, CredentialError> {
        let limits = &mut config.limits;
        limits.max_connections =
            engine::within_descriptors(limits.max_connections, connections_possible);
        let services = config.renumber(known_services);
        let roles = (0..config.listeners.len()).map(|index| match config.listeners[index].kind {
            ListenerKind::Tls { .. } => listener_roles(&config, index, &brought).map(Some),
            ListenerKind::Plain { .. } => Ok(None),
        });
        let certificates = config.certificate_files().into_iter().filter_map(Expiry::of_file);
        let roles = roles.collect::<Result<Vec<_>, _>>()?;
        let mut shared = Self {
            generation,
            platform,
            connections_possible,
            roles,
            instance,
            services,
            listeners: config.listeners.iter().map(|l| l.name.as_str().into()).collect(),
            certificates: certificates.collect(),
            config,
            brought: BroughtLists::default(),
        };
        let in_use: Vec<_> = shared.revocations().cloned().collect();
        shared.brought = brought;
        shared.brought.retain(in_use.iter().map(|revocation| &**revocation));
        Ok(shared)
    }

    /// Its services by number, as servers are told of them.
    fn offers(&self) -> Vec<ServiceOffer> {
        let offer = |(number, name): (ServiceId, &Arc<str>)| ServiceOffer {
            name: name.to_string(),
            passthrough: self.config.service(number).is_some_and(|service| service.passthrough),
        };
        self.services.iter().enumerate().map(offer).collect()
    }
}

/// Runs a gateway until a signal ends it. `file` is where the configuration was read, and is read again by a
/// reload; `operator` is where operators are heard, `relay` what the kernel was found to have before the sandbox. The calling thread becomes the control thread.
pub fn run(
    config: GatewayConfig,
    file: &Path,
    start: Start,
    operator: Option<Door>,
    relay: Result<RelayMode, NoKernelTls>,
) -> Result<(), RunError> {
    let workers = config.workers;
    let watch = Watch::new(file, &config.files());
    let kept = keep_blocks(config.operator.state.as_deref())?;
    let platform = Platform::choose(config.event_loop, relay).map_err(StartError::Ring)?;
    let shared = Arc::new(Shared::new(config, platform)?);
    let Opened { sockets, front, predecessor, parts } =
        sockets::open(&shared, workers, start, operator)?;
    sandbox::close_doors().map_err(StartError::Kernel)?;

    let notify = Arc::new(Notify::new());
    let (to_control, control_mails) = engine::queue();
    let to_control = || Post::new(to_control.clone(), Arc::clone(&notify));
    let Crew { posts, counters, threads } =
        start_workers(&shared, &kept.blocks, predecessor.as_ref(), sockets, to_control)?;
    let reader = GatewayReader { file: file.to_owned(), running: Arc::clone(&shared) };
    let reloads = crate::reload::start(reader, watch).map_err(StartError::Kernel)?;
    let mail_came = Arc::clone(&notify);
    engine::run_control(platform.event_loop, async move {
        let (news, upgrade_news) = tokio::sync::mpsc::channel(UPGRADE_NEWS);
        let upgrades = Upgrades::new(parts, news).map_err(StartError::Kernel)?;
        let control = Control::new(shared, posts, counters, front, kept, mail_came, upgrades);
        control.run(control_mails, threads, reloads, upgrade_news).await
    })??;
    Ok(())
}

/// The workers, as the control thread has them.
struct Crew {
    posts: Vec<Post<WorkerMail, Waker>>,
    counters: Vec<Arc<WorkerCounters>>,
    threads: Vec<WorkerThread>,
}

/// Starts a worker for each of `sockets`.
fn start_workers(
    shared: &Arc<Shared>,
    blocks: &Arc<Blocks>,
    predecessor: Option<&Arc<str>>,
    sockets: Vec<Sockets>,
    to_control: impl Fn() -> Post<ControlMail, Notify>,
) -> Result<Crew, StartError> {
    let workers = sockets.len();
    let mut doors = Vec::new();
    for _ in 0..workers {
        let waker = Arc::new(Waker::new().map_err(StartError::Kernel)?);
        doors.push((engine::queue(), waker));
    }
    let to_workers =
        || doors.iter().map(|((sender, _), waker)| Post::new(sender.clone(), Arc::clone(waker)));
    let posts = to_workers().collect();
    let posts_of_workers: Vec<Vec<_>> = (0..workers).map(|_| to_workers().collect()).collect();
    let counters: Vec<_> = (0..workers).map(|_| Arc::new(WorkerCounters::default())).collect();
    let sources = Arc::new(Sources::new(Instant::now()));
    let tolls = Arc::new(Tolls::new(Instant::now()));
    let mut threads = Vec::new();
    let parts = doors.into_iter().zip(posts_of_workers).zip(sockets).zip(counters.clone());
    for (index, (((((_, mails), waker), peers), sockets), counters)) in parts.enumerate() {
        let (listening, listeners): (Vec<TcpListener>, _) = sockets.into_iter().unzip();
        let role = GatewayWorker {
            index,
            shared: Arc::clone(shared),
            control: to_control(),
            peers,
            sockets: listeners,
            tickets: Tickets::default(),
            spares: HashMap::new(),
            sources: Arc::clone(&sources),
            tolls: Arc::clone(&tolls),
            handshakes: 0,
            max_handshakes: share(shared.config.limits.max_handshakes, workers),
            strangers: VecDeque::new(),
            waiting: 0,
            turned_away: TurnedAway::default(),
            return_times: ReturnTimes::default(),
            blocks: Arc::clone(blocks),
            sweeps: VecDeque::new(),
            review: None,
            predecessor: predecessor.cloned(),
            passes_signals: false,
            life: Life::Serving,
        };
        let settings = settings(shared);
        let started =
            engine::start_worker(index, role, settings, listening, mails, waker, counters);
        threads.push(started?);
    }
    Ok(Crew { posts, counters, threads })
}

/// Reads who is kept out, and starts the thread that writes it.
fn keep_blocks(state: Option<&Path>) -> Result<Kept, KeeperError> {
    let Some(file) = state else { return Ok(Kept { blocks: Arc::default(), keeper: None }) };
    let (keeper, blocks) = Keeper::start(file)?;
    if !blocks.all().is_empty() {
        tracing::info!(count = blocks.all().len(), "devices and addresses are blocked");
    }
    Ok(Kept { blocks: Arc::new(blocks), keeper: Some(keeper) })
}

fn settings(shared: &Shared) -> WorkerSettings {
    let GatewayConfig { workers, limits, .. } = &shared.config;
    let session = &limits.session;
    WorkerSettings {
        platform: shared.platform,
        max_connections: share(limits.max_connections, *workers),
        keepalive: session.keepalive,
        user_timeout: session.user_timeout,
        relay: RelayLimits {
            idle_timeout: session.idle_timeout,
            half_closed_timeout: session.half_closed_timeout,
        },
    }
}

fn dispatcher_limits(config: &GatewayConfig) -> DispatcherLimits {
    let limits = &config.limits;
    let connections = share(limits.max_connections, config.workers);
    DispatcherLimits {
        max_waiting: limits.max_waiting,
        invitation_timeout: limits.invitation_timeout,
        max_links: MAX_SIGNAL_CONNECTIONS,
        // As configured, and no more than the part of a worker's connections that may be spares.
        max_spares: limits.max_spares.min(connections / SPARES_DIVISOR),
        spare_life: limits.spare_life,
        devices: config.devices.sessions,
        services: service_quotas(config),
        takes_crls: config.servers.bring_crls,
    }
}

/// By number; services that are gone have no agents.
fn service_quotas(config: &GatewayConfig) -> Vec<SessionQuota> {
    let len = config.services.iter().map(|service| service.id + 1).max().unwrap_or(0);
    let mut quotas = vec![SessionQuota::default(); len];
    for service in &config.services {
        quotas[service.id] = service.limits.sessions;
    }
    quotas
}

/// A worker's share of a bound on all of them, rounded up.
fn share(bound: usize, workers: usize) -> usize {
    bound.div_ceil(workers)
}
