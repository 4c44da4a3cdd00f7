//! What one device, one service and one address may have.

use super::*;
use crate::control::{SessionQuota, SessionRate};
use crate::relay::{Bandwidth, RelayLimits};

const MIB: u64 = 1024 * 1024;

#[test]
fn only_the_sessions_of_a_device_are_bounded_by_default() {
    let config = gateway(&gateway_text("")).expect("the file is right").config;
    let sessions = SessionQuota { max_sessions: Some(1_000), rate: None };
    assert_eq!(config.devices, DeviceLimits { sessions, bandwidth: None });
    assert_eq!(config.addresses.bandwidth, None);
    let relay = RelayLimits {
        idle_timeout: config.limits.session.idle_timeout,
        half_closed_timeout: config.limits.session.half_closed_timeout,
    };
    let limits = ServiceLimits { sessions: SessionQuota::default(), bandwidth: None, relay };
    assert_eq!(config.services[0].limits, limits);
}

#[test]
fn limits_are_read_as_written_and_bursts_have_defaults() {
    let text = gateway_text(
        "[services.limits]\nmax_sessions = 7\nsessions_per_s = 3\nbytes_per_s = 2048\n\
         idle_timeout_ms = 60000\n[devices]\nmax_sessions = 0\nsessions_per_s = 2\n\
         sessions_burst = 9\nbytes_per_s = 1000000\nbytes_burst = 65536\n[addresses]\n\
         bytes_per_s = 5000\n[limits]\nidle_timeout_ms = 0\nhalf_closed_timeout_ms = 600000\n",
    );
    let config = gateway(&text).expect("the file is right").config;
    let second = Duration::from_secs(1);
    let service = ServiceLimits {
        sessions: SessionQuota {
            max_sessions: Some(7),
            rate: Some(SessionRate { per_s: 3, burst: 500 }),
        },
        bandwidth: Some(Bandwidth { bytes_per_s: 2048, burst: MIB }),
        // Who is quiet that long ends by it, half-closed or not.
        relay: RelayLimits { idle_timeout: Some(60 * second), half_closed_timeout: 60 * second },
    };
    assert_eq!(config.services[0].limits, service);
    let rate = Some(SessionRate { per_s: 2, burst: 9 });
    let device = DeviceLimits {
        sessions: SessionQuota { max_sessions: None, rate },
        bandwidth: Some(Bandwidth { bytes_per_s: 1_000_000, burst: 65_536 }),
    };
    assert_eq!(config.devices, device);
    let address = Some(Bandwidth { bytes_per_s: 5_000, burst: MIB });
    assert_eq!(config.addresses.bandwidth, address);
}

#[test]
fn limits_that_mean_nothing_or_contradict_each_other_are_refused() {
    for (keys, place, advice) in [
        ("max_session = 1", "17:1", "did you mean `max_sessions`?"),
        ("sessions_burst = 7", "17:18", "no effect without `sessions_per_s`"),
        ("bytes_burst = 70000", "17:15", "no effect without `bytes_per_s`"),
        ("bytes_per_s = 100", "17:15", "must be 0 (no limit) or at least 1024"),
        ("bytes_per_s = 5000\nbytes_burst = 1", "18:15", "must be from 65536"),
        ("idle_timeout_ms = 50", "17:19", "must be 0 (never) or at least 100"),
        (
            "idle_timeout_ms = 1000\nhalf_closed_timeout_ms = 2000",
            "18:26",
            "at most `idle_timeout_ms`, which is 1000",
        ),
    ] {
        assert_refused(
            gateway(&gateway_text(&format!("[services.limits]\n{keys}"))),
            place,
            advice,
        );
    }
    let devices = gateway_text("[devices]\nidle_timeout_ms = 1000");
    assert_refused(gateway(&devices), "17:1", "unknown key `idle_timeout_ms`");
}
