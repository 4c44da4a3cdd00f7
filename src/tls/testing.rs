//! Certificates for tests: of CAs that live for a test, with whatever names, dates and uses.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use tempfile::TempDir;

use crate::config::Credentials;

/// A folder that holds what the authorities in it make, for as long as the test runs.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(super) fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, contents).expect("the folder is writable");
        path
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A CA whose certificate is in a file.
pub(super) struct Authority<'a> {
    folder: &'a Folder,
    issuer: Issuer<'static, KeyPair>,
    pub(super) file: PathBuf,
}

impl<'a> Authority<'a> {
    pub(super) fn new(folder: &'a Folder, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let file = folder.write(&format!("{name}.crt"), &certificate.pem());
        Self { folder, issuer: Issuer::new(params, key), file }
    }

    /// A certificate for clients and servers, valid now.
    pub(super) fn issue(&self, name: &str) -> Credentials {
        self.issue_with(name, &params(name))
    }

    pub(super) fn issue_with(&self, name: &str, params: &CertificateParams) -> Credentials {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Credentials {
            certificate: self.folder.write(&format!("{name}.crt"), &certificate.pem()),
            key: self.folder.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }
}

/// For a certificate with one DNS name.
pub(super) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.subject_alt_names = vec![dns(name)];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub(super) fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

pub(super) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}
