use std::fmt::Write;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::revocation_list::CertificateRevocationList;

use super::error::PkiError;
use crate::tls::{self, CredentialError, CrlError};

/// Revoked certificates that are listed; further ones are counted.
const SHOWN_ENTRIES: usize = 100;

/// Describes every certificate of a PEM file, or every list of revoked ones, for people.
pub fn describe(path: &Path) -> Result<String, PkiError> {
    if let Ok(lists) = tls::read_lists(path) {
        let described = lists.iter().map(|der| describe_list(der).ok_or(CrlError::Malformed));
        let described: Result<Vec<_>, _> = described.collect();
        let unusable = |error| CredentialError::CrlUnusable { path: path.to_owned(), error };
        return Ok(described.map_err(unusable)?.join("\n"));
    }
    let descriptions =
        tls::load_certificates(path)?.iter().map(describe_certificate).collect::<Vec<_>>();
    Ok(descriptions.join("\n"))
}

fn describe_certificate(der: &CertificateDer<'_>) -> String {
    let (_, certificate) = X509Certificate::from_der(der).expect("load_certificates has parsed it");
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        writeln!(text, "{key:<12} {}", value.escape_debug()).expect("a String grows as needed");
    };
    line("subject", &certificate.subject().to_string());
    line("names", &names(&certificate));
    line("role", role(&certificate));
    line("issuer", &certificate.issuer().to_string());
    line("number", &certificate.raw_serial_as_string());
    line("valid from", &tls::date(certificate.validity().not_before));
    line("valid until", &valid_until(&certificate));
    line("key", &key(&certificate));
    line("SHA-256", &fingerprint(der));
    text
}

/// `None` where it is malformed.
fn describe_list(der: &[u8]) -> Option<String> {
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        writeln!(text, "{key:<12} {}", value.escape_debug()).expect("a String grows as needed");
    };
    line("list of", &list.issuer().to_string());
    let number = list.crl_number().map(|number| format!("{number:X}"));
    line("number", &number.unwrap_or_else(|| "(none)".to_owned()));
    line("made", &tls::date(list.last_update()));
    let due = list.next_update().map(|due| {
        let stale = if due < ASN1Time::now() { " (STALE)" } else { "" };
        format!("{}{stale}", tls::date(due))
    });
    line("next due", &due.unwrap_or_else(|| "(never)".to_owned()));
    let count = list.iter_revoked_certificates().count();
    line("revoked", &count.to_string());
    for entry in list.iter_revoked_certificates().take(SHOWN_ENTRIES) {
        let date = tls::date(entry.revocation_date);
        line("", &format!("{} since {date}", entry.raw_serial_as_string()));
    }
    if count > SHOWN_ENTRIES {
        line("", &format!("and {} more", count - SHOWN_ENTRIES));
    }
    Some(text)
}

fn names(certificate: &X509Certificate<'_>) -> String {
    let names = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().map(name).collect(),
        Ok(None) => Vec::new(),
        Err(_) => vec!["(damaged)".to_owned()],
    };
    if names.is_empty() { "(none)".to_owned() } else { names.join(", ") }
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(text) => (*text).to_owned(),
        GeneralName::URI(text) => format!("uri:{text}"),
        GeneralName::RFC822Name(text) => format!("email:{text}"),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or(v6).map_or_else(|_| "(damaged address)".to_owned(), |ip| ip.to_string())
        }
        other => format!("({other})"),
    }
}

fn role(certificate: &X509Certificate<'_>) -> &'static str {
    if certificate.is_ca() {
        return "CA";
    }
    let Ok(Some(usage)) = certificate.extended_key_usage() else {
        return "any (no extended key usage)";
    };
    match (usage.value.server_auth, usage.value.client_auth) {
        (true, false) => "gateway (serverAuth)",
        (false, true) => "server or device (clientAuth)",
        (true, true) => "any (serverAuth, clientAuth)",
        (false, false) => "none of vestibule's",
    }
}

fn valid_until(certificate: &X509Certificate<'_>) -> String {
    let validity = certificate.validity();
    let days = (validity.not_after.timestamp() - ASN1Time::now().timestamp()).div_euclid(86_400);
    let date = tls::date(validity.not_after);
    if days < 0 { format!("{date} (EXPIRED)") } else { format!("{date} ({days} days left)") }
}

fn key(certificate: &X509Certificate<'_>) -> String {
    let key = certificate.public_key();
    match key.parsed() {
        Ok(PublicKey::EC(point)) => format!("EC, {} bits", point.key_size()),
        Ok(PublicKey::RSA(rsa)) => format!("RSA, {} bits", rsa.key_size()),
        _ => format!("algorithm {}", key.algorithm.algorithm),
    }
}

fn fingerprint(der: &CertificateDer<'_>) -> String {
    let digest = digest(&SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
