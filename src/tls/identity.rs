use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::limits::{MAX_IDENTITY_LEN, MAX_IDENTITY_NAMES};

/// The names in a peer's certificate, in this order: DNS names in lower case as they are, then
/// `uri:...`, then `email:...`; where it has no alternative names at all, the common names of its
/// subject as `cn:...`. There is at least one. All are printable ASCII, so that none can forge a
/// line of the log, and a DNS name holds no colon, so that none can pose as another kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    names: Vec<String>,
}

/// Why a certificate gives no identity. The peer's fault, or that of the CA that signed it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Not a certificate, or an extension in it can't be read.
    #[error("certificate that can't be parsed")]
    Malformed,
    /// Neither DNS name, URI or e-mail address, nor a common name where those are absent.
    #[error("certificate without a name; issue it with a DNS name (subjectAltName)")]
    Nameless,
    /// A name with characters that have no place in names of its kind.
    #[error("certificate with a {kind} name of unprintable or forbidden characters")]
    Unprintable {
        /// Kind of the name: `DNS`, `uri`, `email` or `cn`.
        kind: &'static str,
    },
    /// A name that is too long.
    #[error("certificate with a name of {len} bytes, more than the {MAX_IDENTITY_LEN} allowed")]
    TooLong {
        /// Its length with its kind before it, in bytes.
        len: usize,
    },
    /// Too many names.
    #[error("certificate with {count} names, more than the {MAX_IDENTITY_NAMES} allowed")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

impl Identity {
    /// Reads the names of a certificate. Whether it can be trusted is rustls's to check.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let Ok(([], parsed)) = X509Certificate::from_der(certificate) else {
            return Err(IdentityError::Malformed);
        };
        let alternatives =
            parsed.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
        let names = match alternatives {
            Some(extension) => alternative_names(&extension.value.general_names)?,
            None => common_names(&parsed)?,
        };
        if names.is_empty() {
            return Err(IdentityError::Nameless);
        }
        Ok(Self { names })
    }

    /// The name that stands for this peer in logs and session headers: the first.
    pub fn name(&self) -> &str {
        &self.names[0]
    }

    /// Whether any of the names matches `pattern`, in which `*` stands for any characters. A pattern
    /// has a kind as names have, and matches only that: `*.example.com` means DNS names, and never
    /// `cn:pc.example.com`. DNS names are compared without regard to case.
    pub fn matches(&self, pattern: &str) -> bool {
        self.names.iter().any(|name| name_matches(name, pattern))
    }

    /// Whether there are others beside [`name`](Self::name).
    pub fn has_aliases(&self) -> bool {
        self.names.len() > 1
    }

    /// Whether `name` is one of the DNS names, without regard to case.
    pub fn has_dns_name(&self, name: &str) -> bool {
        self.dns_names().any(|own| own.eq_ignore_ascii_case(name))
    }

    fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| !name.contains(':'))
    }
}

/// Whether one name of an identity matches `pattern`, as [`Identity::matches`] has it.
pub fn name_matches(name: &str, pattern: &str) -> bool {
    match (pattern.split_once(':'), name.split_once(':')) {
        (Some((kind, rest)), Some((its_kind, its_rest))) => {
            kind == its_kind && glob(rest, its_rest)
        }
        (None, None) => glob(&pattern.to_ascii_lowercase(), name),
        _ => false,
    }
}

fn alternative_names(general_names: &[GeneralName<'_>]) -> Result<Vec<String>, IdentityError> {
    if general_names.len() > MAX_IDENTITY_NAMES {
        return Err(IdentityError::TooMany { count: general_names.len() });
    }
    let (mut names, mut uris, mut emails) = (Vec::new(), Vec::new(), Vec::new());
    for name in general_names {
        match name {
            GeneralName::DNSName(text) => names.push(dns_name(text)?),
            GeneralName::URI(text) => uris.push(named("uri", text, false)?),
            GeneralName::RFC822Name(text) => emails.push(named("email", text, false)?),
            GeneralName::Invalid(..) => return Err(IdentityError::Malformed),
            _ => {}
        }
    }
    names.append(&mut uris);
    names.append(&mut emails);
    Ok(names)
}

fn common_names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, IdentityError> {
    let names = certificate.subject().iter_common_name().collect::<Vec<_>>();
    if names.len() > MAX_IDENTITY_NAMES {
        return Err(IdentityError::TooMany { count: names.len() });
    }
    names
        .into_iter()
        .map(|name| named("cn", name.as_str().map_err(|_| IdentityError::Malformed)?, true))
        .collect()
}

fn dns_name(text: &str) -> Result<String, IdentityError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err(IdentityError::Unprintable { kind: "DNS" });
    }
    bounded(text.to_ascii_lowercase())
}

fn named(kind: &'static str, text: &str, spaces: bool) -> Result<String, IdentityError> {
    let allowed = |byte: u8| byte.is_ascii_graphic() || (spaces && byte == b' ');
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err(IdentityError::Unprintable { kind });
    }
    bounded(format!("{kind}:{text}"))
}

