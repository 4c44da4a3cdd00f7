//! What may be said of a service whose agents' TLS goes through unread: nothing that only a certificate could tell.

use super::gateway::{WrittenKind, WrittenListener, WrittenService};
use super::problem::{Report, Span, Written};
use super::{DeviceCertificates, DevicePolicy};

/// Checks the service called `name`, which is offered on `listeners`. `tls` is where it says that TLS goes through. Returns who
/// may reach it; `None` where something is wrong.
pub(super) fn check<'l, 't: 'l>(
    report: &Report<'_>,
    tls: Span,
    service: &WrittenService<'_>,
    name: &str,
    listeners: impl Iterator<Item = &'l WrittenListener<'t>>,
) -> Option<DevicePolicy> {
    let can_be_chosen = !service.sni.is_empty()
        || !service.alpn.is_empty()
        || service.default.is_some_and(|default| default.value);
    if !can_be_chosen {
        let message = format!(
            "nobody can reach service \"{name}\": with passthrough an agent chooses it by its ClientHello alone; \
             write `sni = [...]`, `alpn = [...]` or `default = true`"
        );
        report.error(tls, message);
    }
    let mut is_sound = can_be_chosen;
    for listener in listeners {
        let Some(listener_name) = listener.name.map(|name| name.value) else { continue };
        match &listener.kind {
            Some(WrittenKind::Plain { .. }) => {
                let message = format!(
                    "listener \"{listener_name}\" is plain, and with passthrough its bytes would reach the server without \
                     any TLS: offer service \"{name}\" on listeners with `kind = \"tls\"` only"
                );
                report.error(tls, message);
                is_sound = false;
            }
            Some(WrittenKind::Tls { device_certificates: Some(asked), .. })
                if matches!(asked.value, DeviceCertificates::Required(_)) =>
            {
                let message = format!(
                    "listener \"{listener_name}\" requires certificates of devices, and agents of service \"{name}\" pass it \
                     without: have the server or the backend ask for them"
                );
                report.warning(tls, message);
            }
            Some(WrittenKind::Tls { .. }) | None => {}
        }
    }
    let devices = devices(report, tls, service.devices.as_ref(), name)?;
    is_sound.then_some(devices)
}

/// That the gateway knows nobody there is to be said, as wherever something weakens safety.
fn devices(
    report: &Report<'_>,
    tls: Span,
    written: Option<&Written<DevicePolicy>>,
    name: &str,
) -> Option<DevicePolicy> {
    let at = match written {
        Some(devices) if devices.value == DevicePolicy::Any => return Some(DevicePolicy::Any),
        Some(devices) => devices.span,
        None => tls,
    };
    let message = format!(
        "with passthrough the gateway sees no certificate, so it can't tell which device asks for service \"{name}\": write \
         `devices = \"any\"`, and have the server or the backend ask for certificates"
    );
    report.error(at, message);
    None
}
