//! `agent.toml` as written → checked.

use super::names::report_duplicates;
use super::problem::Written;
use super::section::{self, count};
use super::table::Table;
use super::{AgentConfig, Forward, value};
use crate::limits::{MAX_CONNECTIONS, RETRY_FOR_MS};

/// Reads the file; `None` where something in it is wrong.
pub(super) fn read(table: &Table<'_>) -> Option<AgentConfig> {
    let credentials = section::optional_credentials(table);
    let gateway_ca = section::gateway_ca(table);
    let gateways = section::gateways(table);
    let forwards = table.required_tables("forwards", forward);
    let (max_connections, retry_for) = table.table_or_empty("limits", |table| {
        let max_connections = count(table.number("max_connections", MAX_CONNECTIONS));
        (max_connections, section::duration(table, "retry_for_ms", RETRY_FOR_MS))
    });

    let addresses = forwards.iter().flatten().filter(|(_, forward)| forward.address.port() != 0);
    report_duplicates(
        table.report,
        "address",
        addresses.map(|(place, forward)| place.map(|()| forward.address)),
    );
    Some(AgentConfig {
        credentials: credentials?,
        gateway_ca: gateway_ca?,
        gateways: gateways?,
        forwards: forwards
            .into_iter()
            .map(|read| read.map(|(_, forward)| forward))
            .collect::<Option<_>>()?,
        max_connections,
        retry_for,
    })
}

/// A forward, and where its address is written.
fn forward(table: &Table<'_>) -> Option<(Written<()>, Forward)> {
    let address = table
        .required("address", "\"127.0.0.1:2222\"")
        .and_then(|field| field.parse(value::listen_address));
    let service = table.required("service", "\"ssh\"").and_then(|field| field.parse(value::name));
    let allow_remote = table.boolean("allow_remote", false);

    let address = address?;
    if !address.value.ip().is_loopback() {
        let shown = address.value;
        if allow_remote {
            let message = format!(
                "{shown} is no loopback address: whoever reaches it uses this device's identity"
            );
            table.report.warning(address.span, message);
        } else {
            let port = shown.port();
            let message = format!(
                "{shown} is no loopback address: whoever reaches it would use this device's \
                 identity; write `127.0.0.1:{port}`, or add `allow_remote = true`"
            );
            table.report.error(address.span, message);
        }
    }
    let forward = Forward { address: address.value, service: service?.value.to_owned() };
    Some((address.map(|_| ()), forward))
}
