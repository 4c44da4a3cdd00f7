//! The backend: an HTTP server in the LAN, such as a management system would be.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::caller::{self, Caller};
use super::payload::{Pattern, Sum};
use crate::limits::{
    ACCEPT_RETRY, DEMO_BACKEND_CONNECTIONS, DEMO_LISTED_CALLERS, DEMO_MAX_DOWNLOAD_LEN,
};
use crate::telemetry::status::{bytes, grouped};

const HELP: &str = "\
GET  /           this page
GET  /bytes/N    N bytes
POST /sum        length and SHA-256 of what you send
";

type Answer = Response<Either<Full<Bytes>, Pattern>>;

/// Serves until the future is dropped. Runs inside a `LocalSet`.
pub(super) async fn serve(listener: TcpListener) {
    let callers = Rc::new(RefCell::new(Callers::default()));
    let free = Arc::new(Semaphore::new(DEMO_BACKEND_CONNECTIONS));
    loop {
        let permit = Arc::clone(&free).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let callers = Rc::clone(&callers);
        tokio::task::spawn_local(async move {
            serve_connection(stream, &callers).await;
            drop(permit);
        });
    }
}

/// What goes wrong here goes wrong at the device too, which says so.
async fn serve_connection(mut stream: TcpStream, callers: &Rc<RefCell<Callers>>) {
    let Ok(caller) = caller::read(&mut stream).await else { return };
    callers.borrow_mut().note(&caller, |seen| seen.sessions += 1);
    let service =
        service_fn(async |request| Ok::<_, Infallible>(answer(request, &caller, callers).await));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, caller: &Caller, callers: &RefCell<Callers>) -> Answer {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/") => text(StatusCode::OK, callers.borrow().page(caller)),
        (&Method::POST, "/sum") => match Sum::of_body(request.into_body()).await {
            Ok(sum) => {
                callers.borrow_mut().note(caller, |seen| seen.received += sum.len);
                text(StatusCode::OK, format!("{sum}\n"))
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("the body ended early: {error}\n")),
        },
        (&Method::GET, path) => match path.strip_prefix("/bytes/").map(str::parse) {
            Some(Ok(len)) if len <= DEMO_MAX_DOWNLOAD_LEN => {
                callers.borrow_mut().note(caller, |seen| seen.sent += len);
                Response::new(Either::Right(Pattern::new(len)))
            }
            Some(_) => {
                let reason = format!("ask for a number of bytes up to {DEMO_MAX_DOWNLOAD_LEN}\n");
                text(StatusCode::BAD_REQUEST, reason)
            }
            None => text(StatusCode::NOT_FOUND, HELP.to_owned()),
        },
        _ => text(StatusCode::NOT_FOUND, HELP.to_owned()),
    }
}

fn text(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Either::Left(Full::from(text)));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

/// Who has connected, by name.
#[derive(Debug, Default)]
struct Callers {
    seen: BTreeMap<String, Seen>,
}

/// What one caller did.
#[derive(Debug, Default)]
struct Seen {
    sessions: u64,
    /// Bytes that arrived at `/sum`.
    received: u64,
    /// Bytes that were asked for at `/bytes`.
    sent: u64,
}

impl Callers {
    fn note(&mut self, caller: &Caller, note: impl FnOnce(&mut Seen)) {
        let name = caller.name();
        if self.seen.len() < DEMO_LISTED_CALLERS || self.seen.contains_key(name) {
            note(self.seen.entry(name.to_owned()).or_default());
        }
    }

    fn page(&self, caller: &Caller) -> String {
        let greeting = match caller {
            Caller::Agent { device: Some(device), address } => format!(
                "You are the device {device}, at {address}: the gateway has verified it, and \
                 asked the server to fetch you."
            ),
            Caller::Agent { device: None, address } => {
                format!("You are an agent without TLS at {address}. You may be anyone.")
            }
            Caller::Direct => "You did not come through the gateway.".to_owned(),
        };
        let mut page = format!("This is a backend in the LAN.\n{greeting}\n");
        page += "\nwho                        sessions     sent here  fetched from here\n";
        for (name, Seen { sessions, received, sent }) in &self.seen {
            let (sessions, received, sent) = (grouped(*sessions), bytes(*received), bytes(*sent));
            writeln!(page, "{name:<25}  {sessions:>8}  {received:>12}  {sent:>17}")
                .expect("a String takes all that is written to it");
        }
        page + "\n" + HELP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_beyond_the_bound_are_not_listed() {
        let mut callers = Callers::default();
        for number in 0..2 * DEMO_LISTED_CALLERS {
            let address = "127.0.0.1:1".parse().expect("an address");
            let caller = Caller::Agent { device: Some(format!("pc-{number}")), address };
            callers.note(&caller, |seen| seen.sessions += 1);
        }
        assert_eq!(callers.seen.len(), DEMO_LISTED_CALLERS);
        callers.note(&Caller::Direct, |seen| seen.sessions += 1);
        assert_eq!(callers.seen.len(), DEMO_LISTED_CALLERS);
    }

    #[test]
    fn the_page_tells_a_device_who_it_is() {
        let address = "192.0.2.7:40000".parse().expect("an address");
        let caller = Caller::Agent { device: Some("pc-1".to_owned()), address };
        let mut callers = Callers::default();
        callers.note(&caller, |seen| seen.received += 2_000_000);
        let page = callers.page(&caller);
        assert!(page.contains("the device pc-1, at 192.0.2.7:40000"), "{page}");
        assert!(page.contains("2.00 MB"), "{page}");
    }
}
