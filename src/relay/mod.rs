//! Two legs joined: half-close, backpressure, deadlines and the one close reason. Pure.

mod close_reason;
mod pace;
mod session;

pub use close_reason::{CloseReason, Party};
pub use pace::Pace;
pub use session::{Ending, Failure, Relay, RelayLimits, Side, Step};
