use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::name::NameError;
use crate::tls::CredentialError;

/// Why a certificate was not made or shown. Nothing was written then.
#[derive(Debug, Error)]
pub enum PkiError {
    /// A file of that name is there.
    #[error(
        "{}: exists, and nothing is overwritten; to replace it, write the new files to another \
         folder first, or move this one away", .path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file or folder can't be written.
    #[error("{}: {source}; choose a folder that you may write to", .path.display())]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no CA for this role.
    #[error("{}: no such CA; run vestibule pki init, or name its folder with --dir", .path.display())]
    NoAuthority {
        /// The file that a CA would have.
        path: PathBuf,
    },
    /// A file of the CA, or the file to show, can't be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The key of a CA can't be used.
    #[error("{}: not the key of {} ({detail}); restore both from a copy", .key.display(), .certificate.display())]
    AuthorityKey {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The CA ends before the certificate would.
    #[error("the CA ends on {ca_end}, before {days} days are over; ask for at most {at_most} days")]
    BeyondAuthority {
        /// Days that were asked for.
        days: u32,
        /// Last moment of the CA.
        ca_end: String,
        /// Whole days until then.
        at_most: i64,
    },
    /// A name that can't be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No name was given, and the request holds none.
    #[error("the request holds no name; give one with --name")]
    Nameless,
    /// Not a request.
    #[error("{}: not a certificate signing request ({detail}); make one with openssl req -new", .path.display())]
    Request {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A certificate to renew or to revoke that is of no CA of ours.
    #[error(
        "{}: issued by none of the CAs in that folder, or a CA itself; name the folder with --dir, or \
         do this where it was made", .path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// A certificate to renew whose key is elsewhere.
    #[error(
        "{}: its key is not in {}; renew it with --keep-key, which needs no key", .certificate.display(),
        .key.display()
    )]
    NoKeyBeside {
        /// The file of the certificate.
        certificate: PathBuf,
        /// Where the key would be.
        key: PathBuf,
    },
    /// The operator did not agree to the names of a request.
    #[error("not signed; give the names with --name, or agree with --yes")]
    NotConfirmed,
    /// The provider of cryptography failed.
    #[error("the certificate could not be made: {0}")]
    Crypto(String),
    /// The terminal or pipe is gone.
    #[error("output: {0}")]
    Output(#[source] io::Error),
}

impl From<rcgen::Error> for PkiError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}
