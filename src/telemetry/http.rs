//! The HTTP listener for metrics, health and status.

use super::status::Status;

/// Where the pages come from. Asked on the thread that serves them, for each request.
pub trait Pages {
    /// OpenMetrics text.
    fn metrics(&self) -> String;
    /// Whether new sessions are possible; if not, why.
    fn readiness(&self) -> Result<(), String>;
    /// The status page.
    fn status(&self) -> Status;
}
