use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::VerifierBuilderError;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::revocation::CrlError;
use super::roles::provider;
use crate::config::Credentials;
use crate::limits::{MAX_CRL_FILE_LEN, MAX_CRLS, MAX_PEM_FILE_LEN};

/// Why certificates or keys can't be used. The operator's to repair: each names its file.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// The file can't be opened or read.
    #[error("{}: {source}; it must exist and be readable by the user that runs vestibule", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No file of certificates or keys is this large.
    #[error("{}: larger than {MAX_PEM_FILE_LEN} bytes; name a PEM file that holds only what is needed", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file has a damaged PEM section.
    #[error("{}: not well-formed PEM ({source}); export it anew", .path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// PEM, or something else, without a certificate.
    #[error("{}: holds no certificate; a PEM file with BEGIN CERTIFICATE is needed", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// PEM, or something else, without a key.
    #[error(
        "{}: holds no private key that can be used; a PEM file with BEGIN PRIVATE KEY is needed \
         (an encrypted one is to be decrypted first, with openssl pkey)", .path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A section says CERTIFICATE and holds something else.
    #[error("{}: certificate {position} in it is damaged ({detail}); export it anew", .path.display())]
    CertificateMalformed {
        /// The file.
        path: PathBuf,
        /// Place in the file, from 1.
        position: usize,
        /// What the parser said.
        detail: String,
    },
    /// A key of a kind that can't be used, or damaged.
    #[error("{}: a private key that can't be used ({source}); P-256 is a good choice", .path.display())]
    KeyUnusable {
        /// The file.
        path: PathBuf,
        /// What the provider said.
        source: rustls::Error,
    },
    /// Key and certificate are not a pair.
    #[error(
        "{}: does not belong to {}; the certificate must be the first in its file and made for \
         this key", .key.display(), .certificate.display()
    )]
    KeyMismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// A CA's certificate stands where that of a host belongs.
    #[error(
        "{}: begins with the certificate of a CA; name that of this host, and put CAs after it",
        .path.display()
    )]
    NotLeaf {
        /// The file.
        path: PathBuf,
    },
    /// Its time is over.
    #[error("{}: expired on {date}; renew it", .path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// The last moment of its validity.
        date: String,
    },
    /// Its time has not come.
    #[error("{}: not valid before {date}; check the clock of this host", .path.display())]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// The first moment of its validity.
        date: String,
    },
    /// No file of lists is this large.
    #[error("{}: larger than {MAX_CRL_FILE_LEN} bytes; name a file that holds only the lists of these CAs", .path.display())]
    CrlFileTooLarge {
        /// The file.
        path: PathBuf,
    },
    /// PEM, or something else, without a list.
    #[error(
        "{}: holds no list of revoked certificates; a file in DER, or in PEM with BEGIN X509 CRL, is needed",
        .path.display()
    )]
    NoCrl {
        /// The file.
        path: PathBuf,
    },
    /// More lists than CAs can have.
    #[error("{}: holds more than {MAX_CRLS} lists; name those of these CAs only", .path.display())]
    TooManyCrls {
        /// The file.
        path: PathBuf,
    },
    /// A list that can't be used.
    #[error("{}: {error}", .path.display())]
    CrlUnusable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: CrlError,
    },
    /// A setting of ours that rustls does not accept.
    #[error("rustls refuses the configuration ({0}); this is our fault, please report it")]
    Refused(#[from] rustls::Error),
    /// A check of client certificates that rustls does not accept.
    #[error(
        "rustls refuses the check of client certificates ({0}); this is our fault, please report it"
    )]
    VerifierRefused(#[from] VerifierBuilderError),
}

/// Loads a certificate chain and its key, and checks that they are a pair and valid now.
pub fn load_credentials(files: &Credentials) -> Result<Arc<CertifiedKey>, CredentialError> {
    let chain = load_certificates(&files.certificate)?;
    check_validity(&chain, &files.certificate)?;
    check_is_leaf(&chain[0], &files.certificate)?;
    let key = load_key(&files.key)?;
    let credentials =
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CredentialError::KeyMismatch {
                key: files.key.clone(),
                certificate: files.certificate.clone(),
            },
            rustls::Error::InvalidCertificate(error) => {
                malformed(&files.certificate, 0, &error.to_string())
            }
            source => CredentialError::KeyUnusable { path: files.key.clone(), source },
        })?;
    Ok(Arc::new(credentials))
}

