use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::error::PkiError;
use super::files::{NewFile, make_folder, write_new};
use super::name::SubjectName;
use super::request::SigningRequest;
use crate::tls::{self, CredentialError};

/// Days that a CA lives: changing one means a visit to every device.
const CA_DAYS: u32 = 3650;
/// Days that any other certificate lives, unless asked otherwise.
pub const LEAF_DAYS: u32 = 365;
/// Certificates begin this much in the past, for hosts whose clock is behind.
const BACKDATED: Duration = Duration::hours(1);
/// Longest common name (RFC 5280, appendix A: ub-common-name).
const MAX_COMMON_NAME_LEN: usize = 64;

/// What a certificate is for. Each role has its own CA, so that none can pose as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// A gateway: proves its names to agents and servers.
    Gateway,
    /// A server: proves its DNS names to gateways.
    Server,
    /// A device: proves its identity to gateways.
    Device,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Server, Self::Device];

    const fn usage(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Gateway => ExtendedKeyUsagePurpose::ServerAuth,
            Self::Server | Self::Device => ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Server => "server",
            Self::Device => "device",
        })
    }
}

/// A certificate to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// What it is for; chooses the CA.
    pub role: Role,
    /// At least one; the first names the files and the subject.
    pub names: Vec<SubjectName>,
    /// Days until it expires.
    pub days: u32,
}

/// A fresh certificate and its key, in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key, PKCS#8.
    pub key_pem: String,
}

/// The three CAs in a folder, each a certificate and a key: `gateways-ca`, `servers-ca`, `devices-ca`.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes the three CAs. Refuses a folder where one of their files exists.
    pub fn create(dir: &Path) -> Result<Self, PkiError> {
        let pki = Self { dir: dir.to_owned() };
        let mut files = Vec::new();
        for role in Role::ALL {
            let issued = new_authority(role)?;
            files.extend(issued.files(pki.ca_certificate(role), pki.ca_key(role)));
        }
        make_folder(dir)?;
        write_new(&files)?;
        Ok(pki)
    }

    /// The CAs in that folder. Their files are read when one is needed, so that a folder may hold
    /// the key of one role only.
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// File of the CA's certificate, which the peers of that role trust.
    pub fn ca_certificate(&self, role: Role) -> PathBuf {
        self.dir.join(format!("{role}s-ca.crt"))
    }

    /// File of the CA's key.
    pub fn ca_key(&self, role: Role) -> PathBuf {
        self.dir.join(format!("{role}s-ca.key"))
    }

    /// Makes a key (P-256) and a certificate for it.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        let certificate_pem = self.certify(leaf, &key)?;
        Ok(Issued { certificate_pem, key_pem: key.serialize_pem() })
    }

    /// Makes a certificate, in PEM, for the key of a request. Names and purpose are those of `leaf`;
    /// nothing but the key is taken from the request.
    pub fn sign(&self, request: &SigningRequest, leaf: &Leaf) -> Result<String, PkiError> {
        self.certify(leaf, request.public_key())
    }

    pub(super) fn certify(
        &self,
        leaf: &Leaf,
        key: &impl PublicKeyData,
    ) -> Result<String, PkiError> {
        let (issuer, ca_end) = self.load_authority(leaf.role)?;
        let params = leaf_params(leaf, ca_end)?;
        Ok(params.signed_by(key, &issuer)?.pem())
    }

    pub(super) fn load_authority(
        &self,
        role: Role,
    ) -> Result<(Issuer<'static, KeyPair>, OffsetDateTime), PkiError> {
        let (path, key_path) = (self.ca_certificate(role), self.ca_key(role));
        if !path.exists() {
            return Err(PkiError::NoAuthority { path });
        }
        let broken = |detail: &str| PkiError::AuthorityKey {
            key: key_path.clone(),
            certificate: path.clone(),
            detail: detail.to_owned(),
        };
        let certificate = tls::load_certificates(&path)?.swap_remove(0);
        let key_pem = String::from_utf8(tls::read_pem_file(&key_path)?)
            .map_err(|_| broken("not a PEM file"))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| broken(&error.to_string()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| broken(&error.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(broken("it belongs to another certificate"));
        }
        if !parsed.is_ca() {
            return Err(broken("the certificate is not that of a CA"));
        }
        let ca_end = parsed.validity().not_after.to_datetime();
        if ca_end < OffsetDateTime::now_utc() {
            let date = tls::date(parsed.validity().not_after);
            return Err(CredentialError::Expired { path, date }.into());
        }
        Ok((Issuer::from_ca_cert_der(&certificate, key)?, ca_end))
    }
}

