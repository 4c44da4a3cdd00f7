//! A list of revoked certificates (RFC 5280 §5): read, and checked against the CA that must have signed it.

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};
use x509_parser::verify::verify_signature;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::der::{
    BIT_STRING, BOOLEAN, CONTEXT_0, Der, INTEGER, OCTET_STRING, OID, SEQUENCE, Value,
};
use crate::limits::{CRL_WARNING_DIVISOR, MAX_CRL_LEN, MAX_PRINTED_LEN};
use crate::tls::credentials::date;

/// Which certificate is meant, by its issuer and its number there, in the few bytes that a session at rest can
/// have for it: the beginning of a digest. Two that fall together (one in 2^64 for each pair) would be revoked together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateId(u64);

impl CertificateId {
    fn new(issuer: &[u8], serial: &[u8]) -> Self {
        let zeros = serial.iter().take_while(|byte| **byte == 0).count();
        let mut context = Context::new(&SHA256);
        context.update(&issuer.len().to_be_bytes());
        context.update(issuer);
        context.update(&serial[zeros..]);
        let mut first = [0; 8];
        first.copy_from_slice(&context.finish().as_ref()[..8]);
        Self(u64::from_be_bytes(first))
    }

    pub(super) fn of_parsed(certificate: &X509Certificate<'_>) -> Self {
        Self::new(certificate.issuer().as_raw(), certificate.raw_serial())
    }

    /// Of each certificate that a peer has shown.
    pub fn of_chain(chain: &[CertificateDer<'_>]) -> Box<[Self]> {
        let parsed =
            chain.iter().filter_map(|certificate| X509Certificate::from_der(certificate).ok());
        parsed.map(|(_, certificate)| Self::of_parsed(&certificate)).collect()
    }
}

/// A CA of the configuration, as far as its lists need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Of its name and key: a list counts for this one alone.
    pub(super) id: AnchorId,
    pub(super) subject: Box<[u8]>,
    pub(super) key: Box<[u8]>,
    /// Its name, for people.
    pub(super) name: Box<str>,
    may_sign_lists: bool,
}

/// Tells CAs apart, also those of one name.
pub(super) type AnchorId = [u8; SHA256_OUTPUT_LEN];

impl Anchor {
    /// `None` where the certificate can't be read, which whoever loads it says.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let (subject, key) = (parsed.subject().as_raw(), parsed.public_key().raw);
        let mut context = Context::new(&SHA256);
        context.update(&subject.len().to_be_bytes());
        context.update(subject);
        context.update(key);
        let mut id = [0; SHA256_OUTPUT_LEN];
        id.copy_from_slice(context.finish().as_ref());
        // Without the extension, a key may be used for anything.
        let usage = parsed.key_usage().ok().flatten();
        Some(Self {
            id,
            subject: subject.into(),
            key: key.into(),
            name: printable(&parsed.subject().to_string()).into(),
            may_sign_lists: usage.is_none_or(|usage| usage.value.crl_sign()),
        })
    }

    pub(super) fn is(&self, certificate: &X509Certificate<'_>) -> bool {
        *certificate.subject().as_raw() == *self.subject
            && *certificate.public_key().raw == *self.key
    }
}

fn printable(name: &str) -> String {
    let is_printable = |letter: &char| letter.is_ascii_graphic() || *letter == ' ';
    name.chars().filter(is_printable).take(MAX_PRINTED_LEN).collect()
}

/// Why a list can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CrlError {
    /// Not DER of a list.
    #[error("not a well-formed list of revoked certificates; export it anew, as PEM or DER")]
    Malformed,
    /// No list is this long.
    #[error(
        "longer than {MAX_CRL_LEN} bytes; have the CA leave out certificates that have expired"
    )]
    TooLong,
    /// It never says when the next one comes.
    #[error("without the time of its next update; have the CA write one")]
    Endless,
    /// It stands for some certificates of its CA only.
    #[error(
        "covers a part of its CA's certificates only (a delta or an issuing distribution point); export the full list"
    )]
    Partial,
    /// It holds something that must be understood.
    #[error("with a critical extension that is not known here; export it without")]
    Critical,
    /// No CA of the configuration has its issuer's name.
    #[error(
        "of a CA that is not in the file of CAs beside it; take the list of that CA, or add its certificate there"
    )]
    Foreign,
    /// Signed by another key, damaged, or signed in a way that is not taken.
    #[error(
        "its signature is not that of the CA of its name; export it anew from that CA, signed with SHA-256 or longer"
    )]
    BadSignature,
    /// Its CA says of itself that it signs no lists.
    #[error(
        "of a CA whose own certificate does not let it sign lists (key usage cRLSign); issue that anew"
    )]
    NotASigner,
}

