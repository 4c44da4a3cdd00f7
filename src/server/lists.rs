//! Lists of revoked certificates that a server brings to its gateways, which can't fetch them.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::{info, warn};

use super::Shared;
use super::control::Control;
use super::link::GatewayId;
use crate::control::Lists;
use crate::limits::MAX_CRLS;
use crate::tls::{CredentialError, CrlDates, read_lists};
use crate::wire::CrlOutcome;

/// A list from a file.
pub(super) struct OwnList {
    file: Arc<str>,
    der: Arc<[u8]>,
    dates: CrlDates,
}

/// Reads all lists. Who signed them is for the gateways to know.
pub(super) fn load(files: &[PathBuf]) -> Result<Vec<OwnList>, CredentialError> {
    let mut lists = Vec::new();
    for path in files {
        for der in read_lists(path)? {
            let dates = CrlDates::of(&der)
                .map_err(|error| CredentialError::CrlUnusable { path: path.clone(), error })?;
            lists.push(OwnList { file: path.display().to_string().into(), der: der.into(), dates });
        }
        if lists.len() > MAX_CRLS {
            return Err(CredentialError::TooManyCrls { path: path.clone() });
        }
    }
    Ok(lists)
}

impl OwnList {
    /// What is to be said of it at that time, in seconds since 1970.
    pub(super) fn warning(&self, now: i64) -> Option<String> {
        let warning = self.dates.warning(now)?;
        Some(format!("{}: {warning}; put the CA's next one there", self.file))
    }
}

impl Shared {
    /// As a link brings them.
    pub(super) fn own_lists(&self) -> Lists {
        self.lists.iter().map(|list| Arc::clone(&list.der)).collect()
    }
}

impl Control {
    /// A gateway has said what becomes of a list. It may have been replaced by now: then there is nothing to say.
    pub(super) fn list_answered(&mut self, gateway: GatewayId, list: usize, outcome: CrlOutcome) {
        outcome.count(&mut self.lists_brought);
        let Some(link) = self.links.get(&gateway) else { return };
        let name = &link.gateway.address;
        let Some(OwnList { file, .. }) = self.shared.lists.get(list) else { return };
        match outcome {
            CrlOutcome::Taken | CrlOutcome::Known => {
                info!(gateway = %name, %file, %outcome, "brought a list of revoked certificates");
            }
            _ => {
                warn!(gateway = %name, %file, %outcome, "the gateway refuses a list of revoked certificates");
            }
        }
    }
}
