//! Renewal: a certificate for the same names, by the same CA, in the place of the one before.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::authority::{Issued, Leaf, Pki, Role};
use super::error::PkiError;
use super::files::{NewFile, replace};
use super::name::SubjectName;
use crate::tls;

const SECONDS_PER_DAY: i64 = 86_400;

/// A certificate that one of our CAs has issued.
#[derive(Debug)]
pub struct Renewable {
    path: PathBuf,
    role: Role,
    names: Vec<SubjectName>,
    public_key: SubjectPublicKeyInfo,
    days_left: i64,
}

/// What happens to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A new one takes its place.
    New,
    /// It stays, wherever it is.
    Kept,
}

impl Renewable {
    /// Reads a certificate, and finds the CA in that folder that issued it.
    pub fn read(path: &Path, pki: &Pki) -> Result<Self, PkiError> {
        let der = tls::load_certificates(path)?.swap_remove(0);
        let (_, parsed) = X509Certificate::from_der(&der).expect("load_certificates parsed it");
        let not_ours = || PkiError::NotOurs { path: path.to_owned() };
        let role = role_of(&parsed, pki).ok_or_else(not_ours)?;
        let names = parsed.subject_alternative_name().ok().flatten().map(|san| san.value);
        let names =
            names.iter().flat_map(|names| &names.general_names).map(SubjectName::of_request);
        let key = parsed.public_key().raw;
        let left = parsed.validity().not_after.timestamp() - ASN1Time::now().timestamp();
        Ok(Self {
            path: path.to_owned(),
            role,
            names: names.collect::<Result<_, _>>()?,
            public_key: SubjectPublicKeyInfo::from_der(key)?,
            days_left: left.div_euclid(SECONDS_PER_DAY),
        })
    }

