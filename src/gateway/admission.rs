//! Who a connection is for, and whether it may: pure decisions over the configuration.

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::config::{
    AddressLimits, AllowedServer, DevicePolicy, GatewayConfig, ListenerKind, Service,
};
use crate::control::ServiceId;
use crate::tls::{ClientHello, Identity};
use crate::wire::{RefusalReason, alpn};

/// Whether a listener expects TLS.
pub(super) fn speaks_tls(config: &GatewayConfig, listener: usize) -> bool {
    matches!(config.listeners[listener].kind, ListenerKind::Tls { .. })
}

/// Whether connections from there are those of others, and say so first.
pub(super) fn is_balancer(config: &GatewayConfig, listener: usize, from: IpAddr) -> bool {
    config.listeners[listener].proxy_protocol_from.iter().any(|range| range.contains(&from))
}

/// Whether an agent may come from there, before it has said a word: those of plain listeners prove nothing
/// but their address. A balancer's connection is judged once it is known whose it is.
pub(super) fn takes_agents_from(config: &GatewayConfig, listener: usize, from: IpAddr) -> bool {
    match &config.listeners[listener].kind {
        ListenerKind::Plain { agents_from, .. } => agents_from.contains(from),
        ListenerKind::Tls { .. } => true,
    }
}

/// Whether the operator has named this address as one of servers.
pub(super) fn is_server_address(config: &GatewayConfig, from: IpAddr) -> bool {
    config.servers.addresses.iter().any(|range| range.contains(&from))
}

/// Whether a server may come from this address.
pub(super) fn may_be_server(config: &GatewayConfig, from: IpAddr) -> bool {
    config.servers.addresses.is_empty() || is_server_address(config, from)
}

/// The limits that hold for an address; `None` where none do.
pub(super) fn limits_of(
    config: &GatewayConfig,
    listener: usize,
    from: IpAddr,
) -> Option<&AddressLimits> {
    let limits = &config.addresses;
    let is_exempt = is_balancer(config, listener, from)
        || is_server_address(config, from)
        || limits.exempt.iter().any(|range| range.contains(&from));
    (!is_exempt).then_some(limits)
}

/// What a ClientHello asks to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// A server's signal connection.
    Signal,
    /// A server's data connection, and where it says that its agent is.
    Data(Option<alpn::Hint>),
    /// Our own agent, which names its service after the handshake.
    Agent,
    /// Any other program, for this service.
    Foreign(ServiceId),
    /// The same, and its TLS goes through unread.
    Unread(ServiceId),
}

impl Role {
    /// That of a foreign agent of this service.
    fn of_foreign(service: &Service) -> Self {
        if service.passthrough { Self::Unread(service.id) } else { Self::Foreign(service.id) }
    }
}

/// Chooses the role by ALPN, and the service of a foreign agent by listener, SNI and ALPN.
pub(super) fn role(
    config: &GatewayConfig,
    listener: usize,
    hello: &ClientHello,
) -> Result<Role, RefusalReason> {
    if hello.offers(alpn::SIGNAL) {
        return Ok(Role::Signal);
    }
    if hello.offers(alpn::DATA) {
        return Ok(Role::Data(hello.alpn.iter().find_map(|name| alpn::Hint::from_alpn(name))));
    }
    if hello.offers(alpn::AGENT) {
        return Ok(Role::Agent);
    }
    let offered = || config.services.iter().filter(|service| service.listeners.contains(&listener));
    // Of equals the first in the file, whatever its number.
    let closest = offered()
        .enumerate()
        .filter_map(|(place, service)| Some((fit(service, hello)?, Reverse(place), service)))
        .max_by_key(|&(fit, place, _)| (fit, place));
    closest
        .map(|(_, _, service)| service)
        .or_else(|| offered().find(|service| service.default))
        .map(Role::of_foreign)
        .ok_or(RefusalReason::ServiceUnknown)
}

