//! The HTTP listener for metrics, health and status. It runs on the control thread, beside what it
//! reports on: few connections, one request on each, and a bound on the time of it.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::metrics;
use super::status::Status;
use crate::limits::{ACCEPT_RETRY, MAX_TELEMETRY_CONNECTIONS, TELEMETRY_TIMEOUT};

const TEXT: &str = "text/plain; charset=utf-8";
const INDEX: &str = "Vestibule\n\
    \n\
    /metrics   the numbers, as OpenMetrics text\n\
    /healthz   200 while the process runs\n\
    /readyz    200 while new sessions are possible, or why they are not\n\
    /status    what the process is doing, as JSON; for people: vestibule status\n";

/// Where the pages come from. Asked for each request, on the thread that serves them.
pub trait Pages {
    /// OpenMetrics text.
    fn metrics(&self) -> String;
    /// Whether new sessions are possible; if not, why.
    fn readiness(&self) -> Result<(), String>;
    /// The status page.
    fn status(&self) -> Status;
}

/// Serves the pages to whoever reaches `listener`, until the future is dropped. Runs inside a
/// `LocalSet`, as `tokio_uring::start` has one.
pub async fn serve(listener: TcpListener, pages: Rc<dyn Pages>) {
    serve_within(listener, pages, MAX_TELEMETRY_CONNECTIONS, TELEMETRY_TIMEOUT).await;
}

/// What comes above `max_connections` waits in the kernel's backlog. `timeout` covers a connection
/// from accept to close.
async fn serve_within(
    listener: TcpListener,
    pages: Rc<dyn Pages>,
    max_connections: usize,
    timeout: Duration,
) {
    let free = Arc::new(Semaphore::new(max_connections));
    loop {
        let permit = Arc::clone(&free).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let stream = accept(&listener).await;
        let pages = Rc::clone(&pages);
        tokio::task::spawn_local(serve_connection(stream, pages, timeout, permit));
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                warn!(%error, "the telemetry listener can't accept; trying again");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Whether a failed accept concerns that one connection only (`accept(2)`, "Error handling").
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn serve_connection(
    stream: TcpStream,
    pages: Rc<dyn Pages>,
    timeout: Duration,
    _permit: OwnedSemaphorePermit,
) {
    let service = service_fn(|request| {
        let response = respond(&request, &*pages);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection =
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(timeout, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "telemetry connection failed"),
        Err(_) => debug!("telemetry connection cut: its request took too long"),
    }
}

fn respond(request: &Request<Incoming>, pages: &dyn Pages) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD only\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" => page(StatusCode::OK, TEXT, INDEX),
        "/metrics" => page(StatusCode::OK, metrics::CONTENT_TYPE, pages.metrics()),
        "/healthz" => page(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => match pages.readiness() {
            Ok(()) => page(StatusCode::OK, TEXT, "ready\n"),
            Err(why) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        "/status" => {
            let json = serde_json::to_string(&pages.status());
            let json = json.expect("a status has no map and no key that JSON can't hold");
            page(StatusCode::OK, "application/json", json)
        }
        _ => page(StatusCode::NOT_FOUND, TEXT, INDEX),
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
