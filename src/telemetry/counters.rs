//! Numbers that a worker writes and the control thread reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one worker has done and holds. The worker alone writes; anyone may read, and sees each number
/// a little late. Two cache lines wide, so that neither a neighbour nor the prefetcher of adjacent
/// lines makes workers wait for each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Connections accepted, of every kind.
    pub connections_accepted: Counter,
    /// Times that a connection could not be accepted: out of descriptors or memory.
    pub accepts_failed: Counter,
    /// Connections held at this moment, sessions included.
    pub connections_open: Gauge,
    /// TLS handshakes in flight.
    pub handshakes_open: Gauge,
    /// TLS handshakes that were finished.
    pub handshakes: Handshakes,
    /// Those of them that agreed on TLS 1.2.
    pub older_handshakes: Counter,
    /// Sessions joined and not ended.
    pub sessions_open: Gauge,
    /// Spares that wait for an agent.
    pub spares_open: Gauge,
    /// Spares that took an agent.
    pub spares_used: Counter,
    /// Spares that ended because no agent came, or they were not wanted any more.
    pub spares_unused: Counter,
    /// Spares that broke, or did not take their agent.
    pub spares_lost: Counter,
    /// Payload relayed from agents to servers, in bytes.
    pub bytes_agent_to_server: Counter,
    /// Payload relayed from servers to agents, in bytes.
    pub bytes_server_to_agent: Counter,
    /// Times that a session was held back by a limit on its bandwidth.
    pub throttle_pauses: Counter,
    /// Legs of sessions whose records the kernel was given to open and seal.
    pub kernel_tls_legs: Counter,
    /// Turns of the worker's loop.
    pub turns: Counter,
    /// Mails read.
    pub mails: Counter,
}

/// Handshakes by role, and in each those in full before those that resumed.
#[derive(Debug, Default)]
pub struct Handshakes([[Counter; 2]; HandshakeRole::ALL.len()]);

impl Handshakes {
    /// Those of one role and kind.
    pub fn of(&self, role: HandshakeRole, resumed: bool) -> &Counter {
        &self.0[role as usize][usize::from(resumed)]
    }
}

/// What a handshake was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeRole {
    /// A signal connection.
    Signal,
    /// A data connection.
    Data,
    /// Our own agent.
    Agent,
    /// Any other agent.
    Foreign,
    /// A connection to a backend.
    Backend,
}

impl HandshakeRole {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::Signal, Self::Data, Self::Agent, Self::Foreign, Self::Backend];

    /// Its word in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Data => "data",
            Self::Agent => "agent",
            Self::Foreign => "foreign",
            Self::Backend => "backend",
        }
    }
}

/// A number that only grows. It has one writer, so a load and a store are enough, where an atomic
/// addition would cost a locked instruction on the way of every byte.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more. Called by the writer only.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `count` more. Called by the writer only.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The number as of a moment ago.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down. It has one writer, as [`Counter`] has.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more. Called by the writer only.
    pub fn inc(&self) {
        self.set(self.get() + 1);
    }

    /// One less. Called by the writer only.
    pub fn dec(&self) {
        debug_assert!(self.get() > 0, "what is given back was taken before");
        self.set(self.get().saturating_sub(1));
    }

    /// Replaces the number. Called by the writer only.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number as of a moment ago.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn counters_of_two_workers_share_no_cache_line() {
        assert_eq!(align_of::<WorkerCounters>(), 128);
        assert_eq!(size_of::<WorkerCounters>() % 128, 0);
    }

    #[test]
    fn a_reader_on_another_thread_sees_what_the_worker_wrote() {
        let counters = Arc::new(WorkerCounters::default());
        let worker = Arc::clone(&counters);
        std::thread::spawn(move || {
            worker.connections_accepted.inc();
            worker.bytes_agent_to_server.add(1500);
            worker.sessions_open.inc();
            worker.sessions_open.inc();
            worker.sessions_open.dec();
        })
        .join()
        .expect("the worker of this test does not panic");
        assert_eq!(counters.connections_accepted.get(), 1);
        assert_eq!(counters.bytes_agent_to_server.get(), 1500);
        assert_eq!(counters.sessions_open.get(), 1);
    }
}
