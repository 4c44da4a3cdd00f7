//! Dialling a gateway's signal connection: name, TCP, TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::HostPort;
use crate::engine::{self, SignalParts};
use crate::limits::MAX_RECORD_LEN;
use crate::relay::Party;
use crate::tls::{TlsConnection, TlsError};
use crate::wire::alpn;

/// Why there is no signal connection.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error("{0} leads nowhere: {1}")]
    Name(HostPort, #[source] io::Error),
    #[error("cannot connect to {0}: {1}; is the gateway up, and does the firewall let us out?")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("TLS with the gateway failed: {0}")]
    Tls(#[from] TlsError),
    #[error("the gateway ended the connection during the TLS handshake: its log says why")]
    Ended,
    #[error("the other end is not a gateway: it does not speak vestibule-signal/1")]
    NotAGateway,
}

/// A connection that stands, and the address that it leads to.
pub(super) struct Dialled {
    pub(super) parts: SignalParts,
    pub(super) address: SocketAddr,
}

/// Tries each address of the gateway. The caller bounds the time.
pub(super) async fn dial(
    gateway: &HostPort,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<Dialled, DialError> {
    let named = |error| DialError::Name(gateway.clone(), error);
    let addresses = tokio::net::lookup_host((gateway.host.as_str(), gateway.port)).await;
    let mut failure = named(io::ErrorKind::NotFound.into());
    for address in addresses.map_err(named)? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let parts = greet(stream, name, config).await?;
                return Ok(Dialled { parts, address });
            }
            Err(error) => failure = DialError::Connect(address, error),
        }
    }
    Err(failure)
}

async fn greet(
    mut stream: TcpStream,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<SignalParts, DialError> {
    // The kernel notices a dead peer as soon as our own pings do.
    engine::watch_closely(&stream);
    let mut tls = TlsConnection::client(config, name).map_err(TlsError::from)?;
    let mut outgoing = Vec::new();
    let mut incoming = vec![0; MAX_RECORD_LEN];
    let mut filled = 0;
    let pending = loop {
        let result = tls.handshake(&incoming[..filled], &mut outgoing);
        stream.write_all(&outgoing).await.map_err(|_| DialError::Ended)?;
        outgoing.clear();
        if let Some(behind) = result? {
            break behind;
        }
        filled = stream.read(&mut incoming).await.map_err(|_| DialError::Ended)?;
        if filled == 0 {
            return Err(DialError::Ended);
        }
    };
    if tls.alpn() != Some(alpn::SIGNAL) {
        return Err(DialError::NotAGateway);
    }
    let socket = stream.into_std().map_err(|_| DialError::Ended)?;
    Ok(SignalParts { socket, tls, pending, party: Party::Gateway })
}
