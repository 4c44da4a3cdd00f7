//! Who stands behind a connection that the backend accepted: the server tells it in a PROXY protocol
//! v2 header, as it would tell HAProxy, nginx or Apache.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Header, PROTOCOL_PREFIX, Type};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Bytes before the addresses of a header; the last two are the length of what follows.
const FIXED_LEN: usize = 16;
/// Bytes of `pp2_tlv_ssl` before the TLVs inside it.
const SSL_FIXED_LEN: usize = 5;
/// Bytes of a TLV before its value.
const TLV_FIXED_LEN: usize = 3;

/// Who stands behind a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// It came through the gateway.
    Agent {
        /// Verified identity of the device; `None` for plain agents.
        device: Option<String>,
        /// As the gateway saw it.
        address: SocketAddr,
    },
    /// It connected to the backend itself, which only this machine can.
    Direct,
}

impl Caller {
    /// One word for the page.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Agent { device: Some(device), .. } => device,
            Self::Agent { device: None, .. } => "(plain, no identity)",
            Self::Direct => "(not through the gateway)",
        }
    }
}

/// Reads the header, if there is one, and leaves all that follows.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Caller> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    // A header starts with a line end, and no request does.
    if first[0] != PROTOCOL_PREFIX[0] {
        return Ok(Caller::Direct);
    }
    let mut header = vec![0; FIXED_LEN];
    stream.read_exact(&mut header).await?;
    // Two bytes, so at most 64 KiB.
    let len = u16::from_be_bytes([header[FIXED_LEN - 2], header[FIXED_LEN - 1]]);
    header.resize(FIXED_LEN + usize::from(len), 0);
    stream.read_exact(&mut header[FIXED_LEN..]).await?;
    parse(&header)
}

fn parse(bytes: &[u8]) -> io::Result<Caller> {
    let malformed = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let header = Header::try_from(bytes).map_err(|error| malformed(error.to_string()))?;
    let address = match header.addresses {
        Addresses::IPv4(ip) => SocketAddr::from((ip.source_address, ip.source_port)),
        Addresses::IPv6(ip) => SocketAddr::from((ip.source_address, ip.source_port)),
        other => return Err(malformed(format!("no address of an agent: {other:?}"))),
    };
    let ssl = header.tlvs().flatten().find(|tlv| tlv.kind == Type::SSL as u8);
    let device = ssl.and_then(|ssl| common_name(&ssl.value));
    Ok(Caller::Agent { device, address })
}

/// The name of the certificate in `pp2_tlv_ssl`, the first TLV that our server puts there.
fn common_name(ssl: &[u8]) -> Option<String> {
    let tlv = ssl.get(SSL_FIXED_LEN..)?;
    let is_name = tlv.first() == Some(&(Type::SSLCommonName as u8));
    let name = tlv.get(TLV_FIXED_LEN..).filter(|_| is_name)?;
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Command, Protocol, Version};

    use super::*;

    fn header(ssl: Option<&[u8]>) -> Vec<u8> {
        let agent: SocketAddr = "203.0.113.7:40000".parse().expect("an address");
        let gateway: SocketAddr = "198.51.100.1:13000".parse().expect("an address");
        let command = Version::Two | Command::Proxy;
        let mut builder = Builder::with_addresses(command, Protocol::Stream, (agent, gateway));
        if let Some(ssl) = ssl {
            builder = builder.write_tlv(Type::SSL, ssl).expect("it fits");
        }
        builder.build().expect("built")
    }

    #[test]
    fn the_device_and_its_address_are_read_from_the_header() {
        let caller = parse(&header(Some(b"\x03\0\0\0\0\x22\0\x04pc-1"))).expect("well-formed");
        let address = "203.0.113.7:40000".parse().expect("an address");
        assert_eq!(caller, Caller::Agent { device: Some("pc-1".to_owned()), address });
    }

    #[test]
    fn an_agent_without_a_certificate_has_no_device() {
        let caller = parse(&header(None)).expect("well-formed");
        assert!(matches!(caller, Caller::Agent { device: None, .. }));
    }

    #[test]
    fn a_header_that_is_cut_short_is_an_error() {
        let bytes = header(None);
        assert!(parse(&bytes[..bytes.len() - 1]).is_err());
    }
}
