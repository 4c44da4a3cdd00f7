//! Asks a running process over its operator's socket.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;

use super::message::{Answer, Asked, Denial};
use crate::limits::{MAX_OPERATOR_ANSWER_LEN, OPERATOR_TIMEOUT};

/// Why there is no answer, or none that was hoped for.
#[derive(Debug, Error)]
pub enum AskError {
    /// No process.
    #[error(
        "nothing answers at {} ({source}): does the gateway or server run, and is this the `socket` of its \
         `[operator]`? (--socket, or --config with its configuration)", .path.display()
    )]
    Unreachable {
        /// As asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not for this user.
    #[error("{}: {source}: root and the user of the process alone may; try sudo", .path.display())]
    Forbidden {
        /// As asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A connection, and no answer.
    #[error(
        "{} took the connection and did not answer within {} s: the verb may still be under way, so look \
         before you ask again; the log says more", .path.display(), OPERATOR_TIMEOUT.as_secs()
    )]
    Silent {
        /// As asked for.
        path: PathBuf,
    },
    /// Not one of ours.
    #[error("what answers at {} is not a vestibule of this version: {reason}", .path.display())]
    Foreign {
        /// As asked for.
        path: PathBuf,
        /// What it said instead.
        reason: String,
    },
    /// It says no.
    #[error("{}", .0.message)]
    Denied(Denial),
}

/// Sends one request, and waits for its answer.
pub async fn ask(path: &Path, asked: &Asked) -> Result<Answer, AskError> {
    let answer = tokio::time::timeout(OPERATOR_TIMEOUT, exchange(path, asked)).await;
    answer.unwrap_or_else(|_| Err(AskError::Silent { path: path.to_owned() }))
}

async fn exchange(path: &Path, asked: &Asked) -> Result<Answer, AskError> {
    let foreign = |reason: String| AskError::Foreign { path: path.to_owned(), reason };
    let stream = UnixStream::connect(path).await.map_err(|source| {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied {
            AskError::Forbidden { path, source }
        } else {
            AskError::Unreachable { path, source }
        }
    })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| foreign(error.to_string()))?;
    let body =
        serde_json::to_vec(asked).expect("a request has no map and no key that JSON can't hold");
    let request = Request::post("/")
        .header(HOST, "vestibule")
        .body(Full::new(Bytes::from(body)))
        .expect("a path of ours is valid");
    let answer = async {
        let response =
            sender.send_request(request).await.map_err(|error| foreign(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_OPERATOR_ANSWER_LEN).collect().await;
        let body = body.map_err(|error| foreign(error.to_string()))?.to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| foreign(error.to_string()));
        }
        Err(match serde_json::from_slice(&body) {
            Ok(denial) => AskError::Denied(denial),
            Err(_) => foreign(format!("it answers with {status}")),
        })
    };
    tokio::pin!(connection);
    tokio::select! {
        answer = answer => answer,
        never = async { let _ = connection.await; std::future::pending().await } => never,
    }
}
