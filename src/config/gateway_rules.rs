//! What the tables of `gateway.toml` say of each other: names are resolved to indexes, and what
//! contradicts itself, or could never work, is refused.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use super::gateway::{Selection, WrittenKind, WrittenListener, WrittenServers, WrittenService};
use super::names::{Names, report_duplicates};
use super::passthrough_rules;
use super::problem::{Report, Span, Written};
use super::revocation::WrittenRevocation;
use super::table::Table;
use super::{
    AllowedServer, DeviceCertificates, DevicePolicy, Listener, ListenerKind, ServersPolicy, Service,
};
use crate::limits::MAX_SERVICES;

/// What is checked together.
pub(super) struct Parts<'t> {
    pub(super) listeners: Vec<WrittenListener<'t>>,
    /// `None` where it is missing, which was reported.
    pub(super) servers: Option<WrittenServers<'t>>,
    pub(super) services: Vec<WrittenService<'t>>,
    pub(super) telemetry: Option<SocketAddr>,
}

/// Resolves the names in the parts of the file `table`. `None` where something is wrong.
pub(super) fn check(
    table: &Table<'_>,
    parts: &Parts<'_>,
) -> Option<(Vec<Listener>, ServersPolicy, Vec<Service>)> {
    let report = table.report;
    check_addresses(report, parts);
    if parts.services.len() > MAX_SERVICES {
        let count = parts.services.len();
        table.error(format!("{count} services: at most {MAX_SERVICES} are allowed"));
        return None;
    }
    let listener_names =
        Names::new(report, "listener", parts.listeners.iter().map(|listener| listener.name));
    let service_names =
        Names::new(report, "service", parts.services.iter().map(|service| service.name));

    let plain_services = parts.listeners.iter().map(|listener| match listener.kind {
        Some(WrittenKind::Plain { service, .. }) => service_names.find(report, service?),
        _ => None,
    });
    let plain_services = plain_services.collect::<Vec<_>>();
    let rules = Rules { report, parts, plain_services: &plain_services };
    let services = (0..parts.services.len())
        .map(|index| rules.resolve_service(index, &listener_names))
        .collect::<Vec<_>>();
    rules.check_choice(&services);
    rules.check_shared_ca(&services);
    rules.check_servers_have_a_listener();
    rules.check_somebody_looks_at_lists();
    let servers = rules.resolve_servers(&service_names);
    let listeners = parts.listeners.iter().zip(&plain_services);
    let listeners = listeners.map(|(listener, service)| rules.resolve_listener(listener, *service));
    Some((
        listeners.collect::<Option<_>>()?,
        servers?,
        services.into_iter().collect::<Option<_>>()?,
    ))
}

fn check_addresses(report: &Report<'_>, parts: &Parts<'_>) {
    let addresses = parts.listeners.iter().flat_map(|listener| listener.addresses.iter().copied());
    let fixed = addresses.filter(|address| address.value.port() != 0).collect::<Vec<_>>();
    report_duplicates(report, "address", fixed.iter().copied());
    let Some(telemetry) = parts.telemetry else { return };
    for Written { value, span } in fixed {
        let covers = value.ip() == telemetry.ip() || value.ip().is_unspecified();
        if covers && value.port() == telemetry.port() {
            report.error(
                span,
                format!(
                    "{value} is taken by `[telemetry]`, at {telemetry}: change one of the ports"
                ),
            );
        }
    }
}

/// The rules, and what they look at. What is wrong in one table is not held against another: where
/// it can't be told whether a rule is broken, it is not.
struct Rules<'a, 't> {
    report: &'a Report<'a>,
    parts: &'a Parts<'t>,
    /// The service of each plain listener, by the index of the listener.
    plain_services: &'a [Option<usize>],
}

impl Rules<'_, '_> {
    fn resolve_listener(
        &self,
        listener: &WrittenListener<'_>,
        plain_service: Option<usize>,
    ) -> Option<Listener> {
        let kind = match listener.kind.as_ref()? {
            WrittenKind::Plain { allow_tls, agents_from, .. } => ListenerKind::Plain {
                service: plain_service?,
                allow_tls: *allow_tls,
                agents_from: agents_from.clone()?,
            },
            WrittenKind::Tls {
                credentials,
                device_certificates,
                device_revocation,
                servers,
                older_agents,
            } => {
                let rules = device_revocation.as_ref();
                let rules = rules.map(|rules| rules.check(self.report, self.bring_crls(), true));
                ListenerKind::Tls {
                    credentials: credentials.clone()?,
                    device_certificates: device_certificates.as_ref()?.value.clone(),
                    device_revocation: rules.unwrap_or_default(),
                    servers: *servers,
                    older_agents: *older_agents,
                }
            }
        };
        let addresses = listener.addresses.iter().map(|address| address.value).collect();
        let proxy_protocol_from = listener.proxy_protocol_from.clone();
        let name = listener.name?.value.to_owned();
        Some(Listener { name, addresses, proxy_protocol_from, kind })
    }