    /// Every certificate in a folder that the CAs have issued, by its path.
    pub fn all_in(folder: &Path, pki: &Pki) -> Result<Vec<Self>, PkiError> {
        let unreadable = |source| PkiError::Unwritable { path: folder.to_owned(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "crt") {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        // CAs, and what others have made.
        Ok(paths.iter().filter_map(|path| Self::read(path, pki).ok()).collect())
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whole days until it ends; below 0 where it has.
    pub fn days_left(&self) -> i64 {
        self.days_left
    }

    /// Makes the new certificate and puts it in the place of this one, and with a new key that into the
    /// place of `NAME.key` beside it. Owners and modes stay. Returns what it is for.
    pub fn renew(&self, pki: &Pki, key: Key, days: u32) -> Result<Leaf, PkiError> {
        let leaf = Leaf { role: self.role, names: self.names.clone(), days };
        let key_path = self.path.with_extension("key");
        let certificate = |contents| NewFile { path: self.path.clone(), contents, secret: false };
        let files = match key {
            Key::Kept => vec![certificate(pki.certify(&leaf, &self.public_key)?)],
            Key::New if !key_path.exists() => {
                return Err(PkiError::NoKeyBeside {
                    certificate: self.path.clone(),
                    key: key_path,
                });
            }
            Key::New => {
                let Issued { certificate_pem, key_pem } = pki.issue(&leaf)?;
                let key = NewFile { path: key_path, contents: key_pem, secret: true };
                vec![key, certificate(certificate_pem)]
            }
        };
        replace(&files)?;
        Ok(leaf)
    }
}

/// Which of the CAs has issued a certificate; `None` also for that of a CA.
pub(super) fn role_of(certificate: &X509Certificate<'_>, pki: &Pki) -> Option<Role> {
    let issued_by = |role: &Role| is_issued_by(certificate, &pki.ca_certificate(*role));
    if certificate.is_ca() { None } else { Role::ALL.into_iter().find(issued_by) }
}

fn is_issued_by(certificate: &X509Certificate<'_>, ca: &Path) -> bool {
    let Ok(chain) = tls::load_certificates(ca) else { return false };
    let by = |ca: &CertificateDer<'_>| {
        let parsed = X509Certificate::from_der(ca);
        parsed.is_ok_and(|(_, ca)| certificate.verify_signature(Some(ca.public_key())).is_ok())
    };
    chain.first().is_some_and(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Pki) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::create(folder.path()).expect("an empty folder");
        (folder, pki)
    }

    /// Issues a certificate of that many days, and returns its path.
    fn issue(pki: &Pki, folder: &Path, name: &str, days: u32) -> PathBuf {
        let leaf = Leaf { role: Role::Device, names: vec![name.parse().expect("a name")], days };
        let issued = pki.issue(&leaf).expect("a CA");
        issued.write(folder, &leaf.names[0]).expect("a new name").0
    }

    fn credentials(certificate: &Path) -> crate::config::Credentials {
        let key = certificate.with_extension("key");
        crate::config::Credentials { certificate: certificate.to_owned(), key }
    }

    fn contents(path: &Path) -> String {
        fs::read_to_string(path).expect("it is readable")
    }

    #[test]
    fn a_renewed_certificate_has_the_same_names_and_ca_and_a_new_key_that_belongs_to_it() {
        let (folder, pki) = folder();
        let path = issue(&pki, folder.path(), "email:jo@example.com", 10);
        let key = contents(&path.with_extension("key"));
        let old = Renewable::read(&path, &pki).expect("ours");
        old.renew(&pki, Key::New, 90).expect("renewed");
        let new = Renewable::read(&path, &pki).expect("ours");
        assert_eq!((new.role, &new.names), (Role::Device, &old.names));
        assert!((9..=10).contains(&old.days_left), "{}", old.days_left);
        assert!((89..=90).contains(&new.days_left), "{}", new.days_left);
        assert_ne!(contents(&path.with_extension("key")), key);
        tls::load_credentials(&credentials(&path)).expect("a pair");
    }

    #[test]
    fn a_key_that_is_kept_is_not_even_needed() {
        let (folder, pki) = folder();
        let path = issue(&pki, folder.path(), "pc.example.com", 10);
        let (key_path, elsewhere) = (path.with_extension("key"), folder.path().join("elsewhere"));
        fs::rename(&key_path, &elsewhere).expect("moved");
        let old = Renewable::read(&path, &pki).expect("ours");
        let refused = old.renew(&pki, Key::New, 90);
        assert!(matches!(refused, Err(PkiError::NoKeyBeside { .. })), "{refused:?}");
        old.renew(&pki, Key::Kept, 90).expect("renewed");
        fs::rename(&elsewhere, &key_path).expect("moved");
        tls::load_credentials(&credentials(&path)).expect("a pair");
        assert!(Renewable::read(&path, &pki).expect("ours").days_left > 10);
    }

    #[cfg(unix)]
    #[test]
    fn modes_stay_and_no_draft_remains() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, pki) = folder();
        let path = issue(&pki, folder.path(), "pc.example.com", 10);
        let key_path = path.with_extension("key");
        let names = || {
            let entries = fs::read_dir(folder.path()).expect("it is there");
            let mut names: Vec<_> =
                entries.map(|entry| entry.expect("readable").file_name()).collect();
            names.sort_unstable();
            names
        };
        let before = names();
        fs::set_permissions(&key_path, fs::Permissions::from_mode(0o640)).expect("ours");
        Renewable::read(&path, &pki).expect("ours").renew(&pki, Key::New, 90).expect("renewed");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&key_path), mode(&path)), (0o640, 0o644));
        assert_eq!(names(), before);
    }

    #[test]
    fn cas_and_certificates_of_others_are_left_alone() {
        let (folder, pki) = folder();
        let ours = issue(&pki, folder.path(), "pc.example.com", 10);
        let stranger = Pki::create(&folder.path().join("stranger")).expect("a new folder");
        let theirs = issue(&stranger, folder.path(), "theirs.example.com", 10);
        let all = Renewable::all_in(folder.path(), &pki).expect("a folder");
        assert_eq!(all.iter().map(Renewable::path).collect::<Vec<_>>(), [ours]);
        let refused = Renewable::read(&theirs, &pki);
        assert!(matches!(refused, Err(PkiError::NotOurs { .. })), "{refused:?}");
        let ca = Renewable::read(&pki.ca_certificate(Role::Device), &pki);
        assert!(matches!(ca, Err(PkiError::NotOurs { .. })), "{ca:?}");
    }
}
