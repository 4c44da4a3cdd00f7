//! Revocation: each CA's list of the certificates that count no more, in a file beside the CA.

use std::fs::File;
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::authority::{Pki, Role};
use super::error::PkiError;
use super::files::{NewFile, replace, write_new};
use super::renew::role_of;
use crate::tls::{self, Anchor, CredentialError, Crl};

/// Days until the next list is due, unless asked otherwise: whoever forgets to make it is warned for days.
pub const LIST_DAYS: u32 = 30;
/// Lists begin this much in the past, for gateways whose clock is behind.
const BACKDATED: Duration = Duration::hours(1);

/// What was written.
#[derive(Debug, PartialEq, Eq)]
pub struct WrittenList {
    /// Its file.
    pub path: PathBuf,
    /// Whose certificates it is about.
    pub role: Role,
    /// How many it revokes.
    pub entries: usize,
    /// Whether that is one more than before.
    pub is_new: bool,
}

/// What a list says.
struct Contents {
    /// Big-endian.
    number: Vec<u8>,
    revoked: Vec<RevokedCertParams>,
}

impl Pki {
    /// File of the list of what a CA has revoked.
    pub fn list(&self, role: Role) -> PathBuf {
        self.ca_certificate(role).with_extension("crl")
    }

    /// Puts a certificate on the list of the CA that issued it, and writes that anew, valid for so many days.
    pub fn revoke(&self, certificate: &Path, days: u32) -> Result<WrittenList, PkiError> {
        let der = tls::load_certificates(certificate)?.swap_remove(0);
        let (_, parsed) = X509Certificate::from_der(&der).expect("load_certificates parsed it");
        let role = role_of(&parsed, self)
            .ok_or_else(|| PkiError::NotOurs { path: certificate.to_owned() })?;
        let serial = SerialNumber::from_slice(parsed.raw_serial());
        self.write_list(role, days, |contents| {
            let known = contents.revoked.iter().any(|entry| entry.serial_number == serial);
            if !known {
                contents.revoked.push(RevokedCertParams {
                    serial_number: serial,
                    revocation_time: OffsetDateTime::now_utc(),
                    reason_code: None,
                    invalidity_date: None,
                });
            }
            !known
        })
    }

    /// Writes the list of a CA anew, before it is stale; an empty one where there was none.
    pub fn renew_list(&self, role: Role, days: u32) -> Result<WrittenList, PkiError> {
        self.write_list(role, days, |_| false)
    }

    fn write_list(
        &self,
        role: Role,
        days: u32,
        change: impl FnOnce(&mut Contents) -> bool,
    ) -> Result<WrittenList, PkiError> {
        let (issuer, _) = self.load_authority(role)?;
        // Two at once would write the same number, and lose what one of them revokes.
        let key_path = self.ca_key(role);
        let unlocked = |source| PkiError::Unwritable { path: key_path.clone(), source };
        let lock = File::open(&key_path).map_err(unlocked)?;
        lock.lock().map_err(unlocked)?;
        let path = self.list(role);
        let exists = path.exists();
        let mut contents = if exists {
            self.read_list(role)?
        } else {
            Contents { number: Vec::new(), revoked: Vec::new() }
        };
        let is_new = change(&mut contents);
        increase(&mut contents.number);
        let made = OffsetDateTime::now_utc() - BACKDATED;
        let entries = contents.revoked.len();
        let params = CertificateRevocationListParams {
            this_update: made,
            next_update: made + BACKDATED + Duration::days(days.into()),
            crl_number: SerialNumber::from_slice(&contents.number),
            issuing_distribution_point: None,
            revoked_certs: contents.revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let contents = params.signed_by(&issuer)?.pem()?;
        let file = NewFile { path: path.clone(), contents, secret: false };
        if exists {
            replace(&[file])?;
        } else {
            write_new(&[file])?;
        }
        Ok(WrittenList { path, role, entries, is_new })
    }

    /// The list that is there: signed by the CA, or it is not gone on with.
    fn read_list(&self, role: Role) -> Result<Contents, PkiError> {
        let path = self.list(role);
        let unusable = |error| CredentialError::CrlUnusable { path: path.clone(), error };
        let anchors: Vec<Anchor> = tls::load_certificates(&self.ca_certificate(role))?
            .iter()
            .filter_map(Anchor::of)
            .collect();
        let der = tls::read_lists(&path)?.swap_remove(0);
        Crl::verify(&der, &anchors).map_err(unusable)?;
        let malformed = || unusable(tls::CrlError::Malformed);
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| malformed())?;
        let number = list.crl_number().map(x509_parser::num_bigint::BigUint::to_bytes_be);
        let revoked = list.iter_revoked_certificates().map(|entry| RevokedCertParams {
            serial_number: SerialNumber::from_slice(entry.raw_serial()),
            revocation_time: entry.revocation_date.to_datetime(),
            reason_code: entry.reason_code().and_then(|(_, code)| reason(code.0)),
            invalidity_date: None,
        });
        Ok(Contents { number: number.unwrap_or_default(), revoked: revoked.collect() })
    }
}

