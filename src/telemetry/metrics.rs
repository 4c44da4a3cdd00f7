//! The metrics, as `OpenMetrics` text. Names, services and listeners come from the configuration, and
//! reasons and stages are closed lists: no peer can make a label of its own.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::counters::{HandshakeRole, WorkerCounters};
use super::ledger::{Figures, StageFigures};
use super::log;
use super::process::ProcessFigures;
use super::status::Role;
use crate::tls::Expiry;

/// What `/metrics` is (the `OpenMetrics` specification, "Exposition format").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every number of the process at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// What the process was started as.
    pub role: Role,
    /// What its threads wait in: `io_uring` or `epoll`.
    pub event_loop: &'static str,
    /// Who has the records of its sessions.
    pub relay: &'static str,
    /// In the order of the workers.
    pub workers: Vec<Arc<WorkerCounters>>,
    /// Of the ledger.
    pub figures: Figures,
    /// Agents that wait for a server.
    pub waiting_agents: u64,
    /// Invitations by what became of them; the words are the control plane's.
    pub invitations: Vec<(&'static str, u64)>,
    /// How many signal connections are up, by the name of the server, or of the gateway at a server.
    pub signal_connections: Vec<(String, u64)>,
    /// Certificate files in use, and when each expires, in seconds since 1970.
    pub certificates: Vec<(String, i64)>,
    /// The CAs whose lists of revoked certificates are looked at.
    pub lists: Vec<ListFigures>,
    /// Lists that were brought over signal connections, by what became of them.
    pub lists_brought: Vec<(&'static str, u64)>,
    /// Reloads, by what became of them.
    pub reloads: Vec<(&'static str, u64)>,
    /// When the configuration in use was read, in seconds since 1970.
    pub configuration_read: u64,
    /// Requests of operators, by verb and result.
    pub operator_requests: Vec<(&'static str, &'static str, u64)>,
}

/// What is known of the list of one CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFigures {
    /// Whose certificates the CA signs: `device` or `server`.
    pub role: &'static str,
    /// Name of the CA.
    pub ca: String,
    /// Whether there is a list, and the next one is not due.
    pub is_current: bool,
    /// When the next one is due, in seconds since 1970, and how many are revoked; `None` where there is no list.
    pub list: Option<(i64, u64)>,
}

/// As a [`Snapshot`] has them.
pub fn expiries(certificates: &[Expiry]) -> Vec<(String, i64)> {
    certificates.iter().map(|expiry| (expiry.file.clone(), expiry.end)).collect()
}

/// The page at `/metrics`.
pub fn render(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a String takes all that is written to it");
    page
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        self.connections(&mut page)?;
        self.sessions(&mut page)?;
        self.workers(&mut page)?;
        self.control(&mut page)?;
        self.lists(&mut page)?;
        self.process(&mut page)
    }
}

impl Snapshot {
    fn connections(&self, page: &mut Page) -> fmt::Result {
        let accepted = self.sum(|worker| worker.connections_accepted.get());
        page.counter("vestibule_connections_accepted", "Connections accepted", accepted)?;
        let help = "Times that no connection could be accepted: out of descriptors or memory";
        let failed = self.sum(|worker| worker.accepts_failed.get());
        page.counter("vestibule_accepts_failed", help, failed)?;
        let open = self.sum(|worker| worker.connections_open.get());
        page.gauge("vestibule_connections", "Connections open, sessions included", open)?;
        let handshakes = self.sum(|worker| worker.handshakes_open.get());
        page.gauge("vestibule_handshakes", "TLS handshakes in flight", handshakes)?;
        let help = "TLS handshakes that were finished, by role and kind";
        let mut family =
            page.family("vestibule_handshakes_finished", help, None, MetricType::Counter)?;
        for role in HandshakeRole::ALL {
            for (kind, resumed) in [("full", false), ("resumed", true)] {
                let count = self.sum(|worker| worker.handshakes.of(role, resumed).get());
                let labels = [("role", role.word()), ("kind", kind)];
                counter(&mut family.encode_family(&labels)?, count)?;
            }
        }
        let help = "Those of them that agreed on TLS 1.2";
        let older = self.sum(|worker| worker.older_handshakes.get());
        page.counter("vestibule_tls_1_2_handshakes", help, older)?;
        let help = "Connections that became no session, by close reason";
        let mut family =
            page.family("vestibule_connections_ended", help, None, MetricType::Counter)?;
        for &(reason, count) in &self.figures.connections_ended {
            counter(&mut family.encode_family(&[("reason", reason.word())])?, count)?;
        }
        Ok(())
    }

