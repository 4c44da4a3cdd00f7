//! `gateway.toml` as written. What its tables say of each other is checked in `gateway_rules`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::gateway_rules::{self, Parts};
use super::platform;
use super::problem::Written;
use super::revocation::{self, WrittenRevocation};
use super::section::{self, count, duration};
use super::table::{Field, Table};
use super::{
    AddressLimits, AgentsFrom, Credentials, DeviceCertificates, DevicePolicy, GatewayConfig,
    GatewayLimits, ServiceLimits, SessionLimits, quotas, value,
};
use crate::limits::{
    ADDRESS_BURST, ADDRESS_CONNECTIONS, ADDRESS_HANDSHAKES, ADDRESS_RATE, ADMISSION_TIMEOUT_MS,
    INVITATION_TIMEOUT_MS, MAX_CONNECTIONS, MAX_HANDSHAKES, MAX_SPARES, MAX_WAITING,
    PREFIX_CONNECTIONS, PREFIX_HANDSHAKES, Range, SPARE_LIFE_MS,
};

const TELEMETRY_PORT: u16 = 9113;

/// Reads the file; `None` where something in it is wrong.
pub(super) fn read(table: &Table<'_>) -> Option<GatewayConfig> {
    let workers = section::workers(table);
    let event_loop = platform::event_loop(table);
    let relay = platform::relay(table);
    let listeners = table.required_tables("listeners", listener);
    let servers = table.table("servers", servers);
    if servers.is_none() && !table.has("servers") {
        table.error(
            "missing `[servers]`: its `ca` and `allow` say who may connect as a server".into(),
        );
    }
    let limits = table.table_or_empty("limits", limits);
    let services = table.required_tables("services", |table| service(table, &limits.session));
    let devices = table.table_or_empty("devices", quotas::of_device);
    let addresses = table.table_or_empty("addresses", address_limits);
    let telemetry =
        section::telemetry(table, SocketAddr::from((Ipv4Addr::LOCALHOST, TELEMETRY_PORT)));
    let operator = section::operator(table, true);

    let upgrade_socket = table
        .table("upgrade", |table| table.path("socket", "\"/run/vestibule/gateway.upgrade.sock\""))
        .flatten();

    let parts = Parts { listeners, servers, services, telemetry: telemetry.address };
    let (listeners, servers, services) = gateway_rules::check(table, &parts)?;
    let config = GatewayConfig {
        workers,
        event_loop,
        relay,
        listeners,
        servers,
        services,
        limits,
        addresses,
        devices,
        telemetry,
        operator,
        upgrade_socket,
    };
    check_state(table, &config);
    Some(config)
}

/// The process may write where its blocks are kept, so nothing else may lie there.
fn check_state(table: &Table<'_>, config: &GatewayConfig) {
    let Some(state) = &config.operator.state else { return };
    let own = table.report.resolve("gateway.toml");
    let mut others = config.files();
    others.push(&own);
    if let Some(other) = others.into_iter().find(|file| file.parent() == state.parent()) {
        let message = format!(
            "`state` of `[operator]` lies beside {}: the process may write in that folder, so take one \
             of its own, such as `state = \"/var/lib/vestibule/blocks.toml\"`",
            other.display()
        );
        table.error_at("operator", message);
    }
}

/// A table of `[[listeners]]`.
pub(super) struct WrittenListener<'t> {
    pub(super) name: Option<Written<&'t str>>,
    pub(super) addresses: Vec<Written<SocketAddr>>,
    pub(super) proxy_protocol_from: Vec<IpNet>,
    pub(super) kind: Option<WrittenKind<'t>>,
    pub(super) here: Written<()>,
}

pub(super) enum WrittenKind<'t> {
    Tls {
        credentials: Option<Credentials>,
        device_certificates: Option<Written<DeviceCertificates>>,
        /// `None` where no certificate is asked for.
        device_revocation: Option<WrittenRevocation>,
        servers: bool,
        older_agents: bool,
    },
    Plain {
        service: Option<Written<&'t str>>,
        allow_tls: bool,
        /// `None` where it is missing or wrong.
        agents_from: Option<AgentsFrom>,
    },
}

/// The table `[servers]`.
pub(super) struct WrittenServers<'t> {
    pub(super) ca: Option<PathBuf>,
    pub(super) revocation: WrittenRevocation,
    pub(super) bring_crls: Option<Written<bool>>,
    pub(super) addresses: Vec<IpNet>,
    pub(super) allow: Vec<WrittenServer<'t>>,
}

