use std::sync::atomic::{AtomicUsize, Ordering};

use super::link::Gateway;
use crate::limits::{SEATS_DIVISOR, SEATS_SLACK_DIVISOR};

/// Room for sessions at a server, over all workers. The control thread takes a seat for each invitation
/// that it follows, and a worker for each agent that comes over a spare: to ask the control thread for
/// that one would be the wait that spares are there to avoid.
///
/// Of several gateways none gets all the seats: one that was taken over leaves some to the others.
#[derive(Debug)]
pub(super) struct Seats {
    taken: AtomicUsize,
    bound: AtomicUsize,
    /// How many of them one gateway may have.
    share: AtomicUsize,
}

impl Seats {
    pub(super) fn new(bound: usize, gateways: usize) -> Self {
        let seats = Self {
            taken: AtomicUsize::new(0),
            bound: AtomicUsize::new(0),
            share: AtomicUsize::new(0),
        };
        seats.set_bound(bound, gateways);
        seats
    }

    /// Another bound, after a reload. Whoever sits stays, also above it.
    pub(super) fn set_bound(&self, bound: usize, gateways: usize) {
        let share = if gateways > 1 { bound - bound / SEATS_DIVISOR } else { bound };
        self.bound.store(bound, Ordering::Relaxed);
        self.share.store(share, Ordering::Relaxed);
    }

    /// How many a gateway may have.
    pub(super) fn share(&self) -> usize {
        self.share.load(Ordering::Relaxed)
    }

    /// How many it is told that it may have.
    pub(super) fn told(&self) -> usize {
        let share = self.share();
        share - share / SEATS_SLACK_DIVISOR
    }

    /// Takes one for an agent of that gateway, if one is free.
    pub(super) fn take(&self, gateway: &Gateway) -> bool {
        if !increment(&gateway.seats_taken, self.share()) {
            return false;
        }
        let taken = increment(&self.taken, self.bound.load(Ordering::Relaxed));
        if !taken {
            decrement(&gateway.seats_taken);
        }
        taken
    }

    /// The session that had it has ended; its gateway may be in the configuration no more.
    pub(super) fn give_back(&self, gateway: Option<&Gateway>) {
        decrement(&self.taken);
        if let Some(gateway) = gateway {
            decrement(&gateway.seats_taken);
        }
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

    fn gateway() -> Gateway {
        let name = "gw.example.com".try_into().expect("a DNS name");
        Gateway { id: 0, address: "gw:13000".into(), name, seats_taken: AtomicUsize::new(0) }
    }

    #[test]
    fn no_more_seats_are_taken_than_there_are_also_by_many_threads() {
        let (seats, gateway) = (Seats::new(100, 1), gateway());
        let taken = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..60 {
                        taken.fetch_add(usize::from(seats.take(&gateway)), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), 100);
        seats.give_back(Some(&gateway));
        assert!(seats.take(&gateway));
        assert!(!seats.take(&gateway));
    }

    #[test]
    fn a_gateway_that_takes_all_that_it_can_get_leaves_a_quarter_to_the_others() {
        let (seats, greedy, other) = (Seats::new(8, 2), gateway(), gateway());
        let taken = |gateway| (0..100).filter(|_| seats.take(gateway)).count();
        assert_eq!((taken(&greedy), taken(&other)), (6, 2));
        assert_eq!(seats.share(), 6);
        seats.give_back(Some(&other));
        assert!(!seats.take(&greedy), "its share is taken");
        assert!(seats.take(&other));
    }

    #[test]
    fn a_gateway_that_keeps_to_what_it_is_told_finds_a_seat_while_one_is_being_given_back() {
        let (seats, gateway) = (Seats::new(100, 1), gateway());
        assert!((0..seats.told()).all(|_| seats.take(&gateway)));
        assert!(seats.take(&gateway), "for an agent that comes after one that has just ended");
    }

    #[test]
    fn whoever_sits_stays_when_there_are_fewer_seats() {
        let (seats, gateway) = (Seats::new(2, 1), gateway());
        assert!(seats.take(&gateway) && seats.take(&gateway));
        seats.set_bound(1, 1);
        seats.give_back(Some(&gateway));
        assert!(!seats.take(&gateway));
        seats.give_back(Some(&gateway));
        assert!(seats.take(&gateway));
    }

    #[test]
    fn seats_of_a_gateway_that_was_taken_out_are_free_for_others() {
        let (seats, gone, other) = (Seats::new(2, 1), gateway(), gateway());
        assert!(seats.take(&gone) && seats.take(&gone) && !seats.take(&other));
        seats.give_back(None);
        assert!(seats.take(&other));
    }
}
