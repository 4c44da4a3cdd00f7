//! Two legs joined: half-close, backpressure, deadlines and the one close reason. Pure.

mod close_reason;

pub use close_reason::{CloseReason, Party};
