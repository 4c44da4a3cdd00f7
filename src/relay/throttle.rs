use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::limits::{MAX_PURCHASE_LEN, MIN_RECEIVE_LEN, PURCHASES_PER_SECOND};

/// How many bytes may pass, in both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// In the long run.
    pub bytes_per_s: u64,
    /// At once, after a rest.
    pub burst: u64,
}

/// Buckets of bytes that all workers share: each is the time at which it will be full again, in nanoseconds
/// since the beginning (GCRA, ITU-T I.371). They are two rows, and an owner has a cell in each, of which
/// the fuller one counts. Whoever shares one cell with another notices nothing, and who shares both is
/// held back too early, never too late.
#[derive(Debug)]
pub struct Buckets {
    start: Instant,
    full_at: [Box<[AtomicU64]>; 2],
}

impl Buckets {
    /// Full ones, of which each row has `cells`.
    pub fn new(cells: usize, start: Instant) -> Self {
        let row = || (0..cells).map(|_| AtomicU64::new(0)).collect();
        Self { start, full_at: [row(), row()] }
    }

    /// Takes so many bytes out of a bucket, also where it does not have them.
    fn pay(&self, cells: [usize; 2], len: u64, bandwidth: Bandwidth, now: Instant) {
        let now = self.since_start(now);
        let cost = bandwidth.time_of(len);
        for cell in self.at(cells) {
            let later = |full_at: u64| Some(full_at.max(now).saturating_add(cost));
            // It always gives something, so it can't fail.
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        }
    }

    /// How long it is until a bucket owes nothing.
    fn debt(&self, cells: [usize; 2], bandwidth: Bandwidth, now: Instant) -> Duration {
        let full_at = self.at(cells).map(|cell| cell.load(Ordering::Relaxed)).min().unwrap_or(0);
        let free_at = full_at.saturating_sub(bandwidth.time_of(bandwidth.burst));
        Duration::from_nanos(free_at.saturating_sub(self.since_start(now)))
    }

    fn at(&self, cells: [usize; 2]) -> impl Iterator<Item = &AtomicU64> {
        self.full_at.iter().zip(cells).map(|(row, cell)| &row[cell])
    }

    fn since_start(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

impl Bandwidth {
    /// Nanoseconds that so many bytes take.
    fn time_of(self, len: u64) -> u64 {
        let time = u128::from(len) * 1_000_000_000 / u128::from(self.bytes_per_s.max(1));
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    /// What a session that was held back buys at once.
    fn purchase(self) -> u64 {
        let paced = self.bytes_per_s / PURCHASES_PER_SECOND;
        paced.clamp(MIN_RECEIVE_LEN as u64, MAX_PURCHASE_LEN)
    }
}

/// One of the limits that hold for a session: of its device, its service or its address.
#[derive(Debug, Clone)]
pub struct Toll {
    /// Where it is paid.
    pub buckets: Arc<Buckets>,
    /// Its cell in each row.
    pub cells: [usize; 2],
    /// What holds.
    pub bandwidth: Bandwidth,
}

/// How fast a session may move bytes. It pays for what it has moved. Where a bucket owes something, it buys
/// a few bytes in advance and waits until they are its own: whoever comes later waits for longer, so that
/// each gets on, however many share a bucket, and nobody is woken for nothing.
#[derive(Debug)]
pub struct Throttle {
    tolls: Vec<Toll>,
    /// Bought and not moved.
    credit: u64,
    resumes_at: Option<Instant>,
}

impl Throttle {
    /// `None` where nothing holds.
    pub fn new(tolls: Vec<Toll>) -> Option<Self> {
        (!tolls.is_empty()).then_some(Self { tolls, credit: 0, resumes_at: None })
    }

    /// How many bytes may be received now; a record is received as a whole. 0 until
    /// [`resumes_at`](Self::resumes_at). `has_input` says whether there is something to be received: who has
    /// nothing buys nothing.
    pub fn allowance(&mut self, has_input: bool, now: Instant) -> u64 {
        if self.resumes_at.is_some_and(|resumes_at| now < resumes_at) {
            return 0;
        }
        self.resumes_at = None;
        let purchase = self.tolls.iter().map(|toll| toll.bandwidth.purchase()).min().unwrap_or(0);
        if self.credit > 0 {
            return self.credit;
        }
        if !has_input || self.debt(now).is_zero() {
            return purchase;
        }
        self.pay(purchase, now);
        self.credit = purchase;
        self.resumes_at = Some(now + self.debt(now));
        0
    }

    /// So many bytes were moved.
    pub fn moved(&mut self, len: u64, now: Instant) {
        let bought = len.min(self.credit);
        self.credit -= bought;
        if len > bought {
            self.pay(len - bought, now);
        }
    }

    /// When a session that is held back goes on.
    pub fn resumes_at(&self) -> Option<Instant> {
        self.resumes_at
    }

    fn pay(&self, len: u64, now: Instant) {
        for Toll { buckets, cells, bandwidth } in &self.tolls {
            buckets.pay(*cells, len, *bandwidth, now);
        }
    }

    fn debt(&self, now: Instant) -> Duration {
        let debts =
            self.tolls.iter().map(|toll| toll.buckets.debt(toll.cells, toll.bandwidth, now));
        debts.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
