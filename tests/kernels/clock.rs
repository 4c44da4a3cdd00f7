//! A clock that is stepped: a virtual machine that slept, a host without a battery, a wrong time server.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, Timespec, clock_settime};
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::UnixTime;
use vestibule::limits::PING_INTERVAL;

use super::on_each_kernel;
use crate::e2e::harness::{Backend, Ending, Kind, Peer, Site, World};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const TWENTY_YEARS: i64 = 20 * 365 * DAY;

#[test]
#[ignore = "needs qemu-system-x86, seabios, busybox-static, cpio, binutils and tests/kernels/fetch"]
fn sessions_and_signal_connections_outlive_steps_of_the_clock() {
    on_each_kernel(
        "kernels::clock::sessions_and_signal_connections_outlive_steps_of_the_clock",
        step_the_clock,
    );
}

fn step_the_clock() {
    let clock = Clock::new();
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut sessions = Kind::ALL.map(|kind| site.session(kind, &backend));
    let newcomer = clock.newcomer(&site);
    for offset in [HOUR, HOUR / 2, DAY, 0, -DAY, TWENTY_YEARS, -TWENTY_YEARS, 0] {
        clock.set(offset);
        for (agent, service) in &mut sessions {
            agent.send(b"what time is it?");
            service.expect(b"what time is it?");
            service.send(b"late");
            agent.expect(b"late");
        }
        if offset.abs() == TWENTY_YEARS {
            let ending = Peer::dial_tls(site.gateway.tls, World::ECHO, &newcomer).ending();
            let refused = Ending::Alert(AlertDescription::CertificateExpired);
            assert_eq!(ending, refused, "at {offset} s");
        }
        // Both ends find out, each by its own timer, that the other has not been silent for years.
        thread::sleep(PING_INTERVAL + Duration::from_secs(1));
    }
    for kind in Kind::ALL {
        site.session(kind, &backend);
    }
    assert_eq!(site.server.count("signal connection is up", &[]), 1, "the first one lives");
}

/// The clock of this machine, and when it was right.
struct Clock {
    right: Duration,
    since: Instant,
}

impl Clock {
    fn new() -> Self {
        let right = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self { right: right.expect("it is later than 1970"), since: Instant::now() }
    }

    /// Sets it so many seconds beside the right time.
    fn set(&self, offset: i64) {
        let right = self.right + self.since.elapsed();
        let tv_sec = i64::try_from(right.as_secs()).expect("of this age") + offset;
        clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec: 0 }).expect("root of a guest");
    }

    /// A device whose own clock is right.
    fn newcomer(&self, site: &Site) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&site.world.foreign_config());
        config.time_provider = Arc::new(RightTime(self.right));
        Arc::new(config)
    }
}

#[derive(Debug)]
struct RightTime(Duration);

impl TimeProvider for RightTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0))
    }
}
