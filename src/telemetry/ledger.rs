//! The ledger: what has ended and why, how long each stage took, and which sessions live.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tracing::info;

use super::log::LineLimiter;
use super::record::{ConnectionRecord, SessionRecord, Stage, Way};
use super::status::{self, Count, Latency, Session, Sessions};
use crate::limits::STRANGER_LINES_PER_SECOND;
use crate::relay::{CloseReason, Party};

/// Longest time that a stage's histogram tells apart; what took longer counts as this.
const LONGEST: Duration = Duration::from_secs(3600);
/// Digits that a histogram keeps: any quantile is right to a thousandth, in 190 KB for each stage.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Sessions on the status page: those that live longest. A page with all of them helps nobody.
const LISTED_SESSIONS: usize = 50;
/// Upper bounds of the exported buckets, in microseconds: 1 ms to a minute, and a handshake's range
/// finer than the rest. The exact quantiles are on the status page.
const BUCKET_BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

/// Takes the end of each session and connection, once. The control thread owns it.
#[derive(Debug)]
pub struct Ledger {
    sessions_ended: BTreeMap<(Arc<str>, CloseReason), u64>,
    connections_ended: BTreeMap<CloseReason, u64>,
    stages: [StageTimes; Stage::ALL.len()],
    live: HashMap<String, LiveSession>,
    max_live: usize,
    strangers: LineLimiter,
    /// Apart from the strangers' lines, so that a flood of those hides nothing about known devices.
    known: LineLimiter,
}

/// A session that was joined and has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSession {
    /// Verified identity of the device, or the address of the agent where it has none.
    pub who: String,
    /// Name of the service.
    pub service: Arc<str>,
    /// When it was joined.
    pub since: Instant,
}

impl Ledger {
    /// An empty ledger. `max_live` bounds the list of live sessions: as many as there can be.
    pub fn new(max_live: usize) -> Self {
        Self {
            sessions_ended: BTreeMap::new(),
            connections_ended: BTreeMap::new(),
            stages: std::array::from_fn(|_| StageTimes::new()),
            live: HashMap::new(),
            max_live,
            strangers: LineLimiter::new(STRANGER_LINES_PER_SECOND),
            known: LineLimiter::new(STRANGER_LINES_PER_SECOND),
        }
    }

    /// Lists a session as live until its record comes. `session` is the name in that record.
    pub fn session_joined(&mut self, session: String, live: LiveSession) {
        if self.live.len() < self.max_live {
            self.live.insert(session, live);
        }
    }

    /// Takes the end of a session, and logs it.
    pub fn session_ended(&mut self, record: &SessionRecord) {
        self.live.remove(&record.session);
        *self.sessions_ended.entry((Arc::clone(&record.service), record.reason)).or_default() += 1;
        for stage in Stage::ALL {
            if let Some(took) = record.stages.get(stage) {
                self.stages[stage as usize].note(took);
            }
        }
        log_session(record);
    }

    /// Takes the end of a connection that became no session, and logs it within the bound on lines
    /// that peers can cause.
    pub fn connection_ended(&mut self, record: &ConnectionRecord, now: Instant) {
        *self.connections_ended.entry(record.reason).or_default() += 1;
        let limiter = if record.identity.is_some() { &mut self.known } else { &mut self.strangers };
        if limiter.allow(now) {
            log_connection(record);
        }
    }

    /// Logs what was suppressed, at most once a second. To be called about as often.
    pub fn tick(&mut self, now: Instant) {
        if let Some(lines) = self.strangers.summary(now) {
            info!(lines, "suppressed lines about strangers");
        }
        if let Some(lines) = self.known.summary(now) {
            info!(lines, "suppressed lines about known peers that got no session");
        }
    }

    /// The numbers for the metrics.
    pub fn figures(&self) -> Figures {
        let sessions_ended = self.sessions_ended.iter();
        Figures {
            sessions_ended: sessions_ended
                .map(|((service, reason), &count)| (Arc::clone(service), *reason, count))
                .collect(),
            connections_ended: self
                .connections_ended
                .iter()
                .map(|(&r, &count)| (r, count))
                .collect(),
            stages: Stage::ALL.map(|stage| self.stages[stage as usize].figures(stage)),
        }
    }

    /// The live sessions, the oldest first and at most fifty of them, for the status page.
    pub fn sessions(&self, now: Instant) -> Sessions {
        let mut oldest: Vec<&LiveSession> = self.live.values().collect();
        if oldest.len() > LISTED_SESSIONS {
            oldest.select_nth_unstable_by_key(LISTED_SESSIONS, |live| live.since);
            oldest.truncate(LISTED_SESSIONS);
        }
        oldest.sort_by_key(|live| live.since);
        Sessions {
            live: self.live.len() as u64,
            oldest: oldest.into_iter().map(|live| listed(live, now)).collect(),
        }
    }

