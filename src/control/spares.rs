use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::limits::{SPARE_ASK_TIMEOUT, SPARE_FIRST_REFILL, SPARE_PAUSE, SPARE_RATE_WINDOW};

/// The spares of one signal connection: data connections that its server opened ahead of need. An id
/// is that of the invitation which asked for the spare.
#[derive(Debug)]
pub(super) struct Spares {
    /// How many the server will hold.
    bound: usize,
    workers: BTreeMap<u32, AtWorker>,
    /// Time from asking for a spare until it is there, smoothed. It holds the round trips, the
    /// handshakes and the work at both ends; a ping would tell of the first alone.
    refill: Duration,
    /// None is asked for before this.
    paused_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct AtWorker {
    /// Asked for, and when.
    asked: BTreeMap<u64, Instant>,
    /// Claimed; they wait for an agent.
    ready: BTreeSet<u64>,
    demand: Demand,
}

impl Spares {
    pub(super) fn new(bound: u32) -> Self {
        Self {
            bound: usize::try_from(bound).unwrap_or(usize::MAX),
            workers: BTreeMap::new(),
            refill: SPARE_FIRST_REFILL,
            paused_until: None,
        }
    }

    /// The server will hold another number. What is above it is used or ages.
    pub(super) fn set_bound(&mut self, bound: u32) {
        self.bound = usize::try_from(bound).unwrap_or(usize::MAX);
    }

    /// An agent of that worker goes to this server, over a spare or not.
    pub(super) fn note_agent(&mut self, worker: u32, now: Instant) {
        if self.bound > 0 {
            self.workers.entry(worker).or_default().demand.note(now);
        }
    }

    /// How many to ask for now, to have as many as the agents of that worker need.
    pub(super) fn missing(&self, worker: u32, life: Duration, now: Instant) -> usize {
        let paused = self.paused_until.is_some_and(|until| now < until);
        let Some(at) = self.workers.get(&worker).filter(|_| !paused) else { return 0 };
        let wanted = at.demand.spares(self.refill, life, now);
        let room = self.bound.saturating_sub(self.workers.values().map(AtWorker::held).sum());
        wanted.saturating_sub(at.held()).min(room)
    }

    /// Those at one worker, asked for or there.
    pub(super) fn held(&self, worker: u32) -> usize {
        self.workers.get(&worker).map_or(0, AtWorker::held)
    }

    /// Those that wait for an agent.
    pub(super) fn ready_len(&self) -> usize {
        self.workers.values().map(|at| at.ready.len()).sum()
    }

    pub(super) fn ask(&mut self, id: u64, worker: u32, now: Instant) {
        self.workers.entry(worker).or_default().asked.insert(id, now);
    }

    /// One that was asked for is there.
    pub(super) fn note_ready(&mut self, id: u64, now: Instant) {
        for at in self.workers.values_mut() {
            if let Some(asked) = at.asked.remove(&id) {
                at.ready.insert(id);
                // As TCP does for its round trips (RFC 6298).
                self.refill = (self.refill * 7 + (now - asked)) / 8;
            }
        }
    }

    /// Gives one out: the oldest, so that each is used before it ages.
    pub(super) fn take(&mut self, worker: u32) -> Option<u64> {
        self.workers.get_mut(&worker)?.ready.pop_first()
    }

    /// Forgets one. Returns its worker.
    pub(super) fn remove(&mut self, id: u64) -> Option<u32> {
        let mut workers = self.workers.iter_mut();
        workers.find_map(|(worker, at)| at.remove(id).then_some(*worker))
    }

    /// Forgets all, and returns each with its worker.
    pub(super) fn take_all(&mut self) -> Vec<(u64, u32)> {
        let mut all = Vec::new();
        for (worker, at) in &mut self.workers {
            let asked = std::mem::take(&mut at.asked).into_keys();
            let ids = asked.chain(std::mem::take(&mut at.ready));
            all.extend(ids.map(|id| (id, *worker)));
        }
        all
    }

    /// Forgets those that did not come in time, and returns each with its worker.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<(u64, u32)> {
        let mut late = Vec::new();
        for (worker, at) in &mut self.workers {
            at.asked.retain(|id, asked| {
                let in_time = now < *asked + SPARE_ASK_TIMEOUT;
                if !in_time {
                    late.push((*id, *worker));
                }
                in_time
            });
        }
        late
    }

    /// When one that was asked for is late.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let asked = self.workers.values().flat_map(|at| at.asked.values());
        asked.min().map(|asked| *asked + SPARE_ASK_TIMEOUT)
    }

    /// Asks for none for a while.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + SPARE_PAUSE);
    }
}

impl AtWorker {
    fn held(&self) -> usize {
        self.asked.len() + self.ready.len()
    }

    fn remove(&mut self, id: u64) -> bool {
        self.asked.remove(&id).is_some() || self.ready.remove(&id)
    }
}

/// How often agents of one worker come to one server.
#[derive(Debug, Default)]
struct Demand {
    last: Option<Instant>,
    before_last: Option<Instant>,
    /// Agents a second when the last one came: each counts less as it ages.
    rate: f64,
}

