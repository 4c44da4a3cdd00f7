//! The devices: programs that know nothing of Vestibule. Each visits the backend again and again,
//! moves real data both ways, and compares it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Either, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::addresses::Addresses;
use super::failure::Problem;
use super::payload::{Pattern, Sum};
use super::setup::{GATEWAY, KIOSK, LAPTOPS, device_credentials, gateway_ca};
use super::tally::Tally;
use crate::limits::DEMO_VISIT_TIMEOUT;
use crate::tls::{client_config, load_credentials, load_roots};

/// Requests of each kind in one visit.
const ROUNDS: usize = 4;
/// Between two rounds: a moderate load, and a session that lives long enough to be seen.
const PAUSE: Duration = Duration::from_millis(250);
/// What is moved each way in one round, in bytes; taken in turn, from little requests to bulk.
const SIZES: [u64; 5] = [1_000, 30_000, 0, 200_000, 1_000_000];
/// Length of the backend's answer to a sum, in bytes: a number, SHA-256, two separators.
const MAX_SUM_LEN: usize = 128;

/// A device and its way to the gateway.
pub(super) struct Device {
    name: &'static str,
    address: SocketAddr,
    /// `None`: plain TCP, to the gateway's plain listener or to our own agent.
    tls: Option<TlsConnector>,
    /// Which of [`SIZES`] comes next. Each device starts with another, and a pause later, so that they
    /// do not come and go together.
    turn: usize,
}

/// Why a visit failed.
#[derive(Debug, Error)]
enum VisitError {
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error("the request failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the answer to a sum is too long or was cut off")]
    Answer,
    #[error("{got} (length and SHA-256) arrived where {expected} was sent")]
    Sum { expected: Sum, got: Sum },
    #[error("{got:?} (length and SHA-256) arrived at the backend where {expected} was sent")]
    SumAtBackend { expected: Sum, got: String },
    #[error("it was not over after {} s", DEMO_VISIT_TIMEOUT.as_secs())]
    Late,
}

/// All devices: some speak TLS, one goes through our own agent, one is old and plain.
pub(super) fn all(folder: &Path, addresses: &Addresses) -> Result<Vec<Device>, Problem> {
    let roots = load_roots(&gateway_ca(folder))?;
    let mut devices = Vec::new();
    for name in LAPTOPS {
        let own = load_credentials(&device_credentials(folder, name))?;
        let alpn = vec![b"http/1.1".to_vec()];
        let config = client_config(Arc::clone(&roots), Some(own), alpn)?;
        let tls = Some(TlsConnector::from(Arc::new(config)));
        devices.push(Device { name, address: addresses.tls, tls, turn: devices.len() });
    }
    for (name, address) in [(KIOSK, addresses.forward), ("scanner", addresses.plain)] {
        devices.push(Device { name, address, tls: None, turn: devices.len() });
    }
    Ok(devices)
}

impl Device {
    /// Visits the backend until `stopped`, and then finishes the round that it is at.
    pub(super) async fn live(mut self, tally: Rc<Tally>, stopped: watch::Receiver<bool>) {
        for _ in 0..self.turn {
            pause(&stopped).await;
        }
        while !*stopped.borrow() {
            let visit = tokio::time::timeout(DEMO_VISIT_TIMEOUT, self.visit(&tally, &stopped));
            let result = visit.await.unwrap_or(Err(VisitError::Late));
            tally.end_visit(self.name, result.map_err(|error| error.to_string()));
            pause(&stopped).await;
        }
    }

    async fn visit(
        &mut self,
        tally: &Tally,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), VisitError> {
        let stream = TcpStream::connect(self.address).await?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(GATEWAY).expect("a constant DNS name");
                let stream = tls.connect(name, stream).await?;
                self.talk(stream, tally, stopped).await
            }
            None => self.talk(stream, tally, stopped).await,
        }
    }

    async fn talk(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        tally: &Tally,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), VisitError> {
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::task::spawn_local(connection);
        for _ in 0..ROUNDS {
            let len = SIZES[self.turn % SIZES.len()];
            self.turn += 1;
            download(&mut requests, len).await?;
            tally.add_down(len);
            upload(&mut requests, len).await?;
            tally.add_up(len);
            if *stopped.borrow() {
                break;
            }
            pause(stopped).await;
        }
        drop(requests);
        // It ends the session in order, and is never cancelled: only panics are lost here.
        connection.await.unwrap_or(Ok(())).map_err(VisitError::Http)
    }
}

type Payload = Either<Empty<Bytes>, Pattern>;
type Requests = SendRequest<Payload>;

async fn download(requests: &mut Requests, len: u64) -> Result<(), VisitError> {
    let path = format!("/bytes/{len}");
    let answer = send(requests, Method::GET, &path, Either::Left(Empty::new())).await?;
    let (expected, got) = (Sum::of_pattern(len), Sum::of_body(answer.into_body()).await?);
    if expected == got { Ok(()) } else { Err(VisitError::Sum { expected, got }) }
}

async fn upload(requests: &mut Requests, len: u64) -> Result<(), VisitError> {
    let payload = Either::Right(Pattern::new(len));
    let answer = send(requests, Method::POST, "/sum", payload).await?;
    let body = Limited::new(answer.into_body(), MAX_SUM_LEN).collect().await;
    let body = body.map_err(|_| VisitError::Answer)?.to_bytes();
    let got = String::from_utf8_lossy(&body).trim_end().to_owned();
    let expected = Sum::of_pattern(len);
    if got == expected.to_string() {
        Ok(())
    } else {
        Err(VisitError::SumAtBackend { expected, got })
    }
}

async fn send(
    requests: &mut Requests,
    method: Method,
    path: &str,
    payload: Payload,
) -> Result<Response<Incoming>, VisitError> {
    let request = Request::builder().method(method).uri(path).header(HOST, GATEWAY).body(payload);
    let request = request.expect("path and host are valid");
    let answer = requests.send_request(request).await?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        status => Err(VisitError::Status(status)),
    }
}

/// A moment, cut short when the demo ends.
async fn pause(stopped: &watch::Receiver<bool>) {
    let mut stopped = stopped.clone();
    let _ = tokio::time::timeout(PAUSE, stopped.wait_for(|stopped| *stopped)).await;
}
