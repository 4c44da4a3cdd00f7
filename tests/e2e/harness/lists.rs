use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use vestibule::config::Credentials;
use vestibule::pki::{Pki, Role};

use super::World;

/// A list of revoked certificates that a test makes.
pub(crate) struct List<'a> {
    pub(crate) role: Role,
    pub(crate) number: u64,
    /// Made so long ago.
    pub(crate) age: Duration,
    /// The next is due so long after that.
    pub(crate) life: Duration,
    pub(crate) revoked: &'a [&'a Credentials],
}

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

impl<'a> List<'a> {
    /// A current one of the devices' CA.
    pub(crate) fn of_devices(number: u64, revoked: &'a [&'a Credentials]) -> Self {
        Self { role: Role::Device, number, age: HOUR, life: 10 * HOUR, revoked }
    }

    pub(crate) fn of_servers(number: u64, revoked: &'a [&'a Credentials]) -> Self {
        Self { role: Role::Server, ..Self::of_devices(number, revoked) }
    }
}

impl World {
    /// The list in DER, of this world's CA.
    pub(crate) fn list_der(&self, list: &List<'_>) -> Vec<u8> {
        der(&self.list(list))
    }

    /// The list in PEM, of this world's CA.
    pub(crate) fn list(&self, list: &List<'_>) -> String {
        sign(&self.pki, list)
    }

    /// The same of a CA that has the same name and another key.
    pub(crate) fn foreign_list(&self, list: &List<'_>) -> String {
        sign(&Pki::create(&self.path("foreign-pki")).expect("one in a world"), list)
    }
}

/// From PEM.
pub(crate) fn der(pem: &str) -> Vec<u8> {
    CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).expect("PEM").to_vec()
}

fn sign(pki: &Pki, list: &List<'_>) -> String {
    let read = |path| std::fs::read_to_string(path).expect("a CA");
    let key = KeyPair::from_pem(&read(pki.ca_key(list.role))).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read(pki.ca_certificate(list.role)), key);
    let made = OffsetDateTime::now_utc() - list.age;
    let revoked = list.revoked.iter().map(|credentials| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial(credentials)),
        revocation_time: made,
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: made,
        next_update: made + list.life,
        crl_number: SerialNumber::from(list.number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let signed = params.signed_by(&issuer.expect("a CA")).expect("a list");
    signed.pem().expect("PEM")
}

fn serial(credentials: &Credentials) -> Vec<u8> {
    let certificate = CertificateDer::from_pem_file(&credentials.certificate).expect("it was made");
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).expect("a certificate");
    parsed.raw_serial().to_vec()
}
