//! End to end: real processes on loopback, no root. Each test has a network of its own (a /24 of
//! 127.0.0.0/8), so that all of them run at once on the ports of the documentation.

pub(super) mod harness;

mod bad_input;
mod certificates;
mod commands;
mod ends;
pub(super) mod event_loop;
mod floods;
mod hostile_agents;
mod hostile_gateway;
mod hostile_server;
mod kernel_tls;
mod lifecycle;
mod limits;
mod openssl;
mod operator;
mod passthrough;
mod reload;
mod resumption;
mod revocation;
mod sandbox;
mod scanners;
mod several;
mod signal;
mod spares;
mod strangers;
mod tickets;
mod tls_1_2;
mod tls_backend;
mod upgrade;
mod waiting;
mod way;
