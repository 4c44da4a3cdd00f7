#![doc = include_str!("ARCHITECTURE.md")]
#![deny(unsafe_code)]

// In the order of dependence: a module uses those above it only.
pub mod limits;

pub mod wire;

pub mod relay;

pub mod control;

pub mod config;

pub mod tls;

pub mod check;

#[cfg(feature = "engine")]
pub mod uring;

pub mod telemetry;

#[cfg(feature = "engine")]
pub mod sandbox;

#[cfg(feature = "engine")]
pub mod reload;

#[cfg(feature = "engine")]
pub mod operator;

#[cfg(feature = "engine")]
pub mod engine;

#[cfg(feature = "gateway")]
pub mod gateway;

#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "agent")]
pub mod agent;

#[cfg(feature = "pki")]
pub mod pki;

#[cfg(feature = "demo")]
pub mod demo;