/// How closely a service fits what a foreign agent asks for: a full name before one with a star,
/// before none; then an ALPN in common before none. `None` where it does not fit. A service that
/// names neither is chosen by our own agent, or as the default.
fn fit(service: &Service, hello: &ClientHello) -> Option<(u8, bool)> {
    let by_sni = if service.sni.is_empty() {
        0
    } else if service.sni.contains(&hello.sni) {
        2
    } else if service.sni.iter().any(|pattern| star_matches(pattern, &hello.sni)) {
        1
    } else {
        return None;
    };
    let by_alpn = service.alpn.iter().any(|name| hello.offers(name.as_bytes()));
    // A client that offers no ALPN takes what the service speaks by itself.
    let alpn_fits = by_alpn || service.alpn.is_empty() || (by_sni > 0 && hello.alpn.is_empty());
    (alpn_fits && (by_sni > 0 || by_alpn)).then_some((by_sni, by_alpn))
}

/// `*.example.com` stands for one label, as in certificates (RFC 9525 §6.3).
fn star_matches(pattern: &str, name: &str) -> bool {
    let Some(parent) = pattern.strip_prefix("*.") else { return false };
    name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
}

/// The service that our own agent names. Its TLS ends at the gateway, so those that let none end there are not for it.
pub(super) fn named_service(
    config: &GatewayConfig,
    listener: usize,
    name: &str,
) -> Result<ServiceId, RefusalReason> {
    let mut services = config.services.iter();
    let found =
        services.find(|s| s.name == name && s.listeners.contains(&listener) && !s.passthrough);
    found.map(|service| service.id).ok_or(RefusalReason::ServiceUnknown)
}

/// Whether this device may reach this service by this listener. `is_unread`: its TLS is not ours.
pub(super) fn admit(
    config: &GatewayConfig,
    listener: usize,
    service: ServiceId,
    device: Option<&Identity>,
    is_unread: bool,
) -> Result<(), RefusalReason> {
    let offered = |s: &&Service| s.listeners.contains(&listener) && s.passthrough == is_unread;
    let service = config.service(service).filter(offered);
    let allowed = match &service.ok_or(RefusalReason::ServiceUnknown)?.devices {
        DevicePolicy::Any => true,
        DevicePolicy::Verified => device.is_some(),
        DevicePolicy::Named(patterns) => {
            device.is_some_and(|device| patterns.iter().any(|pattern| device.matches(pattern)))
        }
    };
    if allowed { Ok(()) } else { Err(RefusalReason::DeviceNotAllowed) }
}

/// The entry of the allow-list that this server is, by the DNS names of its certificate.
pub(super) fn allowed_server<'c>(
    config: &'c GatewayConfig,
    server: &Identity,
) -> Option<&'c AllowedServer> {
    config.servers.allow.iter().find(|allowed| server.has_dns_name(&allowed.name))
}

