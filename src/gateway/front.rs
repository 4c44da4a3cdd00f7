//! Where a gateway is spoken to: its listeners, its pages, its operators.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::{RunError, Shared};
use crate::engine::{self, InheritedSockets, StartError};
use crate::operator::Door;

/// Where the control thread answers for the process.
pub(super) struct Front {
    /// Addresses of the workers' listeners, each with the index of its listener.
    pub(super) bound: Vec<(usize, SocketAddr)>,
    /// For its own pages, until they are served.
    pub(super) telemetry: Option<TcpListener>,
    /// For operators, until they are heard.
    pub(super) operator: Option<Door>,
    /// What listens at the two.
    pub(super) listening: Vec<AbortHandle>,
}

impl Front {
    pub(super) fn new(
        sockets: &[Sockets],
        telemetry: Option<TcpListener>,
        operator: Option<Door>,
    ) -> Self {
        let bound = sockets.first().map(addresses).unwrap_or_default();
        Self { bound, telemetry, operator, listening: Vec::new() }
    }

    /// The sockets of pages and operators once more, for the process that takes the place of this one.
    pub(super) fn copies(&self) -> (Option<TcpListener>, Option<OwnedFd>) {
        let telemetry = self.telemetry.as_ref().and_then(|listener| listener.try_clone().ok());
        let operator = self.operator.as_ref().and_then(|door| door.copy().ok());
        (telemetry, operator)
    }
}

/// Each worker's sockets, each with the index of its listener.
pub(super) type Sockets = Vec<(TcpListener, usize)>;

/// Listens on every address, with the sockets that were inherited where there are some. Returns a copy of
/// each socket as well.
pub(super) fn bind(
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

/// The listener of the pages: that of the process before, one that systemd opened, or a new one.
pub(super) fn telemetry_listener(
    shared: &Shared,
    of_before: &mut InheritedSockets,
    inherited: &mut InheritedSockets,
) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = shared.config.telemetry.address else { return Ok(None) };
    let given = of_before.take(address).pop().or_else(|| inherited.take(address).pop());
    given.map_or_else(|| engine::bind_telemetry(address), Ok).map(Some)
}

fn addresses(sockets: &Sockets) -> Vec<(usize, SocketAddr)> {
    let bound = sockets.iter().map(|(socket, listener)| (*listener, socket.local_addr()));
    bound.filter_map(|(listener, address)| Some((listener, address.ok()?))).collect()
}
