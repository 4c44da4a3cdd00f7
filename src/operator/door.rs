//! The socket: who may open it, how it is made, and what is served on it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::process::geteuid;
use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

use super::audit::{self, Tally, Who};
use super::message::{Answer, Asked, Cause, Denial, Request};
use crate::limits::{
    ACCEPT_RETRY, DRAIN_DELAY, MAX_OPERATOR_CONNECTIONS, MAX_OPERATOR_REQUEST_LEN,
    OPERATOR_TIMEOUT, STRANGER_LINES_PER_SECOND,
};
use crate::telemetry::log::LineLimiter;

const ROOT: u32 = 0;
/// Connections that the kernel holds beside those that are served.
const BACKLOG: i32 = 16;

/// Why there is no socket. The operator's to mend.
#[derive(Debug, Error)]
#[error("[operator] socket: {}: {why}", .path.display())]
pub struct DoorError {
    /// As configured.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub why: String,
}

/// The socket, bound before the process gives up making sockets and files.
#[derive(Debug)]
pub struct Door {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
    owner: u32,
    /// The name of that user, looked up while `/etc` may be read.
    owner_name: Option<String>,
}

/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Answer, Denial>>>>;

/// Who carries out what is asked, on the control thread.
pub trait Desk {
    /// Carries a request out. `by` is who asks, for people.
    fn answer(self: Rc<Self>, request: Request, by: String) -> Answering;
    /// Where requests are counted.
    fn tally(&self) -> &RefCell<Tally>;
}

impl Door {
    /// Makes the socket, in the place of one that a dead process has left.
    pub fn bind(path: &Path) -> Result<Self, DoorError> {
        let failed = |why: String| DoorError { path: path.to_owned(), why };
        check_folder(path).map_err(failed)?;
        clear_place(path).map_err(failed)?;
        let owner = geteuid().as_raw();
        let listener = listen(path).map_err(|error| {
            failed(format!("can't be made ({error}): may this user write to its folder?"))
        })?;
        let owner_name = user_name(owner);
        Ok(Self { listener, path: path.to_owned(), owner, owner_name })
    }

    /// Takes on the socket of a process whose place this one takes, if it is the one at that path; else makes
    /// one in its place.
    pub fn inherit(path: &Path, socket: OwnedFd) -> Result<Self, DoorError> {
        let listener = std::os::unix::net::UnixListener::from(socket);
        let is_there = listener.local_addr().is_ok_and(|at| at.as_pathname() == Some(path));
        if !is_there || listener.set_nonblocking(true).is_err() {
            return Self::bind(path);
        }
        let owner = geteuid().as_raw();
        Ok(Self { listener, path: path.to_owned(), owner, owner_name: user_name(owner) })
    }

    /// The same socket once more, for the process that takes the place of this one.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone().map(OwnedFd::from)
    }

    fn who(&self, stream: &UnixStream) -> io::Result<Who> {
        let peer = stream.peer_cred()?;
        let (uid, pid) = (peer.uid(), peer.pid());
        let user = match uid {
            ROOT => Some("root".to_owned()),
            uid if uid == self.owner => self.owner_name.clone(),
            _ => None,
        };
        Ok(Who { uid, pid, user })
    }

    fn admits(&self, who: &Who) -> bool {
        who.uid == ROOT || who.uid == self.owner
    }
}

/// Whoever may write to the folder could put a socket of his own there, and hear who is to be blocked.
fn check_folder(path: &Path) -> Result<(), String> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let metadata = std::fs::metadata(folder).map_err(|error| {
        format!(
            "its folder: {error}; make it, for the user of this process (in a unit: RuntimeDirectory=)"
        )
    })?;
    if !metadata.is_dir() {
        return Err("its folder is none".to_owned());
    }
    if metadata.mode() & 0o002 != 0 {
        return Err("everybody may write to its folder: take one of root or of this process alone"
            .to_owned());
    }
    Ok(())
}

fn clear_place(path: &Path) -> Result<(), String> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(
                "is there, and is no socket: move it away, or choose another path".to_owned()
            );
        }
        Ok(_) => {}
    }
    match knock(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| {
                format!("a dead process has left it, and it can't be removed: {error}")
            })
        }
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            Err(format!("is there, and can't be asked who has it: {error}"))
        }
        _ => Err("another process has it, and lives: each needs a `socket` of its own".to_owned()),
    }
}

