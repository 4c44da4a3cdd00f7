//! What each address has, counted by all workers together, and judged before any cryptography.
//!
//! The counts are two rows of cells. A keyed hash gives each address, and each prefix, one cell in
//! either row, and the smaller of the two is its count. So the space is fixed, whatever the number of
//! addresses; nothing is evicted that an attacker could want evicted; and workers need no lock. (A
//! count-min sketch: Cormode and Muthukrishnan, 2005.)

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use crate::config::AddressLimits;
use crate::limits::SOURCE_CELLS;
use crate::relay::CloseReason;

/// Counts of connections by address and by prefix.
pub(super) struct Sources {
    /// Drawn by each process, so that nobody can choose addresses that share a cell.
    hasher: RandomState,
    connections: Tally,
    handshakes: Tally,
    arrivals: Arrivals,
    servers: Marks,
}

/// What is counted for one address.
#[derive(Clone, Copy)]
struct Source {
    address: Cells,
    prefix: Cells,
}

/// One cell in each row.
type Cells = [usize; 2];

impl Sources {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            connections: Tally::new(),
            handshakes: Tally::new(),
            arrivals: Arrivals::new(now),
            servers: Marks::new(),
        }
    }

    /// A server has proved itself from this address: it brings a data connection for every agent, and
    /// must not be held to what one stranger may have, also when it comes back with its sessions still
    /// there. As long as the process lives: servers have few addresses.
    pub(super) fn note_server(&self, from: IpAddr) {
        self.servers.set(self.cells(&from));
    }

    /// Whether a server has proved itself from there.
    pub(super) fn is_of_a_server(&self, from: IpAddr) -> bool {
        self.servers.is_set(self.cells(&from))
    }

    /// Takes in a connection, or says which of the limits of its address, if it has any, is reached.
    /// Workers that ask at the same moment may each be told yes for the last place.
    pub(super) fn connect(
        &self,
        from: IpAddr,
        limits: Option<&AddressLimits>,
        now: Instant,
    ) -> Result<(), CloseReason> {
        let source = self.locate(from);
        if let Some(limits) = limits {
            if self.connections.of(source.address) >= limits.max_connections {
                return Err(CloseReason::AddressFull);
            }
            if self.connections.of(source.prefix) >= limits.max_connections_of_prefix {
                return Err(CloseReason::PrefixFull);
            }
            let (per_s, burst) = (limits.connections_per_s, limits.connections_burst);
            if !self.arrivals.allow(source.address, per_s, burst, now) {
                return Err(CloseReason::AddressTooFast);
            }
        }
        self.connections.add(source);
        Ok(())
    }

    /// A connection that was taken in is closed.
    pub(super) fn disconnect(&self, from: IpAddr) {
        self.connections.remove(self.locate(from));
    }

    /// Takes in a connection that is not admitted yet, beside [`Sources::connect`].
    pub(super) fn begin_admission(
        &self,
        from: IpAddr,
        limits: Option<&AddressLimits>,
    ) -> Result<(), CloseReason> {
        let source = self.locate(from);
        if let Some(limits) = limits {
            if self.handshakes.of(source.address) >= limits.max_handshakes {
                return Err(CloseReason::AddressFull);
            }
            if self.handshakes.of(source.prefix) >= limits.max_handshakes_of_prefix {
                return Err(CloseReason::PrefixFull);
            }
        }
        self.handshakes.add(source);
        Ok(())
    }

    /// Takes in one that was judged before, at another worker.
    pub(super) fn count_admission(&self, from: IpAddr) {
        self.handshakes.add(self.locate(from));
    }

    /// It is admitted, or has ended before that.
    pub(super) fn end_admission(&self, from: IpAddr) {
        self.handshakes.remove(self.locate(from));
    }

    fn locate(&self, address: IpAddr) -> Source {
        let prefix = prefix_of(address);
        Source { address: self.cells(&address), prefix: self.cells(&(prefix, "prefix")) }
    }

    fn cells(&self, key: &impl std::hash::Hash) -> Cells {
        let hash = self.hasher.hash_one(key);
        // Truncation is meant: each half of the hash chooses a cell of one row.
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash")]
        [hash as u32, (hash >> 32) as u32].map(|half| half as usize % SOURCE_CELLS)
    }
}

