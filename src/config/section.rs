//! The parts that several roles' files share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use ipnet::IpNet;

use super::names::report_duplicates;
use super::problem::Written;
use super::table::{Field, Table};
use super::{Credentials, Gateway, HostPort, Operator, SessionLimits, Telemetry, value};
use crate::limits::{
    DRAIN_TIMEOUT_MS, HALF_CLOSED_TIMEOUT_MS, IDLE_TIMEOUT_MS, KEEPALIVE_MS, MAX_ADDRESS_RANGES,
    MAX_CRLS, Range, USER_TIMEOUT_MS, WORKERS,
};

/// What the kernel takes (`unix(7)`, `sun_path`).
const MAX_SOCKET_PATH_LEN: usize = 107;

/// `workers`, where 0 stands for one for each core.
pub(super) fn workers(table: &Table<'_>) -> usize {
    match count(table.number("workers", WORKERS)) {
        0 => *CORES,
        workers => workers,
    }
}

/// Counted once: a reload finds the number that runs, also where a container was given another one since.
static CORES: LazyLock<usize> = LazyLock::new(|| {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(count(WORKERS.max)))
});

/// A number that is within one of the ranges, as a count.
pub(super) fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A number in milliseconds.
pub(super) fn duration(table: &Table<'_>, key: &'static str, range: Range) -> Duration {
    Duration::from_millis(table.number(key, range))
}

/// A list of addresses and ranges of them; empty where it is absent.
pub(super) fn address_ranges(table: &Table<'_>, key: &'static str) -> Vec<IpNet> {
    let Some(field) = table.optional(key, "[\"192.0.2.0/24\"]") else { return Vec::new() };
    let ranges = field.parse_each(value::address_range).unwrap_or_default();
    distinct(table, key, ranges)
}

/// The same for a list that must not be empty, and is there.
pub(super) fn ranges_of(table: &Table<'_>, key: &str, field: &Field<'_>) -> Vec<IpNet> {
    let ranges = field.parse_nonempty(value::address_range).unwrap_or_default();
    distinct(table, key, ranges)
}

fn distinct(table: &Table<'_>, key: &str, ranges: Vec<Written<IpNet>>) -> Vec<IpNet> {
    report_duplicates(table.report, "address", ranges.iter().copied());
    if let Some(excess) = ranges.get(MAX_ADDRESS_RANGES) {
        let message = format!("`{key}` names more than {MAX_ADDRESS_RANGES} ranges: join some");
        table.report.error(excess.span, message);
    }
    ranges.into_iter().map(|range| range.value).collect()
}

/// Files of lists of revoked certificates; none where the key is absent.
pub(super) fn crl_files(table: &Table<'_>, key: &'static str) -> Vec<Written<PathBuf>> {
    let Some(field) = table.optional(key, "[\"pki/devices-ca.crl\"]") else { return Vec::new() };
    let files = field.paths().unwrap_or_default();
    if let Some(excess) = files.get(MAX_CRLS) {
        let message = format!("`{key}` names more than {MAX_CRLS} files: join some");
        table.report.error(excess.span, message);
    }
    files
}

/// `certificate` and `key`.
pub(super) fn credentials(table: &Table<'_>) -> Option<Credentials> {
    let certificate = table.path("certificate", "\"pki/host.crt\"");
    let key = table.path("key", "\"pki/host.key\"");
    Some(Credentials { certificate: certificate?, key: key? })
}

/// `certificate` and `key`, both or neither. The outer `None` stands for an error.
#[expect(clippy::option_option, reason = "as `optional` of a table, whose error is told elsewhere")]
pub(super) fn optional_credentials(table: &Table<'_>) -> Option<Option<Credentials>> {
    let certificate = table.optional("certificate", "\"pki/host.crt\"");
    let key = table.optional("key", "\"pki/host.key\"");
    if certificate.is_none() && key.is_none() { Some(None) } else { credentials(table).map(Some) }
}

/// `gateway_ca`.
pub(super) fn gateway_ca(table: &Table<'_>) -> Option<PathBuf> {
    table.path("gateway_ca", "\"pki/gateways-ca.crt\"")
}

/// `[[gateways]]`. `None` where one of them is wrong.
pub(super) fn gateways(table: &Table<'_>) -> Option<Vec<Gateway>> {
    let gateways = table.required_tables("gateways", |table| {
        let address = table
            .required("address", "\"gw.example.com:13000\"")
            .and_then(|field| field.parse(value::host_port));
        let name = match table.optional("name", "\"gw.example.com\"") {
            Some(field) => field.parse(value::certificate_name).map(|name| name.value),
            None => address.as_ref().map(|address| address.value.host.clone()),
        };
        Some((address?, name?))
    });
    let addresses = gateways.iter().flatten().map(|(address, _)| address.clone());
    report_duplicates(table.report, "gateway", addresses);
    let gateway =
        |(address, name): (Written<HostPort>, _)| Gateway { address: address.value, name };
    gateways.into_iter().map(|read| read.map(gateway)).collect()
}