/// Without waiting: a backlog that is full has an owner.
fn knock(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// Nobody can connect before its mode is right, since it does not listen yet.
fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn user_name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Serves the socket as long as the runtime lives, or until it is told to stop. Called inside a `LocalSet`, as `tokio_uring::start` has
/// one.
pub fn serve(door: Door, desk: Rc<dyn Desk>) -> io::Result<AbortHandle> {
    let listener = UnixListener::from_std(door.listener.try_clone()?)?;
    info!(socket = %door.path.display(), "the operator's socket is open");
    let strangers = RefCell::new(LineLimiter::new(STRANGER_LINES_PER_SECOND));
    let inside = Rc::new(Inside { door, desk, strangers });
    Ok(tokio::task::spawn_local(accept_all(listener, inside)).abort_handle())
}

struct Inside {
    door: Door,
    desk: Rc<dyn Desk>,
    strangers: RefCell<LineLimiter>,
}

/// What comes above the bound waits in the kernel's backlog.
async fn accept_all(listener: UnixListener, inside: Rc<Inside>) {
    let free = Arc::new(Semaphore::new(MAX_OPERATOR_CONNECTIONS));
    loop {
        let permit = Arc::clone(&free).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!(%error, "the operator's socket can't accept; trying again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        };
        tokio::task::spawn_local(serve_connection(stream, Rc::clone(&inside), permit));
    }
}

async fn serve_connection(stream: UnixStream, inside: Rc<Inside>, _permit: OwnedSemaphorePermit) {
    let who = match inside.door.who(&stream) {
        Ok(who) => who,
        Err(error) => {
            return warn!(%error, "the kernel does not say who is at the operator's socket");
        }
    };
    let service = service_fn(|request| {
        let (inside, who) = (Rc::clone(&inside), who.clone());
        async move { Ok::<_, Infallible>(respond(request, inside, who).await) }
    });
    let connection =
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(OPERATOR_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection to the operator's socket failed"),
        Err(_) => debug!("a connection to the operator's socket was cut: it took too long"),
    }
}

async fn respond(
    request: HttpRequest<Incoming>,
    inside: Rc<Inside>,
    who: Who,
) -> Response<Full<Bytes>> {
    if *request.method() != Method::POST {
        let denial = Denial::refused("POST only; for people: `vestibule sessions` and the like");
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, &denial);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let body = Limited::new(request.into_body(), MAX_OPERATOR_REQUEST_LEN).collect().await;
    let asked = body.map_err(|error| error.to_string()).and_then(|body| {
        serde_json::from_slice::<Asked>(&body.to_bytes()).map_err(|error| error.to_string())
    });
    let asked = match asked {
        Ok(asked) => asked,
        Err(error) => {
            let denial = Denial::refused(format!("the request is not understood: {error}"));
            return page(StatusCode::BAD_REQUEST, &denial);
        }
    };
    // On its own, so that what was begun is finished and audited, whether or not somebody waits for it.
    let answer = tokio::task::spawn_local(carry_out(asked, inside, who)).await;
    let lost = |_| Err(Denial::failed("it was given up; the log says why"));
    match answer.unwrap_or_else(lost) {
        Ok(answer) => page(StatusCode::OK, &answer),
        Err(denial) => page(status_of(denial.cause), &denial),
    }
}

async fn carry_out(asked: Asked, inside: Rc<Inside>, who: Who) -> Result<Answer, Denial> {
    let verb = asked.request.verb();
    let may = inside.door.admits(&who);
    let result = if may {
        let by = who.name(asked.sudo_user.as_deref());
        Rc::clone(&inside.desk).answer(asked.request.clone(), by).await
    } else {
        let message = format!("uid {} may not: root and the user of the process alone", who.uid);
        Err(Denial { cause: Cause::Forbidden, message })
    };
    inside.desk.tally().borrow_mut().note(verb, &result);
    if may || inside.strangers.borrow_mut().allow(Instant::now()) {
        audit::write(&who, &asked, &result);
    }
    result
}

/// Has the process drain, once its answer is on its way.
pub fn drain_soon(asked: Rc<Notify>) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(DRAIN_DELAY).await;
        asked.notify_one();
    });
}

const fn status_of(cause: Cause) -> StatusCode {
    match cause {
        Cause::Forbidden => StatusCode::FORBIDDEN,
        Cause::Refused => StatusCode::BAD_REQUEST,
        Cause::NotFound => StatusCode::NOT_FOUND,
        Cause::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn page(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let json = serde_json::to_vec(body).expect("no map and no key that JSON can't hold");
    let mut response = Response::new(Full::new(Bytes::from(json)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_socket_is_for_its_owner_alone_and_takes_the_place_of_a_dead_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gateway.sock");
        drop(Door::bind(&path).expect("the place is free"));
        assert!(path.exists(), "a dead process leaves it");
        let door = Door::bind(&path).expect("nobody lives there");
        let mode = fs::metadata(&path).expect("it was made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Door::bind(&path).expect_err("somebody lives there");
        assert!(error.to_string().contains("another process has it"), "{error}");
        drop(door);
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notes.txt");
        fs::write(&path, "dear").expect("writable");
        let error = Door::bind(&path).expect_err("it is taken");
        assert!(error.why.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "dear");
    }

    #[test]
    fn a_folder_that_everybody_may_write_to_has_no_socket() {
        let error = Door::bind(Path::new("/tmp/vestibule.sock")).expect_err("everybody's");
        assert!(error.why.contains("everybody"), "{error}");
        let error = Door::bind(Path::new("/nonexistent/a.sock")).expect_err("no folder");
        assert!(error.why.contains("RuntimeDirectory"), "{error}");
    }
}
