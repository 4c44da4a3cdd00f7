use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use thiserror::Error;

use crate::limits::DEMO_START_TIMEOUT;
use crate::pki::PkiError;
use crate::telemetry::status::FetchError;
use crate::tls::CredentialError;

/// Why the demo failed.
#[derive(Debug, Error)]
pub enum DemoError {
    /// There is no place for its files.
    #[error("can't make or remove the demo's temporary folder: {0}; check TMPDIR")]
    Folder(io::Error),
    /// The system gives no runtime.
    #[error("can't start the runtime: {0}; check the limits of this process")]
    Runtime(io::Error),
    /// It started, and all was not well.
    #[error("{logs}\nThe demo failed: {problem}\nIts files and logs are kept in {}", folder.display())]
    Failed {
        /// What was not well.
        problem: Box<Problem>,
        /// The end of each process's log.
        logs: String,
        /// With the configurations, certificates and logs.
        folder: PathBuf,
    },
}

/// What was not well.
#[derive(Debug, Error)]
pub enum Problem {
    /// No certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A certificate that was just made can't be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// A file of the demo's folder.
    #[error("can't write {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No port of the loopback address.
    #[error("can't listen on 127.0.0.1: {0}")]
    Listen(io::Error),
    /// A process can't be started.
    #[error("can't start the {name}: {source}")]
    Spawn {
        /// Its subcommand.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A process ended by itself, or not cleanly when it was asked to.
    #[error("the {name} ended with {status}; its log says why")]
    Ended {
        /// Its subcommand.
        name: &'static str,
        /// How.
        status: ExitStatus,
    },
    /// A process can't be watched.
    #[error("can't learn whether the {name} runs: {source}")]
    Watch {
        /// Its subcommand.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A process did not end and was killed.
    #[error("the {name} did not end when asked to, and was killed")]
    Stuck {
        /// Its subcommand.
        name: &'static str,
    },
    /// Something did not come up.
    #[error("the {name} was not ready after {} s", DEMO_START_TIMEOUT.as_secs())]
    NotReady {
        /// Its subcommand.
        name: &'static str,
    },
    /// The gateway runs, and tells nothing of itself.
    #[error("the gateway can't be watched: {0}")]
    Telemetry(#[from] FetchError),
    /// Visits of devices failed.
    #[error("{count} visits of devices failed; the last: {last}")]
    Visits {
        /// How many.
        count: u64,
        /// Of which device, and why.
        last: String,
    },
    /// The time was too short for a single visit, or nothing moved.
    #[error("no device got data both ways; give it more time (--for 10s)")]
    NothingMoved,
    /// The promise was broken.
    #[error("the gateway opened {0} connections itself, and must open none")]
    Opened(usize),
    /// No signals.
    #[error("can't wait for Ctrl-C: {0}")]
    Signals(io::Error),
    /// Standard output.
    #[error("can't write to standard output: {0}")]
    Output(#[from] io::Error),
}
