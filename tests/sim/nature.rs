//! What surrounds every process of a world: time, chance, the network, and the books of the checks.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use vestibule::control::Event;
use vestibule::wire::Claim;
use vestibule::wire::alpn::Hint;

use super::checks::Checks;
use super::network::{ConnectionId, Cut, End, Network, Packet};
use super::planted::Planted;
use super::random::Random;
use super::server::Order;

/// Claims that leaked to whoever is hostile: enough for a replay long after.
const LEAKED: usize = 40;
/// Events that a failure shows.
const JOURNAL_LEN: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProcessId {
    Gateway(usize),
    Server(usize),
    Agent(usize),
    /// All backends: they are what sound servers deliver to, and never die.
    Backends,
}

/// What may happen next. `life` counts the starts of a process: what belonged to an earlier one is
/// gone with it.
#[derive(Debug)]
pub(super) enum Occurrence {
    /// A connection that was dialled reaches the other host.
    Knock(ConnectionId),
    /// Whoever dialled hears whether it is through.
    Dialed(ConnectionId, bool),
    Packet(ConnectionId, End, Packet),
    /// A process looks at what its kernel has for it.
    News(ConnectionId, End),
    /// A worker's mail reaches its control thread.
    ControlMail {
        gateway: usize,
        life: u32,
        event: Event,
    },
    /// A worker gets to read its mail.
    WorkerTurn {
        gateway: usize,
        life: u32,
        worker: u32,
    },
    /// A signal connection reaches the control thread.
    SignalOpened {
        gateway: usize,
        life: u32,
        connection: ConnectionId,
    },
    /// A server opens a data connection.
    Follow {
        server: usize,
        life: u32,
        order: Order,
    },
    /// A deadline of that process may have come.
    Wake(ProcessId),
    /// A program that paused goes on, or whoever is hostile has an idea.
    Act(ProcessId, ConnectionId),
    Arrive(usize),
    Leave(usize),
    Fault,
    Cut(ConnectionId, Cut),
    Start(ProcessId),
    Resume(ProcessId),
}

/// Mail of one sender to one receiver: it keeps its order, and mail of others overtakes it freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) gateway: usize,
    pub(super) worker: u32,
}

/// A claim that whoever is hostile may repeat, and where it belongs.
#[derive(Debug, Clone)]
pub(super) struct Leaked {
    pub(super) gateway: usize,
    pub(super) hint: Hint,
    pub(super) claim: Claim,
}

pub(super) struct Nature {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) network: Network,
    pub(super) checks: Checks,
    pub(super) planted: Option<Planted>,
    /// Nothing goes wrong any more.
    pub(super) calm: bool,
    pub(super) leaked: VecDeque<Leaked>,
    calendar: BTreeMap<(Instant, u64), Occurrence>,
    scheduled: u64,
    ways: BTreeMap<Way, Instant>,
    journal: Option<VecDeque<String>>,
}

impl Nature {
    pub(super) fn new(mut random: Random, planted: Option<Planted>, with_journal: bool) -> Self {
        // The one look at the clock: an `Instant` has no other source, and only differences count.
        let start = Instant::now();
        Self {
            start,
            now: start,
            network: Network::new(&mut random),
            random,
            checks: Checks::default(),
            planted,
            calm: false,
            leaked: VecDeque::new(),
            calendar: BTreeMap::new(),
            scheduled: 0,
            ways: BTreeMap::new(),
            journal: with_journal.then(VecDeque::new),
        }
    }

    pub(super) fn has_planted(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    pub(super) fn at(&mut self, due: Instant, occurrence: Occurrence) {
        self.scheduled += 1;
        self.calendar.insert((due.max(self.now), self.scheduled), occurrence);
    }

    pub(super) fn after(&mut self, least: Duration, jitter_ms: u64, occurrence: Occurrence) {
        let due = self.now + least + self.random.millis(jitter_ms);
        self.at(due, occurrence);
    }

    pub(super) fn mail(&mut self, way: Way, occurrence: Occurrence) {
        // Now and then the reader is busy.
        let within_ms = if self.random.percent(10) { 300 } else { 20 };
        let arrival = self.now + self.random.millis(within_ms);
        let arrival = self.ways.get(&way).map_or(arrival, |last| arrival.max(*last));
        self.ways.insert(way, arrival);
        self.at(arrival, occurrence);
    }

    /// What happens next, if that is before `end`. It is `now` then.
    pub(super) fn next(&mut self, end: Instant) -> Option<Occurrence> {
        let entry = self.calendar.first_entry().filter(|entry| entry.key().0 <= end)?;
        self.now = entry.key().0;
        Some(entry.remove())
    }

    pub(super) fn leak(&mut self, leaked: Leaked) {
        self.leaked.push_back(leaked);
        if self.leaked.len() > LEAKED {
            self.leaked.pop_front();
        }
    }

    pub(super) fn any_leaked(&mut self) -> Option<Leaked> {
        let len = self.leaked.len();
        (len > 0).then(|| self.leaked[self.random.below(len)].clone())
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(journal) = &mut self.journal {
            let at = self.now - self.start;
            journal.push_back(format!("{at:>14?}  {}", what()));
            if journal.len() > JOURNAL_LEN {
                journal.pop_front();
            }
        }
    }

    pub(super) fn journal(&self) -> String {
        let mut text = String::new();
        for line in self.journal.iter().flatten() {
            text.push_str("  ");
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// A clock of one host: it was set wrongly, and is slower than that of the world, so that it shows
/// every nanosecond, and some are faster than others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    ahead: Duration,
    /// Of its ticks in a million of the world's.
    rate: u64,
}

const MILLION: u64 = 1_000_000;

impl Clock {
    pub(super) fn new(start: Instant, random: &mut Random) -> Self {
        let rate = *random.pick(&[MILLION, MILLION, 999_900, 995_000, 990_000]);
        Self { start, ahead: random.millis(10_000_000), rate }
    }

    pub(super) fn read(&self, now: Instant) -> Instant {
        let passed = u64::try_from((now - self.start).as_nanos()).expect("minutes");
        self.start + self.ahead + Duration::from_nanos(passed * self.rate / MILLION)
    }

    /// The first moment at which this clock shows `local`.
    pub(super) fn when(&self, local: Instant) -> Instant {
        let shown = local.saturating_duration_since(self.start + self.ahead).as_nanos();
        let shown = u64::try_from(shown).expect("minutes");
        self.start + Duration::from_nanos((shown * MILLION).div_ceil(self.rate))
    }
}