    fn bring_crls(&self) -> bool {
        let servers = self.parts.servers.as_ref();
        servers.and_then(|servers| servers.bring_crls).is_some_and(|bring| bring.value)
    }

    fn check_somebody_looks_at_lists(&self) {
        let Some(servers) = &self.parts.servers else { return };
        let of_devices = self.parts.listeners.iter().filter_map(|listener| match &listener.kind {
            Some(WrittenKind::Tls { device_revocation, .. }) => device_revocation.as_ref(),
            _ => None,
        });
        let mut all = of_devices.chain([&servers.revocation]);
        if let Some(bring) = servers.bring_crls.filter(|bring| bring.value)
            && all.all(WrittenRevocation::is_off)
        {
            let message = "`bring_crls` has no effect: nobody looks at lists; say so with                            `device_revocation` of a listener, or with `revocation` here";
            self.report.error(bring.span, message);
        }
    }

    fn resolve_service(&self, index: usize, names: &Names<'_>) -> Option<Service> {
        let service = &self.parts.services[index];
        let list = |kind, values: &[Written<String>]| {
            report_duplicates(self.report, kind, values.iter().cloned());
            values.iter().map(|value| value.value.clone()).collect::<Vec<_>>()
        };
        let sni = list("server name", &service.sni);
        let alpn = list("ALPN name", &service.alpn);
        let default = service.default.is_some_and(|default| default.value);
        let name = service.name?.value;
        let listeners = self.offered_on(index, service, name, names)?;
        let passthrough = service.passthrough.filter(|passthrough| passthrough.value);
        let devices = match passthrough {
            Some(Written { span, .. }) => {
                let offered = listeners.iter().map(|&at| &self.parts.listeners[at]);
                passthrough_rules::check(self.report, span, service, name, offered)?
            }
            None => self.devices(service, name, &listeners)?,
        };
        let name = name.to_owned();
        let limits = service.limits.clone();
        let passthrough = passthrough.is_some();
        Some(Service {
            id: index,
            name,
            listeners,
            sni,
            alpn,
            default,
            passthrough,
            devices,
            limits,
        })
    }

    /// Indexes of the listeners where a service is offered: the plain ones that name it, and those
    /// of TLS that it chooses. `None` where there are none.
    fn offered_on(
        &self,
        index: usize,
        service: &WrittenService<'_>,
        name: &str,
        names: &Names<'_>,
    ) -> Option<Vec<usize>> {
        let mut is_sure = true;
        let chosen = match service.listeners.as_ref()? {
            Selection::All => None,
            Selection::Named(list) => {
                let found = names.find_all(self.report, list);
                is_sure &= found.len() == list.len();
                Some(found)
            }
        };
        let mut offered = Vec::new();
        for (at, listener) in self.parts.listeners.iter().enumerate() {
            let is_chosen = chosen.as_ref().map(|chosen| chosen.contains(&at));
            match (&listener.kind, self.plain_services[at]) {
                (Some(WrittenKind::Plain { .. }), None) => is_sure = false,
                (Some(WrittenKind::Plain { .. }), Some(plain)) if plain == index => {
                    offered.push(at);
                }
                (Some(WrittenKind::Plain { .. }), _) if is_chosen == Some(true) => {
                    self.refuse_plain(service, at);
                    is_sure = false;
                }
                (Some(WrittenKind::Plain { .. }), _) => {}
                (Some(WrittenKind::Tls { .. }) | None, _) if is_chosen == Some(false) => {}
                (Some(WrittenKind::Tls { .. }) | None, _) => offered.push(at),
            }
        }
        if !offered.is_empty() {
            return Some(offered);
        }
        if is_sure && !self.parts.listeners.is_empty() {
            let message = format!(
                "nobody can reach service \"{name}\": no listener offers it; name a listener with \
                 `kind = \"tls\"` in its `listeners`, or give a plain one `service = \"{name}\"`"
            );
            self.report.error(service.here.span, message);
        }
        None
    }

