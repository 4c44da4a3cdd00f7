use std::sync::atomic::{AtomicUsize, Ordering};

/// Room for sessions at a server, over all workers and gateways. The control thread takes a seat for
/// each invitation that it follows, and a worker for each agent that comes over a spare: to ask the
/// control thread for that one would be the wait that spares are there to avoid.
#[derive(Debug)]
pub(super) struct Seats {
    taken: AtomicUsize,
    bound: AtomicUsize,
}

impl Seats {
    pub(super) fn new(bound: usize) -> Self {
        Self { taken: AtomicUsize::new(0), bound: AtomicUsize::new(bound) }
    }

    /// Another bound, after a reload. Whoever sits stays, also above it.
    pub(super) fn set_bound(&self, bound: usize) {
        self.bound.store(bound, Ordering::Relaxed);
    }

    /// Takes one, if one is free.
    pub(super) fn take(&self) -> bool {
        let bound = self.bound.load(Ordering::Relaxed);
        let one_more = |taken| (taken < bound).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// The session that had it has ended.
    pub(super) fn give_back(&self) {
        let before = self.taken.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "what is given back was taken before");
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn no_more_seats_are_taken_than_there_are_also_by_many_threads() {
        let seats = Seats::new(100);
        let taken = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..60 {
                        taken.fetch_add(usize::from(seats.take()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), 100);
        seats.give_back();
        assert!(seats.take());
        assert!(!seats.take());
    }

    #[test]
    fn whoever_sits_stays_when_there_are_fewer_seats() {
        let seats = Seats::new(2);
        assert!(seats.take() && seats.take());
        seats.set_bound(1);
        seats.give_back();
        assert!(!seats.take());
        seats.give_back();
        assert!(seats.take());
    }
}
