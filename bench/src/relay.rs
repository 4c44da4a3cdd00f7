//! A plain relay on tokio-rustls, the peer that anybody could write in an hour: TLS in with a
//! device's certificate, and TLS or plain TCP out. It invites nobody and bounds nothing. Two of
//! them in a row do the cryptography of gateway and server.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::BenchError;
use crate::exchange::ByteStream;
use crate::tls::{GATEWAY_NAME, Pki};

/// Bytes of the buffer of one direction: one TLS record. A trial on a busy machine, one size after
/// the other (medians of 5 quick runs, up and down; resident set of a session at rest): tokio's own
/// 8 KiB 1.4-1.6 CPU-s/GB and 35 KiB, 16 KiB 1.0-1.2 and 57 KiB, 64 KiB 1.0-1.3 and 169 KiB.
const BUFFER_LEN: usize = 16 * 1024;

/// What the relay speaks to the next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Outward {
    /// As a gateway does to a server.
    Tls,
    /// As a server does to a backend.
    Plain,
}

/// Where a relay stands.
#[derive(Debug, clap::Args)]
pub(crate) struct RelayArguments {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the next hop
    #[arg(long)]
    next: SocketAddr,
    /// What to speak to the next hop
    #[arg(long)]
    outward: Outward,
    /// Folder of certificates and keys
    #[arg(long)]
    pki: std::path::PathBuf,
}

/// Relays until the process is killed, on one thread.
pub(crate) fn run(arguments: RelayArguments) -> Result<(), BenchError> {
    let RelayArguments { listen, next, outward, pki } = arguments;
    let pki = Pki::new(pki);
    let acceptor = TlsAcceptor::from(pki.server_config()?);
    let connector = match outward {
        Outward::Tls => Some(TlsConnector::from(pki.hop_config()?)),
        Outward::Plain => None,
    };
    let hops = Arc::new(Hops { acceptor, connector, next });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::io("starting the runtime"))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(BenchError::io(format!("listening on {listen}")))?;
        loop {
            let (stream, _) = listener
                .accept()
                .await
                .map_err(BenchError::io(format!("accepting on {listen}")))?;
            let hops = Arc::clone(&hops);
            tokio::spawn(async move {
                if let Err(error) = hops.relay(stream).await {
                    eprintln!("relay: {error}");
                }
            });
        }
    })
}

/// Both sides of the relay.
struct Hops {
    acceptor: TlsAcceptor,
    connector: Option<TlsConnector>,
    next: SocketAddr,
}

impl Hops {
    async fn relay(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut inward = self.acceptor.accept(stream).await?;
        let mut outward = self.connect().await?;
        copy_bidirectional_with_sizes(&mut inward, &mut outward, BUFFER_LEN, BUFFER_LEN).await?;
        Ok(())
    }

    async fn connect(&self) -> std::io::Result<Box<dyn ByteStream>> {
        let stream = TcpStream::connect(self.next).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.connector {
            Some(connector) => {
                let name = ServerName::try_from(GATEWAY_NAME).expect("a valid DNS name");
                Box::new(connector.connect(name, stream).await?)
            }
            None => Box::new(stream),
        })
    }
}
