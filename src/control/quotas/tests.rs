use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const OPEN: SessionQuota = SessionQuota { max_sessions: None, rate: None };

fn at_most(sessions: usize) -> SessionQuota {
    SessionQuota { max_sessions: Some(sessions), rate: None }
}

fn at_rate(per_s: u32, burst: u32) -> SessionQuota {
    SessionQuota { max_sessions: None, rate: Some(SessionRate { per_s, burst }) }
}

fn quotas() -> Quotas {
    let mut quotas = Quotas::default();
    quotas.grow(3);
    quotas
}

fn request(device: &str) -> Request {
    Request { service: 0, device: Some(device.into()) }
}

#[test]
fn a_device_at_its_bound_is_refused_and_another_is_not() {
    let now = Instant::now();
    let mut quotas = quotas();
    let mut admit = |device| quotas.admit(&request(device), at_most(2), OPEN, now);
    assert_eq!((admit("a"), admit("a")), (Ok(()), Ok(())));
    assert_eq!(admit("a"), Err(RefusalReason::DeviceFull));
    assert_eq!(admit("b"), Ok(()));
    quotas.release(&request("a"), now);
    assert_eq!(quotas.admit(&request("a"), at_most(2), OPEN, now), Ok(()));
}

#[test]
fn a_service_at_its_bound_is_refused_to_all_and_another_is_not() {
    let now = Instant::now();
    let mut quotas = quotas();
    let anonymous = |service| Request { service, device: None };
    assert_eq!(quotas.admit(&anonymous(0), at_most(0), at_most(1), now), Ok(()));
    let full = Err(RefusalReason::ServiceFull);
    assert_eq!(quotas.admit(&anonymous(0), OPEN, at_most(1), now), full);
    assert_eq!(quotas.admit(&request("a"), OPEN, at_most(1), now), full);
    assert_eq!(quotas.admit(&anonymous(1), OPEN, at_most(1), now), Ok(()));
}

#[test]
fn a_burst_of_sessions_is_allowed_and_then_the_rate_however_short_they_are() {
    let start = Instant::now();
    let mut quotas = quotas();
    let mut begun = |now| {
        let one = |_: &u32| {
            let admitted = quotas.admit(&request("a"), at_rate(2, 5), OPEN, now).is_ok();
            if admitted {
                quotas.release(&request("a"), now);
            }
            admitted
        };
        (0..100).filter(one).count()
    };
    assert_eq!(begun(start), 5);
    assert_eq!(begun(start + Duration::from_secs(1)), 2);
    assert_eq!(begun(start + Duration::from_secs(3600)), 5, "no more than a burst is saved");
    let too_fast = Err(RefusalReason::ServiceTooFast);
    let now = start;
    assert_eq!(quotas.admit(&request("b"), OPEN, at_rate(1, 1), now), Ok(()));
    assert_eq!(quotas.admit(&request("c"), OPEN, at_rate(1, 1), now), too_fast);
}

#[test]
fn devices_that_come_and_go_leave_nothing_behind_for_long() {
    let start = Instant::now();
    let mut quotas = quotas();
    let many = MAX_RESTING_DEVICES + 100;
    for number in 0..many {
        let request = request(&number.to_string());
        assert_eq!(quotas.admit(&request, at_rate(1, 10), OPEN, start), Ok(()));
        quotas.release(&request, start);
        assert!(quotas.devices.len() <= MAX_RESTING_DEVICES);
    }
    let later = start + Duration::from_secs(60);
    for _ in 0..many.div_ceil(RESTED_DEVICES_PER_ADMISSION) {
        quotas.admit(&request("late"), OPEN, OPEN, later).expect("no bound");
        quotas.release(&request("late"), later);
    }
    assert_eq!((quotas.devices.len(), quotas.resting.len()), (0, 0));
}

#[test]
fn a_claim_counts_until_it_is_released_and_also_one_that_crossed_with_a_refusal() {
    let now = Instant::now();
    let mut quotas = quotas();
    quotas.admit(&request("a"), at_most(1), OPEN, now).expect("the first");
    quotas.claim(7, request("a"), now);
    quotas.claim_again(8, request("a"), now);
    let full = Err(RefusalReason::DeviceFull);
    quotas.release_claim(7, now);
    assert_eq!(quotas.admit(&request("a"), at_most(1), OPEN, now), full);
    quotas.release_claim(8, now);
    quotas.release_claim(8, now);
    assert_eq!(quotas.admit(&request("a"), at_most(1), OPEN, now), Ok(()));
}

/// A device, whether it begins or ends a session, and the milliseconds before that.
fn steps() -> impl Strategy<Value = Vec<(u8, bool, u16)>> {
    prop::collection::vec((0..4u8, any::<bool>(), 0..400u16), 0..200)
}

proptest! {
    /// Whatever comes and goes: nobody has more than its bound, none begins more in any time than rate
    /// and burst allow, a refused one had reached its bound, and what is kept is what is there.
    #[test]
    fn bounds_hold_in_every_order_of_events(
        steps in steps(),
        max in 1..5usize,
        per_s in 1..20u32,
        burst in 1..6u32,
    ) {
        let mut now = Instant::now();
        let mut quotas = quotas();
        let quota = SessionQuota { rate: Some(SessionRate { per_s, burst }), ..at_most(max) };
        let mut live = BTreeMap::<u8, usize>::new();
        let mut begun = BTreeMap::<u8, Vec<Instant>>::new();
        for (device, begins, ms) in steps {
            now += Duration::from_millis(ms.into());
            let held = live.entry(device).or_default();
            let request = request(&device.to_string());
            if begins {
                match quotas.admit(&request, quota, OPEN, now) {
                    Ok(()) => {
                        *held += 1;
                        begun.entry(device).or_default().push(now);
                    }
                    Err(RefusalReason::DeviceFull) => prop_assert_eq!(*held, max),
                    Err(reason) => prop_assert_eq!(reason, RefusalReason::DeviceTooFast),
                }
            } else if *held > 0 {
                *held -= 1;
                quotas.release(&request, now);
            }
            prop_assert!(*held <= max);
        }
        for times in begun.values() {
            for (first, since) in times.iter().enumerate() {
                for (until, number) in times[first..].iter().zip(1u128..) {
                    let refilled = (*until - *since).as_nanos() * u128::from(per_s) / 1_000_000_000;
                    // A token may be back a few nanoseconds early.
                    prop_assert!(number <= u128::from(burst) + refilled + 1);
                }
            }
        }
        prop_assert_eq!(quotas.services[0].sessions, live.values().sum::<usize>());
        let kept = live.values().filter(|held| **held > 0).count() + quotas.resting.len();
        prop_assert_eq!(quotas.devices.len(), kept);
    }
}
