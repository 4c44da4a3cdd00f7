//! Single values: text in, value or advice out.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use rustls_pki_types::{DnsName, ServerName};

use super::HostPort;
use crate::limits::{MAX_IDENTITY_LEN, MAX_NAME_LEN};
use crate::wire::alpn::RESERVED_PREFIX;

/// Name of a service or a listener. Plain characters, since it goes into logs, metrics and shells.
pub(super) fn name(text: &str) -> Result<&str, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=MAX_NAME_LEN).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text);
    }
    Err(format!(
        "\"{text}\" can't be a name: write 1 to {MAX_NAME_LEN} letters, digits, `-`, `_` or `.`"
    ))
}

/// A DNS name, in lower case.
pub(super) fn dns_name(text: &str) -> Result<String, String> {
    match DnsName::try_from(text) {
        Ok(_) if !text.ends_with('.') => Ok(text.to_ascii_lowercase()),
        _ => Err(format!("\"{text}\" is not a DNS name: write one such as `host.example.com`")),
    }
}

/// A DNS name in lower case, or `*.` and one.
pub(super) fn sni_pattern(text: &str) -> Result<String, String> {
    dns_name(text.strip_prefix("*.").unwrap_or(text)).map(|_| text.to_ascii_lowercase()).map_err(
        |_| {
            format!(
                "\"{text}\" is not a server name: write a DNS name such as `web.example.com`, \
                 or `*.example.com` for every name one label longer (addresses are never sent)"
            )
        },
    )
}

/// A name that a certificate bears: a DNS name or an IP address.
pub(super) fn certificate_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) if !text.ends_with('.') => Ok(text.to_owned()),
        _ => Err(format!(
            "\"{text}\" can't be the name in a certificate: write a DNS name or an IP address"
        )),
    }
}

/// A host and a port to connect to.
pub(super) fn host_port(text: &str) -> Result<HostPort, String> {
    let wrong = || {
        format!(
            "\"{text}\" is not a host and a port: write them as `host.example.com:13000`, \
             `192.0.2.1:13000` or `[2001:db8::1]:13000`"
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_v6 = bracketed.unwrap_or(host).contains(':');
    let host = bracketed.unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    if is_v6 != bracketed.is_some() || certificate_name(host).is_err() {
        return Err(wrong());
    }
    Ok(HostPort { host: host.to_owned(), port })
}

/// An address to listen on; port 0 lets the kernel choose.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let advice = match text.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => format!("the port is missing, as in `{}`", SocketAddr::new(ip, 13_000)),
            Err(_) => "write an IP address and a port, such as `0.0.0.0:13000` or `[::]:13000` \
                       (for all addresses)"
                .to_owned(),
        };
        format!("\"{text}\" is not an address to listen on: {advice}")
    })
}

/// An address, or a range of them.
pub(crate) fn address_range(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let range = text.parse::<IpNet>().map_err(|_| {
        format!(
            "\"{text}\" is not an address or a range of addresses: write one such as `192.0.2.7`, \
             `192.0.2.0/24` or `2001:db8::/48`"
        )
    })?;
    // A longer address than its prefix is a slip, and which of the two is meant can't be told.
    if range.trunc() == range {
        Ok(range)
    } else {
        Err(format!(
            "\"{text}\" has bits beyond its prefix: write `{}` for the range, or `{}` for the one \
             address",
            range.trunc(),
            range.addr()
        ))
    }
}

/// An ALPN name of a service.
pub(super) fn alpn(text: &str) -> Result<String, String> {
    if !(1..=255).contains(&text.len()) {
        return Err(format!(
            "an ALPN name has 1 to 255 bytes, not {}: write one such as `h2`",
            text.len()
        ));
    }
    if text.as_bytes().starts_with(RESERVED_PREFIX) {
        return Err(format!(
            "\"{text}\" is reserved: ALPN names that begin with `vestibule-` choose Vestibule's \
             own roles; write the name of the protocol of the service, such as `h2`"
        ));
    }
    Ok(text.to_owned())
}

/// A pattern of device identities.
pub(crate) fn device_pattern(text: &str) -> Result<String, String> {
    if (1..=MAX_IDENTITY_LEN).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a pattern of devices has 1 to {MAX_IDENTITY_LEN} bytes, not {}: write one such as \
         `laptop-*`",
        text.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart_in_every_notation() {
        for (text, host) in [
            ("gw.example.com:13000", "gw.example.com"),
            ("localhost:1", "localhost"),
            ("192.0.2.1:65535", "192.0.2.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
        ] {
            assert_eq!(host_port(text).map(|parsed| parsed.host), Ok(host.to_owned()));
        }
        for text in [
            "",
            ":",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:-1",
            ":80",
            "2001:db8::1:80",
            "[host]:80",
            "[::1]",
            "[::1:80",
            "a b:80",
            "192.0.2.256:80",
        ] {
            assert!(host_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_without_a_port_is_shown_with_one() {
        let message = listen_address("::").expect_err("it has no port");
        assert!(message.contains("`[::]:13000`"), "{message}");
        assert!(listen_address("localhost:80").is_err());
    }

    #[test]
    fn a_range_is_an_address_or_a_prefix_without_bits_beyond_it() {
        for (text, first, len) in [
            ("192.0.2.7", "192.0.2.7", 32),
            ("192.0.2.0/24", "192.0.2.0", 24),
            ("2001:db8::/48", "2001:db8::", 48),
            ("::1", "::1", 128),
        ] {
            let range = address_range(text).expect("a range");
            assert_eq!((range.addr().to_string().as_str(), range.prefix_len()), (first, len));
        }
        for text in ["", "192.0.2", "192.0.2.0/33", "192.0.2.1/24", "host", "192.0.2.1:80"] {
            assert!(address_range(text).is_err(), "{text}");
        }
        let message = address_range("192.0.2.1/24").expect_err("bits beyond it");
        assert!(message.contains("`192.0.2.0/24`"), "{message}");
    }

    #[test]
    fn names_stay_within_their_length_and_characters() {
        assert!(name(&"a".repeat(MAX_NAME_LEN)).is_ok());
        for text in ["", "a b", "ä", "a\"", "a\n", &"a".repeat(MAX_NAME_LEN + 1)] {
            assert!(name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn alpn_names_have_1_to_255_bytes_and_do_not_begin_as_ours() {
        assert!(alpn(&"a".repeat(255)).is_ok());
        for text in ["", "vestibule-", "vestibule-signal/1", &"a".repeat(256)] {
            assert!(alpn(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_server_name_is_a_dns_name_or_one_with_a_star_as_its_first_label() {
        assert_eq!(sni_pattern("*.Example.com").as_deref(), Ok("*.example.com"));
        for text in ["", "*", "*.", "*.*.com", "a.*.com", "192.0.2.1", "a.com.", "a b"] {
            assert!(sni_pattern(text).is_err(), "{text}");
        }
    }
}