/// A list of revoked certificates whose signature is that of a CA of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    pub(super) anchor: AnchorId,
    /// Of the CA, for people.
    pub issuer: Box<str>,
    /// Its number, big-endian without zeros before it; `None` where its CA does not count.
    pub(super) number: Option<Box<[u8]>>,
    /// Of its making, and when the next one is due.
    pub dates: CrlDates,
    /// Sorted.
    revoked: Box<[CertificateId]>,
    digest: [u8; SHA256_OUTPUT_LEN],
}

/// The times of a list, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrlDates {
    /// When it was made.
    pub this_update: i64,
    /// When the next one is due.
    pub next_update: i64,
}

impl CrlDates {
    /// Of a list in DER, whoever signed it.
    pub fn of(der: &[u8]) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL_LEN {
            return Err(CrlError::TooLong);
        }
        Document::parse(der)?.dates()
    }

    /// Whether the next one is not due.
    pub fn is_current(self, now: i64) -> bool {
        now <= self.next_update
    }

    /// What is to be said of the list at that time: that it is stale, or will be soon.
    pub fn warning(self, now: i64) -> Option<String> {
        let date = || {
            let time = ASN1Time::from_timestamp(self.next_update);
            time.map_or_else(|_| "a date".to_owned(), date)
        };
        let early = (self.next_update - self.this_update) / CRL_WARNING_DIVISOR;
        if !self.is_current(now) {
            Some(format!("stale since {}", date()))
        } else if self.next_update - now < early {
            Some(format!("stale from {} on", date()))
        } else {
            None
        }
    }
}

/// How a list stands to another of the same CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    Newer,
    Same,
    Older,
}

impl Crl {
    /// Reads a list in DER, and verifies that one of those CAs has signed it.
    pub fn verify<'a>(
        der: &[u8],
        anchors: impl IntoIterator<Item = &'a Anchor>,
    ) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL_LEN {
            return Err(CrlError::TooLong);
        }
        let document = Document::parse(der)?;
        // Several CAs may bear one name: then the signature tells.
        let mut failure = CrlError::Foreign;
        for anchor in anchors.into_iter().filter(|anchor| *anchor.subject == *document.issuer) {
            if !document.is_signed_by(&anchor.key) {
                failure = CrlError::BadSignature;
            } else if anchor.may_sign_lists {
                return document.into_list(anchor, der);
            } else {
                return Err(CrlError::NotASigner);
            }
        }
        Err(failure)
    }

    /// Whether that certificate is revoked.
    pub fn revokes(&self, certificate: CertificateId) -> bool {
        self.revoked.binary_search(&certificate).is_ok()
    }

    /// How many certificates it revokes.
    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    /// Whether it revokes none.
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// Its number in hexadecimal digits, as `openssl crl` prints it; empty where it has none.
    pub fn number(&self) -> String {
        let digits = |byte: &u8| format!("{byte:02X}");
        let number = self.number.as_deref().map(|number| number.iter().map(digits).collect());
        number
            .map(|number: String| if number.is_empty() { "00".to_owned() } else { number })
            .unwrap_or_default()
    }

    /// A list goes back where its number does, or its time.
    pub(super) fn age(&self, other: &Self) -> Age {
        if self.digest == other.digest {
            return Age::Same;
        }
        let counted = match (&self.number, &other.number) {
            (Some(own), Some(others)) => (own.len(), own).cmp(&(others.len(), others)),
            // A CA that counted does not stop to.
            (None, Some(_)) => std::cmp::Ordering::Less,
            (_, None) => std::cmp::Ordering::Equal,
        };
        let made = self.dates.this_update.cmp(&other.dates.this_update);
        if counted.is_lt() || made.is_lt() { Age::Older } else { Age::Newer }
    }
}

/// The parts of a list, as they lie in its bytes.
struct Document<'a> {
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    issuer: &'a [u8],
    this_update: i64,
    next_update: Option<i64>,
    revoked: &'a [u8],
    extensions: &'a [u8],
}

/// What an extension means to us (RFC 5280 §5.2 and §5.3), by its OID.
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 20];
const DELTA: &[u8] = &[0x55, 0x1d, 27];
const DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 28];

impl<'a> Document<'a> {
    fn parse(der: &'a [u8]) -> Result<Self, CrlError> {
        Self::read(der).ok_or(CrlError::Malformed)
    }

