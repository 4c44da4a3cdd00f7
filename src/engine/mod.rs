//! The worker: a loop over one ring, slots for connections and sessions, timers, mailboxes. What a
//! connection is for, its [`Role`] decides; how bytes get there is the same for gateway and server.

mod control_loop;
mod core;
mod epoll;
mod event_loop;
mod inherited;
mod leg;
mod listener;
mod mailbox;
mod outbox;
mod pipe;
mod platform;
mod received;
mod scratch;
mod session;
mod signal;
mod slots;
mod threads;
mod timers;
mod worker;

pub use self::core::{Connection, Core, Urgency};
pub use control_loop::{ControlLoop, Wakeup};
pub use epoll::Epoll;
pub use event_loop::EventLoop;
pub use inherited::{InheritedSockets, NotAListener, deal};
pub use leg::{Leg, connect_result};
pub use listener::{ListenError, dial, listen, watch_closely};
pub use mailbox::{Post, Wake, queue};
pub use platform::{KernelTls, NoKernelTls, Platform, RelayMode};
pub use received::{HandshakeError, MessageError, Received};
pub use scratch::Scratch;
pub use session::{Moved, Session, Terms};
pub use signal::{
    SignalEvent, SignalParts, SignalSender, Stalled, end_all_signals, end_signal, start_signal,
};
pub use threads::{
    StartError, WorkerThread, bind_telemetry, fill_random, instance_name, raise_descriptor_limit,
    run_control, start_worker, within_descriptors,
};
pub use worker::{CoreOf, Role, Worker, WorkerSettings};