    fn sessions(&self, page: &mut Page) -> fmt::Result {
        let live = self.sum(|worker| worker.sessions_open.get());
        page.gauge("vestibule_sessions", "Sessions that live", live)?;
        let help = "Sessions that ended, by service and close reason";
        let mut family =
            page.family("vestibule_sessions_ended", help, None, MetricType::Counter)?;
        for (service, reason, count) in &self.figures.sessions_ended {
            let labels = [("service", &**service), ("reason", reason.word())];
            counter(&mut family.encode_family(&labels)?, *count)?;
        }
        let help = "Sessions that ended, by how their bytes went";
        let mut family = page.family("vestibule_session_paths", help, None, MetricType::Counter)?;
        for &(path, count) in &self.figures.paths {
            counter(&mut family.encode_family(&[("path", path.word())])?, count)?;
        }
        let help = "Time of each stage of a session, up to being joined";
        let mut family =
            page.family("vestibule_stage", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for StageFigures { stage, count, sum_s, buckets } in &self.figures.stages {
            let labels = [("stage", stage.word())];
            let mut histogram = family.encode_family(&labels)?;
            histogram.encode_histogram::<NoLabelSet>(*sum_s, *count, buckets, None)?;
        }
        Ok(())
    }

    fn workers(&self, page: &mut Page) -> fmt::Result {
        let help = "Payload relayed";
        let mut family =
            page.family("vestibule_relayed", help, Some(&Unit::Bytes), MetricType::Counter)?;
        for (index, worker) in self.named_workers() {
            for (direction, bytes) in [
                ("agent_to_server", &worker.bytes_agent_to_server),
                ("server_to_agent", &worker.bytes_server_to_agent),
            ] {
                let labels = [("direction", direction), ("worker", index.as_str())];
                counter(&mut family.encode_family(&labels)?, bytes.get())?;
            }
        }
        let help = "Times that a limit on bandwidth held a session back";
        let pauses = self.sum(|worker| worker.throttle_pauses.get());
        page.counter("vestibule_throttle_pauses", help, pauses)?;
        let help = "Legs of sessions whose records the kernel opens and seals";
        let given = self.sum(|worker| worker.kernel_tls_legs.get());
        page.counter("vestibule_kernel_tls_legs", help, given)?;
        let help = "Turns of a worker's loop";
        let mut family = page.family("vestibule_worker_turns", help, None, MetricType::Counter)?;
        for (index, worker) in self.named_workers() {
            counter(&mut family.encode_family(&[("worker", index)])?, worker.turns.get())?;
        }
        let mails = self.sum(|worker| worker.mails.get());
        page.counter("vestibule_worker_mails", "Mails read by workers", mails)
    }

    fn control(&self, page: &mut Page) -> fmt::Result {
        let help = "Agents that wait for a server";
        page.gauge("vestibule_waiting_agents", help, self.waiting_agents)?;
        let help = "Invitations by what became of them";
        let mut family = page.family("vestibule_invitations", help, None, MetricType::Counter)?;
        for &(outcome, count) in &self.invitations {
            counter(&mut family.encode_family(&[("outcome", outcome)])?, count)?;
        }
        let help = "Data connections that were opened ahead of need and wait for an agent";
        let spares = self.sum(|worker| worker.spares_open.get());
        page.gauge("vestibule_spares", help, spares)?;
        let help = "Spares by what became of them";
        let mut family = page.family("vestibule_spares_ended", help, None, MetricType::Counter)?;
        for (outcome, count) in [
            ("used", self.sum(|worker| worker.spares_used.get())),
            ("unused", self.sum(|worker| worker.spares_unused.get())),
            ("lost", self.sum(|worker| worker.spares_lost.get())),
        ] {
            counter(&mut family.encode_family(&[("outcome", outcome)])?, count)?;
        }
        let peer = self.role.peer().word();
        let help = "Signal connections that are up";
        let mut family =
            page.family("vestibule_signal_connections", help, None, MetricType::Gauge)?;
        for (name, count) in &self.signal_connections {
            family.encode_family(&[(peer, name.as_str())])?.encode_gauge(count)?;
        }
        let (name, help) = ("vestibule_certificate_expiry_timestamp", "When a certificate expires");
        let mut family = page.family(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (file, expiry) in &self.certificates {
            family.encode_family(&[("file", file.as_str())])?.encode_gauge(expiry)?;
        }
        let help = "Reloads of the configuration and its files, by result";
        let mut family = page.family("vestibule_reloads", help, None, MetricType::Counter)?;
        for &(result, count) in &self.reloads {
            counter(&mut family.encode_family(&[("result", result)])?, count)?;
        }
        let name = "vestibule_configuration_read_timestamp";
        let help = "When the configuration in use was read";
        page.family(name, help, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&self.configuration_read)?;
        let help = "What operators asked for, by verb and result";
        let mut family =
            page.family("vestibule_operator_requests", help, None, MetricType::Counter)?;
        for &(verb, result, count) in &self.operator_requests {
            let labels = [("verb", verb), ("result", result)];
            counter(&mut family.encode_family(&labels)?, count)?;
        }
        Ok(())
    }

    fn lists(&self, page: &mut Page) -> fmt::Result {
        let help = "Whether the list of revoked certificates of a CA is there and not stale";
        let mut family = page.family("vestibule_crl_current", help, None, MetricType::Gauge)?;
        for figures in &self.lists {
            let labels = [("role", figures.role), ("ca", figures.ca.as_str())];
            family.encode_family(&labels)?.encode_gauge(&u64::from(figures.is_current))?;
        }
        let with_list =
            || self.lists.iter().filter_map(|figures| figures.list.map(|list| (figures, list)));
        let (name, help) = ("vestibule_crl_next_update_timestamp", "When its next one is due");
        let mut family = page.family(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (figures, (next_update, _)) in with_list() {
            let labels = [("role", figures.role), ("ca", figures.ca.as_str())];
            family.encode_family(&labels)?.encode_gauge(&next_update)?;
        }
        let help = "Certificates that it revokes";
        let mut family = page.family("vestibule_crl_entries", help, None, MetricType::Gauge)?;
        for (figures, (_, entries)) in with_list() {
            let labels = [("role", figures.role), ("ca", figures.ca.as_str())];
            family.encode_family(&labels)?.encode_gauge(&entries)?;
        }
        let help = "Lists of revoked certificates that servers brought, by outcome";
        let mut family = page.family("vestibule_crls_brought", help, None, MetricType::Counter)?;
        for &(outcome, count) in &self.lists_brought {
            counter(&mut family.encode_family(&[("outcome", outcome)])?, count)?;
        }
        Ok(())
    }

    fn process(&self, page: &mut Page) -> fmt::Result {
        let help = "Log lines dropped because the log's output was blocked";
        page.counter("vestibule_log_lines_dropped", help, log::dropped_lines())?;
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("role", self.role.word()),
            ("event_loop", self.event_loop),
            ("relay", self.relay),
        ];
        page.family("vestibule_build", "The software that runs", None, MetricType::Info)?
            .encode_info(&labels)?;
        let Some(figures) = ProcessFigures::read() else { return Ok(()) };
        let (name, help) = ("process_cpu", "User and system time");
        page.family(name, help, Some(&Unit::Seconds), MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&figures.cpu_s, None)?;
        let (name, help) = ("process_resident_memory", "Resident memory");
        page.family(name, help, Some(&Unit::Bytes), MetricType::Gauge)?
            .encode_gauge(&figures.resident_memory)?;
        page.gauge("process_open_fds", "Open descriptors", figures.open_fds)
    }

    fn sum(&self, number: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.workers.iter().map(|worker| number(worker)).sum()
    }

    fn named_workers(&self) -> impl Iterator<Item = (String, &WorkerCounters)> {
        self.workers.iter().enumerate().map(|(index, worker)| (index.to_string(), &**worker))
    }
}

/// One page under way.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// `name` without the unit and without the suffix of its kind: both are appended.
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, kind)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        counter(&mut self.family(name, help, None, MetricType::Counter)?, value)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }
}

