//! Which sessions are meant, and who is to be kept out.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{address_range, device_pattern};
use crate::tls::{Identity, name_matches};

/// An address, or a range of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range(IpNet);

/// A device by its name, in which `*` stands for any characters, as in `devices` of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DevicePattern(String);

/// Sessions for which all of this holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Any of these, by the name that they have in the logs; empty: any.
    pub sessions: Vec<String>,
    /// Of such a device.
    pub device: Option<DevicePattern>,
    /// Of an agent that came from there.
    pub address: Option<Range>,
    /// To this service.
    pub service: Option<String>,
    /// Over this server, or at a server over this gateway.
    pub peer: Option<String>,
}

/// What is known of a session or an agent that waits.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'c> {
    /// Its name in the logs; empty where it is no session yet.
    pub session: &'c str,
    /// The name that stands for the device, where it has one.
    pub device: Option<&'c str>,
    /// All names of the device, where it has several.
    pub aliases: Option<&'c Identity>,
    /// Where its agent came from.
    pub address: IpAddr,
    /// Name of its service.
    pub service: &'c str,
    /// Name of its server, or of its gateway; empty where it has none yet.
    pub peer: &'c str,
}

impl Selection {
    /// Whether it names nothing, and so all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a session is one of these.
    pub fn contains(&self, candidate: &Candidate<'_>) -> bool {
        let is_one_of = |sessions: &[String]| {
            sessions.is_empty() || sessions.iter().any(|name| name == candidate.session)
        };
        is_one_of(&self.sessions)
            && self.device.as_ref().is_none_or(|device| device.matches(candidate))
            && self.address.is_none_or(|range| range.contains(candidate.address))
            && self.service.as_ref().is_none_or(|service| service == candidate.service)
            && self.peer.as_ref().is_none_or(|peer| peer == candidate.peer)
    }
}

impl Range {
    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether they have an address in common.
    pub fn overlaps(&self, other: &IpNet) -> bool {
        self.0.contains(other) || other.contains(&self.0)
    }
}

impl DevicePattern {
    /// Whether any name of the device matches.
    fn matches(&self, candidate: &Candidate<'_>) -> bool {
        match (candidate.aliases, candidate.device) {
            (Some(identity), _) => identity.matches(&self.0),
            (None, Some(name)) => name_matches(name, &self.0),
            (None, None) => false,
        }
    }

    /// Whether it is that of a peer with this certificate.
    pub fn is_of(&self, identity: &Identity) -> bool {
        identity.matches(&self.0)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        address_range(text).map(Self)
    }
}

impl FromStr for DevicePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pattern = device_pattern(text)?;
        if !pattern.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return Err(
                "names of devices are printable ASCII: write one as the log has it".to_owned()
            );
        }
        if pattern.chars().all(|c| matches!(c, '*' | ' ')) {
            return Err("that means every device: `vestibule drain` ends a gateway".to_owned());
        }
        Ok(Self(pattern))
    }
}

impl TryFrom<String> for Range {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl TryFrom<String> for DevicePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.to_string()
    }
}

impl From<DevicePattern> for String {
    fn from(pattern: DevicePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl fmt::Display for DevicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(device: Option<&'static str>) -> Candidate<'static> {
        Candidate {
            session: "00ff-1",
            device,
            aliases: None,
            address: IpAddr::from([192, 0, 2, 7]),
            service: "web",
            peer: "server-1.lan",
        }
    }

    fn selection(json: &str) -> Selection {
        serde_json::from_str(json).expect("sound")
    }

    #[test]
    fn all_that_a_selection_names_has_to_hold() {
        let session = candidate(Some("laptop-7.example.com"));
        for (json, is_in) in [
            ("{}", true),
            (r#"{"sessions": ["00ff-2", "00ff-1"]}"#, true),
            (r#"{"sessions": ["00ff-2"]}"#, false),
            (r#"{"device": "laptop-*", "service": "web"}"#, true),
            (r#"{"device": "laptop-*", "service": "ssh"}"#, false),
            (r#"{"device": "LAPTOP-7.example.com"}"#, true),
            (r#"{"device": "cn:laptop-7.example.com"}"#, false),
            (r#"{"address": "192.0.2.0/24", "peer": "server-1.lan"}"#, true),
            (r#"{"address": "192.0.2.8"}"#, false),
            (r#"{"peer": "server-2.lan"}"#, false),
        ] {
            assert_eq!(selection(json).contains(&session), is_in, "{json}");
        }
    }

    #[test]
    fn who_has_no_certificate_is_no_device() {
        assert!(!selection(r#"{"device": "laptop-*"}"#).contains(&candidate(None)));
    }

    #[test]
    fn a_slip_is_said_to_be_one_and_means_nobody() {
        for text in ["192.0.2.7/24", "192.0.2", "", "office"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
        for text in ["", "*", "**", "a\nb", "caf\u{e9}"] {
            assert!(text.parse::<DevicePattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_that_is_written_as_one_of_the_other_family_is_the_same() {
        let range: Range = "192.0.2.0/24".parse().expect("a range");
        assert!(range.contains("::ffff:192.0.2.9".parse().expect("an address")));
    }
}
