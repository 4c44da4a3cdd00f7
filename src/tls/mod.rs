//! TLS without sockets: who a ClientHello is for, handshakes and records over byte slices.

mod alert;
mod client_hello;
mod connection;
mod failure;

pub use alert::Alert;
pub use client_hello::{ClientHello, HelloError, HelloReader, looks_like_tls};
pub use connection::TlsConnection;
pub use failure::handshake_failure;