/// Whether the server of that name may serve a service.
pub(super) fn may_serve(config: &GatewayConfig, server: &str, service: ServiceId) -> bool {
    let mut allowed = config.servers.allow.iter().filter(|allowed| allowed.name == server);
    allowed.any(|allowed| allowed.services.contains(&service))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse_gateway;

    const CONFIG: &str = r#"
        [[listeners]]
        name = "internet"
        addresses = ["127.0.0.1:13000"]
        kind = "tls"
        certificate = "gw.crt"
        key = "gw.key"
        device_certificates = "required"
        device_ca = "devices.crt"
        [servers]
        ca = "servers.crt"
        [[servers.allow]]
        name = "admin.example.com"
        services = "all"
        [[services]]
        name = "any-site"
        sni = ["*.example.com"]
        [[services]]
        name = "web"
        sni = ["web.example.com"]
        [[services]]
        name = "web-http"
        sni = ["web.example.com"]
        alpn = ["h2", "http/1.1"]
        [[services]]
        name = "mail"
        alpn = ["imap"]
        [[services]]
        name = "ssh"
        devices = ["admin-*"]
        [[services]]
        name = "fallback"
        default = true
    "#;

    fn config() -> GatewayConfig {
        parse_gateway(CONFIG, Path::new("gateway.toml")).expect("well-formed").config
    }

    fn chosen(sni: &str, alpn: &[&str]) -> String {
        let config = config();
        let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        match role(&config, 0, &ClientHello { sni: sni.to_owned(), alpn, ..ClientHello::default() })
        {
            Ok(Role::Foreign(service)) => config.services[service].name.clone(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_closest_service_is_chosen_by_name_and_then_by_protocol() {
        assert_eq!(chosen("web.example.com", &["h2"]), "web-http");
        assert_eq!(chosen("web.example.com", &["other"]), "web");
        assert_eq!(chosen("web.example.com", &[]), "web");
        assert_eq!(chosen("shop.example.com", &["h2"]), "any-site");
        assert_eq!(chosen("a.b.example.com", &[]), "fallback");
        assert_eq!(chosen("", &["imap"]), "mail");
        assert_eq!(chosen("", &[]), "fallback");
    }

    #[test]
    fn our_own_protocols_come_before_any_service() {
        assert_eq!(chosen("web.example.com", &["h2", "vestibule-signal/1"]), "Ok(Signal)");
        assert_eq!(chosen("web.example.com", &["vestibule-agent/1"]), "Ok(Agent)");
        assert_eq!(chosen("", &["vestibule-data/1", "vestibule-at/garbage"]), "Ok(Data(None))");
    }

    #[test]
    fn a_service_that_nobody_offers_is_unknown() {
        let mut config = config();
        config.services.pop();
        let hello = ClientHello { sni: "elsewhere.org".to_owned(), ..ClientHello::default() };
        assert_eq!(role(&config, 0, &hello), Err(RefusalReason::ServiceUnknown));
        assert_eq!(named_service(&config, 0, "absent"), Err(RefusalReason::ServiceUnknown));
        assert_eq!(named_service(&config, 0, "ssh"), Ok(4));
    }

    #[test]
    fn a_device_reaches_what_its_policy_names_and_nothing_else() {
        let mut config = config();
        let not_allowed = Err(RefusalReason::DeviceNotAllowed);
        assert_eq!(admit(&config, 0, 4, None, false), not_allowed);
        config.services[4].devices = DevicePolicy::Any;
        assert_eq!(admit(&config, 0, 4, None, false), Ok(()));
        assert_eq!(admit(&config, 0, 5, None, false), not_allowed);
    }

    #[test]
    fn nobody_reaches_a_service_that_is_gone_or_offered_elsewhere() {
        let mut config = config();
        config.services[4].devices = DevicePolicy::Any;
        assert_eq!(admit(&config, 1, 4, None, false), Err(RefusalReason::ServiceUnknown));
        config.services.remove(4);
        assert_eq!(admit(&config, 0, 4, None, false), Err(RefusalReason::ServiceUnknown));
    }

    #[test]
    fn whose_tls_goes_through_is_told_by_its_hello_and_reaches_no_service_that_ends_it() {
        let mut config = config();
        let web = config.services.iter_mut().find(|service| service.name == "web").expect("web");
        (web.passthrough, web.devices) = (true, DevicePolicy::Any);
        let id = web.id;
        let hello = ClientHello { sni: "web.example.com".to_owned(), ..ClientHello::default() };
        assert_eq!(role(&config, 0, &hello), Ok(Role::Unread(id)));
        assert_eq!(named_service(&config, 0, "web"), Err(RefusalReason::ServiceUnknown));
        assert_eq!(admit(&config, 0, id, None, true), Ok(()));
        assert_eq!(admit(&config, 0, id, None, false), Err(RefusalReason::ServiceUnknown));
        config.services[4].devices = DevicePolicy::Any;
        assert_eq!(admit(&config, 0, 4, None, true), Err(RefusalReason::ServiceUnknown));
    }

    #[test]
    fn a_server_serves_what_its_entry_names() {
        let mut config = config();
        assert!(may_serve(&config, "admin.example.com", 4));
        config.servers.allow[0].services = vec![1];
        assert!(!may_serve(&config, "admin.example.com", 4));
        assert!(!may_serve(&config, "other.example.com", 1));
    }
}
