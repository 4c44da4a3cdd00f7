//! Three hosts for real: network namespaces `internet`, `dmz` and `lan`, and a firewall that drops
//! and counts every new connection from the dmz to the lan.
//!
//! `network`, `process`, `site`, `echo` and `scene` are the hosts and what runs on them; `firewall` shows that
//! the hosts are what they seem; the rest is the program at work on real input.
//!
//! `cargo test -- --ignored netns --test-threads=1`, as root.

mod chaos;
mod crowd;
mod echo;
mod firewall;
mod loss;
mod network;
mod plain;
mod process;
mod scene;
mod site;
mod soak;
mod ssh;
mod web;