/// A table of `[[servers.allow]]`.
pub(super) struct WrittenServer<'t> {
    pub(super) name: Option<Written<String>>,
    /// `None` where it is wrong.
    pub(super) services: Option<Selection<'t>>,
}

/// A table of `[[services]]`.
pub(super) struct WrittenService<'t> {
    pub(super) here: Written<()>,
    pub(super) name: Option<Written<&'t str>>,
    /// `None` where it is wrong.
    pub(super) listeners: Option<Selection<'t>>,
    pub(super) sni: Vec<Written<String>>,
    pub(super) alpn: Vec<Written<String>>,
    pub(super) default: Option<Written<bool>>,
    /// `tls = "passthrough"`.
    pub(super) passthrough: Option<Written<bool>>,
    /// `None` where it is absent.
    pub(super) devices: Option<Written<DevicePolicy>>,
    pub(super) limits: ServiceLimits,
}

/// Which of the named tables are meant.
pub(super) enum Selection<'t> {
    All,
    Named(Vec<Written<&'t str>>),
}

fn listener<'t>(table: &Table<'t>) -> WrittenListener<'t> {
    let name = table.required("name", "\"internet\"").and_then(|field| field.parse(value::name));
    let addresses = table
        .required("addresses", "[\"0.0.0.0:13000\", \"[::]:13000\"]")
        .and_then(|field| field.parse_nonempty(value::listen_address))
        .unwrap_or_default();
    let kind = table.choice("kind", &[("tls", true), ("plain", false)]);
    let kind = match kind.map(|kind| kind.value) {
        Some(true) => Some(tls_listener(table)),
        Some(false) => Some(plain_listener(table)),
        None => {
            table.ignore(TLS_KEYS);
            table.ignore(PLAIN_KEYS);
            None
        }
    };
    if let (Some(WrittenKind::Plain { .. }), Some(name)) = (&kind, name) {
        table.report.warning(
            name.span,
            format!(
                "listener \"{}\" is plain: its agents are not authenticated, and whoever is on \
                 the way reads and changes what they send",
                name.value
            ),
        );
    }
    let proxy_protocol_from = section::address_ranges(table, "proxy_protocol_from");
    WrittenListener { name, addresses, proxy_protocol_from, kind, here: table.here() }
}

const TLS_KEYS: &[&str] = &[
    "certificate",
    "key",
    "device_certificates",
    "device_ca",
    "device_crls",
    "device_revocation",
    "servers",
    "tls_1_2_agents",
];
/// What is there for certificates of devices.
const DEVICE_KEYS: [&str; 3] = ["device_ca", "device_crls", "device_revocation"];
const PLAIN_KEYS: &[&str] = &["service", "allow_tls", "agents_from"];

fn tls_listener<'t>(table: &Table<'t>) -> WrittenKind<'t> {
    for key in PLAIN_KEYS {
        table.refuse(key, "it belongs to a listener with `kind = \"plain\"`");
    }
    let device_certificates = device_certificates(table);
    let asks = device_certificates.as_ref().map(|asked| asked.value != DeviceCertificates::None);
    let device_revocation = asks
        .unwrap_or_default()
        .then(|| revocation::read(table, "device_crls", "device_revocation"));
    WrittenKind::Tls {
        credentials: section::credentials(table),
        device_certificates,
        device_revocation,
        servers: table.boolean("servers", true),
        older_agents: older_agents(table),
    }
}

/// Whether agents may come with TLS 1.2, of which it is said what they lose.
fn older_agents(table: &Table<'_>) -> bool {
    let written = table.optional("tls_1_2_agents", "true").and_then(|field| field.boolean());
    let Some(written) = written.filter(|written| written.value) else { return false };
    let message = "agents may come with TLS 1.2: whoever is on the way reads the names in their certificates, and \
                   what is recorded today may be opened by a quantum computer one day; take this out \
                   once all of them speak TLS 1.3";
    table.report.warning(written.span, message);
    true
}

