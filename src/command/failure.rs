//! Why a command failed, and the exit code that says it to scripts and to systemd.

use std::process::ExitCode;

use thiserror::Error;
use vestibule::config::Problems;
#[cfg(feature = "engine")]
use vestibule::operator::{AskError, Cause};
use vestibule::telemetry::log::LogError;

/// `EXIT_FAILURE`.
const FAILED: u8 = 1;
/// What clap ends with.
const USAGE: u8 = 2;
/// `EX_UNAVAILABLE` of `sysexits.h`.
const UNAVAILABLE: u8 = 69;
/// `EX_OSERR` of `sysexits.h`: systemd units name it in `RestartPreventExitStatus=`.
#[cfg(any(test, feature = "engine"))]
const UNPROTECTED: u8 = 71;
/// `EX_NOPERM` of `sysexits.h`.
#[cfg(any(test, feature = "engine"))]
const FORBIDDEN: u8 = 77;
/// `EX_CONFIG` of `sysexits.h`: systemd units name it in `RestartPreventExitStatus=`.
const CONFIGURATION: u8 = 78;

/// All but success, for the test that each is in `--help`.
#[cfg(test)]
pub(super) const EXIT_CODES: [u8; 6] =
    [FAILED, USAGE, UNAVAILABLE, UNPROTECTED, FORBIDDEN, CONFIGURATION];

/// Why a command failed.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Configuration(#[from] Problems),
    /// What is wrong was printed before.
    #[error("{failed} of {checked} files can't be used")]
    Check { failed: usize, checked: usize },
    #[cfg(feature = "engine")]
    #[error(transparent)]
    Sandbox(#[from] vestibule::sandbox::NotAllOn),
    #[cfg(feature = "gateway")]
    #[error(transparent)]
    Gateway(#[from] vestibule::gateway::RunError),
    #[cfg(feature = "server")]
    #[error(transparent)]
    Server(#[from] vestibule::server::RunError),
    #[cfg(feature = "agent")]
    #[error(transparent)]
    Agent(#[from] vestibule::agent::AgentError),
    #[cfg(feature = "pki")]
    #[error(transparent)]
    Pki(#[from] vestibule::pki::PkiError),
    #[cfg(feature = "demo")]
    #[error(transparent)]
    Demo(#[from] vestibule::demo::DemoError),
    #[cfg(feature = "engine")]
    #[error(transparent)]
    Status(#[from] vestibule::telemetry::status::FetchError),
    #[cfg(feature = "engine")]
    #[error("{}: `[telemetry]` is turned off, so there is no status page to ask for", .0.display())]
    TelemetryOff(std::path::PathBuf),
    #[cfg(any(feature = "gateway", feature = "server"))]
    #[error(transparent)]
    Door(#[from] vestibule::operator::DoorError),
    #[cfg(feature = "engine")]
    #[error(transparent)]
    Operator(#[from] vestibule::operator::AskError),
    #[cfg(feature = "engine")]
    #[error(
        "{}: `[operator]` has no `socket`, so nobody is heard there: write \
         `socket = \"/run/vestibule/gateway.sock\"` and restart", .0.display()
    )]
    OperatorOff(std::path::PathBuf),
    #[error("can't write to standard output, or start: {0}")]
    Io(#[from] std::io::Error),
    #[allow(dead_code, reason = "a package with every role has no use for it")]
    #[error("this package was built without the {0} role: install the full one")]
    BuiltWithout(&'static str),
}

impl Failure {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Log(_) => USAGE,
            Self::Configuration(_) | Self::Check { .. } => CONFIGURATION,
            #[cfg(feature = "engine")]
            Self::Sandbox(_) => UNPROTECTED,
            #[cfg(feature = "engine")]
            Self::TelemetryOff(_) | Self::OperatorOff(_) => CONFIGURATION,
            #[cfg(feature = "engine")]
            Self::Status(_) => UNAVAILABLE,
            #[cfg(feature = "engine")]
            Self::Operator(error) => match error {
                AskError::Forbidden { .. } => FORBIDDEN,
                AskError::Denied(denial) if denial.cause == Cause::Forbidden => FORBIDDEN,
                AskError::Denied(_) => FAILED,
                _ => UNAVAILABLE,
            },
            Self::BuiltWithout(_) => UNAVAILABLE,
            _ => FAILED,
        })
    }
}
