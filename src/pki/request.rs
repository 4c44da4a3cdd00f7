use std::path::Path;

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::error::PkiError;
use super::name::{NameError, SubjectName};
use crate::tls;

/// A request for a certificate (PKCS#10, RFC 2986) whose sender has proved to hold its key.
#[derive(Debug)]
pub struct SigningRequest {
    names: Result<Vec<SubjectName>, NameError>,
    public_key: SubjectPublicKeyInfo,
}

impl SigningRequest {
    /// Reads a request in PEM and checks its signature.
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        let wrong = |detail: String| PkiError::Request { path: path.to_owned(), detail };
        let der = CertificateSigningRequestDer::from_pem_slice(&tls::read_pem_file(path)?)
            .map_err(|error| wrong(error.to_string()))?;
        let (_, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| wrong(error.to_string()))?;
        request.verify_signature().map_err(|error| wrong(error.to_string()))?;
        let key = request.certification_request_info.subject_pki.raw;
        let public_key =
            SubjectPublicKeyInfo::from_der(key).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { names: names(&request), public_key })
    }

    /// The names that it asks for: its alternative names, or its common name where it has none.
    pub fn names(&self) -> Result<&[SubjectName], PkiError> {
        match &self.names {
            Ok(names) => Ok(names),
            Err(error) => Err(error.clone().into()),
        }
    }

    pub(super) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.public_key
    }
}

fn names(request: &X509CertificationRequest<'_>) -> Result<Vec<SubjectName>, NameError> {
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            return names.general_names.iter().map(SubjectName::of_request).collect();
        }
    }
    let subject = &request.certification_request_info.subject;
    subject
        .iter_common_name()
        .map(|name| name.as_str().map_err(|_| NameError::UnknownKind)?.parse())
        .collect()
}
