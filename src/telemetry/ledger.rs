//! The ledger: what has ended and why, how long each stage took, and which sessions live.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use super::log::LineLimiter;
use super::record::{ConnectionRecord, SessionRecord, Stage, Way};
use super::stage_times::StageTimes;
use super::status::{self, Count, Latency, Session, Sessions};
use crate::limits::{LISTED_SESSIONS, STRANGER_LINES_PER_SECOND};
use crate::relay::{CloseReason, DataPath, Party};
use crate::tls::Identity;

pub use super::stage_times::StageFigures;

/// Takes the end of each session and connection, once. The control thread owns it.
#[derive(Debug)]
pub struct Ledger {
    sessions_ended: BTreeMap<(Arc<str>, CloseReason), u64>,
    paths: BTreeMap<DataPath, u64>,
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
    /// Verified identity of the device, where it has one.
    pub device: Option<Arc<str>>,
    /// All names of the device, where it has several.
    pub aliases: Option<Box<Identity>>,
    /// Address of the agent.
    pub agent: SocketAddr,
    /// Name of the server, or at a server of the gateway.
    pub peer: Arc<str>,
    /// Name of the service.
    pub service: Arc<str>,
    /// How its bytes go.
    pub path: DataPath,
    /// When it was joined.
    pub since: Instant,
}

impl Ledger {
    /// An empty ledger. `max_live` bounds the list of live sessions: as many as there can be.
    pub fn new(max_live: usize) -> Self {
        Self {
            sessions_ended: BTreeMap::new(),
            paths: BTreeMap::new(),
            connections_ended: BTreeMap::new(),
            stages: std::array::from_fn(|_| StageTimes::new()),
            live: HashMap::new(),
            max_live,
            strangers: LineLimiter::new(STRANGER_LINES_PER_SECOND),
            known: LineLimiter::new(STRANGER_LINES_PER_SECOND),
        }
    }

    /// Another bound on the list of live sessions, after a reload.
    pub fn set_max_live(&mut self, max_live: usize) {
        self.max_live = max_live;
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
        *self.paths.entry(record.path).or_default() += 1;
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

    /// Takes the ends of connections that were closed at accept, all for the reason of the first of them.
    pub fn turned_away(&mut self, first: &ConnectionRecord, count: u64, now: Instant) {
        *self.connections_ended.entry(first.reason).or_default() += count;
        if self.strangers.allow(now) {
            let (peer, place, reason) = (first.peer, &*first.place, first.reason.word());
            info!(count, %peer, place, reason, "connections turned away, the first from this peer");
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
            paths: self.paths.iter().map(|(&path, &count)| (path, count)).collect(),
            connections_ended: self
                .connections_ended
                .iter()
                .map(|(&r, &count)| (r, count))
                .collect(),
            stages: Stage::ALL.map(|stage| self.stages[stage as usize].figures(stage)),
        }
    }

    /// Every live session, by its name.
    pub fn live(&self) -> impl Iterator<Item = (&str, &LiveSession)> {
        self.live.iter().map(|(session, live)| (session.as_str(), live))
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
        seen.filter_map(|(stage, times)| times.latency(stage)).collect()
    }
}

/// The numbers of a ledger, for the metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// By service and reason.
    pub sessions_ended: Vec<(Arc<str>, CloseReason, u64)>,
    /// Sessions that ended, by how their bytes went.
    pub paths: Vec<(DataPath, u64)>,
    /// By reason.
    pub connections_ended: Vec<(CloseReason, u64)>,
    /// One for each stage.
    pub stages: [StageFigures; Stage::ALL.len()],
}

