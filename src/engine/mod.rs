//! The worker: a loop over one ring, slots for connections and sessions, timers, mailboxes. What a
//! connection is for, its [`Role`] decides; how bytes get there is the same for gateway and server.

mod core;
mod leg;
mod listener;
mod mailbox;
mod session;
mod slots;
mod timers;
mod worker;

pub use self::core::{Connection, Core, WorkerSettings};
pub use leg::{HandshakeError, Leg, Received, Scratch, connect_result};
pub use listener::{ListenError, listen};
pub use mailbox::{Post, Wake, queue};
pub use session::{Moved, Session};
pub use slots::Slots;
pub use worker::{CoreOf, Role, Worker};
