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

use super::roles::provider;
use crate::config::Credentials;
use crate::limits::MAX_PEM_FILE_LEN;

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

/// Loads the certificates of a CA, as the only ones that are trusted. Never empty.
pub fn load_roots(path: &Path) -> Result<Arc<RootCertStore>, CredentialError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in load_certificates(path)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| malformed(path, index, &error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// Loads every certificate in a PEM file, and checks that each is valid now. Never empty.
pub fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let certificates = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CredentialError::NotPem { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(CredentialError::NoCertificate { path: path.to_owned() });
    }
    for (index, certificate) in certificates.iter().enumerate() {
        check_validity(certificate, path, index)?;
    }
    Ok(certificates)
}

/// Last moment of a certificate's validity, in seconds since 1970; `None` where it is malformed.
pub fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
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

/// A moment of a certificate, for people.
fn date(time: ASN1Time) -> String {
    let time = time.to_datetime();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", time.hour(), time.minute())
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => CredentialError::NoKey { path: path.to_owned() },
        source => CredentialError::NotPem { path: path.to_owned(), source },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PEM_FILE_LEN + 1).read_to_end(&mut bytes))
        .map_err(|source| CredentialError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_PEM_FILE_LEN {
        return Err(CredentialError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

fn check_is_leaf(certificate: &CertificateDer<'_>, path: &Path) -> Result<(), CredentialError> {
    if parse(certificate, path, 0)?.is_ca() {
        return Err(CredentialError::NotLeaf { path: path.to_owned() });
    }
    Ok(())
}

fn check_validity(
    certificate: &CertificateDer<'_>,
    path: &Path,
    index: usize,
) -> Result<(), CredentialError> {
    let parsed = parse(certificate, path, index)?;
    let validity = parsed.validity();
    let now = ASN1Time::now();
    if now < validity.not_before {
        let date = date(validity.not_before);
        return Err(CredentialError::NotYetValid { path: path.to_owned(), date });
    }
    if now > validity.not_after {
        return Err(CredentialError::Expired {
            path: path.to_owned(),
            date: date(validity.not_after),
        });
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
