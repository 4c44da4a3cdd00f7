use std::collections::BTreeSet;
use std::time::Instant;

/// Deadlines of many tenants. What nobody waits for any more is taken out: most sessions end hours before
/// their timer, and their entries would pile up for as long.
#[derive(Debug)]
pub(super) struct Timers<K> {
    entries: BTreeSet<(Instant, K)>,
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Self {
        Self { entries: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Wakes `key` at that time.
    pub(super) fn set(&mut self, at: Instant, key: K) {
        self.entries.insert((at, key));
    }

    /// Moves an entry of `key`; `None` is no entry.
    pub(super) fn change(&mut self, key: K, from: Option<Instant>, to: Option<Instant>) {
        if let Some(at) = from {
            self.entries.remove(&(at, key));
        }
        if let Some(at) = to {
            self.set(at, key);
        }
    }

    /// The time of the next entry.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// One that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        self.entries.pop_first().map(|(_, key)| key)
    }
}
