//! What the kernel holds for the TCP sockets of a host, from `ss` (`sock_diag(7)`).

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::namespaces::Namespace;

/// Bytes in the queues of sockets, with what the kernel spends on each packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// Connections that are established.
    pub(super) sockets: u64,
    /// Received and not read yet.
    pub(super) received: u64,
    /// Sent, and not acknowledged yet or not on its way.
    pub(super) sending: u64,
    /// Set aside for either.
    pub(super) reserved: u64,
}

impl Held {
    pub(super) fn total(self) -> u64 {
        self.received + self.sending + self.reserved
    }

    fn add(&mut self, memory: Memory) {
        self.sockets += 1;
        self.received += memory.received;
        self.sending += memory.sending;
        self.reserved += memory.reserved;
    }
}

/// One socket's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    received: u64,
    sending: u64,
    reserved: u64,
}

/// Of the sockets of a host, by which of two others they lead to.
pub(super) fn held(host: &Namespace, towards: [IpAddr; 2]) -> Result<[Held; 2], BenchError> {
    let mut command = host.command("ss");
    command.args(["-tmnH", "state", "established"]);
    let output = command.output().map_err(BenchError::io("running ss"))?;
    let mut all = [Held::default(); 2];
    for (peer, memory) in parse(&String::from_utf8_lossy(&output.stdout)) {
        if let Some(place) = towards.iter().position(|address| *address == peer.ip()) {
            all[place].add(memory);
        }
    }
    Ok(all)
}

/// The peer of each socket and its memory, which stands on the same line or on the next.
fn parse(text: &str) -> Vec<(SocketAddr, Memory)> {
    let mut found = Vec::new();
    let mut peer = None;
    for line in text.lines() {
        if !line.starts_with(['\t', ' ']) {
            peer = line.split_whitespace().filter_map(|word| word.parse().ok()).nth(1);
        }
        if let (Some(peer), Some(memory)) = (peer, memory(line)) {
            found.push((peer, memory));
        }
    }
    found
}

/// From `skmem:(r0,rb131072,t0,tb87040,f0,w0,o0,bl0,d0)`.
fn memory(line: &str) -> Option<Memory> {
    let (_, fields) = line.split_once("skmem:(")?;
    let fields: Vec<&str> = fields.split([',', ')']).collect();
    let field = |name: &str| {
        let value = fields.iter().find_map(|field| field.strip_prefix(name)?.parse::<u64>().ok());
        value.unwrap_or_default()
    };
    // Negative while a socket has more than was set aside for it; `ss` prints that without a sign.
    let reserved = i32::try_from(field("f")).unwrap_or_default().unsigned_abs().into();
    Some(Memory { received: field("r") + field("bl"), sending: field("w"), reserved })
}

/// Pages that TCP holds on the whole machine, from `/proc/net/sockstat`.
pub(super) fn tcp_pages() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find(|line| line.starts_with("TCP:"))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "mem");
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_each_socket_is_found_beside_its_peer() {
        let text = "0 17 10.0.0.1:13000 10.0.0.2:40000\n\
                    \t skmem:(r1,rb131072,t0,tb87040,f4096,w20,o0,bl300,d0)\n\
                    0 0 10.0.0.1:40001 10.0.0.3:7000 skmem:(r0,rb1,t9,tb1,f4294963200,w5,o0,bl0,d7)\n";
        let found = parse(text);
        let peer = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let first = Memory { received: 301, sending: 20, reserved: 4096 };
        assert_eq!(found[0], (peer("10.0.0.2:40000"), first));
        let second = Memory { received: 0, sending: 5, reserved: 0 };
        assert_eq!(found[1], (peer("10.0.0.3:7000"), second));
        assert_eq!(found.len(), 2);
    }
}
