//! Certificates that a peer shows: whatever is in them, and whatever a CA has signed as their alternative
//! names, gives an identity that can stand in a log, or an error.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::{CertificateDer, UnixTime};
use vestibule::limits::MAX_IDENTITY_LEN;
use vestibule::tls::{Identity, check_dates, expiry};

/// Of subjectAltName (RFC 5280 §4.2.1.6).
const ALTERNATIVE_NAMES: [u64; 4] = [2, 5, 29, 17];

static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().expect("a key"));

fn signed(alternative_names: &[u8]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    let names = CustomExtension::from_oid_content(&ALTERNATIVE_NAMES, alternative_names.to_vec());
    params.custom_extensions = vec![names];
    params.self_signed(&*KEY).expect("a certificate").der().clone()
}

fn check(certificate: &CertificateDer<'_>) {
    let Ok(identity) = Identity::of(certificate) else { return };
    let name = identity.name();
    assert!((1..=MAX_IDENTITY_LEN).contains(&name.len()));
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{name:?}");
    // A name with a colon is of the kind before it, and no DNS name.
    match name.split_once(':') {
        Some((kind, _)) => {
            assert!(["uri", "email", "cn"].contains(&kind), "{name:?}");
            assert!(!identity.has_dns_name(name));
            assert!(identity.matches(&format!("{kind}:*")));
        }
        None => assert!(identity.has_dns_name(name) && identity.matches("*"), "{name:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let shown = CertificateDer::from(bytes);
    check(&shown);
    let signed = signed(bytes);
    check(&signed);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let chain = [signed, shown.clone().into_owned()];
    // Whoever is taken for valid now has an end.
    assert!(check_dates(&chain, now).is_err() || expiry(&shown).is_some());
});
