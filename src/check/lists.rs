//! The lists of revoked certificates that a configuration names.

use std::path::{Path, PathBuf};

use x509_parser::prelude::ASN1Time;

use super::files::Files;
use crate::config::{RevocationPolicy, RevocationRules};
use crate::tls::{self, Anchor, CredentialError, CrlDates, HeldList};

/// Those of a role at a gateway, each of which a CA in that file must have signed.
pub(super) fn of_role(files: &mut Files, rules: &RevocationRules, ca: &Path) {
    // What is wrong with that file is said elsewhere.
    let Ok(certificates) = tls::load_certificates(ca) else { return };
    let anchors: Vec<Anchor> = certificates.iter().filter_map(Anchor::of).collect();
    for file in &rules.crls {
        let Some(lists) = files.loaded(tls::load_lists(file, &anchors)) else { continue };
        for HeldList { list, .. } in lists {
            let effect = match rules.policy {
                RevocationPolicy::Required => "its CA's certificates are refused while it is stale",
                _ => "what is revoked after that is let in",
            };
            warn(files, file, list.dates, effect);
        }
    }
}

/// Those that a server brings to gateways.
pub(super) fn of_server(files: &mut Files, crls: &[PathBuf]) {
    for file in crls {
        for der in files.loaded(tls::read_lists(file)).unwrap_or_default() {
            let unusable = |error| CredentialError::CrlUnusable { path: file.clone(), error };
            if let Some(dates) = files.loaded(CrlDates::of(&der).map_err(unusable)) {
                warn(files, file, dates, "gateways may refuse its CA's certificates then");
            }
        }
    }
}

fn warn(files: &mut Files, file: &Path, dates: CrlDates, effect: &str) {
    if let Some(warning) = dates.warning(ASN1Time::now().timestamp()) {
        files.warning(format!(
            "{}: a list of revoked certificates that is {warning}: {effect}; put the CA's next one there",
            file.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::files::{files_of_gateway, files_of_server};
    use super::*;
    use crate::check::{FileProblem, Severity};
    use crate::config::{DeviceCertificates, GatewayConfig, ListenerKind, parse_server};
    use crate::tls::testing::{Authority, Folder, gateway_config};

    /// A gateway with a list in a file of that content.
    fn gateway(folder: &Folder, content: &[u8]) -> GatewayConfig {
        let own = Authority::new(folder, "gateways-ca").issue("gw.example.com");
        let servers = Authority::new(folder, "servers-ca").file;
        let devices = folder.path().join("devices-ca.crt");
        let file = folder.path().join("devices.crl");
        fs::write(&file, content).expect("the folder is writable");
        let mut config = gateway_config(own, DeviceCertificates::Required(devices), &servers);
        for listener in &mut config.listeners {
            if let ListenerKind::Tls { device_revocation, .. } = &mut listener.kind {
                *device_revocation = RevocationRules {
                    policy: RevocationPolicy::Required,
                    crls: vec![file.clone()],
                };
            }
        }
        config
    }

    fn about_lists(problems: &[FileProblem], severity: Severity) -> Vec<String> {
        let wanted = problems.iter().filter(|problem| problem.severity == severity);
        wanted.map(ToString::to_string).filter(|line| line.contains("devices.crl: ")).collect()
    }

    #[test]
    fn a_list_is_named_with_what_is_wrong_with_it() {
        let folder = Folder::new();
        let (ca, other) =
            (Authority::new(&folder, "devices-ca"), Authority::new(&folder, "other-ca"));
        let current = ca.list(2_000_000_000);
        for (content, severity, part) in [
            (&b"nothing"[..], Severity::Error, "holds no list of revoked certificates"),
            (&b"0\x03\x02\x01\x01"[..], Severity::Error, "not a well-formed list"),
            (&other.list(2_000_000_000)[..], Severity::Error, "of a CA that is not in the file"),
            (&ca.list(1_700_000_000)[..], Severity::Warning, "that is stale since 2023-11-14"),
        ] {
            let found = about_lists(&files_of_gateway(&gateway(&folder, content)), severity);
            assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
        }
        let problems = files_of_gateway(&gateway(&folder, &current));
        assert_eq!(about_lists(&problems, Severity::Error), Vec::<String>::new());
        assert_eq!(about_lists(&problems, Severity::Warning), Vec::<String>::new());
    }

    #[test]
    fn a_list_that_a_server_brings_is_looked_at_as_well() {
        let folder = Folder::new();
        let ca = Authority::new(&folder, "devices-ca");
        let text = "certificate = \"a.crt\"\nkey = \"a.key\"\ngateway_ca = \"ca.crt\"\n\
                    crls = [\"devices.crl\"]\n[[gateways]]\naddress = \"gw.example.com:13000\"\n\
                    [[services]]\nname = \"web\"\nbackend = \"127.0.0.1:80\"\n";
        let config = parse_server(text, &folder.path().join("server.toml")).expect("sound").config;
        let found = |severity| about_lists(&files_of_server(&config), severity);
        assert!(found(Severity::Error)[0].contains("No such file"), "{:?}", found(Severity::Error));
        fs::write(folder.path().join("devices.crl"), ca.list(1_700_000_000)).expect("writable");
        assert!(
            found(Severity::Warning)[0].contains("stale since"),
            "{:?}",
            found(Severity::Error)
        );
    }
}
