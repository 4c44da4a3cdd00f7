//! `server.toml` as written → checked.

use std::net::{Ipv4Addr, SocketAddr};

use super::names::report_duplicates;
use super::problem::Written;
use super::section::{self, count};
use super::table::Table;
use super::{Backend, BackendTls, HostPort, ServedService, ServerConfig, value};
use crate::limits::{CONNECT_TIMEOUT_MS, MAX_CONNECTIONS, MAX_SERVICES, MAX_SPARES_OF_SERVER};

const TELEMETRY_PORT: u16 = 9114;

/// Reads the file; `None` where something in it is wrong.
pub(super) fn read(table: &Table<'_>) -> Option<ServerConfig> {
    let workers = section::workers(table);
    let event_loop = section::event_loop(table);
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
        (name, backend, by_alpn)
    });
    report_duplicates(table.report, "service", services.iter().filter_map(|(name, ..)| *name));
    if services.len() > MAX_SERVICES {
        table.error(format!("{} services: at most {MAX_SERVICES} are allowed", services.len()));
    }
    let service = |(name, backend, by_alpn): (Option<Written<&str>>, _, Option<_>)| {
        let name = name?.value.to_owned();
        Some(ServedService { name, backend: backend?, backend_by_alpn: by_alpn? })
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
