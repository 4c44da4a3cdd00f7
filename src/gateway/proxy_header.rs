//! What a balancer says before the first byte of the connection that it passes on (PROXY protocol 1
//! and 2, haproxy's proxy-protocol.txt).

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

use crate::limits::MAX_PROXY_HEADER_LEN;

/// A header at the beginning of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Whose connection it is; `None` for one of the balancer itself, such as a check of health.
    pub source: Option<SocketAddr>,
    /// Bytes of the header.
    pub len: usize,
}

/// There is no header, and further bytes can't make one.
#[derive(Debug, PartialEq, Eq)]
pub struct NoHeader;

/// Reads the header in the first bytes of a connection. `Ok(None)` asks for more of them.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoHeader> {
    let header = match bytes.first() {
        None => return Ok(None),
        Some(b'P') => parse_text(bytes)?,
        Some(_) => parse_binary(bytes)?,
    };
    match header {
        None if bytes.len() >= MAX_PROXY_HEADER_LEN => Err(NoHeader),
        header => Ok(header),
    }
}

/// Version 1. The library takes some beginnings of a line for wrong ones, so it is shown whole lines.
fn parse_text(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoHeader> {
    /// Version 1 in its specification: "107 chars", with the end of the line.
    const MAX_LINE_LEN: usize = 107;
    let line = &bytes[..bytes.len().min(MAX_LINE_LEN)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        let may_become_one = bytes.len() < MAX_LINE_LEN && starts_alike(bytes, b"PROXY ");
        return if may_become_one { Ok(None) } else { Err(NoHeader) };
    };
    let len = end + 2;
    let header = v1::Header::try_from(&bytes[..len]).map_err(|_| NoHeader)?;
    let source = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(of) => Some(address(of.source_address, of.source_port)),
        v1::Addresses::Tcp6(of) => Some(address(of.source_address, of.source_port)),
    };
    Ok(Some(ProxyHeader { source, len }))
}

fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoHeader> {
    let header = match v2::Header::try_from(bytes) {
        Ok(header) => header,
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => return Ok(None),
        Err(_) => return Err(NoHeader),
    };
    let len = header.len();
    let source = match (header.command, header.protocol, header.addresses) {
        (v2::Command::Local, ..) | (_, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => {
            None
        }
        (_, v2::Protocol::Datagram, _) => return Err(NoHeader),
        (_, _, v2::Addresses::IPv4(of)) => Some(address(of.source_address, of.source_port)),
        (_, _, v2::Addresses::IPv6(of)) => Some(address(of.source_address, of.source_port)),
    };
    Ok(Some(ProxyHeader { source, len }))
}

/// An IPv4 address is one, also where the balancer writes it as one of IPv6: limits count it once.
fn address(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into().to_canonical(), port)
}

fn starts_alike(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Command, Protocol, Version};
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 13000\r\n";

    fn binary(command: Command, protocol: Protocol, source: &str) -> Vec<u8> {
        let source: SocketAddr = source.parse().expect("an address");
        let builder = Builder::with_addresses(Version::Two | command, protocol, (source, source));
        let builder = builder.write_tlv(0x05, b"an id of the connection").expect("it fits");
        builder.build().expect("it fits")
    }

    fn source(bytes: &[u8]) -> Option<String> {
        let header = parse(bytes).expect("a header").expect("a whole one");
        header.source.map(|source| source.to_string())
    }

    #[test]
    fn both_versions_give_the_address_behind_the_balancer() {
        assert_eq!(source(TEXT).as_deref(), Some("203.0.113.7:40000"));
        let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 13000\r\n";
        assert_eq!(source(six).as_deref(), Some("[2001:db8::7]:40000"));
        for text in ["203.0.113.7:40000", "[2001:db8::7]:40000"] {
            let bytes = binary(Command::Proxy, Protocol::Stream, text);
            assert_eq!(source(&bytes).as_deref(), Some(text));
        }
        let mapped = b"PROXY TCP6 ::ffff:203.0.113.7 ::1 40000 13000\r\n";
        assert_eq!(source(mapped).as_deref(), Some("203.0.113.7:40000"));
    }

    #[test]
    fn a_connection_of_the_balancer_itself_has_no_other_address() {
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source(b"PROXY UNKNOWN 203.0.113.7 192.0.2.1 1 2\r\n"), None);
        assert_eq!(source(&binary(Command::Local, Protocol::Stream, "203.0.113.7:1")), None);
    }

    #[test]
    fn a_header_in_pieces_is_waited_for_and_what_follows_it_is_left() {
        for header in [TEXT, &binary(Command::Proxy, Protocol::Stream, "[2001:db8::7]:40000")] {
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]), Ok(None), "{len} bytes");
            }
            let followed = [header, b"\x16\x03\x01\r\n"].concat();
            let parsed = parse(&followed).expect("a header").expect("a whole one");
            assert_eq!(parsed.len, header.len());
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once_or_within_its_bound() {
        for bytes in [
            &b"\x16\x03\x01\x02\0"[..],
            b"POST",
            b"PROXY-",
            b"PROXY TCP4 203.0.113.700 192.0.2.1 1 2\r\n",
            b"PROXY TCP4 203.0.113.7 192.0.2.1 1 65536\r\n",
            &binary(Command::Proxy, Protocol::Datagram, "203.0.113.7:1"),
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        ] {
            assert_eq!(parse(bytes), Err(NoHeader), "{bytes:?}");
        }
        let mut endless = b"PROXY UNKNOWN ".to_vec();
        endless.resize(107, b'a');
        assert_eq!(parse(&endless), Err(NoHeader));
        let mut long = binary(Command::Proxy, Protocol::Stream, "203.0.113.7:1");
        long[14] = 0xff;
        long.resize(MAX_PROXY_HEADER_LEN, 0);
        assert_eq!(parse(&long), Err(NoHeader));
    }

    /// What is seen early holds: further bytes make no header of what was none, and no other one.
    fn assert_steady(bytes: &[u8]) {
        let whole = parse(bytes);
        for len in 0..bytes.len() {
            match (parse(&bytes[..len]), &whole) {
                (Ok(None), Ok(Some(header))) => assert!(len < header.len, "after {len}: {bytes:?}"),
                (Ok(None), _) => {}
                (early, _) => assert_eq!(early, whole, "after {len}: {bytes:?}"),
            }
        }
    }

    #[test]
    fn the_kept_inputs_are_read_alike_in_any_pieces() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/proxy_header");
        let files = std::fs::read_dir(folder).expect("a folder of ours");
        let inputs: Vec<_> = files
            .map(|file| std::fs::read(file.expect("an entry").path()).expect("a file"))
            .collect();
        assert!(inputs.len() > 20);
        for bytes in &inputs {
            assert_steady(bytes);
        }
    }

    proptest! {
        #[test]
        fn a_damaged_header_is_read_alike_in_any_pieces(
            is_text in any::<bool>(),
            at in 0..60usize,
            byte in any::<u8>(),
            more in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let whole = binary(Command::Proxy, Protocol::Stream, "[2001:db8::7]:40000");
            let mut bytes = if is_text { TEXT.to_vec() } else { whole };
            bytes.extend(more);
            let at = at % bytes.len();
            bytes[at] = byte;
            assert_steady(&bytes);
        }
    }
}
