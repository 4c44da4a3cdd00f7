//! The HTTP listener for metrics, health and status. It runs on the control thread, beside what it
//! reports on: few connections, one request on each, and a bound on the time of it.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
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
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
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
    /// `OpenMetrics` text.
    fn metrics(&self) -> String;
    /// Whether new sessions are possible; if not, why.
    fn readiness(&self) -> Result<(), String>;
    /// The status page.
    fn status(&self) -> Status;
}

/// Serves the pages to this host and to those whom `allow` names, until it is aborted or the runtime ends. Called
/// inside a `LocalSet`, as `tokio_uring::start` has one.
pub fn serve(
    listener: std::net::TcpListener,
    allow: Vec<IpNet>,
    pages: Rc<dyn Pages>,
) -> io::Result<AbortHandle> {
    let listener = TcpListener::from_std(listener)?;
    let (connections, timeout) = (MAX_TELEMETRY_CONNECTIONS, TELEMETRY_TIMEOUT);
    let serving = serve_within(listener, allow, pages, connections, timeout);
    Ok(tokio::task::spawn_local(serving).abort_handle())
}

/// What comes above `max_connections` waits in the kernel's backlog. `timeout` covers a connection
/// from accept to close.
async fn serve_within(
    listener: TcpListener,
    allow: Vec<IpNet>,
    pages: Rc<dyn Pages>,
    max_connections: usize,
    timeout: Duration,
) {
    let free = Arc::new(Semaphore::new(max_connections));
    loop {
        let permit = Arc::clone(&free).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let stream = accept(&listener, &allow).await;
        let pages = Rc::clone(&pages);
        tokio::task::spawn_local(serve_connection(stream, pages, timeout, permit));
    }
}

/// The next connection of somebody who may ask; others are closed.
async fn accept(listener: &TcpListener, allow: &[IpNet]) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if may_ask(peer.ip(), allow) => return stream,
            Ok((_, peer)) => debug!(%peer, "not in `allow` of [telemetry]: closed"),
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                warn!(%error, "the telemetry listener can't accept; trying again");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn may_ask(peer: IpAddr, allow: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    peer.is_loopback() || allow.iter().any(|range| range.contains(&peer))
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::super::status::{self, FetchError, fetch};
    use super::*;

    /// Long enough that no test meets it; a test of the timeout names its own.
    const LONG: Duration = Duration::from_secs(600);

    struct Sample {
        readiness: Result<(), String>,
    }

    impl Pages for Sample {
        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
        fn readiness(&self) -> Result<(), String> {
            self.readiness.clone()
        }
        fn status(&self) -> Status {
            status::sample()
        }
    }

    /// Runs `test` beside a listener that serves the sample; the future gets its address.
    fn beside<F: Future>(
        max_connections: usize,
        timeout: Duration,
        readiness: Result<(), String>,
        test: impl FnOnce(std::net::SocketAddr) -> F,
    ) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for the test");
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it is bound");
            let pages = Rc::new(Sample { readiness });
            let serving = serve_within(listener, vec![], pages, max_connections, timeout);
            tokio::task::spawn_local(serving);
            test(address).await
        })
    }

    /// Sends `request` and returns all that comes until the end of the connection.
    async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("the listener is there");
        stream.write_all(request.as_bytes()).await.expect("a short request fits the socket");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer and a clean end");
        answer
    }

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await
    }

    #[test]
    fn each_page_has_its_status_and_type() {
        beside(4, LONG, Ok(()), |address| async move {
            for (path, status, kind) in [
                ("/", "200 OK", TEXT),
                ("/metrics", "200 OK", metrics::CONTENT_TYPE),
                ("/healthz", "200 OK", TEXT),
                ("/readyz", "200 OK", TEXT),
                ("/status", "200 OK", "application/json"),
                ("/status?now", "200 OK", "application/json"),
                ("/nothing", "404 Not Found", TEXT),
            ] {
                let answer = get(address, path).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {answer}");
                assert!(answer.contains(&format!("content-type: {kind}\r\n")), "{path}: {answer}");
            }
            assert!(get(address, "/metrics").await.ends_with("\r\n\r\n# EOF\n"));
        });
    }

    #[test]
    fn readyz_says_why_not() {
        let why = Err("no server is connected".to_owned());
        beside(4, LONG, why, |address| async move {
            let answer = get(address, "/readyz").await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.ends_with("\r\n\r\nno server is connected\n"), "{answer}");
            assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "), "it still runs");
        });
    }

    #[test]
    fn nothing_can_be_posted() {
        beside(4, LONG, Ok(()), |address| async move {
            let request = "POST /status HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
            let answer = exchange(address, request).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
            assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
        });
    }

    #[test]
    fn the_client_reads_what_the_listener_serves() {
        let status = beside(4, LONG, Ok(()), |address| async move { fetch(address).await });
        assert_eq!(status.expect("a status page"), status::sample());
    }

    #[test]
    fn who_is_neither_here_nor_allowed_may_not_ask() {
        let allow = ["192.0.2.0/24".parse().expect("a range")];
        let may_ask = |peer: &str| may_ask(peer.parse().expect("an address"), &allow);
        assert!(may_ask("127.0.0.1") && may_ask("::1") && may_ask("192.0.2.30"));
        assert!(may_ask("::ffff:192.0.2.30"), "as a listener for both families sees it");
        assert!(!may_ask("192.0.3.30") && !may_ask("2001:db8::1"));
    }

    #[test]
    fn a_request_that_never_ends_is_cut() {
        beside(4, Duration::from_millis(50), Ok(()), |address| async move {
            let begun = "GET /metrics HTTP/1.1\r\nhost: loc";
            assert_eq!(exchange(address, begun).await, "", "closed without an answer");
        });
    }

    #[test]
    fn a_connection_above_the_bound_is_served_once_a_place_is_free() {
        beside(1, Duration::from_millis(50), Ok(()), |address| async move {
            let silent = TcpStream::connect(address).await.expect("the listener is there");
            let answer = get(address, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let mut silent = silent.into_std().expect("registered with the runtime");
            let end = io::Read::read(&mut silent, &mut [0]).expect("its place was taken from it");
            assert_eq!(end, 0, "the first was cut before the second was served");
        });
    }

    #[test]
    fn a_silent_port_is_said_to_be_so() {
        let error = beside(1, LONG, Ok(()), |address| async move {
            let closed = TcpListener::bind((address.ip(), 0)).await.expect("a free port");
            let address = closed.local_addr().expect("it is bound");
            drop(closed);
            fetch(address).await.expect_err("nobody listens")
        });
        assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn the_pages_are_served_inside_the_runtime_of_the_control_thread() {
        let status = tokio_uring::start(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.set_nonblocking(true).expect("a socket");
            let address = listener.local_addr().expect("it is bound");
            let pages = Rc::new(Sample { readiness: Ok(()) });
            serve(listener, vec![], pages).expect("inside a runtime");
            fetch(address).await
        });
        assert_eq!(status.expect("a status page"), status::sample());
    }
}
