//! What operators see: log, metrics, status page, and the HTTP listener that serves the last two.

pub mod log;
pub mod notify;

#[cfg(feature = "engine")]
pub mod counters;
#[cfg(feature = "engine")]
pub mod http;
#[cfg(feature = "engine")]
pub mod ledger;
#[cfg(feature = "engine")]
pub mod metrics;
#[cfg(feature = "engine")]
mod process;
#[cfg(feature = "engine")]
pub mod record;
#[cfg(feature = "engine")]
mod stage_times;
#[cfg(feature = "engine")]
pub mod status;