fn plain_listener<'t>(table: &Table<'t>) -> WrittenKind<'t> {
    for key in TLS_KEYS {
        table.refuse(key, "it belongs to a listener with `kind = \"tls\"`");
    }
    let service = table.required("service", "\"sync\"").and_then(|field| field.text());
    let allow_tls = table.boolean("allow_tls", false);
    WrittenKind::Plain { service, allow_tls, agents_from: agents_from(table) }
}

/// Whoever reaches a plain listener is let in, so who may is asked for by name: there is no default.
fn agents_from(table: &Table<'_>) -> Option<AgentsFrom> {
    let example = "[\"192.0.2.0/24\"]";
    let Some(field) = table.optional("agents_from", example) else {
        table.error(format!(
            "missing key `agents_from`: agents of a plain listener prove nothing but their address; write \
             those that they have, as in `agents_from = {example}`, or `\"any\"`"
        ));
        return None;
    };
    if field.is_list() {
        let ranges = section::ranges_of(table, "agents_from", &field);
        return (!ranges.is_empty()).then_some(AgentsFrom::Listed(ranges));
    }
    let any = field.parse(|text| match text {
        "any" => Ok(()),
        _ => Err(format!(
            "\"{text}\" must stand in a list: write `[\"{text}\"]`, or `\"any\"` for every address"
        )),
    })?;
    let message = "everyone who reaches this listener is let in: name the addresses of its agents, as in \
                   `agents_from = [\"192.0.2.0/24\"]`, if they are known";
    table.report.warning(any.span, message);
    Some(AgentsFrom::Any)
}

/// What weakens safety is asked for by name: there is no default.
fn device_certificates(table: &Table<'_>) -> Option<Written<DeviceCertificates>> {
    type WithCa = fn(PathBuf) -> DeviceCertificates;
    let choices = [
        ("required", Some(DeviceCertificates::Required as WithCa)),
        ("optional", Some(DeviceCertificates::Optional as WithCa)),
        ("none", None),
    ];
    let Some(choice) = table.choice("device_certificates", &choices) else {
        table.ignore(&DEVICE_KEYS);
        return None;
    };
    let Some(with_ca) = choice.value else {
        for key in DEVICE_KEYS {
            table.refuse(key, "no certificate is asked for");
        }
        return Some(choice.map(|_| DeviceCertificates::None));
    };
    let Some(ca) = table.required("device_ca", "\"pki/devices-ca.crt\"").and_then(|f| f.path())
    else {
        table.ignore(&DEVICE_KEYS);
        return None;
    };
    Some(ca.map(with_ca))
}

fn servers<'t>(table: &Table<'t>) -> WrittenServers<'t> {
    let ca = table.path("ca", "\"pki/servers-ca.crt\"");
    let revocation = revocation::read(table, "crls", "revocation");
    let bring_crls = table.optional("bring_crls", "true").and_then(|field| field.boolean());
    let addresses = section::address_ranges(table, "addresses");
    let allow = table.tables("allow", |table| WrittenServer {
        name: table
            .required("name", "\"admin-1.example.com\"")
            .and_then(|field| field.parse(value::dns_name)),
        services: table.required("services", "[\"web\"]").and_then(|field| selection(&field)),
    });
    if !table.has("allow") {
        table.error(
            "missing `[[servers.allow]]`: name each server and the services it serves".into(),
        );
    }
    WrittenServers { ca, revocation, bring_crls, addresses, allow }
}

fn service<'t>(table: &Table<'t>, session: &SessionLimits) -> WrittenService<'t> {
    let list = |key, example, parse: fn(&'t str) -> Result<String, String>| {
        let values = table.optional(key, example).and_then(|field| field.parse_each(parse));
        values.unwrap_or_default()
    };
    WrittenService {
        here: table.here(),
        name: table.required("name", "\"web\"").and_then(|field| field.parse(value::name)),
        listeners: match table.optional("listeners", "[\"internet\"]") {
            Some(field) => selection(&field),
            None => Some(Selection::All),
        },
        sni: list("sni", "[\"web.example.com\"]", value::sni_pattern),
        alpn: list("alpn", "[\"h2\", \"http/1.1\"]", value::alpn),
        default: table.optional("default", "true").and_then(|field| field.boolean()),
        passthrough: table.has("tls").then(|| service_tls(table)).flatten(),
        devices: table.optional("devices", "\"verified\"").map(|field| devices(&field)),
        limits: table.table_or_empty("limits", |table| quotas::of_service(table, session)),
    }
}