/// Another tool may have written one.
fn reason(code: u8) -> Option<RevocationReason> {
    let known = [
        RevocationReason::KeyCompromise,
        RevocationReason::CaCompromise,
        RevocationReason::AffiliationChanged,
        RevocationReason::Superseded,
        RevocationReason::CessationOfOperation,
        RevocationReason::CertificateHold,
        RevocationReason::PrivilegeWithdrawn,
        RevocationReason::AaCompromise,
    ];
    known.into_iter().find(|reason| *reason as u8 == code)
}

/// Adds one to a big-endian number.
fn increase(number: &mut Vec<u8>) {
    for digit in number.iter_mut().rev() {
        *digit = digit.wrapping_add(1);
        if *digit != 0 {
            return;
        }
    }
    number.insert(0, 1);
}

#[cfg(test)]
mod tests {
    use super::super::authority::{LEAF_DAYS, Leaf};
    use super::*;

    fn folder_with_devices(names: &[&str]) -> (tempfile::TempDir, Pki, Vec<PathBuf>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::create(&folder.path().join("pki")).expect("a new folder");
        let issue = |name: &&str| {
            let names = vec![name.parse().expect("a name")];
            let leaf = Leaf { role: Role::Device, names, days: LEAF_DAYS };
            let issued = pki.issue(&leaf).expect("a CA");
            issued.write(folder.path(), &leaf.names[0]).expect("a new name").0
        };
        let paths = names.iter().map(issue).collect();
        (folder, pki, paths)
    }

    fn verified(pki: &Pki) -> Crl {
        let der = tls::read_lists(&pki.list(Role::Device)).expect("a list").swap_remove(0);
        let cas = tls::load_certificates(&pki.ca_certificate(Role::Device)).expect("a CA");
        let anchors: Vec<Anchor> = cas.iter().filter_map(Anchor::of).collect();
        Crl::verify(&der, &anchors).expect("of this CA")
    }

    #[test]
    fn a_list_grows_and_its_number_with_it_and_nothing_is_lost() {
        let (_folder, pki, devices) = folder_with_devices(&["a.test", "b.test", "c.test"]);
        for (count, device) in (1..).zip(&devices[..2]) {
            let written = pki.revoke(device, 7).expect("ours");
            assert_eq!((written.entries, written.is_new), (count, true));
        }
        let again = pki.revoke(&devices[0], 7).expect("ours");
        assert_eq!((again.entries, again.is_new), (2, false));
        let list = verified(&pki);
        assert_eq!((list.number().as_str(), list.len()), ("03", 2));
        let revoked = |device: &Path| {
            let chain = tls::load_certificates(device).expect("it was made");
            tls::CertificateId::of_chain(&chain).iter().any(|id| list.revokes(*id))
        };
        let found: Vec<bool> = devices.iter().map(|device| revoked(device)).collect();
        assert_eq!(found, [true, true, false]);
    }

    #[test]
    fn a_list_is_made_anew_before_it_is_stale_and_the_first_one_is_empty() {
        let (_folder, pki, devices) = folder_with_devices(&["a.test"]);
        let first = pki.renew_list(Role::Device, 1).expect("a CA");
        assert_eq!((first.entries, first.is_new), (0, false));
        pki.revoke(&devices[0], 1).expect("ours");
        let before = verified(&pki).dates;
        pki.renew_list(Role::Device, 60).expect("a CA");
        let list = verified(&pki);
        assert!(list.dates.next_update > before.next_update + 50 * 86_400);
        assert_eq!((list.number().as_str(), list.len()), ("03", 1));
    }

    #[test]
    fn a_damaged_list_is_not_gone_on_with() {
        let (_folder, pki, devices) = folder_with_devices(&["a.test"]);
        std::fs::write(pki.list(Role::Device), "nothing").expect("the folder is writable");
        let error = pki.revoke(&devices[0], 7).expect_err("not a list").to_string();
        assert!(error.contains("devices-ca.crl: holds no list"), "{error}");
        let kept = std::fs::read_to_string(pki.list(Role::Device)).expect("it is there");
        assert_eq!(kept, "nothing");
    }

    #[test]
    fn a_certificate_of_others_is_not_revoked() {
        let (_folder, pki, _) = folder_with_devices(&[]);
        let (_other, _, theirs) = folder_with_devices(&["a.test"]);
        let refused = pki.revoke(&theirs[0], 7);
        assert!(matches!(refused, Err(PkiError::NotOurs { .. })), "{refused:?}");
    }

    #[test]
    fn a_number_of_any_length_increases() {
        for (before, after) in
            [(vec![], vec![1]), (vec![1, 255], vec![2, 0]), (vec![255], vec![1, 0])]
        {
            let mut number = before;
            increase(&mut number);
            assert_eq!(number, after);
        }
    }
}
