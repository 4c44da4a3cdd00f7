//! What the viewer watches, as the gateway and the kernel tell it.

use std::net::SocketAddr;
use std::time::Instant;

use super::sockets::{self, Sockets};
use crate::limits::DEMO_MAX_METRICS_LEN;
use crate::telemetry::status::{FetchError, Latency, Status, fetch, fetch_page};

/// The stage of a session that the viewer sees: all that an agent waits for.
const WHOLE_WAY: &str = "accept_to_joined";

/// The gateway at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    /// Sessions that live.
    pub(super) live: u64,
    /// Sessions since the start, those that live included.
    pub(super) sessions: u64,
    /// Invitations since the start.
    pub(super) invitations_sent: u64,
    /// Those of them that became a session.
    pub(super) invitations_claimed: u64,
    /// Sessions that needed none: a connection was there.
    pub(super) over_spares: u64,
    /// From accept to joined, median; `None` before the first session.
    pub(super) p50_us: Option<u64>,
    /// The same, 99 of 100.
    pub(super) p99_us: Option<u64>,
    /// Payload towards the server since the start, in bytes.
    pub(super) bytes_up: u64,
    /// Payload towards agents since the start, in bytes.
    pub(super) bytes_down: u64,
    /// `None` where /proc can't be read.
    pub(super) sockets: Option<Sockets>,
}

/// Payload in each second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Throughput {
    /// Towards the server.
    pub(super) up: u64,
    /// Towards agents.
    pub(super) down: u64,
}

/// Looks at a gateway again and again.
#[derive(Debug)]
pub(super) struct Gauge {
    telemetry: SocketAddr,
    pid: u32,
    looked_at: Instant,
    /// The last figures.
    pub(super) figures: Figures,
    /// Between the last two looks.
    pub(super) throughput: Throughput,
    /// The most connections that the gateway was ever seen to have opened.
    pub(super) most_opened: usize,
}

impl Gauge {
    pub(super) fn new(telemetry: SocketAddr, pid: u32) -> Self {
        Self {
            telemetry,
            pid,
            looked_at: Instant::now(),
            figures: Figures::default(),
            throughput: Throughput::default(),
            most_opened: 0,
        }
    }

    /// Takes a look.
    pub(super) async fn look(&mut self) -> Result<(), FetchError> {
        let status = fetch(self.telemetry).await?;
        let metrics = fetch_page(self.telemetry, "/metrics", DEMO_MAX_METRICS_LEN).await?;
        let metrics = String::from_utf8_lossy(&metrics);
        let figures = Figures::new(&status, &metrics, sockets::of_process(self.pid).ok());
        let now = Instant::now();
        let past = now.duration_since(self.looked_at).as_millis();
        self.throughput = Throughput {
            up: per_second(figures.bytes_up - self.figures.bytes_up, past),
            down: per_second(figures.bytes_down - self.figures.bytes_down, past),
        };
        let opened = figures.sockets.map_or(0, |sockets| sockets.opened);
        self.most_opened = self.most_opened.max(opened);
        (self.looked_at, self.figures) = (now, figures);
        Ok(())
    }
}

impl Figures {
    fn new(status: &Status, metrics: &str, sockets: Option<Sockets>) -> Self {
        let ended: u64 = status.totals.ended.sessions.iter().map(|count| count.count).sum();
        let way = status.latencies.iter().find(|latency| latency.stage == WHOLE_WAY);
        let quantile = |of: fn(&Latency) -> u64| way.map(of);
        Self {
            live: status.sessions.live,
            sessions: ended + status.sessions.live,
            invitations_sent: count(metrics, "vestibule_invitations_total", "sent"),
            invitations_claimed: count(metrics, "vestibule_invitations_total", "claimed"),
            over_spares: count(metrics, "vestibule_spares_ended_total", "used"),
            p50_us: quantile(|latency| latency.p50_us),
            p99_us: quantile(|latency| latency.p99_us),
            bytes_up: status.totals.bytes_to_server,
            bytes_down: status.totals.bytes_to_agent,
            sockets,
        }
    }
}

fn per_second(bytes: u64, milliseconds: u128) -> u64 {
    u64::try_from(u128::from(bytes) * 1000 / milliseconds.max(1)).unwrap_or(u64::MAX)
}

fn count(metrics: &str, name: &str, outcome: &str) -> u64 {
    let start = format!("{name}{{outcome=\"{outcome}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&start));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_metrics() {
        let metrics = "# TYPE vestibule_invitations counter\n\
            vestibule_invitations_total{outcome=\"sent\"} 12\n\
            vestibule_invitations_total{outcome=\"claimed\"} 11\n\
            vestibule_spares_ended_total{outcome=\"used\"} 10\n";
        assert_eq!(count(metrics, "vestibule_invitations_total", "sent"), 12);
        assert_eq!(count(metrics, "vestibule_invitations_total", "claimed"), 11);
        assert_eq!(count(metrics, "vestibule_invitations_total", "refused"), 0);
        assert_eq!(count(metrics, "vestibule_spares_ended_total", "used"), 10);
    }

    #[test]
    fn throughput_is_per_second_whatever_the_time_between_two_looks() {
        assert_eq!(per_second(500, 250), 2000);
        assert_eq!(per_second(500, 0), 500_000);
    }
}
