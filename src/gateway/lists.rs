//! Lists of revoked certificates that servers bring: judged on the thread of reloads, so that no signal connection
//! waits for a signature.

use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::UnixTime;
use tracing::{info, warn};

use super::Shared;
use super::control::Control;
use super::reload::GatewayReader;
use crate::control::{Event, LinkId};
use crate::reload::Reloads;
use crate::telemetry::metrics::ListFigures;
use crate::telemetry::status::{ListInUse, RevocationList};
use crate::tls::{CrlError, CrlSource, CrlVerdict, HeldList, Revocation};
use crate::wire::CrlOutcome;

/// A list on its way to the thread of reloads.
pub(super) struct BroughtList {
    pub(super) link: LinkId,
    pub(super) transfer: u32,
    pub(super) server: Arc<str>,
    pub(super) list: Vec<u8>,
}

/// On its way back.
pub(super) struct JudgedList {
    link: LinkId,
    transfer: u32,
    server: Arc<str>,
    verdict: CrlVerdict,
    /// What to go by from now on, where that has changed.
    shared: Option<Arc<Shared>>,
}

/// Judges a list by what runs, which then goes by it if it is good and new.
pub(super) fn judge(running: &mut Arc<Shared>, brought: BroughtList) -> JudgedList {
    let BroughtList { link, transfer, server, list } = brought;
    let mut lists = running.brought.clone();
    let mut verdict = lists.bring(&list, &server, running.revocations().map(|lists| &**lists));
    let mut shared = None;
    if verdict == CrlVerdict::Taken {
        match running.with_lists(lists) {
            Ok(next) => {
                *running = Arc::new(next);
                shared = Some(Arc::clone(running));
            }
            Err(error) => {
                warn!(%error, "a list of revoked certificates can't be gone by");
                verdict = CrlVerdict::Refused(CrlError::Malformed);
            }
        }
    }
    JudgedList { link, transfer, server, verdict, shared }
}

fn outcome(verdict: CrlVerdict) -> CrlOutcome {
    match verdict {
        CrlVerdict::Taken => CrlOutcome::Taken,
        CrlVerdict::Known => CrlOutcome::Known,
        CrlVerdict::Older => CrlOutcome::Older,
        CrlVerdict::Refused(CrlError::Foreign | CrlError::BadSignature | CrlError::NotASigner) => {
            CrlOutcome::Foreign
        }
        CrlVerdict::Refused(_) => CrlOutcome::Unusable,
    }
}

impl Shared {
    /// What is to be said of lists at that time, in seconds since 1970.
    pub(super) fn list_warnings(&self, now: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        for (roles, listener) in self.roles.iter().zip(&self.config.listeners) {
            let devices = roles.as_ref().and_then(|roles| roles.device_revocation.as_ref());
            if let Some(devices) = devices {
                warnings.extend(devices.warnings(&format!("listener \"{}\"", listener.name), now));
            }
        }
        let servers = self.server_revocation().map(|servers| servers.warnings("[servers]", now));
        warnings.extend(servers.unwrap_or_default());
        warnings
    }

    /// Why a listener admits no device: its policy demands a list, and none is current.
    pub(super) fn missing_list(&self, now: i64) -> Option<String> {
        self.roles.iter().zip(&self.config.listeners).find_map(|(roles, listener)| {
            let devices: &Arc<Revocation> = roles.as_ref()?.device_revocation.as_ref()?;
            let ca = devices.is_missing(now)?;
            Some(format!(
                "listener \"{}\" admits no device: no current list of {ca}",
                listener.name
            ))
        })
    }
}

impl Control {
    /// Gives lists to the thread of reloads. One that finds no place there, since its server has dialled anew and anew
    /// or this process drains, is not wanted: false, and there are answers to be sent.
    pub(super) fn have_lists_judged(&mut self, reloads: &Reloads<GatewayReader>) -> bool {
        let mut all = true;
        for list in std::mem::take(&mut self.lists) {
            if let Err(BroughtList { link, transfer, .. }) = reloads.run(list) {
                let outcome = CrlOutcome::NotWanted;
                outcome.count(&mut self.lists_brought);
                self.handle(Event::CrlJudged { link, transfer, outcome }, Instant::now());
                all = false;
            }
        }
        all
    }

    /// A list was judged. The workers hear of what follows from it before its server does.
    pub(super) fn list_judged(&mut self, judged: JudgedList) {
        let JudgedList { link, transfer, server, verdict, shared } = judged;
        if let Some(shared) = shared {
            self.apply(shared);
        }
        let outcome = outcome(verdict);
        outcome.count(&mut self.lists_brought);
        match verdict {
            CrlVerdict::Taken => info!(%server, "took a list of revoked certificates"),
            CrlVerdict::Known => {}
            CrlVerdict::Older => {
                warn!(%server, "refused a list of revoked certificates: a newer one is in use");
            }
            CrlVerdict::Refused(reason) => {
                warn!(%server, %reason, "refused a list of revoked certificates");
            }
        }
        self.handle(Event::CrlJudged { link, transfer, outcome }, Instant::now());
    }

    /// For the metrics: each CA of each role once, since listeners may share one.
    pub(super) fn list_figures(&self) -> Vec<ListFigures> {
        let now = seconds_since_1970();
        let devices = self.shared.roles.iter().flatten();
        let devices = devices.filter_map(|roles| roles.device_revocation.as_ref());
        let all = devices.map(|lists| ("device", lists));
        let all = all.chain(self.shared.server_revocation().map(|lists| ("server", lists)));
        let mut figures: Vec<ListFigures> = Vec::new();
        for (role, revocation) in all {
            for (ca, held) in revocation.lists() {
                if figures.iter().all(|known| known.role != role || known.ca != ca) {
                    let list = held.map(|held| &held.list);
                    figures.push(ListFigures {
                        role,
                        ca: ca.to_owned(),
                        is_current: list.is_some_and(|list| list.dates.is_current(now)),
                        list: list.map(|list| (list.dates.next_update, list.len() as u64)),
                    });
                }
            }
        }
        figures
    }

    /// For the status page.
    pub(super) fn revocation(&self) -> Vec<RevocationList> {
        let now = seconds_since_1970();
        let listeners = self.shared.roles.iter().zip(&self.shared.config.listeners);
        let devices = listeners.filter_map(|(roles, listener)| {
            Some((listener.name.as_str(), roles.as_ref()?.device_revocation.as_ref()?))
        });
        let all = devices.chain(self.shared.server_revocation().map(|lists| ("servers", lists)));
        let of_place = |(place, revocation): (&str, &Arc<Revocation>)| {
            let known = revocation.lists().map(|(ca, held)| RevocationList {
                place: place.to_owned(),
                ca: ca.to_owned(),
                is_current: held.is_some_and(|held| held.list.dates.is_current(now)),
                list: held.map(|held| list_in_use(held, now)),
            });
            known.collect::<Vec<_>>()
        };
        all.flat_map(of_place).collect()
    }
}

fn list_in_use(held: &HeldList, now: i64) -> ListInUse {
    let HeldList { list, from } = held;
    ListInUse {
        number: list.number(),
        entries: list.len() as u64,
        this_update: list.dates.this_update,
        next_update: list.dates.next_update,
        due_in_s: list.dates.next_update - now,
        from: match from {
            CrlSource::File(name) | CrlSource::Server(name) => name.to_string(),
        },
    }
}

pub(super) fn seconds_since_1970() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}