/// The /24 or /64 of an address: what one subscriber or one office usually has.
fn prefix_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & 0xffff_ff00).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

/// How many there are of something.
struct Tally([Box<[AtomicU32]>; 2]);

impl Tally {
    fn new() -> Self {
        Self(std::array::from_fn(|_| (0..SOURCE_CELLS).map(|_| AtomicU32::new(0)).collect()))
    }

    fn of(&self, cells: Cells) -> usize {
        let counts = self.at(cells).map(|cell| cell.load(Ordering::Relaxed));
        counts.min().unwrap_or(0) as usize
    }

    fn add(&self, source: Source) {
        for cells in [source.address, source.prefix] {
            for cell in self.at(cells) {
                cell.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn remove(&self, source: Source) {
        for cells in [source.address, source.prefix] {
            for cell in self.at(cells) {
                let before = cell.fetch_sub(1, Ordering::Relaxed);
                debug_assert!(before > 0, "what is taken off was counted before");
            }
        }
    }

    fn at(&self, cells: Cells) -> impl Iterator<Item = &AtomicU32> {
        self.0.iter().zip(cells).map(|(row, cell)| &row[cell])
    }
}

/// What is so of an address, once and for all.
struct Marks([Box<[AtomicBool]>; 2]);

impl Marks {
    fn new() -> Self {
        Self(std::array::from_fn(|_| (0..SOURCE_CELLS).map(|_| AtomicBool::new(false)).collect()))
    }

    fn set(&self, cells: Cells) {
        self.0.iter().zip(cells).for_each(|(row, cell)| row[cell].store(true, Ordering::Relaxed));
    }

    fn is_set(&self, cells: Cells) -> bool {
        self.0.iter().zip(cells).all(|(row, cell)| row[cell].load(Ordering::Relaxed))
    }
}

/// How fast connections arrive: a token bucket for each address, as the time at which it will be full
/// again, in microseconds since the beginning (GCRA, ITU-T I.371).
struct Arrivals {
    start: Instant,
    full_at: [Box<[AtomicU64]>; 2],
}

impl Arrivals {
    fn new(start: Instant) -> Self {
        let row = || (0..SOURCE_CELLS).map(|_| AtomicU64::new(0)).collect();
        Self { start, full_at: [row(), row()] }
    }

    /// Takes a token, if there is one.
    fn allow(&self, cells: Cells, per_s: u32, burst: u32, now: Instant) -> bool {
        let cells = || self.full_at.iter().zip(cells).map(|(row, cell)| &row[cell]);
        let now = now.saturating_duration_since(self.start).as_micros();
        let now = u64::try_from(now).expect("a process lives less than 500,000 years");
        // At more than a million a second the token is free.
        let token = 1_000_000 / u64::from(per_s);
        let least = cells().map(|cell| cell.load(Ordering::Relaxed)).min().unwrap_or(0);
        let full_at = least.max(now) + token;
        if full_at - now > token * u64::from(burst) {
            return false;
        }
        for cell in cells() {
            // A cell that another address has filled more stays as it is.
            cell.fetch_max(full_at, Ordering::Relaxed);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: AddressLimits = AddressLimits {
        max_connections: 3,
        max_connections_of_prefix: 5,
        max_handshakes: 2,
        max_handshakes_of_prefix: 3,
        connections_per_s: 10,
        connections_burst: 20,
        bandwidth: None,
        exempt: Vec::new(),
    };

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_its_own_bound_within_that_of_its_prefix() {
        let now = Instant::now();
        let sources = Sources::new(now);
        for (one, two, elsewhere) in [
            ("192.0.2.1", "192.0.2.2", "192.0.3.1"),
            ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"),
        ] {
            let connect = |from| sources.connect(address(from), Some(&LIMITS), now);
            for _ in 0..3 {
                assert_eq!(connect(one), Ok(()));
            }
            assert_eq!(connect(one), Err(CloseReason::AddressFull));
            assert_eq!((connect(two), connect(two)), (Ok(()), Ok(())));
            assert_eq!(connect(two), Err(CloseReason::PrefixFull));
            assert_eq!(connect(elsewhere), Ok(()));
            sources.disconnect(address(one));
            assert_eq!(connect(two), Ok(()), "a place that was given back is free for both");
        }
    }

    #[test]
    fn connections_that_are_not_admitted_have_bounds_of_their_own() {
        let sources = Sources::new(Instant::now());
        let begin = |from| sources.begin_admission(address(from), Some(&LIMITS));
        assert_eq!((begin("192.0.2.1"), begin("192.0.2.1")), (Ok(()), Ok(())));
        assert_eq!(begin("192.0.2.1"), Err(CloseReason::AddressFull));
        assert_eq!(begin("192.0.2.2"), Ok(()));
        assert_eq!(begin("192.0.2.2"), Err(CloseReason::PrefixFull));
        sources.end_admission(address("192.0.2.1"));
        assert_eq!(begin("192.0.2.1"), Ok(()));
    }

    #[test]
    fn an_address_without_limits_is_counted_all_the_same() {
        let now = Instant::now();
        let sources = Sources::new(now);
        let from = address("192.0.2.1");
        for _ in 0..100 {
            assert_eq!(sources.connect(from, None, now), Ok(()));
        }
        assert_eq!(sources.connect(from, Some(&LIMITS), now), Err(CloseReason::AddressFull));
        for _ in 0..100 {
            sources.disconnect(from);
        }
        assert_eq!(sources.connect(from, Some(&LIMITS), now), Ok(()));
    }

    #[test]
    fn an_address_is_that_of_a_server_once_one_has_proved_itself_there() {
        let sources = Sources::new(Instant::now());
        let (server, stranger) = (address("192.0.2.1"), address("192.0.2.2"));
        assert!(!sources.is_of_a_server(server));
        sources.note_server(server);
        assert!(sources.is_of_a_server(server) && !sources.is_of_a_server(stranger));
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let start = Instant::now();
        let sources = Sources::new(start);
        let limits = AddressLimits { max_connections: 1_000, ..LIMITS };
        let limits = AddressLimits { max_connections_of_prefix: 1_000, ..limits };
        let from = address("192.0.2.1");
        let arrivals =
            |at| (0..100).filter(|_| sources.connect(from, Some(&limits), at).is_ok()).count();
        assert_eq!(arrivals(start), 20);
        let too_fast = Err(CloseReason::AddressTooFast);
        assert_eq!(sources.connect(from, Some(&limits), start), too_fast);
        assert_eq!(sources.connect(address("192.0.2.2"), Some(&limits), start), Ok(()));
        let later = start + Duration::from_secs(1);
        assert_eq!(arrivals(later), 10);
        assert_eq!(
            arrivals(later + Duration::from_secs(3600)),
            20,
            "no more than a burst is saved"
        );
    }

    #[test]
    fn a_flood_from_many_addresses_leaves_the_others_their_places() {
        let now = Instant::now();
        let sources = Sources::new(now);
        // As many addresses at their bound as a gateway has room for, each in a prefix of its own.
        for source in 0..6_000u32 {
            let from = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + (source << 8)));
            for _ in 0..3 {
                // One that shares its cells with others in both rows is refused early.
                let _ = sources.connect(from, Some(&LIMITS), now);
            }
        }
        let innocent =
            (0..1_000u32).map(|i| IpAddr::from(Ipv4Addr::from_bits(0xc000_0000 + (i << 8))));
        let refused =
            innocent.filter(|&from| sources.connect(from, Some(&LIMITS), now).is_err()).count();
        // Some 17 % of the cells of each row are full, by address and prefix: 3 % share both.
        assert!(refused < 100, "{refused} of 1,000");
    }
}
