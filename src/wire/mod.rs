//! What crosses the wire: frames, the messages inside them, ALPN names. Bytes in, messages out; no I/O.
//!
#![doc = include_str!("PROTOCOL.md")]

mod crl_outcome;
mod frame;
mod message;
mod refusal;

pub mod alpn;

pub use crl_outcome::CrlOutcome;
pub use frame::{FrameDecoder, FrameError, encode};
pub use message::{
    Accepted, Claim, Crl, CrlAnswer, Decline, FromAgent, FromDataConnection, FromServer,
    GatewayHello, Goodbye, Invitation, Message, Open, Opened, Ping, Pong, Refused, ServerHello,
    SessionHeader, Successor, Taken, ToAgent, ToDataConnection, ToServer, Withdraw, from_agent,
    from_data_connection, from_server, to_agent, to_data_connection, to_server,
};
pub use refusal::RefusalReason;