impl Issued {
    /// Writes `NAME.crt` and `NAME.key` (mode 0600) to a folder, both or none, and returns their
    /// paths in this order. Refuses to overwrite.
    pub fn write(&self, folder: &Path, name: &SubjectName) -> Result<(PathBuf, PathBuf), PkiError> {
        make_folder(folder)?;
        let stem = name.file_stem();
        let (certificate, key) =
            (folder.join(format!("{stem}.crt")), folder.join(format!("{stem}.key")));
        write_new(&self.files(certificate.clone(), key.clone()))?;
        Ok((certificate, key))
    }

    fn files(&self, certificate: PathBuf, key: PathBuf) -> [NewFile; 2] {
        [
            NewFile { path: key, contents: self.key_pem.clone(), secret: true },
            NewFile { path: certificate, contents: self.certificate_pem.clone(), secret: false },
        ]
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

fn new_authority(role: Role) -> Result<Issued, PkiError> {
    let key = KeyPair::generate()?;
    let mut params = params(CA_DAYS)?;
    params.distinguished_name.push(DnType::CommonName, format!("Vestibule {role}s CA"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate_pem = params.self_signed(&key)?.pem();
    Ok(Issued { certificate_pem, key_pem: key.serialize_pem() })
}

fn leaf_params(leaf: &Leaf, ca_end: OffsetDateTime) -> Result<CertificateParams, PkiError> {
    let first = leaf.names.first().ok_or(PkiError::Nameless)?;
    for name in &leaf.names {
        name.check_role(leaf.role)?;
    }
    let mut params = params(leaf.days)?;
    if params.not_after > ca_end {
        return Err(PkiError::BeyondAuthority {
            days: leaf.days,
            ca_end: tls::date(ca_end.into()),
            at_most: (ca_end - OffsetDateTime::now_utc()).whole_days(),
        });
    }
    let common_name = first.to_string();
    if common_name.len() <= MAX_COMMON_NAME_LEN {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    params.subject_alt_names =
        leaf.names.iter().map(SubjectName::to_san).collect::<Result<_, _>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![leaf.role.usage()];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(days: u32) -> Result<CertificateParams, PkiError> {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Vestibule");
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(i64::from(days));
    params.serial_number = Some(random_serial()?);
    Ok(params)
}

/// 127 random bits: positive, and within the 20 bytes of RFC 5280 §4.1.2.2.
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| PkiError::Crypto("no random bits".to_owned()))?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, ParsedExtension, Pem, X509Certificate};

    use super::*;

    fn leaf(role: Role, name: &str) -> Leaf {
        Leaf { role, names: vec![name.parse().expect("a name")], days: LEAF_DAYS }
    }

    fn pki() -> (tempfile::TempDir, Pki) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::create(folder.path()).expect("an empty folder");
        (folder, pki)
    }

    fn der(pem: &str) -> Vec<u8> {
        Pem::iter_from_buffer(pem.as_bytes()).next().expect("one section").expect("PEM").contents
    }

    #[test]
    fn a_certificate_is_signed_by_the_ca_of_its_role_and_by_no_other() {
        let (_folder, pki) = pki();
        for role in Role::ALL {
            let issued = pki.issue(&leaf(role, "a.example.com")).expect("issued");
            let bytes = der(&issued.certificate_pem);
            let (_, certificate) = X509Certificate::from_der(&bytes).expect("a certificate");
            for ca_role in Role::ALL {
                let chain = tls::load_certificates(&pki.ca_certificate(ca_role)).expect("a CA");
                let (_, ca) = X509Certificate::from_der(&chain[0]).expect("a certificate");
                let signed = certificate.verify_signature(Some(ca.public_key())).is_ok();
                assert_eq!(signed, role == ca_role, "{role} by the CA of {ca_role}s");
            }
        }
    }

    #[test]
    fn a_certificate_names_its_ca_by_key_and_cannot_sign() {
        let (_folder, pki) = pki();
        let issued = pki.issue(&leaf(Role::Gateway, "gw.example.com")).expect("issued");
        let bytes = der(&issued.certificate_pem);
        let (_, certificate) = X509Certificate::from_der(&bytes).expect("a certificate");
        let chain = tls::load_certificates(&pki.ca_certificate(Role::Gateway)).expect("a CA");
        let (_, ca) = X509Certificate::from_der(&chain[0]).expect("a certificate");

        let ca_key_id =
            ca.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
                _ => None,
            });
        let issuer_key_id = certificate.extensions().iter().find_map(|extension| {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref(),
                _ => None,
            }
        });
        assert!(ca_key_id.is_some());
        assert_eq!(issuer_key_id.map(|id| id.0), ca_key_id);
        assert!(!certificate.is_ca() && ca.is_ca());
        let constraints = ca.basic_constraints().expect("well-formed").expect("present");
        assert_eq!(constraints.value.path_len_constraint, Some(0));
    }

    #[test]
    fn two_certificates_of_one_name_have_different_serial_numbers() {
        let (_folder, pki) = pki();
        let serial = || {
            let issued = pki.issue(&leaf(Role::Device, "pc.example.com")).expect("issued");
            let bytes = der(&issued.certificate_pem);
            let (_, certificate) = X509Certificate::from_der(&bytes).expect("a certificate");
            certificate.raw_serial().to_vec()
        };
        assert_ne!(serial(), serial());
    }

    #[test]
    fn a_second_init_keeps_the_first() {
        let (folder, pki) = pki();
        let before = std::fs::read(pki.ca_key(Role::Device)).expect("it is readable");
        assert!(matches!(Pki::create(folder.path()), Err(PkiError::Exists { .. })));
        assert_eq!(std::fs::read(pki.ca_key(Role::Device)).expect("it is readable"), before);
    }

    #[test]
    fn a_certificate_never_outlives_its_ca() {
        let (_folder, pki) = pki();
        let beyond = Leaf { days: CA_DAYS + 1, ..leaf(Role::Device, "pc.example.com") };
        assert!(matches!(pki.issue(&beyond), Err(PkiError::BeyondAuthority { at_most: 3649, .. })));
    }

    #[test]
    fn a_key_that_is_not_the_cas_is_refused() {
        let (_folder, pki) = pki();
        std::fs::copy(pki.ca_key(Role::Server), pki.ca_key(Role::Device)).expect("copied");
        let result = pki.issue(&leaf(Role::Device, "pc.example.com"));
        assert!(matches!(result, Err(PkiError::AuthorityKey { .. })));
    }

    #[test]
    fn a_folder_without_cas_is_answered_with_the_command_that_makes_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = Pki::open(folder.path()).issue(&leaf(Role::Device, "pc")).expect_err("no CA");
        assert!(error.to_string().contains("vestibule pki init"), "{error}");
    }

    #[test]
    fn a_key_does_not_show_in_debug_output() {
        let (_folder, pki) = pki();
        let issued = pki.issue(&leaf(Role::Device, "pc.example.com")).expect("issued");
        assert!(!format!("{issued:?}").contains("PRIVATE KEY"));
    }
}