fn counter(encoder: &mut MetricEncoder, value: u64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ledger;
    use super::super::record::sample;
    use super::*;

    fn snapshot() -> Snapshot {
        let mut ledger = Ledger::new(1);
        ledger.session_ended(&sample("s-1"));
        let workers =
            vec![Arc::new(WorkerCounters::default()), Arc::new(WorkerCounters::default())];
        for worker in &workers {
            worker.connections_accepted.add(3);
            worker.bytes_agent_to_server.add(1_500);
            worker.handshakes.of(HandshakeRole::Agent, true).inc();
            worker.older_handshakes.inc();
        }
        Snapshot {
            role: Role::Gateway,
            event_loop: "io_uring",
            relay: "userspace",
            workers,
            figures: ledger.figures(),
            waiting_agents: 2,
            invitations: vec![("claimed", 1)],
            signal_connections: vec![("server-1.lan".to_owned(), 1)],
            certificates: vec![("/etc/vestibule/gateway.pem".to_owned(), 1_800_000_000)],
            lists: vec![
                ListFigures {
                    role: "device",
                    ca: "CN=Devices".to_owned(),
                    is_current: true,
                    list: Some((1_800_000_000, 7)),
                },
                ListFigures {
                    role: "server",
                    ca: "CN=Servers".to_owned(),
                    is_current: false,
                    list: None,
                },
            ],
            lists_brought: vec![("taken", 2)],
            reloads: vec![("applied", 3), ("refused", 1)],
            configuration_read: 1_790_000_000,
            operator_requests: vec![("end", "done", 2), ("end", "not_found", 1)],
        }
    }

    #[test]
    fn every_metric_has_its_name_type_and_unit() {
        let page = render(snapshot());
        assert!(page.ends_with("\n# EOF\n"), "{page}");
        for family in [
            "vestibule_connections_accepted counter",
            "vestibule_accepts_failed counter",
            "vestibule_connections gauge",
            "vestibule_handshakes gauge",
            "vestibule_handshakes_finished counter",
            "vestibule_tls_1_2_handshakes counter",
            "vestibule_connections_ended counter",
            "vestibule_sessions gauge",
            "vestibule_sessions_ended counter",
            "vestibule_stage_seconds histogram",
            "vestibule_relayed_bytes counter",
            "vestibule_throttle_pauses counter",
            "vestibule_kernel_tls_legs counter",
            "vestibule_worker_turns counter",
            "vestibule_worker_mails counter",
            "vestibule_waiting_agents gauge",
            "vestibule_invitations counter",
            "vestibule_spares gauge",
            "vestibule_spares_ended counter",
            "vestibule_signal_connections gauge",
            "vestibule_certificate_expiry_timestamp_seconds gauge",
            "vestibule_crl_current gauge",
            "vestibule_crl_next_update_timestamp_seconds gauge",
            "vestibule_crl_entries gauge",
            "vestibule_crls_brought counter",
            "vestibule_reloads counter",
            "vestibule_configuration_read_timestamp_seconds gauge",
            "vestibule_operator_requests counter",
            "vestibule_log_lines_dropped counter",
            "vestibule_build info",
            "process_cpu_seconds counter",
            "process_resident_memory_bytes gauge",
            "process_open_fds gauge",
        ] {
            let kind = format!("# TYPE {family}\n");
            assert_eq!(page.matches(&kind).count(), 1, "{kind}{page}");
            let name = family.split(' ').next().expect("a name");
            for unit in ["seconds", "bytes"] {
                let line = format!("# UNIT {name} {unit}\n");
                assert_eq!(page.contains(&line), name.ends_with(unit), "{line}{page}");
            }
        }
    }

    #[test]
    fn samples_stand_under_their_final_names() {
        let page = render(snapshot());
        for line in [
            "vestibule_connections_accepted_total 6",
            "vestibule_handshakes_finished_total{role=\"agent\",kind=\"resumed\"} 2",
            "vestibule_tls_1_2_handshakes_total 2",
            "vestibule_sessions_ended_total{service=\"web\",reason=\"finished\"} 1",
            "vestibule_relayed_bytes_total{direction=\"agent_to_server\",worker=\"1\"} 1500",
            "vestibule_stage_seconds_count{stage=\"handshake\"} 1",
            "vestibule_stage_seconds_bucket{le=\"0.001\",stage=\"handshake\"} 0",
            "vestibule_stage_seconds_bucket{le=\"0.0025\",stage=\"handshake\"} 1",
            "vestibule_stage_seconds_bucket{le=\"+Inf\",stage=\"handshake\"} 1",
            "vestibule_invitations_total{outcome=\"claimed\"} 1",
            "vestibule_signal_connections{server=\"server-1.lan\"} 1",
            "vestibule_crl_current{role=\"device\",ca=\"CN=Devices\"} 1",
            "vestibule_crl_current{role=\"server\",ca=\"CN=Servers\"} 0",
            "vestibule_crl_next_update_timestamp_seconds{role=\"device\",ca=\"CN=Devices\"} 1800000000",
            "vestibule_crl_entries{role=\"device\",ca=\"CN=Devices\"} 7",
            "vestibule_crls_brought_total{outcome=\"taken\"} 2",
            "vestibule_reloads_total{result=\"refused\"} 1",
            "vestibule_configuration_read_timestamp_seconds 1790000000",
            "vestibule_operator_requests_total{verb=\"end\",result=\"not_found\"} 1",
            "vestibule_build_info{version=\"0.1.0\",role=\"gateway\",event_loop=\"io_uring\",relay=\"userspace\"} 1",
        ] {
            assert!(page.lines().any(|each| each == line), "{line}\nin\n{page}");
        }
    }

    #[test]
    fn at_a_server_the_peers_of_signal_connections_are_gateways() {
        let page = render(Snapshot { role: Role::Server, ..snapshot() });
        assert!(page.contains("vestibule_signal_connections{gateway=\"server-1.lan\"} 1\n"));
    }

    #[test]
    fn a_hostile_name_forges_no_sample() {
        let hostile = "web\"} 1\nvestibule_sessions 99\n# EOF\n\\";
        let mut snapshot = snapshot();
        snapshot.signal_connections = vec![(hostile.to_owned(), 1)];
        snapshot.figures.sessions_ended[0].0 = hostile.into();
        let page = render(snapshot);
        assert!(!page.lines().any(|line| line == "vestibule_sessions 99"), "{page}");
        assert_eq!(page.lines().filter(|&line| line == "# EOF").count(), 1, "{page}");
        let escaped = r#"{server="web\"} 1\nvestibule_sessions 99\n# EOF\n\\"} 1"#;
        assert!(page.contains(escaped), "{page}");
    }
}
