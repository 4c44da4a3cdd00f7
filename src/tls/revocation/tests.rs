use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use x509_parser::prelude::ASN1Time;

use super::*;
use crate::limits::MAX_CRL_LEN;

const NOW: i64 = 1_800_000_000;

/// A CA, and what it issues.
struct Ca {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Self {
        Self::with_usage(name, vec![])
    }

    fn with_usage(name: &str, key_usages: Vec<KeyUsagePurpose>) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = key_usages;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        // The issuer of a test signs what it must not.
        params.key_usages = vec![];
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn anchors(&self) -> Arc<[Anchor]> {
        [Anchor::of(&self.certificate).expect("a certificate")].into()
    }

    fn issue(&self, serial: u64) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["pc.test".to_owned()]).expect("a name");
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("a key");
        params.signed_by(&key, &self.issuer).expect("a certificate").der().clone()
    }

    fn params(number: u64, made: i64, revoked: &[u64]) -> CertificateRevocationListParams {
        let at = |second| ASN1Time::from_timestamp(second).expect("a time").to_datetime();
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at(made),
            reason_code: Some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: at(made),
            next_update: at(made + 1_000),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
    }

    fn sign(&self, params: &CertificateRevocationListParams) -> Vec<u8> {
        params.signed_by(&self.issuer).expect("a list").der().to_vec()
    }

    fn list(&self, number: u64, made: i64, revoked: &[u64]) -> Vec<u8> {
        self.sign(&Self::params(number, made, revoked))
    }

    fn revocation(&self, policy: RevocationPolicy, lists: &[Vec<u8>]) -> Arc<Revocation> {
        let anchors = self.anchors();
        let held = lists.iter().map(|der| HeldList {
            list: Arc::new(Crl::verify(der, &*anchors).expect("ours")),
            from: CrlSource::File("a.crl".into()),
        });
        let held: Vec<HeldList> = held.collect();
        Revocation::new(policy, &anchors, &held, &BroughtLists::default()).expect("not off")
    }
}

#[test]
fn what_is_on_the_list_is_revoked_and_nothing_else() {
    let ca = Ca::new("ca");
    let known = ca.revocation(RevocationPolicy::Known, &[ca.list(1, NOW, &[7, 1 << 40])]);
    let check = |serial| known.check(&[&ca.issue(serial)], NOW);
    assert_eq!(check(7), Err(CertificateError::Revoked));
    assert_eq!(check(1 << 40), Err(CertificateError::Revoked));
    assert_eq!(check(8), Ok(i64::MAX));
    // The number is that of its issuer: another CA's certificate of that number is another one.
    assert_eq!(known.check(&[&Ca::new("other").issue(7)], NOW), Ok(i64::MAX));
    let ids = CertificateId::of_chain(&[ca.issue(8), ca.issue(7)]);
    assert!(known.revokes_any(&ids) && !known.revokes_any(&ids[..1]));
}

#[test]
fn a_stale_or_missing_list_closes_the_door_only_where_one_is_required() {
    let ca = Ca::new("ca");
    let lists = [ca.list(1, NOW, &[7])];
    let (good, revoked) = (ca.issue(8), ca.issue(7));
    let required = ca.revocation(RevocationPolicy::Required, &lists);
    assert_eq!(required.check(&[&good], NOW + 1_000), Ok(NOW + 1_000));
    let stale = NOW + 1_001;
    assert_eq!(required.check(&[&good], stale), Err(CertificateError::ExpiredRevocationList));
    assert_eq!(required.check(&[&revoked], stale), Err(CertificateError::Revoked));
    let known = ca.revocation(RevocationPolicy::Known, &lists);
    assert_eq!(known.check(&[&good], stale), Ok(i64::MAX));
    assert_eq!(known.check(&[&revoked], stale), Err(CertificateError::Revoked));

    let without = ca.revocation(RevocationPolicy::Required, &[]);
    assert_eq!(without.check(&[&good], NOW), Err(CertificateError::UnknownRevocationStatus));
    assert!(without.is_missing(NOW).is_some() && required.is_missing(NOW).is_none());
    assert!(required.is_missing(stale).is_some() && known.is_missing(stale).is_none());
    assert!(ca.revocation(RevocationPolicy::Known, &[]).check(&[&good], NOW).is_ok());
}

