use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rcgen::SanType;
use rcgen::string::Ia5String;
use thiserror::Error;
use x509_parser::extensions::GeneralName;

use super::authority::Role;
use crate::limits::MAX_IDENTITY_LEN;

/// A name in a certificate, written as vestibule writes identities: a DNS name or IP address as it
/// is, `uri:...` or `email:...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// A host's name, in lower case; `*` may stand for its first label.
    Dns(String),
    /// An address, of gateways that are dialled by address.
    Ip(IpAddr),
    /// A URI, such as a SPIFFE identity.
    Uri(String),
    /// An e-mail address.
    Email(String),
}

/// Why a text is not a name for a certificate. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Characters that have no place in a name.
    #[error(
        "{0:?} is no name: a DNS name (letters, digits, - and _ between dots), an IP address, \
         uri:... or email:... is needed"
    )]
    Malformed(String),
    /// Longer than an identity may be.
    #[error("a name of {len} bytes is longer than the {MAX_IDENTITY_LEN} allowed")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// A kind of name that this role can't have.
    #[error("{name} can't be the name of a {role}: {role}s are known by {needed}")]
    NotForRole {
        /// The name.
        name: String,
        /// The role.
        role: Role,
        /// The kinds that it can have.
        needed: &'static str,
    },
    /// A kind of name in a request that vestibule does not know.
    #[error("the request holds a name of an unknown kind; give the names with --name")]
    UnknownKind,
}

impl SubjectName {
    /// Refuses names by which nobody would look for this role.
    pub(super) fn check_role(&self, role: Role) -> Result<(), NameError> {
        let needed = match (role, self) {
            (_, Self::Dns(_))
            | (Role::Gateway, Self::Ip(_))
            | (Role::Device, Self::Uri(_) | Self::Email(_)) => return Ok(()),
            (Role::Gateway, _) => "DNS names and IP addresses",
            (Role::Server, _) => "DNS names",
            (Role::Device, _) => "DNS names, uri:... and email:...",
        };
        Err(NameError::NotForRole { name: self.to_string(), role, needed })
    }

    /// The start of the names of its files: no separator of folders, no leading dot.
    pub(super) fn file_stem(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        let text = self.to_string().replacen('*', "wildcard", 1);
        text.chars().map(|c| if plain(c) { c } else { '-' }).collect()
    }

    pub(super) fn to_san(&self) -> Result<SanType, rcgen::Error> {
        let ia5 = |text: &String| Ia5String::try_from(text.as_str());
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(ia5(name)?),
            Self::Ip(address) => SanType::IpAddress(*address),
            Self::Uri(uri) => SanType::URI(ia5(uri)?),
            Self::Email(address) => SanType::Rfc822Name(ia5(address)?),
        })
    }

    /// Reads a name of a request, as strictly as one of the command line.
    pub(super) fn of_request(name: &GeneralName<'_>) -> Result<Self, NameError> {
        match name {
            GeneralName::DNSName(text) => match text.parse()? {
                dns @ Self::Dns(_) => Ok(dns),
                _ => Err(NameError::Malformed((*text).to_owned())),
            },
            GeneralName::URI(text) => format!("uri:{text}").parse(),
            GeneralName::RFC822Name(text) => format!("email:{text}").parse(),
            GeneralName::IPAddress(bytes) => {
                if let Ok(octets) = <[u8; 4]>::try_from(*bytes) {
                    Ok(Self::Ip(octets.into()))
                } else if let Ok(octets) = <[u8; 16]>::try_from(*bytes) {
                    Ok(Self::Ip(octets.into()))
                } else {
                    Err(NameError::UnknownKind)
                }
            }
            _ => Err(NameError::UnknownKind),
        }
    }
}

impl FromStr for SubjectName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_IDENTITY_LEN {
            return Err(NameError::TooLong { len: text.len() });
        }
        let graphic = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic());
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        match text.split_once(':') {
            Some(("uri", rest)) if graphic(rest) => Ok(Self::Uri(rest.to_owned())),
            Some(("email", rest)) if graphic(rest) => Ok(Self::Email(rest.to_owned())),
            None if is_dns_name(text) => Ok(Self::Dns(text.to_ascii_lowercase())),
            _ => Err(NameError::Malformed(text.to_owned())),
        }
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => write!(f, "{address}"),
            Self::Uri(uri) => write!(f, "uri:{uri}"),
            Self::Email(address) => write!(f, "email:{address}"),
        }
    }
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.strip_prefix("*.").unwrap_or(text).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_written_as_it_is_read() {
        for text in [
            "gw.example.com",
            "*.example.com",
            "203.0.113.7",
            "2001:db8::7",
            "uri:a:b",
            "email:a@b",
        ] {
            assert_eq!(text.parse::<SubjectName>().map(|name| name.to_string()), Ok(text.into()));
        }
    }

    #[test]
    fn a_text_that_is_no_name_is_refused() {
        for text in [
            "", ".", "..", "a..b", "-a", "a b", "a/b", "a\n", "ä", "uri:", "cn:a", "a.*.b",
            "uri:a b",
        ] {
            assert_eq!(text.parse::<SubjectName>(), Err(NameError::Malformed(text.to_owned())));
        }
    }

    #[test]
    fn a_name_by_which_nobody_knows_the_role_is_refused() {
        let email = SubjectName::Email("jo@example.com".to_owned());
        assert!(email.check_role(Role::Device).is_ok());
        assert!(email.check_role(Role::Gateway).is_err());
        let address = SubjectName::Ip([127, 0, 0, 1].into());
        assert!(address.check_role(Role::Gateway).is_ok());
        assert!(address.check_role(Role::Server).is_err());
        assert!(address.check_role(Role::Device).is_err());
    }

    proptest! {
        #[test]
        fn the_files_of_a_name_stay_in_their_folder(text in ".{1,80}") {
            if let Ok(name) = text.parse::<SubjectName>() {
                let stem = name.file_stem();
                prop_assert!(!stem.contains(['/', '\\', '\0']) && !stem.starts_with('.'), "{stem}");
            }
        }
    }
}