    fn refuse_plain(&self, service: &WrittenService<'_>, listener: usize) {
        let Some(Selection::Named(named)) = &service.listeners else { return };
        let Some(name) = self.parts.listeners[listener].name else { return };
        for written in named.iter().filter(|written| written.value == name.value) {
            let message = format!(
                "listener \"{}\" is plain and leads to another service: a plain listener has one, \
                 which it names itself (`service = ...`); take it out of this list",
                name.value
            );
            self.report.error(written.span, message);
        }
    }

    /// Who may reach a service, which the certificates of its listeners must be able to tell.
    fn devices(
        &self,
        service: &WrittenService<'_>,
        name: &str,
        listeners: &[usize],
    ) -> Option<DevicePolicy> {
        let mut listeners = listeners.iter().map(|&at| &self.parts.listeners[at]);
        let Some(blind) = listeners.find(|listener| !asks_certificates(listener)) else {
            let written = service.devices.as_ref().map(|devices| devices.value.clone());
            return Some(written.unwrap_or(DevicePolicy::Verified));
        };
        let blind = blind.name.map_or("", |name| name.value);
        let why = format!("listener \"{blind}\" asks devices for no certificate");
        let Some(devices) = &service.devices else {
            let message = format!(
                "service \"{name}\" needs `devices`, since {why}: write `devices = \"any\"` to \
                 let everyone in, or offer it on other listeners only"
            );
            self.report.error(service.here.span, message);
            return None;
        };
        if devices.value != DevicePolicy::Any {
            let message = format!(
                "nobody could reach service \"{name}\" there, since {why}: write \
                 `devices = \"any\"`, or offer it on other listeners only"
            );
            self.report.error(devices.span, message);
            return None;
        }
        Some(DevicePolicy::Any)
    }

    /// A foreign agent must find one service at most, by its server name or as the default.
    fn check_choice(&self, services: &[Option<Service>]) {
        let mut defaults = HashMap::new();
        let mut by_sni = HashMap::<_, Vec<usize>>::new();
        for (index, service) in services.iter().enumerate() {
            let Some(service) = service else { continue };
            let mut rivals = Vec::new();
            for &at in service.listeners.iter().filter(|at| self.is_tls(**at)) {
                if service.default {
                    let first = *defaults.entry(at).or_insert(index);
                    self.check_default(at, first, index);
                }
                for (position, sni) in service.sni.iter().enumerate() {
                    let others = by_sni.entry((at, sni)).or_default();
                    let rival = others.iter().find(|other| {
                        **other != index
                            && services[**other]
                                .as_ref()
                                .is_some_and(|other| same_alpn(other, service))
                    });
                    rivals.extend(rival.map(|rival| (position, *rival)));
                    others.push(index);
                }
            }
            // The same pair on several listeners is one mistake.
            rivals.sort_unstable();
            rivals.dedup();
            for (position, rival) in rivals {
                self.refuse_rival(self.parts.services[index].sni[position].span, rival);
            }
        }
    }

    fn refuse_rival(&self, at: Span, rival: usize) {
        let rival = &self.parts.services[rival];
        let Some(name) = rival.name else { return };
        let (name, line) = (name.value, self.report.line(rival.here.span));
        let message = format!(
            "service \"{name}\" in line {line} has this server name as well, on the same listener \
             and with the same ALPN: which of them is meant can't be told; give each its own `sni`, \
             `alpn` or `listeners`"
        );
        self.report.error(at, message);
    }

    fn check_default(&self, listener: usize, first: usize, second: usize) {
        let services = &self.parts.services;
        let (Some(listener), Some(name)) =
            (self.parts.listeners[listener].name, services[first].name)
        else {
            return;
        };
        let (Some(first), Some(second)) =
            (services[first].default.filter(|_| first != second), services[second].default)
        else {
            return;
        };
        let (listener, name, line) = (listener.value, name.value, self.report.line(first.span));
        let message = format!(
            "listener \"{listener}\" has a default service already: \"{name}\" in line {line}; \
             only one may be"
        );
        self.report.error(second.span, message);
    }