fn bounded(name: String) -> Result<String, IdentityError> {
    if name.len() > MAX_IDENTITY_LEN {
        return Err(IdentityError::TooLong { len: name.len() });
    }
    Ok(name)
}

/// Matches in linear time: each piece between two stars is taken where it first occurs.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(text) = text.strip_prefix(start).and_then(|text| text.strip_suffix(end)) else {
        return false;
    };
    middle
        .split('*')
        .try_fold(text, |text, piece| text.find(piece).map(|at| &text[at + piece.len()..]))
        .is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;
    use crate::tls::testing::{common_name, dns};

    fn identity(subject: &str, names: Vec<SanType>) -> Result<Identity, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(subject);
        params.subject_alt_names = names;
        identity_of(&params)
    }

    fn identity_of(params: &CertificateParams) -> Result<Identity, IdentityError> {
        let key = KeyPair::generate().expect("a key");
        Identity::of(params.self_signed(&key).expect("a certificate").der())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().expect("ASCII"))
    }

    fn email(text: &str) -> SanType {
        SanType::Rfc822Name(text.try_into().expect("ASCII"))
    }

    #[test]
    fn names_come_in_the_order_of_their_kinds_and_dns_names_in_lower_case() {
        let names =
            vec![email("Jo@example.com"), uri("spiffe://x/PC"), dns("PC.example.com"), dns("b")];
        let identity = identity("ignored", names).expect("an identity");
        let expected = ["pc.example.com", "b", "uri:spiffe://x/PC", "email:Jo@example.com"];
        assert_eq!(identity.names, expected);
        assert_eq!(identity.name(), "pc.example.com");
    }

    #[test]
    fn the_common_name_counts_only_where_there_are_no_alternative_names() {
        assert_eq!(identity("pc 17", vec![]).expect("an identity").name(), "cn:pc 17");
        let address = SanType::IpAddress([192, 0, 2, 1].into());
        assert_eq!(identity("pc 17", vec![address]), Err(IdentityError::Nameless));
        assert_eq!(identity_of(&CertificateParams::default()).expect("one").names.len(), 1);
    }

    #[test]
    fn a_name_that_could_forge_a_line_of_the_log_or_another_kind_of_name_is_refused() {
        for text in ["a\nb", "a\0b", "a\x1b[2J", "a b", "cn:a", "uri:a", "email:a", ""] {
            let result = identity("x", vec![dns(text)]);
            assert_eq!(result, Err(IdentityError::Unprintable { kind: "DNS" }), "{text:?}");
        }
        assert_eq!(
            identity("x", vec![dns("good"), uri("a\rb")]),
            Err(IdentityError::Unprintable { kind: "uri" })
        );
        for text in ["a\nb", "a\0b", "\u{202e}a", "ä", ""] {
            let result = identity(text, vec![]);
            assert_eq!(result, Err(IdentityError::Unprintable { kind: "cn" }), "{text:?}");
        }
    }

    #[test]
    fn enormous_names_and_numbers_of_names_are_refused() {
        let long = "a".repeat(MAX_IDENTITY_LEN + 1);
        assert!(matches!(identity("x", vec![dns(&long)]), Err(IdentityError::TooLong { .. })));
        assert!(matches!(identity(&long, vec![]), Err(IdentityError::TooLong { .. })));
        let many = vec![dns("a"); MAX_IDENTITY_NAMES + 1];
        assert!(matches!(identity("x", many), Err(IdentityError::TooMany { .. })));
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "o");
        assert_eq!(identity_of(&params), Err(IdentityError::Nameless));
    }

    #[test]
    fn a_pattern_matches_names_of_its_own_kind_only() {
        let names = vec![dns("pc.example.com"), uri("https://x.example.com")];
        let identity = identity("x", names).expect("an identity");
        for pattern in ["*", "pc.example.com", "PC.*", "*.com", "p*e*.c*m", "uri:*", "uri:https:*"]
        {
            assert!(identity.matches(pattern), "{pattern}");
        }
        for pattern in ["", "pc", "pc.example.co", "x.example.com", "*x.example.com", "cn:*", "*:*"]
        {
            assert!(!identity.matches(pattern), "{pattern}");
        }
        assert!(identity.has_dns_name("PC.example.com"));
        assert!(!identity.has_dns_name("uri:https://x.example.com"));
    }

    fn slow_glob(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| slow_glob(rest, &text[at..])),
            Some((byte, rest)) => text
                .split_first()
                .is_some_and(|(first, text)| first == byte && slow_glob(rest, text)),
        }
    }

    proptest! {
        #[test]
        fn a_glob_matches_what_its_definition_says(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            let expected = slow_glob(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(glob(&pattern, &text), expected);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![dns("pc.example.com"), uri("a:b")];
            let key = KeyPair::generate().expect("a key");
            let mut der = params.self_signed(&key).expect("a certificate").der().to_vec();
            let index = at.index(der.len());
            der[index] = byte;
            for bytes in [der, noise] {
                if let Ok(identity) = Identity::of(&CertificateDer::from(bytes)) {
                    let printable = |name: &String| name.bytes().all(|b| (b' '..=b'~').contains(&b));
                    prop_assert!(identity.names.iter().all(printable));
                }
            }
        }
    }
}
