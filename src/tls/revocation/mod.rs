//! Revocation: which certificates of a role count no more, by the lists of its CAs, and what the policy makes of a
//! list that is missing or stale.

mod der;
mod files;
mod list;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::RevocationPolicy;

pub use files::{load_lists, read_lists};
use list::{Age, AnchorId};
pub use list::{Anchor, CertificateId, Crl, CrlDates, CrlError};

/// Where a list came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrlSource {
    /// A file of the configuration.
    File(Arc<str>),
    /// A server, by its name on the allow-list.
    Server(Arc<str>),
}

/// A list in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldList {
    /// What it says.
    pub list: Arc<Crl>,
    /// Where it came from.
    pub from: CrlSource,
}

/// The lists that servers have brought, one for each CA at most: never an older one than before.
#[derive(Debug, Clone, Default)]
pub struct BroughtLists(HashMap<AnchorId, HeldList>);

/// What became of a list that a server brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrlVerdict {
    /// It is in use.
    Taken,
    /// It was in use already.
    Known,
    /// A newer one is in use.
    Older,
    /// It can't be used, for this reason.
    Refused(CrlError),
}

/// What is known of the certificates of one role at one listener.
#[derive(Debug)]
pub struct Revocation {
    policy: RevocationPolicy,
    anchors: Arc<[Anchor]>,
    /// The newest of each CA that has one.
    lists: Vec<HeldList>,
}

impl Revocation {
    /// Takes the newest of the lists of each CA. `None` where no list is to be looked at.
    pub fn new(
        policy: RevocationPolicy,
        anchors: &Arc<[Anchor]>,
        files: &[HeldList],
        brought: &BroughtLists,
    ) -> Option<Arc<Self>> {
        if policy == RevocationPolicy::Off {
            return None;
        }
        let lists = anchors.iter().filter_map(|anchor| {
            let of_files = files.iter().filter(|held| held.list.anchor == anchor.id);
            let all = of_files.chain(brought.0.get(&anchor.id));
            let newest =
                all.reduce(
                    |one, other| {
                        if other.list.age(&one.list) == Age::Newer { other } else { one }
                    },
                );
            newest.cloned()
        });
        Some(Arc::new(Self { policy, lists: lists.collect(), anchors: Arc::clone(anchors) }))
    }

