//! The ring of a worker: readiness of sockets, and waking; and what only the kernel knows of a
//! connection. The only module with unsafe code.
//!
//! The worker asks the kernel when a socket is ready, and then calls recv and send itself: bytes are
//! touched while they are hot, and no buffer is ever lent to the kernel.
#![allow(unsafe_code)]

mod ring;
mod round_trip;
mod token;
mod waker;

pub use ring::{Event, Readiness, Ring, RingError};
pub use round_trip::shortest_round_trip;
pub use token::Token;
pub use waker::Waker;
