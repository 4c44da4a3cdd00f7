//! Which connections of a process it opened itself: the proof of what the gateway promises. Asked of
//! the kernel, in `/proc` (proc(5), `/proc/pid/net/tcp`), since nobody need take the gateway's word.

use std::collections::HashSet;
use std::fs;
use std::io;

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN` of the kernel's `tcp_states.h`).
const LISTEN: &str = "0A";

/// The TCP sockets of a process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sockets {
    /// Those that accept connections.
    pub(super) listening: usize,
    /// Connections from elsewhere: their local port is one that the process listens on.
    pub(super) accepted: usize,
    /// All other connections, so those that it opened.
    pub(super) opened: usize,
}

/// Counts the sockets of a process of the same user.
pub(super) fn of_process(pid: u32) -> io::Result<Sockets> {
    let mut inodes = HashSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // It may be closed by now.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        inodes.extend(target.to_str().and_then(inode).map(str::to_owned));
    }
    let mut table = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    // A kernel without IPv6 has no such file.
    table += &fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default();
    Ok(count(&table, &inodes))
}

fn inode(link: &str) -> Option<&str> {
    link.strip_prefix("socket:[")?.strip_suffix(']')
}

fn count(table: &str, inodes: &HashSet<String>) -> Sockets {
    let rows = || table.lines().filter_map(row).filter(|row| inodes.contains(row.inode));
    let ports: HashSet<&str> =
        rows().filter(|row| row.state == LISTEN).map(|row| row.port).collect();
    let mut sockets = Sockets::default();
    for row in rows() {
        match row.state {
            LISTEN => sockets.listening += 1,
            _ if ports.contains(row.port) => sockets.accepted += 1,
            _ => sockets.opened += 1,
        }
    }
    sockets
}

struct Row<'a> {
    /// Local, in hexadecimal.
    port: &'a str,
    state: &'a str,
    inode: &'a str,
}

/// A line of the table; `None` for its headline.
fn row(line: &str) -> Option<Row<'_>> {
    let mut cells = line.split_whitespace();
    let (_, port) = cells.nth(1)?.rsplit_once(':')?;
    let state = cells.nth(1)?;
    let inode = cells.nth(5)?;
    Some(Row { port, state, inode })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_from_no_port_that_it_listens_on_is_one_that_it_opened() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:32C8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 10 1 0
   1: 0100007F:32C8 0100007F:8E3A 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0
   2: 0100007F:8E3C 0100007F:0050 02 00000000:00000000 00:00000000 00000000     0        0 12 1 0
   3: 0100007F:9999 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 99 1 0
";
        let inodes = ["10", "11", "12"].map(str::to_owned).into();
        assert_eq!(count(table, &inodes), Sockets { listening: 1, accepted: 1, opened: 1 });
    }

    #[test]
    fn the_kernel_tells_both_ends_of_a_connection_apart() {
        // Other tests of this process have sockets too, so only the least is known.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let opened = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let accepted = listener.accept().expect("accepted");
        let sockets = of_process(std::process::id()).expect("readable");
        assert!(sockets.listening >= 1 && sockets.accepted >= 1 && sockets.opened >= 1);
        drop((opened, accepted));
    }
}