/// Loads the certificates of a CA, as the only ones that are trusted, and checks that they are valid
/// now. Never empty.
pub fn load_roots(path: &Path) -> Result<Arc<RootCertStore>, CredentialError> {
    let certificates = load_certificates(path)?;
    check_validity(&certificates, path)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| malformed(path, index, &error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// Loads every certificate in a PEM file, whether it is valid now or not. Never empty; each parses.
pub fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let certificates = CertificateDer::pem_slice_iter(&read_pem_file(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CredentialError::NotPem { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(CredentialError::NoCertificate { path: path.to_owned() });
    }
    for (index, certificate) in certificates.iter().enumerate() {
        parse(certificate, path, index)?;
    }
    Ok(certificates)
}

/// Last moment of a certificate's validity, in seconds since 1970; `None` where it is malformed.
pub fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// Logs what [`key_file_warning`] says.
pub fn warn_of_key_file(path: &Path) {
    if let Some(warning) = key_file_warning(path) {
        tracing::warn!("{warning}");
    }
}

/// What to tell the operator about a key file that every user of the host can read or change.
pub fn key_file_warning(path: &Path) -> Option<String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
        (mode & 0o007 != 0).then(|| {
            let path = path.display();
            format!("{path}: mode {mode:o} opens this key to every user; run chmod 600 {path}")
        })
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Reads a file of certificates, keys or requests, up to a bound.
pub(crate) fn read_pem_file(path: &Path) -> Result<Vec<u8>, CredentialError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PEM_FILE_LEN + 1).read_to_end(&mut bytes))
        .map_err(|source| CredentialError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_PEM_FILE_LEN {
        return Err(CredentialError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// A moment of a certificate, for people.
pub(crate) fn date(time: ASN1Time) -> String {
    let time = time.to_datetime();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", time.hour(), time.minute())
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
    PrivateKeyDer::from_pem_slice(&read_pem_file(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => CredentialError::NoKey { path: path.to_owned() },
        source => CredentialError::NotPem { path: path.to_owned(), source },
    })
}

fn check_is_leaf(certificate: &CertificateDer<'_>, path: &Path) -> Result<(), CredentialError> {
    if parse(certificate, path, 0)?.is_ca() {
        return Err(CredentialError::NotLeaf { path: path.to_owned() });
    }
    Ok(())
}

fn check_validity(chain: &[CertificateDer<'_>], path: &Path) -> Result<(), CredentialError> {
    let now = ASN1Time::now();
    for (index, certificate) in chain.iter().enumerate() {
        let parsed = parse(certificate, path, index)?;
        let validity = parsed.validity();
        if now < validity.not_before {
            let date = date(validity.not_before);
            return Err(CredentialError::NotYetValid { path: path.to_owned(), date });
        }
        if now > validity.not_after {
            let date = date(validity.not_after);
            return Err(CredentialError::Expired { path: path.to_owned(), date });
        }
    }
    Ok(())
}

fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
    path: &Path,
    index: usize,
) -> Result<X509Certificate<'a>, CredentialError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(malformed(path, index, "bytes after its end")),
        Err(error) => Err(malformed(path, index, &error.to_string())),
    }
}

fn malformed(path: &Path, index: usize, detail: &str) -> CredentialError {
    CredentialError::CertificateMalformed {
        path: path.to_owned(),
        position: index + 1,
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tls::testing::{Authority, Folder, params};

    #[test]
    fn a_pair_of_certificate_and_key_loads() {
        let folder = Folder::new();
        let files = Authority::new(&folder, "ca").issue("gw.example.com");
        let credentials = load_credentials(&files).expect("a good pair");
        assert_eq!(expiry(&credentials.cert[0]), Some(67_090_118_400));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_and_both_files_are_named() {
        let folder = Folder::new();
        let ca = Authority::new(&folder, "ca");
        let files = Credentials { key: ca.issue("b").key, ..ca.issue("a") };

        let message = load_credentials(&files).expect_err("no pair").to_string();

        let start =
            format!("{}: does not belong to {};", files.key.display(), files.certificate.display());
        assert!(message.starts_with(&start), "{message}");
    }

    #[test]
    fn an_expired_certificate_is_refused_with_its_date() {
        let folder = Folder::new();
        let mut params = params("a");
        params.not_after = rcgen::date_time_ymd(2020, 2, 29);
        let files = Authority::new(&folder, "ca").issue_with("a", &params);

        let error = load_credentials(&files).expect_err("expired");

        assert!(
            matches!(&error, CredentialError::Expired { path, date }
            if *path == files.certificate && date == "2020-02-29 00:00 UTC"),
            "{error}"
        );
    }

    #[test]
    fn a_certificate_of_the_future_is_refused_with_its_date() {
        let folder = Folder::new();
        let mut params = params("a");
        params.not_before = rcgen::date_time_ymd(3000, 1, 1);
        let files = Authority::new(&folder, "ca").issue_with("a", &params);

        let error = load_credentials(&files).expect_err("not valid yet");

        assert!(
            matches!(&error, CredentialError::NotYetValid { path, date }
            if *path == files.certificate && date == "3000-01-01 00:00 UTC"),
            "{error}"
        );
    }

    #[test]
    fn a_chain_that_begins_with_a_ca_is_refused() {
        let folder = Folder::new();
        let ca = Authority::new(&folder, "ca");
        let files = Credentials { certificate: ca.file.clone(), ..ca.issue("a") };
        let error = load_credentials(&files).expect_err("a CA");
        assert!(matches!(error, CredentialError::NotLeaf { path } if path == ca.file));
    }

    #[test]
    fn a_file_that_is_not_what_it_should_be_is_refused_by_its_kind() {
        type Check = fn(&CredentialError) -> bool;
        let folder = Folder::new();
        let cases: [(&str, &str, Check); 5] = [
            ("empty", "", |e| matches!(e, CredentialError::NoCertificate { .. })),
            ("noise", "\u{1}\u{2}\u{3}", |e| matches!(e, CredentialError::NoCertificate { .. })),
            ("cut", "-----BEGIN CERTIFICATE-----\nMIIB\n", |e| {
                matches!(e, CredentialError::NotPem { .. })
            }),
            ("base64", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n", |e| {
                matches!(e, CredentialError::NotPem { .. })
            }),
            ("der", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", |e| {
                matches!(e, CredentialError::CertificateMalformed { position: 1, .. })
            }),
        ];
        for (name, contents, expected) in cases {
            let path = folder.write(name, contents);
            let error = load_roots(&path).expect_err(name);
            assert!(expected(&error), "{name}: {error}");
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn an_encrypted_key_is_answered_with_the_way_to_decrypt_it() {
        let folder = Folder::new();
        let key = folder.write(
            "a.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        let files = Credentials { key, ..Authority::new(&folder, "ca").issue("b") };
        let error = load_credentials(&files).expect_err("encrypted");
        assert!(matches!(error, CredentialError::NoKey { .. }), "{error}");
        assert!(error.to_string().contains("openssl pkey"), "{error}");
    }

    #[test]
    fn a_missing_or_endless_file_is_refused() {
        let folder = Folder::new();
        let missing = load_roots(&folder.path().join("missing.crt"));
        assert!(matches!(missing, Err(CredentialError::Unreadable { .. })));
        let endless = load_roots(Path::new("/dev/zero"));
        assert!(matches!(endless, Err(CredentialError::TooLarge { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_every_user_can_read_is_warned_about() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new();
        let path = folder.write("a.key", "");
        let warning_at = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            key_file_warning(&path)
        };
        assert!(warning_at(0o644).is_some_and(|warning| warning.contains("chmod 600")));
        assert_eq!(warning_at(0o640), None);
        assert_eq!(warning_at(0o600), None);
    }
}
