use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::revocation::Revocation;
use crate::limits::MAX_KNOWN_CHAINS;

/// A verifier that remembers the chains it found good: devices and servers come back with the same
/// ones, and each signature in a chain costs as much as the rest of a resumed handshake.
///
/// Under the same roots, time alone turns a good chain into a bad one: what is remembered of each is
/// when it holds, by its dates and by those of the lists that must be current. So new roots, or a list of what was revoked, need a new verifier.
#[derive(Debug)]
pub(super) struct KnownChains {
    verifier: Arc<dyn ClientCertVerifier>,
    /// `None` where no list is looked at.
    revocation: Option<Arc<Revocation>>,
    good: RwLock<HashMap<ChainDigest, Validity>>,
}

type ChainDigest = [u8; SHA256_OUTPUT_LEN];

/// The seconds since 1970 in which every certificate of a chain is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    first: i64,
    last: i64,
}

impl KnownChains {
    pub(super) fn new(
        verifier: Arc<dyn ClientCertVerifier>,
        revocation: Option<Arc<Revocation>>,
    ) -> Self {
        Self { verifier, revocation, good: RwLock::default() }
    }

    fn is_good(&self, digest: &ChainDigest, now: UnixTime) -> bool {
        let good = self.good.read().unwrap_or_else(PoisonError::into_inner);
        good.get(digest).is_some_and(|validity| validity.holds(now))
    }

    fn remember(&self, digest: ChainDigest, validity: Validity) {
        let mut good = self.good.write().unwrap_or_else(PoisonError::into_inner);
        // Those that still come are soon known again.
        if good.len() == MAX_KNOWN_CHAINS {
            good.clear();
        }
        good.insert(digest, validity);
    }
}

impl Validity {
    /// `None` where a certificate can't be read.
    fn of(chain: &[&CertificateDer<'_>]) -> Option<Self> {
        chain.iter().try_fold(Self { first: i64::MIN, last: i64::MAX }, |common, certificate| {
            let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
            let validity = parsed.validity();
            Some(Self {
                first: common.first.max(validity.not_before.timestamp()),
                last: common.last.min(validity.not_after.timestamp()),
            })
        })
    }

    fn holds(self, now: UnixTime) -> bool {
        let now = seconds(now);
        self.first <= now && now <= self.last
    }
}

fn seconds(now: UnixTime) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Each certificate with its length before it, so that no two chains have the same bytes.
fn digest(chain: &[&CertificateDer<'_>]) -> ChainDigest {
    let mut context = Context::new(&SHA256);
    for certificate in chain {
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

impl ClientCertVerifier for KnownChains {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        let digest = digest(&chain);
        if self.is_good(&digest, now) {
            return Ok(ClientCertVerified::assertion());
        }
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        let until = match &self.revocation {
            Some(revocation) => revocation.check(&chain, seconds(now))?,
            None => i64::MAX,
        };
        if let Some(validity) = Validity::of(&chain) {
            let last = validity.last.min(until);
            self.remember(digest, Validity { last, ..validity });
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.verifier.requires_raw_public_keys()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use rustls::CertificateError;
    use rustls::server::WebPkiClientVerifier;

    use super::*;
    use crate::tls::testing::World;
    use crate::tls::{load_certificates, load_roots, provider};

    /// The verifier of devices, which counts how often it is asked.
    #[derive(Debug)]
    struct Counting(Arc<dyn ClientCertVerifier>, AtomicUsize);

    impl ClientCertVerifier for Counting {
        fn verify_client_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            intermediates: &[CertificateDer<'_>],
            now: UnixTime,
        ) -> Result<ClientCertVerified, Error> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.verify_client_cert(end_entity, intermediates, now)
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls12_signature(message, certificate, signed)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls13_signature(message, certificate, signed)
        }

        fn root_hint_subjects(&self) -> &[DistinguishedName] {
            self.0.root_hint_subjects()
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    }

    struct Trial {
        known: KnownChains,
        counting: Arc<Counting>,
        device: CertificateDer<'static>,
        server: CertificateDer<'static>,
    }

    impl Trial {
        fn new() -> Self {
            let world = World::new();
            let first = |path| load_certificates(path).expect("a certificate").remove(0);
            let roots = load_roots(&world.devices).expect("a CA");
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = verifier.build().expect("a verifier");
            let counting = Arc::new(Counting(verifier, AtomicUsize::new(0)));
            Self {
                known: KnownChains::new(Arc::clone(&counting) as _, None),
                counting,
                device: first(&world.device.certificate),
                server: first(&world.server.certificate),
            }
        }

        fn asked(&self) -> usize {
            self.counting.1.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_good_chain_is_verified_once() {
        let trial = Trial::new();
        for _ in 0..3 {
            trial.known.verify_client_cert(&trial.device, &[], UnixTime::now()).expect("good");
        }
        assert_eq!(trial.asked(), 1);
    }

    #[test]
    fn a_bad_chain_is_refused_each_time() {
        let trial = Trial::new();
        trial.known.verify_client_cert(&trial.device, &[], UnixTime::now()).expect("good");
        for asked in 2..4 {
            let refused = trial.known.verify_client_cert(&trial.server, &[], UnixTime::now());
            assert_eq!(refused.map(|_| ()), Err(CertificateError::UnknownIssuer.into()));
            assert_eq!(trial.asked(), asked);
        }
    }

    #[test]
    fn a_known_chain_is_refused_once_its_time_is_over() {
        let trial = Trial::new();
        trial.known.verify_client_cert(&trial.device, &[], UnixTime::now()).expect("good");
        let Validity { first, last } = Validity::of(&[&trial.device]).expect("a certificate");
        let at = |second: i64| {
            let second = u64::try_from(second).expect("after 1970");
            let now = UnixTime::since_unix_epoch(Duration::from_secs(second));
            trial.known.verify_client_cert(&trial.device, &[], now)
        };
        at(first).expect("the first second");
        at(last).expect("the last second");
        assert_eq!(trial.asked(), 1);
        assert!(matches!(at(first - 1), Err(Error::InvalidCertificate(_))));
        assert!(matches!(at(last + 1), Err(Error::InvalidCertificate(_))));
        assert_eq!(trial.asked(), 3);
    }

    #[test]
    fn a_known_chain_vouches_for_no_other() {
        let Trial { device, server, .. } = Trial::new();
        let joined = CertificateDer::from([&device[..], &server[..]].concat());
        let chains = [&[&device][..], &[&server], &[&device, &server], &[&server, &device]];
        let mut digests: Vec<_> = chains.into_iter().map(digest).collect();
        digests.push(digest(&[&joined]));
        digests.push(digest(&[]));
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 6);
    }

    #[test]
    fn no_more_chains_are_remembered_than_the_bound() {
        let known = Trial::new().known;
        let always = Validity { first: i64::MIN, last: i64::MAX };
        for number in 0..=MAX_KNOWN_CHAINS {
            let mut digest = [0; SHA256_OUTPUT_LEN];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            known.remember(digest, always);
        }
        assert_eq!(known.good.read().expect("nobody panicked").len(), 1);
    }
}
