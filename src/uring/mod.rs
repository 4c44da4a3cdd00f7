//! The ring of a worker: readiness of sockets, and waking. The only module with unsafe code.
//!
//! The worker asks the kernel when a socket is ready, and then calls recv and send itself: bytes are
//! touched while they are hot, and no buffer is ever lent to the kernel.
#![allow(unsafe_code)]

mod ring;
mod token;
mod waker;

pub use ring::{Event, Readiness, Ring, RingError};
pub use token::Token;
pub use waker::Waker;
