//! What is measured: the processes that stand between load generator and backend.

mod build;
mod own;
mod peer;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use self::build::{Build, BuildName};
pub(crate) use self::own::{start_backend, start_own};
pub(crate) use self::peer::Peer;

use crate::error::BenchError;
use crate::load::{Ends, Plan};
use crate::process::Process;
use crate::scenario::{Listener, Scenario, Work};
use crate::setup::Threads;
use crate::syscalls::Count;
use crate::tls::{Group, Pki};
use crate::usage::Usage;

/// A way from devices to the backend.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// Gateway and server, one worker each
    Vestibule,
    /// Two plain relays on tokio-rustls in a row, with the cryptography of gateway and server
    Relay,
    /// Two of HAProxy in a row, in the same places
    Haproxy,
    /// Two of nginx in a row, in the same places
    Nginx,
    /// Its server and its client, for devices that speak no TLS
    Rathole,
    /// Copying, for the bulk scenarios: with two AEAD passes, or none where TLS goes through
    Floor,
    /// As `vestibule`, with another binary or on other threads
    #[value(skip)]
    #[serde(untagged)]
    Build(BuildName),
}

/// Where everything of a run is.
#[derive(Debug)]
pub(crate) struct Ground {
    /// Keys, configurations and logs.
    pub(crate) folder: PathBuf,
    /// The `vestibule` binary.
    pub(crate) vestibule: PathBuf,
    /// Others that are compared with it.
    pub(crate) builds: Vec<Build>,
    /// This binary.
    pub(crate) bench: PathBuf,
    /// Certificates of gateway, server and device.
    pub(crate) pki: Pki,
    /// Where the backend listens.
    pub(crate) backend: SocketAddr,
    /// What the first relay offers to the second.
    pub(crate) relay_group: Group,
    /// Where profiles are kept, if any are made.
    pub(crate) profiles: Option<PathBuf>,
}

/// A target that is ready.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where devices connect.
    pub(crate) address: SocketAddr,
    /// What devices need for TLS; `None` for plain TCP.
    pub(crate) pki: Option<Pki>,
    /// Whether their TLS goes through it unread.
    pub(crate) passthrough: bool,
    /// How its sessions end.
    pub(crate) ends: Ends,
    /// That in the gateway's place first, then that in the server's.
    pub(crate) processes: Vec<Process>,
}

impl Target {
    /// All but builds, in the order of the table.
    pub(crate) const ALL: [Self; 6] =
        [Self::Vestibule, Self::Relay, Self::Haproxy, Self::Nginx, Self::Rathole, Self::Floor];

    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vestibule => "vestibule",
            Self::Relay => "relay",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Rathole => "rathole",
            Self::Floor => "floor",
            Self::Build(name) => name.0,
        }
    }

    /// The program of others that it needs.
    pub(crate) fn peer(self) -> Option<Peer> {
        match self {
            Self::Haproxy => Some(Peer::Haproxy),
            Self::Nginx => Some(Peer::Nginx),
            Self::Rathole => Some(Peer::Rathole),
            Self::Vestibule | Self::Relay | Self::Floor | Self::Build(_) => None,
        }
    }

    /// Where the sessions of a scenario connect to it; `None` where it has no part in the scenario.
    pub(crate) fn listener(self, scenario: Scenario) -> Option<Listener> {
        let asked = scenario.listener();
        match self {
            // It does no handshakes and is not fair: it says something about bulk only.
            Self::Floor => match scenario {
                Scenario::BulkUp | Scenario::BulkDown => Some(Listener::Plain),
                Scenario::PassthroughUp | Scenario::PassthroughDown => Some(asked),
                _ => None,
            },
            // It speaks no TLS with devices.
            Self::Rathole => {
                (asked == Listener::Plain || scenario == Scenario::Idle).then_some(Listener::Plain)
            }
            Self::Nginx => (asked != Listener::Passthrough).then_some(asked),
            Self::Vestibule | Self::Relay | Self::Haproxy | Self::Build(_) => Some(asked),
        }
    }

    /// Whether it needs certificates.
    pub(crate) fn speaks_tls(self) -> bool {
        self != Self::Floor
    }

    /// Starts its processes, fresh for each sample: none inherits another's memory.
    pub(crate) fn start(self, ground: &Ground, listener: Listener) -> Result<Running, BenchError> {
        match self {
            Self::Vestibule => {
                own::start_vestibule(ground, listener, &ground.vestibule, Threads::USUAL)
            }
            Self::Build(name) => {
                let build = ground.builds.iter().find(|build| build.name == name);
                let build = build.ok_or(BenchError::Nothing)?;
                own::start_vestibule(ground, listener, &build.program, build.threads)
            }
            Self::Relay => own::start_relay(ground, listener),
            Self::Floor => own::start_floor(ground, listener),
            Self::Haproxy => Peer::Haproxy.start(ground, listener),
            Self::Nginx => Peer::Nginx.start(ground, listener),
            Self::Rathole => Peer::Rathole.start(ground, listener),
        }
    }
}

impl Running {
    /// A plan for the load generator.
    pub(crate) fn plan(&self, work: Work) -> Plan {
        let Self { address, passthrough, ends, .. } = *self;
        Plan { address, pki: self.pki.clone(), passthrough, ends, work }
    }

    fn new(
        ground: &Ground,
        listener: Listener,
        address: SocketAddr,
        processes: Vec<Process>,
    ) -> Self {
        let pki = (listener != Listener::Plain).then(|| ground.pki.clone());
        let passthrough = listener == Listener::Passthrough;
        Self { address, pki, passthrough, ends: Ends::Answered, processes }
    }

    /// What each process has used so far, in the order of [`Running::processes`].
    pub(crate) fn usages(&mut self) -> Result<Vec<Usage>, BenchError> {
        self.processes.iter_mut().map(Process::usage).collect()
    }

    /// Counts the system calls of each process from now on, in the same order.
    pub(crate) fn count_syscalls(&self, folder: &Path) -> Result<Vec<Count>, BenchError> {
        self.processes.iter().map(|process| Count::start(process.id(), folder)).collect()
    }

    /// Ends all processes; the error is that of the first that did not end well.
    pub(crate) fn stop(self) -> Result<(), BenchError> {
        // The gateway first: a server that loses it has nothing left to drain.
        self.processes.into_iter().try_for_each(Process::stop)
    }
}