fn listed(live: &LiveSession, now: Instant) -> Session {
    Session {
        who: live.device.as_deref().map_or_else(|| live.agent.to_string(), str::to_owned),
        service: live.service.to_string(),
        path: live.path.word().to_owned(),
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
        path = record.path.word(),
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

/// Whole microseconds, so that the number has three decimals at most.
fn milliseconds(duration: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 years")]
    let micros = duration.as_micros() as f64;
    micros / 1e3
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::super::record::sample;
    use super::*;

    /// What `act` logs, in the form that `json` names.
    fn logged(json: bool, act: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("not poisoned").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        if json {
            tracing::subscriber::with_default(log.json().flatten_event(true).finish(), act);
        } else {
            tracing::subscriber::with_default(log.finish(), act);
        }
        let bytes = lines.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("the log is UTF-8")
    }

    fn connection(identity: Option<(Party, Arc<str>)>, reason: CloseReason) -> ConnectionRecord {
        ConnectionRecord {
            peer: SocketAddr::from(([192, 0, 2, 9], 40_000)),
            identity,
            place: "agents".into(),
            service: None,
            duration: Duration::from_millis(7),
            reason,
        }
    }

    fn live(who: &str, since: Instant) -> LiveSession {
        LiveSession {
            device: Some(who.into()),
            aliases: None,
            agent: SocketAddr::from(([192, 0, 2, 9], 40_000)),
            service: "web".into(),
            peer: "server-1.lan".into(),
            path: DataPath::Tls,
            since,
        }
    }

    #[test]
    fn a_session_leaves_one_line_with_who_what_and_why() {
        let text = logged(true, || Ledger::new(1).session_ended(&sample("s-1")));
        let line: serde_json::Value = serde_json::from_str(&text).expect("one object");
        let expected = [
            ("session", "s-1"),
            ("service", "web"),
            ("device", "dns:laptop-7.example.com"),
            ("agent", "192.0.2.7:50000"),
            ("listener", "agents"),
            ("server", "server-1.lan"),
            ("reason", "finished"),
        ];
        for (key, value) in expected {
            assert_eq!(line[key], value, "{key}");
        }
        assert_eq!(line["bytes_to_server"], 1_500);
        assert_eq!(line["bytes_to_agent"], 64_000);
        assert_eq!(line["handshake_ms"], 1.25);
        assert_eq!(line["accept_to_joined_ms"], 8.0);
        assert_eq!(line["duration_ms"], 3_000.0);
        assert!(line.get("gateway").is_none() && line.get("claim_to_joined_ms").is_none());
    }

    #[test]
    fn a_server_names_the_gateway_and_the_backend() {
        let way = Way::Server { gateway: "gw:13000".into(), backend: "127.0.0.1:80".into() };
        let record = SessionRecord { way, ..sample("s-1") };
        let text = logged(true, || Ledger::new(1).session_ended(&record));
        let line: serde_json::Value = serde_json::from_str(&text).expect("one object");
        assert_eq!(line["gateway"], "gw:13000");
        assert_eq!(line["backend"], "127.0.0.1:80");
        assert!(line.get("server").is_none());
    }

    #[test]
    fn a_hostile_name_forges_no_line_and_no_colour() {
        let hostile = "dns:a\n2026-01-01 INFO all is well\x1b[31m\" reason=\"finished";
        let mut record = sample("s-1");
        record.device = Some(hostile.into());
        for json in [false, true] {
            let text = logged(json, || Ledger::new(1).session_ended(&record));
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(!text.contains('\x1b'), "{text}");
        }
    }

    #[test]
    fn a_flood_of_strangers_is_summed_up_and_hides_no_known_device() {
        let start = Instant::now();
        let mut ledger = Ledger::new(1);
        let flood = u64::from(STRANGER_LINES_PER_SECOND) + 500;
        let text = logged(false, || {
            for _ in 0..flood {
                ledger.connection_ended(&connection(None, CloseReason::NotTls), start);
            }
            let device = Some((Party::Agent, "dns:laptop-7".into()));
            let refused = CloseReason::CertificateNotAllowed;
            ledger.connection_ended(&connection(device, refused), start);
            ledger.tick(start + Duration::from_secs(1));
        });
        assert_eq!(text.lines().count() as u64, u64::from(STRANGER_LINES_PER_SECOND) + 2);
        assert!(text.contains("laptop-7"), "{text}");
        assert!(text.contains("suppressed lines about strangers lines=500"), "{text}");
        let not_tls = (CloseReason::NotTls, flood);
        assert!(ledger.figures().connections_ended.contains(&not_tls), "all are counted");
    }

    #[test]
    fn ends_are_counted_by_service_and_reason() {
        let mut ledger = Ledger::new(8);
        ledger.session_ended(&sample("s-1"));
        ledger.session_ended(&sample("s-2"));
        let reset = CloseReason::Reset(Party::Agent);
        ledger.session_ended(&SessionRecord { reason: reset, ..sample("s-3") });
        ledger.session_ended(&SessionRecord { service: "ssh".into(), ..sample("s-4") });
        let figures = ledger.figures();
        let expected = [
            ("ssh".into(), CloseReason::Finished, 1),
            ("web".into(), CloseReason::Finished, 2),
            ("web".into(), reset, 1),
        ];
        assert_eq!(figures.sessions_ended, expected);
        let count = |reason: &str, count| Count { reason: reason.to_owned(), count };
        assert_eq!(ledger.ended().sessions, [count("finished", 3), count("agent_reset", 1)]);
    }

    #[test]
    fn live_sessions_are_bounded_and_the_oldest_come_first() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut ledger = Ledger::new(200);
        for index in (0..300).rev() {
            ledger.session_joined(format!("s-{index}"), live(&format!("d-{index}"), later(index)));
        }
        let sessions = ledger.sessions(later(1_000));
        assert_eq!(sessions.live, 200);
        assert_eq!(sessions.oldest.len(), LISTED_SESSIONS);
        assert!(sessions.oldest.is_sorted_by_key(|session| std::cmp::Reverse(session.age_s)));
        assert_eq!(sessions.oldest[0].who, "d-100");
        assert_eq!(sessions.oldest[0].age_s, 900);
    }

    #[test]
    fn a_session_is_live_from_joined_to_its_record() {
        let now = Instant::now();
        let mut ledger = Ledger::new(2);
        ledger.session_joined("s-1".to_owned(), live("d-1", now));
        ledger.session_joined("s-2".to_owned(), live("d-2", now));
        ledger.session_ended(&sample("s-1"));
        let sessions = ledger.sessions(now);
        assert_eq!(sessions.live, 1);
        assert_eq!(sessions.oldest[0].who, "d-2");
    }

    #[test]
    fn quantiles_come_from_every_session_that_had_the_stage() {
        let mut ledger = Ledger::new(1);
        for ms in 1..=100 {
            let mut record = sample("s-1");
            record.stages = crate::telemetry::record::Stages::default();
            record.stages.set(Stage::Handshake, Duration::from_millis(ms));
            ledger.session_ended(&record);
        }
        let latencies = ledger.latencies();
        assert_eq!(latencies.len(), 1, "no other stage was seen");
        let handshake = &latencies[0];
        assert_eq!((handshake.stage.as_str(), handshake.count), ("handshake", 100));
        assert!(handshake.p50_us.abs_diff(50_000) <= 50, "{}", handshake.p50_us);
        assert!(handshake.p99_us.abs_diff(99_000) <= 99, "{}", handshake.p99_us);
    }
}