impl Demand {
    fn note(&mut self, now: Instant) {
        self.rate = self.rate_at(now) + 1.0 / SPARE_RATE_WINDOW.as_secs_f64();
        self.before_last = self.last.replace(now);
    }

    fn rate_at(&self, now: Instant) -> f64 {
        let age = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.rate * (-age.as_secs_f64() / SPARE_RATE_WINDOW.as_secs_f64()).exp()
    }

    /// None where two agents did not come within the life of a spare: it would die unused as often as
    /// not. Else as many as come while one is refilled: in a Poisson process of that mean, more come
    /// than twice the root above it in about one case of forty. And one for those who come rarely.
    fn spares(&self, refill: Duration, life: Duration, now: Instant) -> usize {
        if self.before_last.is_none_or(|before_last| before_last + life <= now) {
            return 0;
        }
        let mean = self.rate_at(now) * refill.as_secs_f64();
        // A float that is too large becomes the largest number; bounds are the caller's.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let enough = (mean + 2.0 * mean.sqrt()).ceil() as usize;
        enough.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(120);

    /// Notes agents of worker 0 at that interval, for a minute, and returns the time.
    fn rush(spares: &mut Spares, interval: Duration) -> Instant {
        let start = Instant::now();
        let mut now = start;
        while now < start + Duration::from_secs(60) {
            spares.note_agent(0, now);
            now += interval;
        }
        now
    }

    #[test]
    fn a_lone_agent_leaves_no_spare_behind() {
        let mut spares = Spares::new(100);
        let mut now = Instant::now();
        for _ in 0..3 {
            spares.note_agent(0, now);
            assert_eq!(spares.missing(0, LIFE, now), 0);
            now += LIFE;
        }
    }

    #[test]
    fn the_more_agents_come_and_the_farther_the_server_the_more_spares() {
        let mut counts = Vec::new();
        for (interval_ms, refill_ms) in [(5_000, 20), (100, 20), (100, 800), (10, 800)] {
            let mut spares = Spares::new(10_000);
            spares.refill = Duration::from_millis(refill_ms);
            let now = rush(&mut spares, Duration::from_millis(interval_ms));
            counts.push(spares.missing(0, LIFE, now));
        }
        // Means while one is refilled: 0.004, 0.2, 8, 80.
        assert!(counts.is_sorted() && (2..=3).contains(&counts[0]), "{counts:?}");
        assert!((13..=16).contains(&counts[2]) && (95..=105).contains(&counts[3]), "{counts:?}");
    }

    #[test]
    fn none_are_wanted_when_no_agent_came_for_the_life_of_one() {
        let mut spares = Spares::new(100);
        let now = rush(&mut spares, Duration::from_millis(20));
        assert!(spares.missing(0, LIFE, now) > 0);
        assert_eq!(spares.missing(0, LIFE, now + LIFE), 0);
    }

    #[test]
    fn what_is_asked_for_and_what_is_there_is_not_asked_for_again() {
        let mut spares = Spares::new(100);
        let now = rush(&mut spares, Duration::from_millis(20));
        let wanted = spares.missing(0, LIFE, now);
        for id in 0..wanted as u64 {
            spares.ask(id, 0, now);
        }
        spares.note_ready(0, now + SPARE_FIRST_REFILL);
        assert_eq!(spares.missing(0, LIFE, now), 0);
        assert_eq!((spares.take(0), spares.take(0)), (Some(0), None), "the others are not there");
        assert_eq!(spares.missing(0, LIFE, now), 1);
    }

    #[test]
    fn a_server_is_not_asked_for_more_than_it_will_hold_over_all_workers() {
        let mut spares = Spares::new(3);
        let now = rush(&mut spares, Duration::from_millis(20));
        spares.note_agent(1, now);
        spares.note_agent(1, now);
        spares.ask(7, 1, now);
        assert_eq!(spares.missing(0, LIFE, now), 2);
        let mut none = Spares::new(0);
        let now = rush(&mut none, Duration::from_millis(20));
        assert_eq!(none.missing(0, LIFE, now), 0);
    }

    #[test]
    fn a_spare_that_does_not_come_is_forgotten_in_time() {
        let mut spares = Spares::new(3);
        let now = Instant::now();
        spares.ask(7, 2, now);
        let due = spares.next_timeout().expect("one is asked for");
        assert_eq!(spares.take_late(now), []);
        assert_eq!(spares.take_late(due), [(7, 2)]);
        assert_eq!((spares.next_timeout(), spares.held(2)), (None, 0));
    }

    #[test]
    fn after_a_pause_spares_are_asked_for_again() {
        let mut spares = Spares::new(3);
        let now = rush(&mut spares, Duration::from_millis(20));
        spares.pause(now);
        assert_eq!(spares.missing(0, LIFE, now), 0);
        assert_eq!(spares.missing(0, LIFE, now + SPARE_PAUSE), 3);
    }

    #[test]
    fn the_time_of_a_refill_is_learned() {
        let mut spares = Spares::new(3);
        let mut now = Instant::now();
        for id in 0..40 {
            spares.ask(id, 0, now);
            now += Duration::from_millis(30);
            spares.note_ready(id, now);
            spares.take(0);
        }
        assert!((29..=35).contains(&spares.refill.as_millis()), "{:?}", spares.refill);
    }
}