#[test]
fn a_chain_that_ends_with_its_ca_needs_no_list_of_whoever_issued_that() {
    let ca = Ca::new("ca");
    let required = ca.revocation(RevocationPolicy::Required, &[ca.list(1, NOW, &[])]);
    let leaf = ca.issue(8);
    assert!(required.check(&[&leaf, &ca.certificate], NOW).is_ok());
    let stranger = Ca::new("stranger").certificate;
    let unknown = Err(CertificateError::UnknownRevocationStatus);
    assert_eq!(required.check(&[&leaf, &stranger], NOW), unknown);
}

#[test]
fn an_operator_hears_of_a_list_that_is_missing_soon_stale_or_stale() {
    let ca = Ca::new("ca");
    let lists = [ca.list(1, NOW, &[])];
    let known = ca.revocation(RevocationPolicy::Known, &lists);
    let warning = |now| known.warnings("listener \"a\"", now);
    assert_eq!(warning(NOW + 799), Vec::<String>::new());
    assert!(
        warning(NOW + 801)[0].contains("the list of CN=ca is stale from "),
        "{:?}",
        warning(NOW + 801)
    );
    assert!(warning(NOW + 1_001)[0].contains("is stale since "), "{:?}", warning(NOW + 1_001));
    let none = ca.revocation(RevocationPolicy::Required, &[]).warnings("[servers]", NOW);
    assert_eq!(none, ["[servers]: no list of CN=ca is here: its certificates are refused"]);
}

// ---- lists ----

#[test]
fn a_list_that_is_not_whole_or_not_signed_by_its_ca_is_refused_by_its_kind() {
    let ca = Ca::new("ca");
    let verify = |der: &[u8]| Crl::verify(der, &*ca.anchors()).map(|list| list.len());
    let good = ca.list(1, NOW, &[1, 2]);
    assert_eq!(verify(&good), Ok(2));
    assert_eq!(verify(b""), Err(CrlError::Malformed));
    assert_eq!(verify(&good[..good.len() - 1]), Err(CrlError::Malformed));
    assert_eq!(verify(&[&good[..], b"x"].concat()), Err(CrlError::Malformed));
    assert_eq!(verify(&vec![0x30; MAX_CRL_LEN + 1]), Err(CrlError::TooLong));
    assert_eq!(verify(&Ca::new("other").list(1, NOW, &[])), Err(CrlError::Foreign));
    assert_eq!(verify(&Ca::new("ca").list(1, NOW, &[])), Err(CrlError::BadSignature));

    let partial = CertificateRevocationListParams {
        issuing_distribution_point: Some(CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris: vec!["http://a".to_owned()] },
            scope: Some(CrlScope::UserCertsOnly),
        }),
        ..Ca::params(1, NOW, &[])
    };
    assert_eq!(verify(&ca.sign(&partial)), Err(CrlError::Partial));

    let other = Ca::with_usage("ca", vec![KeyUsagePurpose::KeyCertSign]);
    let refused = Crl::verify(&other.list(1, NOW, &[]), &*other.anchors());
    assert_eq!(refused.map(|list| list.len()), Err(CrlError::NotASigner));
}

