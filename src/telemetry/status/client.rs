//! Asks a running process for its status page.

use std::io;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use super::Status;
use crate::limits::{MAX_STATUS_LEN, TELEMETRY_TIMEOUT};

/// Why there is no status page to show.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No connection.
    #[error(
        "nothing answers at {address} ({source}): is the gateway or server running, and is this \
         the telemetry address of its configuration?"
    )]
    Unreachable {
        /// As asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A connection, and no answer.
    #[error(
        "{address} took the connection and did not answer within {} s: the process may be stopped \
         or its control thread stuck; its log says more",
        TELEMETRY_TIMEOUT.as_secs()
    )]
    Silent {
        /// As asked for.
        address: SocketAddr,
    },
    /// An answer that is not a status page.
    #[error("what answers at {address} is not a vestibule of this version: {reason}")]
    Foreign {
        /// As asked for.
        address: SocketAddr,
        /// What it said instead.
        reason: String,
    },
}

/// Fetches `/status` from the telemetry listener at `address`.
pub async fn fetch(address: SocketAddr) -> Result<Status, FetchError> {
    let body = fetch_page(address, "/status", MAX_STATUS_LEN).await?;
    serde_json::from_slice(&body)
        .map_err(|error| FetchError::Foreign { address, reason: error.to_string() })
}

/// Fetches any page of at most `max_len` bytes from the telemetry listener at `address`.
pub(crate) async fn fetch_page(
    address: SocketAddr,
    path: &str,
    max_len: usize,
) -> Result<Bytes, FetchError> {
    let answer = tokio::time::timeout(TELEMETRY_TIMEOUT, exchange(address, path, max_len)).await;
    answer.unwrap_or(Err(FetchError::Silent { address }))
}

async fn exchange(address: SocketAddr, path: &str, max_len: usize) -> Result<Bytes, FetchError> {
    let foreign = |reason: String| FetchError::Foreign { address, reason };
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| FetchError::Unreachable { address, source })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| foreign(error.to_string()))?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .expect("an address and a path of ours are valid");
    let answer = async {
        let response =
            sender.send_request(request).await.map_err(|error| foreign(error.to_string()))?;
        if response.status() != StatusCode::OK {
            return Err(foreign(format!("it answers {path} with {}", response.status())));
        }
        let body = Limited::new(response.into_body(), max_len).collect().await;
        Ok(body.map_err(|error| foreign(error.to_string()))?.to_bytes())
    };
    drive(connection, answer).await
}

/// Moves the bytes of `connection` while `answer` waits for them. An error of the connection reaches
/// `answer` too, which says what it meant.
async fn drive<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let connection = async {
        connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = connection => never,
    }
}
