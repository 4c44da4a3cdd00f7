//! The operator's socket: verbs for whoever runs this process, over HTTP and JSON on a Unix socket that root
//! and the process's own user may open. Each is audited, whatever comes of it.

mod audit;
mod blocks;
mod client;
mod door;
mod keeper;
mod list;
mod message;
mod selection;
mod sweeps;

pub use audit::Tally;
pub use blocks::{Block, Blocks, Target};
pub use client::{AskError, ask};
pub use door::{Answering, Desk, Door, DoorError, drain_soon, serve};
pub use keeper::{Keeper, KeeperError, unix_now};
pub use list::list;
pub use message::{Answer, Asked, Cause, Denial, ListedSession, Request, SessionList};
pub use selection::{Candidate, DevicePattern, Range, Selection};
pub use sweeps::{Sweeps, Swept, end, swept};
