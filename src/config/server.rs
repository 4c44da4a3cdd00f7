//! `server.toml` as written → checked.

use std::net::{Ipv4Addr, SocketAddr};

use super::names::report_duplicates;
use super::platform;
use super::problem::Written;
use super::section::{self, count};
use super::table::Table;
use super::{
    AgentTls, AgentTlsEnd, Backend, BackendTls, HostPort, ServedService, ServerConfig, value,
};
use crate::limits::{CONNECT_TIMEOUT_MS, MAX_CONNECTIONS, MAX_SERVICES, MAX_SPARES_OF_SERVER};

const TELEMETRY_PORT: u16 = 9114;

/// Reads the file; `None` where something in it is wrong.
pub(super) fn read(table: &Table<'_>) -> Option<ServerConfig> {
    let workers = section::workers(table);
    let event_loop = platform::event_loop(table);
    let relay = platform::relay(table);
    let credentials = section::credentials(table);
    let gateway_ca = section::gateway_ca(table);
    let crls = section::crl_files(table, "crls").into_iter().map(|file| file.value).collect();
    let gateways = section::gateways(table);
    let services = services(table);
    let (bounds, session, drain_timeout) = table.table_or_empty("limits", |table| {
        let max_sessions = count(table.number("max_sessions", MAX_CONNECTIONS));
        let max_spares = count(table.number("max_spares", MAX_SPARES_OF_SERVER));
        let bounds = (max_sessions, max_spares);
        (bounds, section::session_limits(table), section::drain_timeout(table))
    });
    let (max_sessions, max_spares) = bounds;
    let telemetry =
        section::telemetry(table, SocketAddr::from((Ipv4Addr::LOCALHOST, TELEMETRY_PORT)));
    let operator = section::operator(table, false);
    Some(ServerConfig {
        workers,
        event_loop,
        relay,
        credentials: credentials?,
        gateway_ca: gateway_ca?,
        crls,
        gateways: gateways?,
        services: services?,
        max_sessions,
        max_spares,
        session,
        drain_timeout,
        telemetry,
        operator,
    })
}

fn services(table: &Table<'_>) -> Option<Vec<ServedService>> {
    let services = table.required_tables("services", |table| {
        let name = table.required("name", "\"web\"").and_then(|field| field.parse(value::name));
        let backend = backend(table);
        let by_alpn = backends_by_alpn(table);
        let agent_tls = agent_tls(table, backend.as_ref());
        (name, backend, by_alpn, agent_tls)
    });
    report_duplicates(table.report, "service", services.iter().filter_map(|(name, ..)| *name));
    if services.len() > MAX_SERVICES {
        table.error(format!("{} services: at most {MAX_SERVICES} are allowed", services.len()));
    }
    let service =
        |(name, backend, by_alpn, agent_tls): (Option<Written<&str>>, _, Option<_>, _)| {
            let (name, agent_tls): (_, Option<AgentTls>) = (name?.value.to_owned(), agent_tls);
            let (backend, backend_by_alpn) = (backend?, by_alpn?);
            Some(ServedService { name, backend, backend_by_alpn, agent_tls: agent_tls? })
        };
    services.into_iter().map(service).collect()
}

fn backends_by_alpn(table: &Table<'_>) -> Option<Vec<(String, Backend)>> {
    let backends = table.tables("by_alpn", |table| {
        let alpn = table.required("alpn", "\"h2\"").and_then(|field| field.parse(value::alpn));
        (alpn, backend(table))
    });
    let names = backends.iter().filter_map(|(alpn, _)| alpn.clone());
    report_duplicates(table.report, "ALPN name", names);
    backends.into_iter().map(|(alpn, backend)| Some((alpn?.value, backend?))).collect()
}

/// The keys of a backend, which stand in the table of its service or of its ALPN name.
fn backend(table: &Table<'_>) -> Option<Backend> {
    let address = table
        .required("backend", "\"127.0.0.1:80\"")
        .and_then(|field| field.parse(value::host_port))
        .map(|address| address.value);
    let proxy_protocol = table.boolean("proxy_protocol", false);
    let connect_timeout = section::duration(table, "connect_timeout_ms", CONNECT_TIMEOUT_MS);
    let has_tls = table.optional("tls", "").is_some();
    let tls = table.table("tls", |table| backend_tls(table, address.as_ref())).flatten();
    if has_tls && tls.is_none() {
        return None;
    }
    Some(Backend { address: address?, proxy_protocol, tls, connect_timeout })
}

/// Where the TLS of agents ends, and what can't go with that. `None` where something is wrong.
fn agent_tls(table: &Table<'_>, backend: Option<&Backend>) -> Option<AgentTls> {
    let example = "\"passthrough\"";
    let Some(field) = table.optional("agent_tls", example) else {
        return Some(AgentTls::AtGateway);
    };
    for key in ["by_alpn", "tls"] {
        let reason = match (key, field.is_table()) {
            ("by_alpn", _) => "no protocol is agreed yet when the backend is connected",
            (_, false) => "the agents' own TLS goes to the backend",
            _ => continue,
        };
        if table.has(key) {
            table.error_at(key, format!("`{key}` can't go with `agent_tls`: {reason}"));
            return None;
        }
    }
    if !field.is_table() {
        let through = field.parse(|text| match text {
            "passthrough" => Ok(AgentTls::AtBackend),
            _ => Err(format!(
                "`agent_tls` can't be \"{text}\": write {example}, or the certificate that ends it here, as in \
                 `agent_tls = {{ certificate = \"pki/web.crt\", key = \"pki/web.key\" }}`"
            )),
        });
        return through.map(|through| through.value);
    }
    if backend.is_some_and(|backend| backend.proxy_protocol && backend.tls.is_some()) {
        let message = "`proxy_protocol` can't go with both `tls` and `agent_tls`: the header stands before TLS with the \
                       backend, and who comes is known after that";
        table.error_at("proxy_protocol", message.to_owned());
        return None;
    }
    table.table("agent_tls", |table| {
        let credentials = section::credentials(table);
        let device_ca = table.optional("device_ca", "\"pki/devices-ca.crt\"");
        let device_ca = device_ca.and_then(|field| field.path()).map(|path| path.value);
        let alpn = table.optional("alpn", "[\"h2\", \"http/1.1\"]");
        let alpn = alpn.and_then(|field| field.parse_each(value::alpn)).unwrap_or_default();
        report_duplicates(table.report, "ALPN name", alpn.iter().cloned());
        let alpn = alpn.into_iter().map(|name| name.value).collect();
        Some(AgentTls::Here(AgentTlsEnd { credentials: credentials?, device_ca, alpn }))
    })?
}

/// `tls = { ... }` of a backend, whose certificate bears the host of `address` unless told otherwise.
fn backend_tls(table: &Table<'_>, address: Option<&HostPort>) -> Option<BackendTls> {
    let ca = table.path("ca", "\"pki/backends-ca.crt\"");
    let name = match table.optional("name", "\"web.example.com\"") {
        Some(field) => field.parse(value::certificate_name).map(|name| name.value),
        None => address.map(|address| address.host.clone()),
    };
    let credentials = section::optional_credentials(table);
    Some(BackendTls { ca: ca?, name: name?, credentials: credentials? })
}