/// The bounds of the relay inside `[limits]`.
pub(super) fn session_limits(table: &Table<'_>) -> SessionLimits {
    let (idle_timeout, half_closed_timeout) =
        quiet_timeouts(table, IDLE_TIMEOUT_MS.default, HALF_CLOSED_TIMEOUT_MS.default);
    SessionLimits {
        idle_timeout,
        half_closed_timeout,
        keepalive: duration(table, "keepalive_ms", KEEPALIVE_MS),
        user_timeout: duration(table, "user_timeout_ms", USER_TIMEOUT_MS),
    }
}

/// `idle_timeout_ms` and `half_closed_timeout_ms`, with the values that hold where they are absent.
pub(super) fn quiet_timeouts(
    table: &Table<'_>,
    idle_ms: u64,
    half_closed_ms: u64,
) -> (Option<Duration>, Duration) {
    let range = Range { default: idle_ms, ..IDLE_TIMEOUT_MS };
    let idle_ms = match table.written_number("idle_timeout_ms", range) {
        Some(Written { value: idle_ms @ 1.., span }) if idle_ms < HALF_CLOSED_TIMEOUT_MS.min => {
            let min = HALF_CLOSED_TIMEOUT_MS.min;
            let message = format!("`idle_timeout_ms` must be 0 (never) or at least {min}");
            table.report.error(span, message);
            idle_ms
        }
        written => written.map_or(idle_ms, |written| written.value),
    };
    let longest_half_closed_ms = if idle_ms == 0 { u64::MAX } else { idle_ms };
    let range = Range { default: half_closed_ms, ..HALF_CLOSED_TIMEOUT_MS };
    let half_closed = table.written_number("half_closed_timeout_ms", range);
    if let Some(Written { value, span }) = half_closed
        && value > longest_half_closed_ms
    {
        let message = format!(
            "`half_closed_timeout_ms` must be at most `idle_timeout_ms`, which is {idle_ms}: a \
             half-closed session that is quiet ends after that time at the latest"
        );
        table.report.error(span, message);
    }
    let half_closed_ms = half_closed.map_or(half_closed_ms, |half| half.value);
    (
        (idle_ms != 0).then(|| Duration::from_millis(idle_ms)),
        Duration::from_millis(half_closed_ms.min(longest_half_closed_ms)),
    )
}

/// `drain_timeout_ms` inside `[limits]`.
pub(super) fn drain_timeout(table: &Table<'_>) -> Duration {
    duration(table, "drain_timeout_ms", DRAIN_TIMEOUT_MS)
}

/// `[telemetry]`.
pub(super) fn telemetry(table: &Table<'_>, default: SocketAddr) -> Telemetry {
    let written = table.table("telemetry", |table| {
        let allow = address_ranges(table, "allow");
        let field = table.optional("address", "\"127.0.0.1:9113\"");
        let address = field.and_then(|field| field.parse(|text| telemetry_address(text, &allow)));
        let address = address.map_or(Some(default), |written| written.value);
        Telemetry { address, allow }
    });
    written.unwrap_or(Telemetry { address: Some(default), allow: Vec::new() })
}

/// `[operator]`. Blocks are a gateway's, so only that `keeps` them.
pub(super) fn operator(table: &Table<'_>, keeps: bool) -> Operator {
    let written = table.table("operator", |table| {
        let state = if keeps {
            table.optional("state", "\"/var/lib/vestibule/blocks.toml\"").and_then(|f| f.path())
        } else {
            table.refuse("state", "devices and addresses are blocked at the gateways");
            None
        };
        let socket = table.optional("socket", "\"/run/vestibule/gateway.sock\"");
        let off = |field: &Field<'_>| field.text().is_some_and(|text| text.value == "off");
        let socket = socket.filter(|field| !off(field)).and_then(|field| field.path());
        if let Some(Written { value, span }) = &socket
            && value.as_os_str().len() > MAX_SOCKET_PATH_LEN
        {
            let message = format!(
                "the path of a socket has at most {MAX_SOCKET_PATH_LEN} bytes: write a shorter one"
            );
            table.report.error(*span, message);
        }
        Operator {
            socket: socket.map(|socket| socket.value),
            state: state.map(|state| state.value),
        }
    });
    written.unwrap_or_default()
}

/// An address to serve on, or `off`.
fn telemetry_address(text: &str, allow: &[IpNet]) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let address = value::listen_address(text)?;
    if address.ip().is_loopback() || !allow.is_empty() {
        return Ok(Some(address));
    }
    Err(format!(
        "\"{text}\" is not a loopback address: metrics and status tell who is connected and are served \
         without a password; name who may read them, as in `allow = [\"192.0.2.30\"]`, or write a \
         loopback address or `off`"
    ))
}
