//! The gateway: workers that accept, authenticate and relay; a control thread that invites.

mod admission;
mod agents;
mod arrivals;
mod control;
mod data;
mod mail;
mod pages;
mod proxy_header;
mod reload;
mod return_times;
mod sockets;
mod sources;
mod spares;
mod stage;
mod trust;
mod turned_away;
mod upgrade;
mod welcome;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use tokio::sync::Notify;

use crate::config::{GatewayConfig, ListenerKind};
use crate::control::{DispatcherLimits, Tickets};
use crate::engine::{self, ListenError, Post, StartError, WorkerSettings};
use crate::limits::{MAX_SIGNAL_CONNECTIONS, SPARES_DIVISOR, UPGRADE_NEWS};
use crate::relay::RelayLimits;
use crate::reload::Watch;
use crate::sandbox;
use crate::telemetry::counters::WorkerCounters;
use crate::tls::{CredentialError, Expiry, ListenerRoles, listener_roles, warn_of_key_file};
use crate::uring::Waker;
use control::Control;
use reload::GatewayReader;
use return_times::ReturnTimes;
use sockets::{Opened, Sockets};
use sources::Sources;
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
}

impl Shared {
    fn new(config: GatewayConfig) -> Result<Self, CredentialError> {
        config.credentials().for_each(|own| warn_of_key_file(&own.key));
        let possible = engine::raise_descriptor_limit();
        Self::load(config, engine::instance_name(), 0, possible, &[])
    }

    /// What follows this one. Every file that the configuration names is read.
    fn next(&self, config: GatewayConfig) -> Result<Self, CredentialError> {
        let (instance, generation) = (self.instance.clone(), self.generation + 1);
        Self::load(config, instance, generation, self.connections_possible, &self.services)
    }

    fn load(
        mut config: GatewayConfig,
        instance: String,
        generation: u64,
        connections_possible: usize,
        known_services: &[Arc<str>],
    ) -> Result<Self, CredentialError> {
        let limits = &mut config.limits;
        limits.max_connections =
            engine::within_descriptors(limits.max_connections, connections_possible);
        let services = config.renumber(known_services);
        let roles = (0..config.listeners.len()).map(|index| match config.listeners[index].kind {
            ListenerKind::Tls { .. } => listener_roles(&config, index).map(Some),
            ListenerKind::Plain { .. } => Ok(None),
        });
        let certificates = config.certificate_files().into_iter().filter_map(Expiry::of_file);
        Ok(Self {
            generation,
            connections_possible,
            roles: roles.collect::<Result<_, _>>()?,
            instance,
            services,
            listeners: config.listeners.iter().map(|l| l.name.as_str().into()).collect(),
            certificates: certificates.collect(),
            config,
        })
    }
}

/// Runs a gateway until a signal ends it. `file` is where the configuration was read, and is read again by
/// a reload. The calling thread becomes the control thread.
pub fn run(config: GatewayConfig, file: &Path, start: Start) -> Result<(), RunError> {
    let workers = config.workers;
    let watch = Watch::new(file, &config.files());
    let shared = Arc::new(Shared::new(config)?);
    let Opened { mut sockets, bound, telemetry, predecessor, parts } =
        sockets::open(&shared, workers, start)?;
    sandbox::close_doors().map_err(StartError::Kernel)?;

    let notify = Arc::new(Notify::new());
    let (to_control, control_mails) = engine::queue();
    let mut doors = Vec::new();
    for _ in 0..workers {
        let waker = Arc::new(Waker::new().map_err(StartError::Kernel)?);
        doors.push((engine::queue(), waker));
    }
    let posts =
        || doors.iter().map(|((sender, _), waker)| Post::new(sender.clone(), Arc::clone(waker)));
    let posts_of_control: Vec<_> = posts().collect();
    let posts_of_workers: Vec<Vec<_>> = (0..workers).map(|_| posts().collect()).collect();
    let counters: Vec<_> = (0..workers).map(|_| Arc::new(WorkerCounters::default())).collect();

    let sources = Arc::new(Sources::new(Instant::now()));
    let mut threads = Vec::new();
    for (index, ((((_, mails), waker), peers), counters)) in
        doors.into_iter().zip(posts_of_workers).zip(counters.clone()).enumerate()
    {
        let (listening, listeners) = std::mem::take(&mut sockets[index]).into_iter().unzip();
        let role = GatewayWorker {
            index,
            shared: Arc::clone(&shared),
            control: Post::new(to_control.clone(), Arc::clone(&notify)),
            peers,
            sockets: listeners,
            tickets: Tickets::default(),
            spares: HashMap::new(),
            sources: Arc::clone(&sources),
            handshakes: 0,
            max_handshakes: share(shared.config.limits.max_handshakes, workers),
            strangers: VecDeque::new(),
            waiting: 0,
            turned_away: TurnedAway::default(),
            return_times: ReturnTimes::default(),
            predecessor: Option::clone(&predecessor),
            passes_signals: false,
            life: Life::Serving,
        };
        let listening: Vec<TcpListener> = listening;
        let settings = settings(&shared.config, workers);
        let started =
            engine::start_worker(index, role, settings, listening, mails, waker, counters);
        threads.push(started?);
    }
    let reader = GatewayReader { file: file.to_owned(), running: Arc::clone(&shared) };
    let reloads = crate::reload::start(reader, watch).map_err(StartError::Kernel)?;
    engine::run_control(async move {
        let (news, upgrade_news) = tokio::sync::mpsc::channel(UPGRADE_NEWS);
        let upgrades = Upgrades::new(parts, news).map_err(StartError::Kernel)?;
        let control = Control::new(shared, posts_of_control, counters, bound, telemetry, upgrades);
        control.run(control_mails, notify, threads, reloads, upgrade_news).await
    })??;
    Ok(())
}

fn settings(config: &GatewayConfig, workers: usize) -> WorkerSettings {
    let session = &config.limits.session;
    WorkerSettings {
        max_connections: share(config.limits.max_connections, workers),
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
    }
}

/// A worker's share of a bound on all of them, rounded up.
fn share(bound: usize, workers: usize) -> usize {
    bound.div_ceil(workers)
}
