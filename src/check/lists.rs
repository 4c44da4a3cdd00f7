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