    /// Where devices and servers share a CA, a server's certificate would pass as a device's (and,
    /// but for the list of servers, the other way round), unless the devices are named.
    fn check_shared_ca(&self, services: &[Option<Service>]) {
        let Some(servers) = &self.parts.servers else { return };
        for (at, written) in self.parts.listeners.iter().enumerate() {
            let Some(WrittenKind::Tls { device_certificates: Some(devices), .. }) = &written.kind
            else {
                continue;
            };
            if ca_of(&devices.value) != servers.ca.as_deref() || servers.ca.is_none() {
                continue;
            }
            let mut offered = services.iter().flatten().filter(|s| s.listeners.contains(&at));
            let lets_all_in =
                |service: &&Service| !service.passthrough && !names_devices(&service.devices);
            if let Some(service) = offered.find(lets_all_in) {
                let message = format!(
                    "this is the CA of `[servers]` as well, so a server's certificate would pass \
                     as a device's: give the devices a CA of their own, or name the devices of \
                     service \"{0}\" (`devices = [\"laptop-*\"]`)",
                    service.name
                );
                self.report.error(devices.span, message);
            }
        }
    }

    fn check_servers_have_a_listener(&self) {
        let lets_in = |listener: &WrittenListener<'_>| match &listener.kind {
            Some(WrittenKind::Tls { servers, .. }) => *servers,
            Some(WrittenKind::Plain { .. }) => false,
            None => true,
        };
        let listeners = &self.parts.listeners;
        if let (Some(first), false) = (listeners.first(), listeners.iter().any(lets_in)) {
            let message = "no listener lets servers in, so nobody could serve a session: one needs \
                           `kind = \"tls\"` and `servers = true`";
            self.report.error(first.here.span, message);
        }
    }

    fn resolve_servers(&self, names: &Names<'_>) -> Option<ServersPolicy> {
        let servers = self.parts.servers.as_ref()?;
        let written_names = servers.allow.iter().filter_map(|server| server.name.clone());
        report_duplicates(self.report, "server", written_names);
        let resolved = servers.allow.iter().map(|server| {
            let services = match server.services.as_ref()? {
                Selection::All => (0..self.parts.services.len()).collect(),
                Selection::Named(list) => names.find_all(self.report, list),
            };
            Some(AllowedServer { name: server.name.as_ref()?.value.clone(), services })
        });
        // Collected first: every entry is looked at before one that is wrong ends this.
        let allow =
            resolved.collect::<Vec<_>>().into_iter().collect::<Option<Vec<AllowedServer>>>()?;
        for (index, service) in self.parts.services.iter().enumerate() {
            if !allow.iter().any(|server| server.services.contains(&index)) {
                let message = "no server may serve this service, so its agents are refused: name \
                               it in the `services` of an entry of `[[servers.allow]]`";
                self.report.warning(service.here.span, message);
            }
        }
        let bring_crls = self.bring_crls();
        let revocation = servers.revocation.check(self.report, bring_crls, false);
        let addresses = servers.addresses.clone();
        Some(ServersPolicy { ca: servers.ca.clone()?, revocation, bring_crls, addresses, allow })
    }

    fn is_tls(&self, listener: usize) -> bool {
        matches!(self.parts.listeners[listener].kind, Some(WrittenKind::Tls { .. }))
    }
}

/// Whether it can tell one device from another; one that was reported gets the benefit of the doubt.
fn asks_certificates(listener: &WrittenListener<'_>) -> bool {
    match &listener.kind {
        Some(WrittenKind::Plain { .. }) => false,
        Some(WrittenKind::Tls { device_certificates: Some(devices), .. }) => {
            devices.value != DeviceCertificates::None
        }
        _ => true,
    }
}

fn ca_of(certificates: &DeviceCertificates) -> Option<&Path> {
    match certificates {
        DeviceCertificates::Required(ca) | DeviceCertificates::Optional(ca) => Some(ca),
        DeviceCertificates::None => None,
    }
}

/// Whether two services may be agreed on by the same ALPN offer: they share a name, or have none.
fn same_alpn(one: &Service, other: &Service) -> bool {
    (one.alpn.is_empty() && other.alpn.is_empty())
        || one.alpn.iter().any(|name| other.alpn.contains(name))
}

/// Whether only devices that are named may come; a lone star names nobody.
fn names_devices(policy: &DevicePolicy) -> bool {
    let DevicePolicy::Named(patterns) = policy else { return false };
    patterns.iter().all(|pattern| pattern.bytes().any(|b| b != b'*'))
}
