//! The sockets that a gateway listens on: its own, those of systemd, or those of the process before it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::upgrade::{Parts, Start};
use super::{RunError, Shared};
use crate::engine::{self, InheritedSockets, StartError};
use crate::operator::Door;

/// What was opened.
pub(super) struct Opened {
    /// Of each worker; none yet where another process still accepts.
    pub(super) sockets: Vec<Sockets>,
    pub(super) front: Front,
    /// The instance of the process that this one succeeds.
    pub(super) predecessor: Option<Arc<str>>,
    pub(super) parts: Parts,
}

/// Where the control thread answers for the process.
pub(super) struct Front {
    /// Addresses of the workers' sockets, each with the index of its listener.
    pub(super) bound: Vec<(usize, SocketAddr)>,
    /// For its pages, until they are served.
    pub(super) telemetry: Option<TcpListener>,
    /// For operators, until they are heard.
    pub(super) operator: Option<Door>,
    /// What listens at the two.
    pub(super) listening: Vec<AbortHandle>,
}

/// A worker's sockets, each with the index of its listener.
pub(super) type Sockets = Vec<(TcpListener, usize)>;

/// Listens on every address of the configuration; operators are heard already.
pub(super) fn open(
    shared: &Shared,
    workers: usize,
    start: Start,
    operator: Option<Door>,
) -> Result<Opened, RunError> {
    let Start { mut sockets, telemetry: mut of_before, door, user, before, .. } = start;
    let inherited = !sockets.left().is_empty();
    let address = shared.config.telemetry.address;
    // That of the process before, or one that systemd opened.
    let given = |address| of_before.take(address).pop().or_else(|| sockets.take(address).pop());
    let telemetry = address.and_then(given);
    let (mut sockets, listeners) = bind(shared, workers, &mut sockets)?;
    let telemetry = match (telemetry, address) {
        (None, Some(address)) => Some(engine::bind_telemetry(address)?),
        (given, _) => given,
    };
    let bound = sockets.first().map(addresses).unwrap_or_default();
    let mut held = Vec::new();
    if before.is_some() {
        held = (0..workers).map(|_| Sockets::new()).collect();
        std::mem::swap(&mut held, &mut sockets);
    }
    let predecessor = before.as_ref().map(|before| before.instance.as_str().into());
    let parts = Parts {
        door,
        user,
        before,
        inherited,
        listeners,
        telemetry: telemetry.as_ref().and_then(|listener| listener.try_clone().ok()),
        operator: operator.as_ref().and_then(|door| door.copy().ok()),
        held,
    };
    let front = Front { bound, telemetry, operator, listening: Vec::new() };
    Ok(Opened { sockets, front, predecessor, parts })
}

/// Listens on every address, with the sockets that were inherited where there are some. Returns a copy of
/// each socket as well.
fn bind(
    shared: &Shared,
    workers: usize,
    inherited: &mut InheritedSockets,
) -> Result<(Vec<Sockets>, Vec<TcpListener>), RunError> {
    let mut sockets: Vec<Sockets> = (0..workers).map(|_| Vec::new()).collect();
    let mut copies = Vec::new();
    let has_some = !inherited.left().is_empty();
    for (index, listener) in shared.config.listeners.iter().enumerate() {
        for &address in &listener.addresses {
            let given = inherited.take(address);
            let dealt = if given.is_empty() {
                if has_some {
                    info!(listener = %listener.name, %address, "was not passed to this process: opened");
                }
                let bound = engine::listen(&listener.name, address, workers)?;
                for socket in &bound {
                    copies.push(socket.try_clone().map_err(StartError::Kernel)?);
                }
                bound.into_iter().map(|socket| vec![socket]).collect()
            } else {
                let dealt = engine::deal(&given, workers).map_err(StartError::Kernel)?;
                copies.extend(given);
                dealt
            };
            for (own, dealt) in sockets.iter_mut().zip(dealt) {
                own.extend(dealt.into_iter().map(|socket| (socket, index)));
            }
        }
    }
    for address in inherited.left() {
        warn!(%address, "was passed to this process, and no listener has it: closed");
    }
    Ok((sockets, copies))
}

fn addresses(sockets: &Sockets) -> Vec<(usize, SocketAddr)> {
    let bound = sockets.iter().map(|(socket, listener)| (*listener, socket.local_addr()));
    bound.filter_map(|(listener, address)| Some((listener, address.ok()?))).collect()
}
