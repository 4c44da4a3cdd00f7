//! The ring of a worker: readiness of sockets, and waking; what rings may do at all; a socket option and
//! the kernel's TLS, which no crate has; and descriptors that others have opened. The only module with unsafe code.
//!
//! The worker asks the kernel when a socket is ready, and then calls recv and send itself: bytes are
//! touched while they are hot, and no buffer is ever lent to the kernel.
//!
//! `receives` is the other way, and in no product: with the feature `shapes` the bench measures it
//! beside the worker's own (`bench/README.md`, "Shapes").
#![allow(unsafe_code)]

mod awaited;
mod inherited;
mod kernel_tls;
mod receive_buffer;
#[cfg(feature = "shapes")]
mod receives;
mod refusal;
mod restrictions;
mod ring;
mod socket_option;
mod token;
mod waker;

pub use awaited::awaited;
pub use inherited::take_inherited;
pub use kernel_tls::{
    Direction, attach_tls, expect_no_padding, give_key, receive_opened, sealed_records,
    send_record, written_len,
};
pub use receive_buffer::unfix_buffers;
#[cfg(feature = "shapes")]
pub use receives::{Arrival, Operation, ReceiveRing};
pub use refusal::{Refusal, SETTING_FILE};
pub use restrictions::{sees_own_rings, start_control};
pub use ring::{Event, Readiness, Ring, RingError};
pub use token::Token;
pub use waker::Waker;
