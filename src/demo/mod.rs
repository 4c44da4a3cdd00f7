//! Everything on one machine.

use std::time::Duration;

use thiserror::Error;

/// What to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Ends by itself after this time; `None`: on Ctrl-C.
    pub duration: Option<Duration>,
}

/// Why the demo ended before its time.
#[derive(Debug, Error)]
pub enum DemoError {
    /// It is not in this release.
    #[error("the demo is not in this release yet")]
    Missing,
}

/// Runs it.
pub fn run(_options: Options) -> Result<(), DemoError> {
    Err(DemoError::Missing)
}
