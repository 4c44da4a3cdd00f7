use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::engine::NotAListener;

/// Why a process has no sockets of another, or can't give its own away. The operator's to mend.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// There is no path to ask at.
    #[error("--take-over needs `socket` in `[upgrade]`, the same as that of the running gateway")]
    NoSocket,
    /// It was not to be taken over, and has the ports.
    #[error(
        "{}: a gateway is running there: start this one with --take-over, or stop that one", .0.display()
    )]
    Running(PathBuf),
    /// The path can't be had.
    #[error(
        "`[upgrade]` socket: cannot listen on {}: {source}; is its folder there, and may this user write to it?",
        path.display()
    )]
    Listen {
        /// As configured.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else is at the path.
    #[error("{}: is there, and is no socket: move it away, or choose another `socket` in `[upgrade]`", .0.display())]
    NotASocket(PathBuf),
    /// Nobody can be asked at the path.
    #[error("{}: cannot ask the running gateway for its sockets: {source}", path.display())]
    Connect {
        /// As configured.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It hung up.
    #[error("the running gateway gave no sockets: {0}; its log may say why, and it goes on")]
    Offer(#[source] io::Error),
    /// It said nothing.
    #[error(
        "the running gateway gave no sockets in time; it goes on. Is another upgrade under way?"
    )]
    NoOffer,
    /// It says what this release does not know.
    #[error(
        "the running gateway is of a release that can't be taken over from: restart it instead"
    )]
    OtherVersion,
    /// It gave something else.
    #[error("what the running gateway gave is not usable: {0}")]
    Socket(#[from] NotAListener),
    /// By systemd, or whoever starts this process.
    #[error("LISTEN_FDS: {0}: what starts this process has set it wrongly")]
    Activation(#[source] io::Error),
    /// Nothing has happened.
    #[error(
        "not every service had its server here in time: the gateway before goes on as if nothing had been"
    )]
    NoServers,
    /// Nothing has happened either.
    #[error("the gateway before took its place back: it waited for too long")]
    Abandoned,
}
