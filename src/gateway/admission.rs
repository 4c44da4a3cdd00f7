//! Who a connection is for, and whether it may: pure decisions over the configuration.

use crate::config::{DevicePolicy, GatewayConfig, Service};
use crate::control::ServiceId;
use crate::tls::{ClientHello, Identity};
use crate::wire::{RefusalReason, alpn};

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
    let offered =
        || config.services.iter().enumerate().filter(|(_, s)| s.listeners.contains(&listener));
    offered()
        .find(|(_, service)| is_asked_for(service, hello))
        .or_else(|| offered().find(|(_, service)| service.default))
        .map(|(id, _)| Role::Foreign(id))
        .ok_or(RefusalReason::ServiceUnknown)
}

/// A service that names no SNI and no ALPN is chosen by our own agent, or as the default.
fn is_asked_for(service: &Service, hello: &ClientHello) -> bool {
    let by_sni = service.sni.iter().any(|pattern| sni_matches(pattern, &hello.sni));
    let by_alpn = service.alpn.iter().any(|name| hello.offers(name.as_bytes()));
    match (service.sni.is_empty(), service.alpn.is_empty()) {
        (true, true) => false,
        (false, true) => by_sni,
        (true, false) => by_alpn,
        // A client that offers no ALPN takes what the service speaks by default.
        (false, false) => by_sni && (by_alpn || hello.alpn.is_empty()),
    }
}

/// `*.example.com` stands for one label, as in certificates (RFC 9525 §6.3).
fn sni_matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern == name,
        Some(parent) => {
            name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
        }
    }
}

/// The service that our own agent names.
pub(super) fn named_service(
    config: &GatewayConfig,
    listener: usize,
    name: &str,
) -> Result<ServiceId, RefusalReason> {
    let found =
        config.services.iter().position(|s| s.name == name && s.listeners.contains(&listener));
    found.ok_or(RefusalReason::ServiceUnknown)
}

/// Whether this device may reach this service.
pub(super) fn admit(service: &Service, device: Option<&Identity>) -> Result<(), RefusalReason> {
    let allowed = match &service.devices {
        DevicePolicy::Any => true,
        DevicePolicy::Verified => device.is_some(),
        DevicePolicy::Named(patterns) => {
            device.is_some_and(|device| patterns.iter().any(|pattern| device.matches(pattern)))
        }
    };
    if allowed { Ok(()) } else { Err(RefusalReason::DeviceNotAllowed) }
}

/// The entry of the allow-list that this server is, by the DNS names of its certificate.
pub(super) fn allowed_server(config: &GatewayConfig, server: &Identity) -> Option<usize> {
    config.servers.allow.iter().position(|allowed| server.has_dns_name(&allowed.name))
}
