use std::thread;

use proptest::prelude::*;

use super::*;

const RECORD: u64 = MIN_RECEIVE_LEN as u64;

fn buckets(start: Instant) -> Arc<Buckets> {
    Arc::new(Buckets::new(4, start))
}

fn throttle(buckets: &Arc<Buckets>, cell: usize, bytes_per_s: u64, burst: u64) -> Throttle {
    let bandwidth = Bandwidth { bytes_per_s, burst };
    let toll = Toll { buckets: Arc::clone(buckets), cells: [cell; 2], bandwidth };
    Throttle::new(vec![toll]).expect("a limit holds")
}

/// Moves all that it may at this time.
fn exhaust(throttle: &mut Throttle, now: Instant) -> u64 {
    let mut moved = 0;
    loop {
        match throttle.allowance(true, now) {
            0 => return moved,
            allowance => {
                throttle.moved(allowance, now);
                moved += allowance;
            }
        }
    }
}

#[test]
fn a_short_exchange_passes_without_a_pause_and_a_long_one_at_its_rate() {
    let start = Instant::now();
    let mut throttle = throttle(&buckets(start), 0, 100_000, 1 << 20);
    let burst = exhaust(&mut throttle, start);
    assert!((1 << 20..=(1 << 20) + RECORD).contains(&burst), "{burst}");
    let mut moved = 0;
    let mut now = start;
    while now < start + Duration::from_secs(100) {
        now = throttle.resumes_at().expect("it is held back");
        moved += exhaust(&mut throttle, now);
    }
    assert!((9_900_000..=10_100_000).contains(&moved), "{moved}");
}

#[test]
fn who_is_held_back_wakes_up_once_for_each_portion() {
    let start = Instant::now();
    let mut throttle = throttle(&buckets(start), 0, 1_000_000, 1 << 16);
    exhaust(&mut throttle, start);
    let first = throttle.resumes_at();
    assert_eq!(throttle.allowance(true, start), 0);
    assert_eq!(throttle.resumes_at(), first, "news of its sockets costs it nothing");
    let resumed = throttle.allowance(true, first.expect("it is held back"));
    assert_eq!(resumed, RECORD);
}

#[test]
fn who_has_nothing_to_receive_buys_nothing() {
    let start = Instant::now();
    let buckets = buckets(start);
    let mut busy = throttle(&buckets, 0, 1_000, 1 << 16);
    exhaust(&mut busy, start);
    let mut quiet = throttle(&buckets, 0, 1_000, 1 << 16);
    let before = buckets.full_at[0][0].load(Ordering::Relaxed);
    for _ in 0..10 {
        assert!(quiet.allowance(false, start) > 0);
    }
    assert_eq!(buckets.full_at[0][0].load(Ordering::Relaxed), before);
    assert_eq!(quiet.resumes_at(), None);
}

#[test]
fn another_bucket_is_not_touched_and_the_strictest_of_several_limits_holds() {
    let start = Instant::now();
    let buckets = buckets(start);
    exhaust(&mut throttle(&buckets, 0, 1_000, 1 << 16), start);
    assert!(throttle(&buckets, 1, 1_000, 1 << 16).allowance(true, start) > 0);
    let toll = |cell, bytes_per_s| Toll {
        buckets: Arc::clone(&buckets),
        cells: [cell; 2],
        bandwidth: Bandwidth { bytes_per_s, burst: 1 << 16 },
    };
    let mut both = Throttle::new(vec![toll(2, 1_000_000), toll(0, 1_000)]).expect("limits hold");
    assert_eq!(both.allowance(true, start), 0);
    assert!(both.resumes_at().is_some_and(|at| at > start + Duration::from_secs(10)));
}

#[test]
fn many_that_share_a_bucket_get_the_same_each() {
    let start = Instant::now();
    let buckets = buckets(start);
    let mut sessions: Vec<_> =
        (0..10).map(|_| (throttle(&buckets, 0, 1_000_000, 1 << 16), 0)).collect();
    let mut now = start;
    while now < start + Duration::from_secs(10) {
        // Always in the same order, which favours the first.
        for (throttle, moved) in &mut sessions {
            *moved += exhaust(throttle, now);
        }
        let next = sessions.iter().filter_map(|(throttle, _)| throttle.resumes_at()).min();
        now = next.expect("all are held back");
    }
    let shares: Vec<u64> = sessions.iter().map(|(_, moved)| *moved).collect();
    let sum: u64 = shares.iter().sum();
    assert!((9_800_000..=10_500_000).contains(&sum), "{sum}");
    for share in &shares {
        assert!((900_000..=1_200_000).contains(share), "{shares:?}");
    }
}

#[test]
fn workers_that_pay_at_once_lose_no_payment() {
    let start = Instant::now();
    let buckets = buckets(start);
    let bandwidth = Bandwidth { bytes_per_s: 1_000_000_000, burst: 1 << 16 };
    let pay = || (0..10_000).for_each(|_| buckets.pay([1, 2], 10, bandwidth, start));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(pay);
        }
    });
    for (row, cell) in [(0, 1), (1, 2)] {
        assert_eq!(buckets.full_at[row][cell].load(Ordering::Relaxed), 400_000);
    }
}

proptest! {
    /// Whoever wants to move however much, whenever: in any time no more passes than rate and burst allow, a purchase of each
    /// session that was paid before, and one by which the last to find no debt makes some; and each that is held back goes on in a
    /// bounded time.
    #[test]
    fn no_more_passes_than_the_limit_allows_and_each_gets_on(
        wishes in prop::collection::vec((0..3usize, 1..400_000u64, 0..3_000u64), 1..150),
        bytes_per_s in 1_024..10_000_000u64,
        burst in (1u64 << 16)..(1 << 21),
    ) {
        let start = Instant::now();
        let buckets = buckets(start);
        let mut sessions: Vec<_> =
            (0..3).map(|_| throttle(&buckets, 0, bytes_per_s, burst)).collect();
        let slack = (3 + 1) * sessions[0].tolls[0].bandwidth.purchase();
        let mut now = start;
        let mut passed = Vec::new();
        for (session, wish, ms) in wishes {
            now += Duration::from_millis(ms);
            let throttle = &mut sessions[session];
            let mut left = wish;
            let mut pauses = 0;
            while left > 0 {
                let allowance = throttle.allowance(true, now);
                if allowance == 0 {
                    let resumes_at = throttle.resumes_at();
                    prop_assert!(resumes_at.is_some_and(|resumes_at| resumes_at > now));
                    now = resumes_at.unwrap_or(now);
                    pauses += 1;
                    prop_assert!(pauses <= 2 + wish / RECORD, "each pause is worth a record");
                } else {
                    let len = left.min(allowance);
                    throttle.moved(len, now);
                    passed.push((now, len));
                    left -= len;
                }
            }
        }
        for (first, (since, _)) in passed.iter().enumerate() {
            let mut sum = 0u64;
            for (until, len) in &passed[first..] {
                sum += len;
                let time = (*until - *since).as_nanos();
                let refilled = time * u128::from(bytes_per_s) / 1_000_000_000;
                prop_assert!(u128::from(sum) <= refilled + u128::from(burst + slack) + 1);
            }
        }
    }
}
