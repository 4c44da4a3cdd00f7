//! The key schedule's HKDF (RFC 5869) on HMACs whose keys are expanded once.
//!
//! That of rustls on aws-lc-rs extracts anew at each expand, and expands the HMAC key anew at each of
//! both: two in five of the SHA-384 blocks of a handshake. Which secret comes from which stays with rustls.

use aws_lc_rs::hmac::{self, Context, Key};
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};

/// HKDF with one hash.
struct HmacHkdf(hmac::Algorithm);

static SHA256: HmacHkdf = HmacHkdf(hmac::HMAC_SHA256);
static SHA384: HmacHkdf = HmacHkdf(hmac::HMAC_SHA384);

/// The same suite, with this HKDF if it is one of TLS 1.3. Leaks the new suite: rustls wants it to
/// live for ever, and there are three.
pub(super) fn with_expanded_keys(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(suite) = suite else { return suite };
    let hkdf = match suite.common.hash_provider.output_len() {
        32 => &SHA256,
        48 => &SHA384,
        _ => return SupportedCipherSuite::Tls13(suite),
    };
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: hkdf,
        aead_alg: suite.aead_alg,
        quic: suite.quic,
    })))
}

impl HmacHkdf {
    fn hash_len(&self) -> usize {
        self.0.tag_len()
    }

    fn extract(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        let no_salt = [0; OkmBlock::MAX_LEN];
        let salt = Key::new(self.0, salt.unwrap_or(&no_salt[..self.hash_len()]));
        // Wiped when it is dropped.
        let extracted = Tag::new(hmac::sign(&salt, secret).as_ref());
        Box::new(Expander(Key::new(self.0, extracted.as_ref())))
    }
}

impl Hkdf for HmacHkdf {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.extract(salt, &[0; OkmBlock::MAX_LEN][..self.hash_len()])
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.extract(salt, secret)
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(Expander(Key::new(self.0, okm.as_ref())))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        Tag::new(hmac::sign(&Key::new(self.0, key.as_ref()), message).as_ref())
    }
}

/// A pseudorandom key, expanded. aws-lc wipes it when it is dropped.
struct Expander(Key);

impl HkdfExpander for Expander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        let mut last = Tag::new(&[]);
        for (place, chunk) in output.chunks_mut(self.hash_len()).enumerate() {
            let number = u8::try_from(place + 1).map_err(|_| OutputLengthError)?;
            let mut context = Context::with_key(&self.0);
            context.update(last.as_ref());
            for part in info {
                context.update(part);
            }
            context.update(&[number]);
            last = Tag::new(context.sign().as_ref());
            chunk.copy_from_slice(&last.as_ref()[..chunk.len()]);
        }
        Ok(())
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let mut output = [0; OkmBlock::MAX_LEN];
        let output = &mut output[..self.hash_len()];
        self.expand_slice(info, output).expect("one block is never too long");
        OkmBlock::new(output)
    }

    fn hash_len(&self) -> usize {
        self.0.algorithm().tag_len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::crypto::aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
    };

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
        (0..hex.len()).step_by(2).map(digits).collect()
    }

    /// RFC 5869, appendix A.
    #[test]
    fn the_vectors_of_the_rfc_come_out() {
        let short =
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        let without =
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
        let salt = bytes("000102030405060708090a0b0c");
        let info = bytes("f0f1f2f3f4f5f6f7f8f9");
        let vectors = [(Some(&salt[..]), &info[..], short), (None, &[], without)];
        for (salt, info, expected) in vectors {
            let mut output = [0; 42];
            let expander = SHA256.extract_from_secret(salt, &[0x0b; 22]);
            expander.expand_slice(&[info], &mut output).expect("two blocks");
            assert_eq!(output[..], bytes(expected));
        }
    }

    #[test]
    fn output_for_which_the_counter_is_too_small_is_refused() {
        let expander = SHA384.extract_from_zero_ikm(None);
        assert!(expander.expand_slice(&[], &mut [0; 255 * 48]).is_ok());
        assert!(expander.expand_slice(&[], &mut [0; 255 * 48 + 1]).is_err());
    }

    proptest! {
        #[test]
        fn all_comes_out_as_with_the_hkdf_of_rustls(
            salt in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100)),
            secret in proptest::collection::vec(any::<u8>(), 0..100),
            key in proptest::collection::vec(any::<u8>(), OkmBlock::MAX_LEN),
            info in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4),
            len in 0_usize..200,
        ) {
            let pairs = [(&SHA256, TLS13_AES_128_GCM_SHA256), (&SHA384, TLS13_AES_256_GCM_SHA384)];
            for (ours, suite) in pairs {
                let theirs = suite.tls13().expect("a suite of TLS 1.3").hkdf_provider;
                let salt = salt.as_deref();
                let key = OkmBlock::new(&key[..ours.hash_len()]);
                let info: Vec<_> = info.iter().map(Vec::as_slice).collect();
                let expanders = |hkdf: &dyn Hkdf| {
                    [
                        hkdf.extract_from_zero_ikm(salt),
                        hkdf.extract_from_secret(salt, &secret),
                        hkdf.expander_for_okm(&key),
                    ]
                };
                for (our, their) in expanders(ours).iter().zip(expanders(theirs)) {
                    let (mut one, mut other) = (vec![0; len], vec![0; len]);
                    our.expand_slice(&info, &mut one).expect("a few blocks");
                    their.expand_slice(&info, &mut other).expect("a few blocks");
                    prop_assert_eq!(one, other);
                    let (one, other) = (our.expand_block(&info), their.expand_block(&info));
                    prop_assert_eq!(one.as_ref(), other.as_ref());
                    prop_assert_eq!(our.hash_len(), their.hash_len());
                }
                let (one, other) = (ours.hmac_sign(&key, &secret), theirs.hmac_sign(&key, &secret));
                prop_assert_eq!(one.as_ref(), other.as_ref());
            }
        }
    }
}