    /// What ended, by reason, the most frequent first, for the status page.
    pub fn ended(&self) -> status::Ended {
        let mut sessions: BTreeMap<&'static str, u64> = BTreeMap::new();
        for ((_, reason), count) in &self.sessions_ended {
            *sessions.entry(reason.word()).or_default() += count;
        }
        status::Ended {
            sessions: most_frequent_first(sessions.into_iter()),
            connections: most_frequent_first(
                self.connections_ended.iter().map(|(reason, &count)| (reason.word(), count)),
            ),
        }
    }

    /// Quantiles of every stage that was seen, for the status page.
    pub fn latencies(&self) -> Vec<Latency> {
        let seen = Stage::ALL.into_iter().zip(&self.stages);
        seen.filter(|(_, times)| !times.histogram.is_empty())
            .map(|(stage, times)| Latency {
                stage: stage.word().to_owned(),
                count: times.histogram.len(),
                p50_us: times.histogram.value_at_quantile(0.5),
                p99_us: times.histogram.value_at_quantile(0.99),
                max_us: times.histogram.max(),
            })
            .collect()
    }
}

/// The numbers of a ledger, for the metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// By service and reason.
    pub sessions_ended: Vec<(Arc<str>, CloseReason, u64)>,
    /// By reason.
    pub connections_ended: Vec<(CloseReason, u64)>,
    /// One for each stage.
    pub stages: [StageFigures; Stage::ALL.len()],
}

/// The times of one stage, in buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct StageFigures {
    /// Which one.
    pub stage: Stage,
    /// Times noted.
    pub count: u64,
    /// All of them together, in seconds.
    pub sum_s: f64,
    /// Upper bound in seconds, and how many lie above the bound before it and not above this one. The
    /// last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
}

#[derive(Debug)]
struct StageTimes {
    /// In microseconds.
    histogram: Histogram<u64>,
    sum: Duration,
}

impl StageTimes {
    fn new() -> Self {
        let longest_us = micros(LONGEST);
        let histogram = Histogram::new_with_bounds(1, longest_us, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that hdrhistogram takes");
        Self { histogram, sum: Duration::ZERO }
    }

    fn note(&mut self, took: Duration) {
        self.histogram.saturating_record(micros(took));
        self.sum += took.min(LONGEST);
    }

    fn figures(&self, stage: Stage) -> StageFigures {
        let mut counts = [0; BUCKET_BOUNDS_US.len() + 1];
        for value in self.histogram.iter_recorded() {
            let bucket =
                BUCKET_BOUNDS_US.partition_point(|&bound| bound < value.value_iterated_to());
            counts[bucket] += value.count_at_value();
        }
        let bounds = BUCKET_BOUNDS_US.iter().map(|&us| Duration::from_micros(us).as_secs_f64());
        StageFigures {
            stage,
            count: self.histogram.len(),
            sum_s: self.sum.as_secs_f64(),
            buckets: bounds.chain([f64::INFINITY]).zip(counts).collect(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn listed(live: &LiveSession, now: Instant) -> Session {
    Session {
        who: live.who.clone(),
        service: live.service.to_string(),
        age_s: now.saturating_duration_since(live.since).as_secs(),
    }
}

fn most_frequent_first(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<Count> {
    let mut counts: Vec<Count> =
        counts.map(|(reason, count)| Count { reason: reason.to_owned(), count }).collect();
    counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reason.cmp(&b.reason)));
    counts
}

/// Names that a peer chose are given as values, which the log quotes, and never as text.
fn log_session(record: &SessionRecord) {
    let (listener, server, gateway, backend) = match &record.way {
        Way::Gateway { listener, server } => (Some(&**listener), Some(&**server), None, None),
        Way::Server { gateway, backend } => (None, None, Some(&**gateway), Some(&**backend)),
    };
    let ms = |stage| record.stages.get(stage).map(milliseconds);
    info!(
        session = record.session,
        service = &*record.service,
        device = record.device.as_deref(),
        agent = %record.agent,
        listener,
        server,
        gateway,
        backend,
        worker = record.worker,
        bytes_to_server = record.bytes_to_server,
        bytes_to_agent = record.bytes_to_agent,
        accept_to_hello_ms = ms(Stage::AcceptToHello),
        handshake_ms = ms(Stage::Handshake),
        admission_to_invitation_ms = ms(Stage::AdmissionToInvitation),
        invitation_to_claim_ms = ms(Stage::InvitationToClaim),
        claim_to_joined_ms = ms(Stage::ClaimToJoined),
        accept_to_joined_ms = ms(Stage::AcceptToJoined),
        duration_ms = milliseconds(record.duration),
        reason = record.reason.word(),
        "session ended"
    );
}

fn log_connection(record: &ConnectionRecord) {
    let (role, name) = match &record.identity {
        Some((party, name)) => (Some(party_word(*party)), Some(&**name)),
        None => (None, None),
    };
    info!(
        peer = %record.peer,
        role,
        name,
        place = &*record.place,
        service = record.service.as_deref(),
        duration_ms = milliseconds(record.duration),
        reason = record.reason.word(),
        "connection ended"
    );
}

const fn party_word(party: Party) -> &'static str {
    match party {
        Party::Agent => "agent",
        Party::Server => "server",
        Party::Gateway => "gateway",
        Party::Backend => "backend",
        Party::Local => "local",
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
