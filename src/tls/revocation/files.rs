//! Lists of revoked certificates in files.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;

use super::list::{Anchor, Crl};
use super::{CrlSource, HeldList};
use crate::limits::{MAX_CRL_FILE_LEN, MAX_CRLS};
use crate::tls::CredentialError;

/// A list in DER begins as every SEQUENCE does, and no PEM file does.
const DER: u8 = 0x30;

/// Reads the lists in a file, as DER: one in DER, or some in PEM. Never empty.
pub fn read_lists(path: &Path) -> Result<Vec<Vec<u8>>, CredentialError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CRL_FILE_LEN + 1).read_to_end(&mut bytes))
        .map_err(|source| CredentialError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_CRL_FILE_LEN {
        return Err(CredentialError::CrlFileTooLarge { path: path.to_owned() });
    }
    if bytes.first() == Some(&DER) {
        return Ok(vec![bytes]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .map(|list| list.map(|list| list.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CredentialError::NotPem { path: path.to_owned(), source })?;
    match lists.len() {
        0 => Err(CredentialError::NoCrl { path: path.to_owned() }),
        1..=MAX_CRLS => Ok(lists),
        _ => Err(CredentialError::TooManyCrls { path: path.to_owned() }),
    }
}

/// Loads the lists in a file, each of which must be signed by one of those CAs.
pub fn load_lists(path: &Path, anchors: &[Anchor]) -> Result<Vec<HeldList>, CredentialError> {
    let from: Arc<str> = path.display().to_string().into();
    let load = |der: Vec<u8>| match Crl::verify(&der, anchors) {
        Ok(list) => Ok(HeldList { list: Arc::new(list), from: CrlSource::File(Arc::clone(&from)) }),
        Err(error) => Err(CredentialError::CrlUnusable { path: path.to_owned(), error }),
    };
    read_lists(path)?.into_iter().map(load).collect()
}
