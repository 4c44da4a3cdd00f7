//! Two legs joined: half-close, backpressure, deadlines and the one close reason. Pure.

mod close_reason;
mod pace;
mod path;
mod session;
mod throttle;

pub use close_reason::{CloseReason, Party};
pub use pace::Pace;
pub use path::DataPath;
pub use session::{Ending, Failure, Relay, RelayLimits, Side, Step};
pub use throttle::{Bandwidth, Buckets, Throttle, Toll};
