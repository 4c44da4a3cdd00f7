use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::limits::{MAX_IDENTITY_LEN, MAX_PRINTED_LEN};
use crate::relay::{CloseReason, DataPath};
use crate::wire::SessionHeader;

/// Whom a session brings, as its gateway said in a session header that was well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// Name of the session at the gateway.
    pub session: String,
    /// Identity of the device, which the gateway has verified.
    pub device: Option<Arc<str>>,
    /// Address of the agent.
    pub agent: SocketAddr,
    /// Where the agent had connected to.
    pub listener: SocketAddr,
    /// Server name of the agent's ClientHello; empty where there was none.
    pub sni: String,
    /// Protocol agreed with the agent by ALPN; empty where there was none.
    pub alpn: String,
    /// Whether its own TLS went through the gateway unread.
    pub passthrough: bool,
}

impl Visitor {
    /// How the bytes of its session go.
    pub fn path(&self) -> DataPath {
        if self.passthrough { DataPath::Passthrough } else { DataPath::Tls }
    }

    /// Checks what a gateway says, which may have been taken over: what it sends goes into our log
    /// and to the backend.
    pub fn of(header: SessionHeader, invited_for: &str) -> Result<Self, CloseReason> {
        let SessionHeader { session, service, device, sni, alpn, .. } = &header;
        let texts = [session, device, sni, alpn];
        let printable = |text: &&String| text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        let bounded = session.len() <= MAX_PRINTED_LEN
            && sni.len() <= MAX_PRINTED_LEN
            && alpn.len() <= MAX_PRINTED_LEN
            && device.len() <= MAX_IDENTITY_LEN;
        if !bounded || !texts.iter().all(printable) || service != invited_for {
            return Err(CloseReason::FrameInvalid);
        }
        let agent = address(&header.agent_ip, header.agent_port);
        let listener = address(&header.listener_ip, header.listener_port);
        let (Some(agent), Some(listener)) = (agent, listener) else {
            return Err(CloseReason::FrameInvalid);
        };
        let device = (!header.device.is_empty()).then(|| header.device.into());
        let SessionHeader { session, sni, alpn, passthrough, .. } = header;
        Ok(Self { session, device, agent, listener, sni, alpn, passthrough })
    }
}

fn address(ip: &[u8], port: u32) -> Option<SocketAddr> {
    let ip = if let Ok(octets) = <[u8; 4]>::try_from(ip) {
        IpAddr::V4(Ipv4Addr::from(octets))
    } else {
        IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?))
    };
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SessionHeader {
        SessionHeader {
            session: "00ff-1".to_owned(),
            service: "web".to_owned(),
            device: "pc-1.example.com".to_owned(),
            agent_ip: vec![203, 0, 113, 7],
            agent_port: 40000,
            listener_ip: vec![0; 16],
            listener_port: 13000,
            sni: "web.example.com".to_owned(),
            alpn: "h2".to_owned(),
            passthrough: false,
        }
    }

    #[test]
    fn a_well_formed_header_is_taken() {
        let visitor = Visitor::of(header(), "web").expect("well-formed");
        assert_eq!(visitor.agent, "203.0.113.7:40000".parse().expect("an address"));
        assert_eq!(visitor.device.as_deref(), Some("pc-1.example.com"));
    }

    #[test]
    fn a_gateway_cannot_forge_log_lines_or_change_the_service() {
        let bad = [
            SessionHeader { device: "pc-1\nreason=finished".to_owned(), ..header() },
            SessionHeader { session: "x".repeat(MAX_PRINTED_LEN + 1), ..header() },
            SessionHeader { service: "ssh".to_owned(), ..header() },
            SessionHeader { agent_ip: vec![1, 2, 3], ..header() },
            SessionHeader { agent_port: 65536, ..header() },
        ];
        for header in bad {
            assert_eq!(Visitor::of(header, "web"), Err(CloseReason::FrameInvalid));
        }
    }
}
