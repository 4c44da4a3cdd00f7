//! `vestibule agent`: gives TLS, identity and reconnection to programs that have none. Each local
//! port leads through a gateway to a named service. Portable: tokio and rustls, no ring.

mod dial;
mod patience;
mod relay;
mod session;
mod socket;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use self::dial::Endpoint;
use self::session::Gateways;
use crate::config::{AgentConfig, Gateway};
use crate::limits::{ACCEPT_RETRY, DRAIN_TIMEOUT_MS, RESOLVER_THREADS, STRANGER_LINES_PER_SECOND};
use crate::telemetry::log::LineLimiter;
use crate::telemetry::notify;
use crate::tls::{
    CredentialError, client_config, gateway_resumption, key_file_warning, load_credentials,
    load_roots,
};
use crate::wire::alpn;

const TARGET: &str = "vestibule::agent";

/// Why an agent can't start. The operator's to repair.
#[derive(Debug, Error)]
pub enum AgentError {
    /// A certificate or key can't be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// No certificate can bear this name.
    #[error(
        "gateway name {name:?} is neither a DNS name nor an IP address; name the gateway as its certificate does"
    )]
    GatewayName {
        /// As configured.
        name: String,
    },
    /// A forwarded port can't be listened on.
    #[error(
        "can't listen on {address} for service {service}: {source}; free the port or choose another address"
    )]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The service that it would lead to.
        service: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no runtime, or no signals.
    #[error("can't start the runtime: {0}; check the limits of this process")]
    Runtime(io::Error),
}

/// Runs an agent as a process: tells systemd, drains on SIGTERM or SIGINT.
pub fn start(config: AgentConfig) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(RESOLVER_THREADS)
        .build()
        .map_err(AgentError::Runtime)?;
    runtime.block_on(async {
        let asked_to_stop = termination().map_err(AgentError::Runtime)?;
        let agent = Agent::bind(config).await?;
        notify::ready("forwarding");
        agent
            .serve(async {
                asked_to_stop.await;
                notify::stopping();
            })
            .await;
        Ok(())
    })
}

/// Runs an agent inside a tokio runtime until `shutdown` is ready and its sessions have ended.
pub async fn run(
    config: AgentConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    Agent::bind(config).await?.serve(shutdown).await;
    Ok(())
}

/// An agent that listens. Connections wait in the kernel until it serves.
pub struct Agent {
    listeners: Vec<ForwardListener>,
    gateways: Arc<Gateways>,
    max_connections: usize,
}

struct ForwardListener {
    listener: TcpListener,
    service: Arc<str>,
}