/// Whether its agents' own TLS goes through.
fn service_tls(table: &Table<'_>) -> Option<Written<bool>> {
    table.choice("tls", &[("passthrough", true), ("gateway", false)])
}

/// `"all"`, or a list of names.
fn selection<'t>(field: &Field<'t>) -> Option<Selection<'t>> {
    if field.is_list() {
        return field.parse_nonempty(Ok).map(Selection::Named);
    }
    let all = field.parse(|text| match text {
        "all" => Ok(Selection::All),
        _ => Err(format!("\"{text}\" must stand in a list: write `[\"{text}\"]`, or `\"all\"`")),
    });
    all.map(|all| all.value)
}

/// A policy that is wrong is reported and read as `any`, to which the fewest rules object.
fn devices(field: &Field<'_>) -> Written<DevicePolicy> {
    if field.is_list() {
        let patterns = field.parse_nonempty(value::device_pattern).unwrap_or_default();
        let patterns = patterns.into_iter().map(|pattern| pattern.value).collect();
        return field.written(DevicePolicy::Named(patterns));
    }
    let policy = field.parse(|text| match text {
        "any" => Ok(DevicePolicy::Any),
        "verified" => Ok(DevicePolicy::Verified),
        _ => Err(format!(
            "`devices` can't be \"{text}\": write \"any\", \"verified\", or a list of identities \
             such as `[\"laptop-*\"]`"
        )),
    });
    policy.unwrap_or(field.written(DevicePolicy::Any))
}

fn limits(table: &Table<'_>) -> GatewayLimits {
    let max_connections = table.number("max_connections", MAX_CONNECTIONS);
    GatewayLimits {
        max_connections: count(max_connections),
        max_handshakes: part_of(max_connections, table, "max_handshakes", MAX_HANDSHAKES),
        max_waiting: part_of(max_connections, table, "max_waiting", MAX_WAITING),
        max_spares: count(table.number("max_spares", MAX_SPARES)),
        spare_life: duration(table, "spare_life_ms", SPARE_LIFE_MS),
        admission_timeout: duration(table, "admission_timeout_ms", ADMISSION_TIMEOUT_MS),
        invitation_timeout: duration(table, "invitation_timeout_ms", INVITATION_TIMEOUT_MS),
        session: section::session_limits(table),
        drain_timeout: section::drain_timeout(table),
    }
}

fn address_limits(table: &Table<'_>) -> AddressLimits {
    let max_connections = table.number("max_connections", ADDRESS_CONNECTIONS);
    let max_handshakes = table.number("max_handshakes", ADDRESS_HANDSHAKES);
    let of_prefix = |key, range, of_one| count(at_least(of_one, table, key, range));
    let rate = |key, range| u32::try_from(table.number(key, range)).unwrap_or(u32::MAX);
    AddressLimits {
        max_connections: count(max_connections),
        max_connections_of_prefix: of_prefix(
            "max_connections_of_prefix",
            PREFIX_CONNECTIONS,
            max_connections,
        ),
        max_handshakes: count(max_handshakes),
        max_handshakes_of_prefix: of_prefix(
            "max_handshakes_of_prefix",
            PREFIX_HANDSHAKES,
            max_handshakes,
        ),
        connections_per_s: rate("connections_per_s", ADDRESS_RATE),
        connections_burst: rate("connections_burst", ADDRESS_BURST),
        bandwidth: quotas::bandwidth(table),
        exempt: section::address_ranges(table, "exempt"),
    }
}

/// What all addresses of a prefix may have, which can't be less than one of them may.
fn at_least(of_one: u64, table: &Table<'_>, key: &'static str, range: Range) -> u64 {
    let Some(Written { value, span }) = table.written_number(key, range) else {
        return range.default.max(of_one);
    };
    if value < of_one {
        let message = format!("`{key}` must be at least what one address may have, {of_one}");
        table.report.error(span, message);
    }
    value
}

/// A number of connections in some state, which can't be more than there may be connections.
fn part_of(max_connections: u64, table: &Table<'_>, key: &'static str, range: Range) -> usize {
    let Some(Written { value, span }) = table.written_number(key, range) else {
        return count(range.default.min(max_connections));
    };
    if value > max_connections {
        let message =
            format!("`{key}` must be at most `max_connections`, which is {max_connections}");
        table.report.error(span, message);
    }
    count(value)
}
