use std::io;

use ppp::v2::{Builder, Command, Protocol, Type, Version};

use super::visitor::Visitor;

/// The peer is connected over TLS, and showed a certificate on this connection
/// (`PP2_CLIENT_SSL | PP2_CLIENT_CERT_CONN`, PROXY protocol §2.2.6).
const TLS_WITH_CERTIFICATE: u8 = 0x01 | 0x02;

/// The PROXY protocol v2 header of a session: the agent's address; as TLVs its server name, ALPN, our
/// name for the session, and the device's identity where haproxy puts it, as the certificate's name.
pub(super) fn header(visitor: &Visitor) -> io::Result<Vec<u8>> {
    let addresses = (visitor.agent, visitor.listener);
    let mut builder =
        Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses);
    for (kind, value) in [
        (Type::ALPN, &visitor.alpn),
        (Type::Authority, &visitor.sni),
        (Type::UniqueId, &visitor.session),
    ] {
        if !value.is_empty() {
            builder = builder.write_tlv(kind, value.as_bytes())?;
        }
    }
    if let Some(device) = &visitor.device {
        builder = builder.write_tlv(Type::SSL, &certificate(device.as_bytes()))?;
    }
    builder.build()
}

/// `pp2_tlv_ssl`: flags, result of the verification (0: verified), the name of the certificate.
fn certificate(name: &[u8]) -> Vec<u8> {
    let mut value = vec![TLS_WITH_CERTIFICATE, 0, 0, 0, 0];
    value.push(Type::SSLCommonName as u8);
    let len = u16::try_from(name.len()).expect("an identity is shorter than MAX_IDENTITY_LEN");
    value.extend_from_slice(&len.to_be_bytes());
    value.extend_from_slice(name);
    value
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Addresses, Header, IPv4};

    use super::*;

    fn visitor(device: Option<&str>) -> Visitor {
        Visitor {
            session: "s-1".to_owned(),
            device: device.map(Into::into),
            agent: "203.0.113.7:40000".parse().expect("an address"),
            listener: "198.51.100.1:13000".parse().expect("an address"),
            sni: "web.example.com".to_owned(),
            alpn: String::new(),
            passthrough: false,
        }
    }

    #[test]
    fn a_backend_reads_the_agents_address_and_the_devices_identity() {
        let bytes = header(&visitor(Some("pc-1"))).expect("built");
        let read = Header::try_from(&bytes[..]).expect("well-formed");
        let expected = IPv4::new([203, 0, 113, 7], [198, 51, 100, 1], 40000, 13000);
        assert_eq!(read.addresses, Addresses::IPv4(expected));
        let tlvs: Vec<_> = read.tlvs().map(|tlv| tlv.expect("well-formed")).collect();
        let kinds: Vec<u8> = tlvs.iter().map(|tlv| tlv.kind).collect();
        assert_eq!(kinds, [0x02, 0x05, 0x20]);
        assert_eq!(&tlvs[2].value[..], b"\x03\0\0\0\0\x22\0\x04pc-1");
    }

    #[test]
    fn an_agent_without_an_identity_has_no_certificate_tlv() {
        let bytes = header(&visitor(None)).expect("built");
        let read = Header::try_from(&bytes[..]).expect("well-formed");
        assert!(read.tlvs().all(|tlv| tlv.expect("well-formed").kind != 0x20));
    }
}