impl Agent {
    /// Loads the files and takes the ports of a configuration.
    pub async fn bind(config: AgentConfig) -> Result<Self, AgentError> {
        let credentials = config.credentials.as_ref().map(load_credentials).transpose()?;
        if let Some(warning) =
            config.credentials.as_ref().and_then(|own| key_file_warning(&own.key))
        {
            tracing::warn!(target: TARGET, "{warning}");
        }
        let roots = load_roots(&config.gateway_ca)?;
        let tls = client_config(roots, credentials, vec![alpn::AGENT.to_vec()])?;
        let endpoints = config.gateways.into_iter().map(|gateway| endpoint(gateway, &tls));
        let gateways = Gateways {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            last_good: AtomicUsize::new(0),
            retry_for: config.retry_for,
        };
        let mut listeners = Vec::new();
        for forward in config.forwards {
            let (address, service) = (forward.address, forward.service);
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    let address = listener.local_addr().unwrap_or(address);
                    tracing::info!(target: TARGET, %address, service, "forwarding");
                    listeners.push(ForwardListener { listener, service: service.into() });
                }
                Err(source) => return Err(AgentError::Listen { address, service, source }),
            }
        }
        Ok(Self {
            listeners,
            gateways: Arc::new(gateways),
            max_connections: config.max_connections,
        })
    }

    /// Where it listens, in the order of the configuration; names the ports that the kernel chose.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(|forward| forward.listener.local_addr()).collect()
    }

    /// Serves until `shutdown` is ready, then accepts no more and lets live sessions finish, within
    /// the default of `drain_timeout_ms`.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { listeners, gateways, max_connections } = self;
        let (stop, stopped) = watch::channel(false);
        let mut sessions = JoinSet::new();
        let mut refusals = LineLimiter::new(STRANGER_LINES_PER_SECOND);
        let mut shutdown = std::pin::pin!(shutdown);
        let mut turn = 0;
        loop {
            let (accepted, service) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                // Before accepting, so that a place is free as soon as its session has ended.
                Some(_) = sessions.join_next() => continue,
                accepted = poll_fn(|cx| poll_accept(&listeners, &mut turn, cx)) => accepted,
            };
            if let Some(suppressed) = refusals.summary(Instant::now()) {
                tracing::warn!(target: TARGET, suppressed, "more local connections were reset");
            }
            if let Ok(local) = &accepted {
                socket::prepare_local(local);
            }
            match accepted {
                Ok(local) if sessions.len() < max_connections => {
                    let (gateways, stopped) = (Arc::clone(&gateways), stopped.clone());
                    sessions.spawn(session::serve(local, service, gateways, stopped));
                }
                Ok(_) => warn_of_refusal(&mut refusals, max_connections),
                Err(error) => {
                    tracing::warn!(target: TARGET, %error, "can't accept; trying again shortly");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(listeners);
        drain(sessions, &stop).await;
    }
}

fn endpoint(gateway: Gateway, tls: &ClientConfig) -> Result<Endpoint, AgentError> {
    let name = ServerName::try_from(gateway.name.as_str())
        .map_err(|_| AgentError::GatewayName { name: gateway.name.clone() })?
        .to_owned();
    let mut tls = tls.clone();
    tls.resumption = gateway_resumption(name.clone());
    Ok(Endpoint { address: gateway.address, name, connector: TlsConnector::from(Arc::new(tls)) })
}

/// Takes the next connection of any listener. `turn` goes round, so that none starves the others.
fn poll_accept(
    listeners: &[ForwardListener],
    turn: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<(io::Result<TcpStream>, Arc<str>)> {
    for _ in 0..listeners.len() {
        let forward = &listeners[*turn];
        *turn = (*turn + 1) % listeners.len();
        if let Poll::Ready(accepted) = forward.listener.poll_accept(cx) {
            let local = accepted.map(|(local, _)| local);
            return Poll::Ready((local, Arc::clone(&forward.service)));
        }
    }
    Poll::Pending
}

fn warn_of_refusal(lines: &mut LineLimiter, max_connections: usize) {
    if lines.allow(Instant::now()) {
        tracing::warn!(
            target: TARGET, max_connections, "local connection reset: max_connections is reached"
        );
    }
}

async fn drain(mut sessions: JoinSet<()>, stop: &watch::Sender<bool>) {
    if sessions.is_empty() {
        return;
    }
    tracing::info!(target: TARGET, sessions = sessions.len(), "draining");
    let ended = async { while sessions.join_next().await.is_some() {} };
    let drain_timeout = Duration::from_millis(DRAIN_TIMEOUT_MS.default);
    if tokio::time::timeout(drain_timeout, ended).await.is_err() {
        stop.send_replace(true);
        while sessions.join_next().await.is_some() {}
    }
}

/// Ready at the first SIGTERM or SIGINT (Ctrl-C where there are no signals). Takes the signals over
/// at once, so that none is lost before the wait begins.
#[cfg(unix)]
fn termination() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                // Unhandled, the signal would end the process and all its sessions.
                _ = hangup.recv() => tracing::warn!(
                    target: TARGET, "SIGHUP ignored: a new configuration needs a restart"
                ),
            }
        }
    })
}

#[cfg(not(unix))]
fn termination() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without Ctrl-C the process is ended from outside; there is nothing else to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