    fn read(der: &'a [u8]) -> Option<Self> {
        let mut outer = Der::new(der);
        let mut parts = Der::new(outer.expect(SEQUENCE)?.content);
        let signed = parts.expect(SEQUENCE)?;
        let algorithm = parts.expect(SEQUENCE)?.whole;
        // Whole bytes: the first one counts the bits that are not used.
        let signature = parts.expect(BIT_STRING).filter(|bits| bits.content.first() == Some(&0));
        let signature = signature?.whole;
        let mut list = Der::new(signed.content);
        let version = list.optional(INTEGER);
        // The two names of the algorithm must be one, or the signed one would mean nothing.
        let is_sound = outer.is_empty()
            && parts.is_empty()
            && version.is_none_or(|version| version.content == [1])
            && list.expect(SEQUENCE)?.whole == algorithm;
        let issuer = list.expect(SEQUENCE)?.whole;
        let this_update = list.time()?;
        let next_update = if list.is_at_time() { Some(list.time()?) } else { None };
        let revoked = list.optional(SEQUENCE).map_or(&[][..], |revoked| revoked.content);
        let extensions = match list.optional(CONTEXT_0) {
            Some(wrapped) => Der::new(wrapped.content).expect(SEQUENCE)?.content,
            None => &[],
        };
        let document = Self {
            signed: signed.whole,
            algorithm,
            signature,
            issuer,
            this_update,
            next_update,
            revoked,
            extensions,
        };
        (is_sound && list.is_empty()).then_some(document)
    }

    fn dates(&self) -> Result<CrlDates, CrlError> {
        let next_update = self.next_update.ok_or(CrlError::Endless)?;
        Ok(CrlDates { this_update: self.this_update, next_update })
    }

    fn is_signed_by(&self, key: &[u8]) -> bool {
        let key = SubjectPublicKeyInfo::from_der(key);
        let algorithm = AlgorithmIdentifier::from_der(self.algorithm);
        let signature = x509_parser::asn1_rs::BitString::from_der(self.signature);
        let (Ok((_, key)), Ok((_, algorithm)), Ok((_, signature))) = (key, algorithm, signature)
        else {
            return false;
        };
        let is_sha1 = SHA1.contains(&algorithm.algorithm.as_bytes());
        !is_sha1 && verify_signature(&key, &algorithm, &signature, self.signed).is_ok()
    }

    fn into_list(self, anchor: &Anchor, der: &[u8]) -> Result<Crl, CrlError> {
        let mut number = None;
        for_each(self.extensions, |extension| {
            let (oid, critical, content) = read_extension(extension)?;
            match oid {
                CRL_NUMBER => {
                    let digits = Der::new(content).expect(INTEGER).ok_or(CrlError::Malformed)?;
                    let zeros = digits.content.iter().take_while(|byte| **byte == 0).count();
                    number = Some(digits.content[zeros..].into());
                    Ok(())
                }
                DELTA | DISTRIBUTION_POINT => Err(CrlError::Partial),
                _ if critical => Err(CrlError::Critical),
                _ => Ok(()),
            }
        })?;
        let dates = self.dates()?;
        let mut revoked = Vec::new();
        for_each(self.revoked, |entry| {
            let mut entry = Der::new(entry.content);
            let serial = entry.expect(INTEGER).ok_or(CrlError::Malformed)?.content;
            entry.time().ok_or(CrlError::Malformed)?;
            let extensions = entry.optional(SEQUENCE).map_or(&[][..], |all| all.content);
            // Such as the issuer of a certificate of another CA.
            for_each(extensions, |extension| match read_extension(extension)? {
                (_, true, _) => Err(CrlError::Critical),
                _ => Ok(()),
            })?;
            revoked.push(CertificateId::new(self.issuer, serial));
            if entry.is_empty() { Ok(()) } else { Err(CrlError::Malformed) }
        })?;
        revoked.sort_unstable();
        revoked.dedup();
        let mut own = [0; SHA256_OUTPUT_LEN];
        own.copy_from_slice(digest(&SHA256, der).as_ref());
        Ok(Crl {
            anchor: anchor.id,
            issuer: anchor.name.clone(),
            number,
            dates,
            revoked: revoked.into(),
            digest: own,
        })
    }
}

/// sha1WithRSAEncryption, and ecdsa-with-SHA1.
const SHA1: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01],
];

fn for_each<'a>(
    values: &'a [u8],
    mut read: impl FnMut(Value<'a>) -> Result<(), CrlError>,
) -> Result<(), CrlError> {
    let mut values = Der::new(values);
    while !values.is_empty() {
        read(values.expect(SEQUENCE).ok_or(CrlError::Malformed)?)?;
    }
    Ok(())
}

/// Its OID, whether it must be understood, and what it holds.
fn read_extension(extension: Value<'_>) -> Result<(&[u8], bool, &[u8]), CrlError> {
    let mut parts = Der::new(extension.content);
    let oid = parts.expect(OID).ok_or(CrlError::Malformed)?.content;
    let critical = parts.optional(BOOLEAN).is_some_and(|value| value.content != [0]);
    let content = parts.expect(OCTET_STRING).ok_or(CrlError::Malformed)?.content;
    if parts.is_empty() { Ok((oid, critical, content)) } else { Err(CrlError::Malformed) }
}
