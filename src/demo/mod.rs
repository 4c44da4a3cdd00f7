//! `vestibule demo`: everything on one machine, without root. Gateway, server and our own agent run as
//! processes of their own; the backend and the devices, which are what a real site has already, run here.

mod addresses;
mod backend;
mod caller;
mod device;
mod failure;
mod figures;
mod payload;
mod process;
mod screen;
mod setup;
mod sockets;
mod story;
mod tally;
mod view;

use std::io;
use std::time::Duration;

use tokio::task::LocalSet;

pub use failure::{DemoError, Problem};
pub use process::follow_parent;

use crate::telemetry::log::LogFormat;

/// What to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Ends by itself after this time; `None`: on Ctrl-C.
    pub duration: Option<Duration>,
    /// Form of the logs, which go to files; text, unless chosen.
    pub log_format: LogFormat,
    /// What the processes log; `None`: what they would by themselves.
    pub log_filter: Option<String>,
}

/// Runs the demo until its time is over, or Ctrl-C. `Ok`: sessions flowed, and nothing failed.
pub fn run(options: &Options) -> Result<(), DemoError> {
    let folder = tempfile::Builder::new().prefix("vestibule-demo-").tempdir();
    let folder = folder.map_err(DemoError::Folder)?;
    // The processes end with the thread that started them, so it must be this one, not one of a pool.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DemoError::Runtime)?;
    match LocalSet::new().block_on(&runtime, story::tell(options, folder.path())) {
        Ok(()) => folder.close().map_err(DemoError::Folder),
        // Whoever reads, for example head(1), has seen enough.
        Err(Problem::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(problem) => {
            let logs = process::log_tails(folder.path());
            Err(DemoError::Failed { problem: Box::new(problem), logs, folder: folder.keep() })
        }
    }
}
