use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::SEATS_DIVISOR;

/// Room for sessions at a server, over all workers. The control thread takes a seat for each invitation
/// that it follows, and a worker for each agent that comes over a spare: to ask the control thread for
/// that one would be the wait that spares are there to avoid.
///
/// Of several gateways none gets all the seats: one that was taken over leaves some to the others.
#[derive(Debug)]
pub(super) struct Seats {
    taken: AtomicUsize,
    bound: usize,
    taken_by_gateway: Vec<AtomicUsize>,
    share: usize,
}

impl Seats {
    pub(super) fn new(bound: usize, gateways: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            bound,
            taken_by_gateway: (0..gateways).map(|_| AtomicUsize::new(0)).collect(),
            share: if gateways > 1 { bound - bound / SEATS_DIVISOR } else { bound },
        }
    }

    /// How many a gateway may have.
    pub(super) fn share(&self) -> usize {
        self.share
    }

    /// Takes one for an agent of that gateway, if one is free.
    pub(super) fn take(&self, gateway: usize) -> bool {
        let own = &self.taken_by_gateway[gateway];
        if !increment(own, self.share) {
            return false;
        }
        let taken = increment(&self.taken, self.bound);
        if !taken {
            decrement(own);
        }
        taken
    }

    /// The session that had it has ended.
    pub(super) fn give_back(&self, gateway: usize) {
        decrement(&self.taken);
        decrement(&self.taken_by_gateway[gateway]);
    }
}

fn increment(count: &AtomicUsize, bound: usize) -> bool {
    let one_more = |count| (count < bound).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

fn decrement(count: &AtomicUsize) {
    let before = count.fetch_sub(1, Ordering::Relaxed);
    debug_assert!(before > 0, "what is given back was taken before");
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn no_more_seats_are_taken_than_there_are_also_by_many_threads() {
        let seats = Seats::new(100, 1);
        let taken = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..60 {
                        taken.fetch_add(usize::from(seats.take(0)), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), 100);
        seats.give_back(0);
        assert!(seats.take(0));
        assert!(!seats.take(0));
    }

    #[test]
    fn a_gateway_that_takes_all_that_it_can_get_leaves_a_quarter_to_the_others() {
        let seats = Seats::new(8, 2);
        let taken = |gateway| (0..100).filter(|_| seats.take(gateway)).count();
        assert_eq!((taken(0), taken(1)), (6, 2));
        assert_eq!(seats.share(), 6);
        seats.give_back(1);
        assert!(!seats.take(0), "its share is taken");
        assert!(seats.take(1));
    }
}
