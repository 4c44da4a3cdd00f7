//! The numbers of services, which a reload does not change.

use std::sync::Arc;

use super::{GatewayConfig, ListenerKind, Service};
use crate::control::ServiceId;

impl GatewayConfig {
    /// The service of that number; `None` where the configuration has none.
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.iter().find(|service| service.id == id)
    }

    /// Numbers the services of a configuration as it was read: each as the process knows it, whose names
    /// by number are `known`, and new ones behind those. Returns the names that are known from then on.
    pub fn renumber(&mut self, known: &[Arc<str>]) -> Vec<Arc<str>> {
        let mut names = known.to_vec();
        let mut number = |service: &Service| {
            let known = names.iter().position(|name| **name == *service.name);
            known.unwrap_or_else(|| {
                names.push(service.name.as_str().into());
                names.len() - 1
            })
        };
        let ids: Vec<ServiceId> = self.services.iter().map(&mut number).collect();
        for (service, &id) in self.services.iter_mut().zip(&ids) {
            service.id = id;
        }
        for service in self.servers.allow.iter_mut().flat_map(|server| &mut server.services) {
            *service = ids[*service];
        }
        for listener in &mut self.listeners {
            if let ListenerKind::Plain { service, .. } = &mut listener.kind {
                *service = ids[*service];
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use super::*;
    use crate::config::parse_gateway;

    /// With a plain listener for the last of these services, and one server for the first.
    fn config(services: &[&str]) -> GatewayConfig {
        let mut text = format!(
            "[[listeners]]\nname = \"internet\"\naddresses = [\"127.0.0.1:13000\"]\nkind = \"tls\"\n\
             certificate = \"gw.crt\"\nkey = \"gw.key\"\ndevice_certificates = \"required\"\n\
             device_ca = \"devices.crt\"\n\
             [[listeners]]\nname = \"old\"\naddresses = [\"127.0.0.1:14000\"]\nkind = \"plain\"\n\
             service = \"{}\"\nagents_from = \"any\"\n[servers]\nca = \"servers.crt\"\n\
             [[servers.allow]]\nname = \"lan\"\nservices = [\"{}\"]\n",
            services[services.len() - 1],
            services[0],
        );
        for service in services {
            writeln!(text, "[[services]]\nname = \"{service}\"\ndevices = \"any\"")
                .expect("a String takes all that is written to it");
        }
        parse_gateway(&text, Path::new("gateway.toml")).expect("well-formed").config
    }

    fn renumbered(known: &[Arc<str>], services: &[&str]) -> (GatewayConfig, Vec<Arc<str>>) {
        let mut config = config(services);
        let names = config.renumber(known);
        (config, names)
    }

    #[test]
    fn a_service_keeps_its_number_wherever_it_stands_and_also_while_it_is_gone() {
        let (_, known) = renumbered(&[], &["web", "ssh", "mail"]);
        let (config, known) = renumbered(&known, &["ssh", "new", "web"]);
        let ids: Vec<ServiceId> = config.services.iter().map(|service| service.id).collect();
        assert_eq!(ids, [1, 3, 0]);
        assert_eq!(config.service(2), None, "mail is gone");
        let (config, known) = renumbered(&known, &["mail", "web"]);
        assert_eq!(config.service(2).map(|service| &*service.name), Some("mail"));
        assert_eq!(
            known.iter().map(|name| &**name).collect::<Vec<_>>(),
            ["web", "ssh", "mail", "new"]
        );
    }

    #[test]
    fn whoever_names_a_service_follows_its_number() {
        let (_, known) = renumbered(&[], &["web", "ssh"]);
        let (config, _) = renumbered(&known, &["ssh", "web"]);
        assert_eq!(config.servers.allow[0].services, [1]);
        let old = &config.listeners[1];
        assert!(matches!(old.kind, ListenerKind::Plain { service: 0, .. }), "{old:?}");
        assert_eq!(config.service(0).map(|service| &service.listeners[..]), Some(&[0, 1][..]));
    }
}
