//! What one device, one service and one address may have, as written in `gateway.toml`.

use std::time::Duration;

use super::problem::Written;
use super::section::{count, quiet_timeouts};
use super::table::Table;
use super::{DeviceLimits, ServiceLimits, SessionLimits};
use crate::control::{SessionQuota, SessionRate};
use crate::limits::{
    BYTES_BURST, BYTES_PER_S, DEVICE_SESSIONS, DEVICE_SESSIONS_BURST, MIN_BYTES_PER_S, Range,
    SERVICE_SESSIONS, SERVICE_SESSIONS_BURST, SESSIONS_PER_S,
};
use crate::relay::{Bandwidth, RelayLimits};

/// `[devices]`.
pub(super) fn of_device(table: &Table<'_>) -> DeviceLimits {
    DeviceLimits {
        sessions: sessions(table, DEVICE_SESSIONS, DEVICE_SESSIONS_BURST),
        bandwidth: bandwidth(table),
    }
}

/// `[services.limits]`; what is not said there of quiet sessions is that of the gateway.
pub(super) fn of_service(table: &Table<'_>, session: &SessionLimits) -> ServiceLimits {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let idle_ms = session.idle_timeout.map_or(0, milliseconds);
    let half_closed_ms = milliseconds(session.half_closed_timeout);
    let (idle_timeout, half_closed_timeout) = quiet_timeouts(table, idle_ms, half_closed_ms);
    ServiceLimits {
        sessions: sessions(table, SERVICE_SESSIONS, SERVICE_SESSIONS_BURST),
        bandwidth: bandwidth(table),
        relay: RelayLimits { idle_timeout, half_closed_timeout },
    }
}

fn sessions(table: &Table<'_>, max: Range, burst: Range) -> SessionQuota {
    let max_sessions = count(table.number("max_sessions", max));
    let per_s = small(table.number("sessions_per_s", SESSIONS_PER_S));
    let rate = if per_s == 0 {
        without_rate(table, "sessions_burst", burst, "sessions_per_s");
        None
    } else {
        Some(SessionRate { per_s, burst: small(table.number("sessions_burst", burst)) })
    };
    SessionQuota { max_sessions: (max_sessions > 0).then_some(max_sessions), rate }
}

/// `bytes_per_s` and `bytes_burst`.
pub(super) fn bandwidth(table: &Table<'_>) -> Option<Bandwidth> {
    let written = table.written_number("bytes_per_s", BYTES_PER_S);
    match written {
        None | Some(Written { value: 0, .. }) => {
            without_rate(table, "bytes_burst", BYTES_BURST, "bytes_per_s");
            None
        }
        Some(Written { value: bytes_per_s, span }) => {
            if bytes_per_s < MIN_BYTES_PER_S {
                let message = format!(
                    "`bytes_per_s` must be 0 (no limit) or at least {MIN_BYTES_PER_S}: a TLS record of \
                     16 KiB would take longer than a session may be quiet"
                );
                table.report.error(span, message);
            }
            let burst = table.number("bytes_burst", BYTES_BURST);
            Some(Bandwidth { bytes_per_s: bytes_per_s.max(MIN_BYTES_PER_S), burst })
        }
    }
}

/// A burst means nothing without its rate; one that only repeats the default is no mistake.
fn without_rate(table: &Table<'_>, key: &'static str, range: Range, rate: &str) {
    if let Some(Written { value, span }) = table.written_number(key, range)
        && value != range.default
    {
        let message = format!("`{key}` has no effect without `{rate}`");
        table.report.error(span, message);
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
