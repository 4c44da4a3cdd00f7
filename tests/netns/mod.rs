//! Three hosts for real: network namespaces `internet`, `dmz` and `lan`, and a firewall that drops
//! and counts every new connection from the dmz to the lan.
//!
//! `cargo test -- --ignored netns --test-threads=1`, as root.

mod firewall;
mod network;
