//! Lists of revoked certificates that a server brings: whatever is in them, they are refused unless a CA has signed
//! them, and what a CA signs is read or refused, never half.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use vestibule::tls::{Anchor, Crl, CrlDates};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    anchor: Anchor,
}

static CA: LazyLock<Authority> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let anchor = Anchor::of(certificate.der()).expect("a certificate");
    Authority { issuer: Issuer::new(params, key), anchor }
});

fn signed(serial: &[u8]) -> Vec<u8> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2027, 1, 1),
        crl_number: SerialNumber::from(7),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&CA.issuer).expect("a list").der().to_vec()
}

fuzz_target!(|bytes: &[u8]| {
    let _ = CrlDates::of(bytes);
    assert!(Crl::verify(bytes, [&CA.anchor]).is_err(), "nobody signed it");
    let serial = &bytes[..bytes.len().min(20)];
    let list = signed(serial);
    assert!(Crl::verify(&list, [&CA.anchor]).is_ok_and(|list| list.len() == 1));
    // One byte of it changed.
    if let [at, change, ..] = *bytes
        && change != 0
    {
        let mut changed = list.clone();
        let at = usize::from(at) % changed.len();
        changed[at] ^= change;
        assert!(Crl::verify(&changed, [&CA.anchor]).is_err(), "the signature covers all");
    }
});