    /// Judges a chain that leads to one of the CAs. Returns the second since 1970 up to which this holds, as far
    /// as lists decide.
    pub fn check(&self, chain: &[&CertificateDer<'_>], now: i64) -> Result<i64, CertificateError> {
        let mut parsed = Vec::with_capacity(chain.len());
        for certificate in chain {
            let (_, certificate) = X509Certificate::from_der(certificate)
                .map_err(|_| CertificateError::BadEncoding)?;
            // Some show their CA as well, which nobody revokes here but who takes it out of the file.
            if !self.anchors.iter().any(|anchor| anchor.is(&certificate)) {
                parsed.push(certificate);
            }
        }
        if parsed.iter().any(|certificate| self.revokes(CertificateId::of_parsed(certificate))) {
            return Err(CertificateError::Revoked);
        }
        let mut until = i64::MAX;
        if self.policy == RevocationPolicy::Required {
            for certificate in &parsed {
                until = until.min(self.known_until(certificate.issuer().as_raw(), now)?);
            }
        }
        Ok(until)
    }

    /// Until when the lists of the CAs of that name are current.
    fn known_until(&self, issuer: &[u8], now: i64) -> Result<i64, CertificateError> {
        let mut until = None;
        for anchor in self.anchors.iter().filter(|anchor| *anchor.subject == *issuer) {
            let list = self.list_of(anchor).ok_or(CertificateError::UnknownRevocationStatus)?;
            if !list.list.dates.is_current(now) {
                return Err(CertificateError::ExpiredRevocationList);
            }
            until = Some(list.list.dates.next_update.min(until.unwrap_or(i64::MAX)));
        }
        until.ok_or(CertificateError::UnknownRevocationStatus)
    }

    fn list_of(&self, anchor: &Anchor) -> Option<&HeldList> {
        self.lists.iter().find(|held| held.list.anchor == anchor.id)
    }

    /// Whether a certificate is on one of the lists.
    pub fn revokes(&self, certificate: CertificateId) -> bool {
        self.lists.iter().any(|held| held.list.revokes(certificate))
    }

    /// Whether one of these is.
    pub fn revokes_any(&self, chain: &[CertificateId]) -> bool {
        chain.iter().any(|certificate| self.revokes(*certificate))
    }

    /// Each CA, and its list where it has one.
    pub fn lists(&self) -> impl Iterator<Item = (&str, Option<&HeldList>)> {
        self.anchors.iter().map(|anchor| (&*anchor.name, self.list_of(anchor)))
    }

    /// The CA for whose list nobody is let in: where the policy demands one, and none is current.
    pub fn is_missing(&self, now: i64) -> Option<&str> {
        if self.policy != RevocationPolicy::Required {
            return None;
        }
        // With one current list some are let in.
        let is_current = |held: &HeldList| held.list.dates.is_current(now);
        let mut lists = self.lists();
        let first = lists.next();
        let any = first.into_iter().chain(lists).any(|(_, held)| held.is_some_and(is_current));
        if any { None } else { self.anchors.first().map(|anchor| &*anchor.name) }
    }

    /// What to tell the operator at that time, in seconds since 1970. `who` are those whose lists these are.
    pub fn warnings(&self, who: &str, now: i64) -> Vec<String> {
        let refused = match self.policy {
            RevocationPolicy::Required => "its certificates are refused",
            _ => "what it has revoked since is not known",
        };
        let of_one = |(ca, held): (&str, Option<&HeldList>)| {
            let Some(held) = held else {
                return Some(format!("{who}: no list of {ca} is here: {refused}"));
            };
            let dates = held.list.dates;
            let warning = dates.warning(now)?;
            let refused =
                if dates.is_current(now) { String::new() } else { format!(": {refused}") };
            Some(format!("{who}: the list of {ca} is {warning}{refused}; bring the next one"))
        };
        self.lists().filter_map(of_one).collect()
    }
}

impl BroughtLists {
    /// Takes a list in, unless it is known, or older than one in use. `in_use` are those beside these.
    pub fn bring<'a>(
        &mut self,
        der: &[u8],
        server: &Arc<str>,
        in_use: impl IntoIterator<Item = &'a Revocation>,
    ) -> CrlVerdict {
        let in_use: Vec<&Revocation> = in_use.into_iter().collect();
        let anchors = in_use.iter().flat_map(|revocation| revocation.anchors.iter());
        let list = match Crl::verify(der, anchors) {
            Ok(list) => list,
            Err(error) => return CrlVerdict::Refused(error),
        };
        let held = in_use.iter().flat_map(|revocation| &revocation.lists);
        let held = held.filter(|held| held.list.anchor == list.anchor);
        // A list may be in use for one role, and not yet for another.
        for held in held.chain(self.0.get(&list.anchor)) {
            match list.age(&held.list) {
                Age::Newer => {}
                Age::Same => return CrlVerdict::Known,
                Age::Older => return CrlVerdict::Older,
            }
        }
        let from = CrlSource::Server(Arc::clone(server));
        self.0.insert(list.anchor, HeldList { list: Arc::new(list), from });
        CrlVerdict::Taken
    }

    /// Forgets lists of CAs that are in no configuration any more.
    pub fn retain<'a>(&mut self, in_use: impl IntoIterator<Item = &'a Revocation>) {
        let anchors = in_use.into_iter().flat_map(|revocation| revocation.anchors.iter());
        let kept: Vec<AnchorId> = anchors.map(|anchor| anchor.id).collect();
        self.0.retain(|id, _| kept.contains(id));
    }
}