#[test]
fn a_ca_of_the_same_name_and_another_key_has_lists_of_its_own() {
    let (one, two) = (Ca::new("ca"), Ca::new("ca"));
    let anchors: Arc<[Anchor]> = [&one, &two].map(|ca| ca.anchors()[0].clone()).into();
    let list = Crl::verify(&two.list(1, NOW, &[]), &*anchors).expect("of the second");
    assert_eq!(list.anchor, anchors[1].id);
    let held = HeldList { list: Arc::new(list), from: CrlSource::File("a".into()) };
    let none = BroughtLists::default();
    let required = Revocation::new(RevocationPolicy::Required, &anchors, &[held], &none);
    // Whose certificate it is can't be told by its issuer's name: both must have a list.
    let unknown = Err(CertificateError::UnknownRevocationStatus);
    assert_eq!(required.expect("not off").check(&[&two.issue(1)], NOW), unknown);
}

#[test]
fn what_is_brought_never_goes_back() {
    let ca = Ca::new("ca");
    let known = ca.revocation(RevocationPolicy::Known, &[ca.list(5, NOW, &[7])]);
    let mut brought = BroughtLists::default();
    let mut bring = |list: Vec<u8>| brought.bring(&list, &"lan-1".into(), [&*known]);
    assert_eq!(bring(ca.list(4, NOW + 9, &[])), CrlVerdict::Older, "by its number");
    assert_eq!(bring(ca.list(6, NOW - 9, &[])), CrlVerdict::Older, "by its time");
    let next = ca.list(6, NOW, &[8]);
    assert_eq!(bring(next.clone()), CrlVerdict::Taken);
    assert_eq!(bring(next), CrlVerdict::Known);
    assert_eq!(bring(ca.list(5, NOW, &[])), CrlVerdict::Older);
    assert_eq!(bring(b"garbage".to_vec()), CrlVerdict::Refused(CrlError::Malformed));
    let foreign = Ca::new("foreign").list(9, NOW, &[]);
    assert_eq!(bring(foreign), CrlVerdict::Refused(CrlError::Foreign));

    let anchors = ca.anchors();
    let now = Revocation::new(RevocationPolicy::Known, &anchors, &[], &brought).expect("not off");
    assert_eq!(now.check(&[&ca.issue(8)], NOW), Err(CertificateError::Revoked));
    brought.retain([]);
    let gone = Revocation::new(RevocationPolicy::Known, &anchors, &[], &brought).expect("not off");
    assert!(gone.check(&[&ca.issue(8)], NOW).is_ok());
}

#[test]
fn the_newest_of_files_and_brought_lists_counts() {
    let ca = Ca::new("ca");
    let lists = [ca.list(3, NOW, &[3]), ca.list(2, NOW, &[2]), ca.list(4, NOW, &[4])];
    let known = ca.revocation(RevocationPolicy::Known, &lists);
    let numbers: Vec<String> =
        known.lists().filter_map(|(_, held)| Some(held?.list.number())).collect();
    assert_eq!(numbers, ["04"]);
}

#[test]
fn nothing_is_looked_at_where_the_policy_is_off() {
    let ca = Ca::new("ca");
    let none = BroughtLists::default();
    assert!(Revocation::new(RevocationPolicy::Off, &ca.anchors(), &[], &none).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn one_changed_byte_makes_no_list(at in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let ca = Ca::new("ca");
        let mut list = ca.list(1, NOW, &[1, 2, 3]);
        let at = at.index(list.len());
        list[at] ^= change;
        prop_assert!(Crl::verify(&list, &*ca.anchors()).is_err());
    }

    #[test]
    fn any_bytes_are_a_list_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Crl::verify(&bytes, &*Ca::new("ca").anchors()).is_err());
        let _ = CrlDates::of(&bytes);
    }
}

#[test]
fn a_list_with_any_bit_changed_is_not_the_cas() {
    let ca = Ca::new("ca");
    let list = ca.list(1, NOW, &[7]);
    for at in 0..list.len() {
        for bit in 0..8 {
            let mut changed = list.clone();
            changed[at] ^= 1 << bit;
            assert!(Crl::verify(&changed, &*ca.anchors()).is_err(), "bit {bit} of byte {at}");
        }
    }
}
