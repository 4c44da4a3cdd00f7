//! From accept to the first byte of TLS: whether there is a place, for whom, and whose it was. Nothing
//! here costs cryptography.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::{is_balancer, is_server_address, limits_of, speaks_tls, takes_agents_from};
use super::mail::Transfer;
use super::proxy_header::{self, NoHeader, ProxyHeader};
use super::stage::Stage;
use super::worker::{GatewayCore, GatewayWorker};
use crate::config::{AddressLimits, GatewayConfig};
use crate::limits::{MAX_PROXY_HEADER_LEN, RESERVE_DIVISOR, SHED_AFTER, SHED_LOOKS};
use crate::relay::CloseReason;
use crate::telemetry::record::ConnectionRecord;
use crate::tls::HelloReader;
use crate::uring::Token;

impl GatewayWorker {
    /// Takes a connection in, or turns it away. Returns which.
    pub(super) fn arrive(
        &mut self,
        core: &mut GatewayCore,
        listener: usize,
        socket: TcpStream,
        peer: SocketAddr,
    ) -> bool {
        let config = &self.shared.config;
        let is_proxied = is_balancer(config, listener, peer.ip());
        let speaks_tls = speaks_tls(config, listener);
        if !is_proxied && !takes_agents_from(config, listener, peer.ip()) {
            self.turn_away(core, listener, peer, CloseReason::AddressNotAllowed);
            return false;
        }
        match self.find_place(core, listener, peer.ip()) {
            Ok(()) if is_proxied => {
                self.begin(core, socket, peer, core.now, Stage::Prologue { listener });
            }
            Ok(()) if speaks_tls => {
                let stage = Stage::Hello { listener, reader: Box::default() };
                self.begin(core, socket, peer, core.now, stage);
            }
            Ok(()) => {
                let token = core.adopt_accepted(socket, peer, Stage::Prologue { listener });
                self.receive_plain_agent(core, token, listener);
            }
            Err(reason) => {
                self.turn_away(core, listener, peer, reason);
                return false;
            }
        }
        true
    }

    /// A data connection of which another worker has seen the first bytes. It is counted by address
    /// already.
    pub(super) fn receive_transfer(&mut self, core: &mut GatewayCore, transfer: Transfer) {
        let Transfer { socket, peer, listener, seen, accepted } = transfer;
        let is_server = is_server_address(&self.shared.config, peer.ip());
        let full = if core.connections_len() >= self.max_connections_from(core, peer.ip()) {
            Some(CloseReason::ConnectionsFull)
        } else if self.handshakes >= self.max_handshakes && !is_server {
            Some(CloseReason::HandshakesFull)
        } else {
            None
        };
        if let Some(reason) = full
            && !self.shed(core)
        {
            self.sources.disconnect(peer.ip());
            return self.turn_away(core, listener, peer, reason);
        }
        self.sources.count_admission(peer.ip());
        let stage = Stage::Hello { listener, reader: Box::<HelloReader>::default() };
        let token = self.begin(core, socket, peer, accepted, stage);
        self.take_hello_bytes(core, token, &seen);
    }

    /// A connection that another process of this gateway has accepted.
    pub(super) fn receive_passed(&mut self, core: &mut GatewayCore, transfer: Transfer) {
        let Transfer { socket, peer, listener, seen, accepted } = transfer;
        if let Err(reason) = self.find_place(core, listener, peer.ip()) {
            return self.turn_away(core, listener, peer, reason);
        }
        let stage = Stage::Hello { listener, reader: Box::default() };
        let token = self.begin(core, socket, peer, accepted, stage);
        self.take_hello_bytes(core, token, &seen);
    }

    fn begin(
        &mut self,
        core: &mut GatewayCore,
        socket: TcpStream,
        peer: SocketAddr,
        accepted: Instant,
        stage: Stage,
    ) -> Token {
        let token = core.adopt_accepted(socket, peer, stage);
        if let Some(connection) = core.connection(token) {
            connection.opened = accepted;
        }
        core.set_deadline(token, Some(accepted + self.shared.config.limits.admission_timeout));
        self.handshakes += 1;
        self.strangers.push_back(token);
        // What was admitted, or has ended, is not looked for here any more.
        if self.strangers.len() > 2 * self.max_handshakes.max(self.handshakes) {
            self.strangers.retain(|&token| may_be_shed(core, token));
        }
        token
    }

    /// It is admitted, on its way to another thread, or has ended.
    pub(super) fn end_admission(&mut self, core: &mut GatewayCore, token: Token) {
        self.handshakes -= 1;
        if let Some(connection) = core.connection(token) {
            self.sources.end_admission(connection.peer.ip());
        }
    }
}

// ---- places ----

impl GatewayWorker {
    /// Finds a place for a connection from this address, and counts it.
    fn find_place(
        &mut self,
        core: &mut GatewayCore,
        listener: usize,
        from: IpAddr,
    ) -> Result<(), CloseReason> {
        let shared = Arc::clone(&self.shared);
        let config = &shared.config;
        let is_stranger = speaks_tls(config, listener) || is_balancer(config, listener, from);
        if !is_stranger && !self.has_room_for_agent(core) {
            return Err(CloseReason::ConnectionsFull);
        }
        if core.connections_len() >= self.max_connections_from(core, from) && !self.shed(core) {
            return Err(CloseReason::ConnectionsFull);
        }
        if let Some(reason) = self.blocks.of_address(from) {
            return Err(reason);
        }
        let limits = self.limits_of(config, listener, from);
        self.sources.connect(from, limits, core.now)?;
        if !is_stranger {
            return Ok(());
        }
        let is_full = self.handshakes >= self.max_handshakes && !is_server_address(config, from);
        let admitted = if is_full && !self.shed(core) {
            Err(CloseReason::HandshakesFull)
        } else {
            self.sources.begin_admission(from, limits)
        };
        if admitted.is_err() {
            self.sources.disconnect(from);
        }
        admitted
    }

    /// Whether an agent may be let in. Each needs a data connection as well, and the reserve is for
    /// those who are not agents.
    pub(super) fn has_room_for_agent(&self, core: &GatewayCore) -> bool {
        let max = core.settings.max_connections;
        core.sessions_len() + self.waiting < (max - max / RESERVE_DIVISOR) / 2
    }

    /// Where the servers' addresses are known, the last places are theirs.
    fn max_connections_from(&self, core: &GatewayCore, from: IpAddr) -> usize {
        let max = core.settings.max_connections;
        let config = &self.shared.config;
        if !config.servers.addresses.is_empty() && !is_server_address(config, from) {
            max - max / RESERVE_DIVISOR / 2
        } else {
            max
        }
    }

    /// What holds for an address. A server that has proved itself there brings a data connection for
    /// every agent.
    fn limits_of<'c>(
        &self,
        config: &'c GatewayConfig,
        listener: usize,
        from: IpAddr,
    ) -> Option<&'c AddressLimits> {
        limits_of(config, listener, from).filter(|_| !self.sources.is_of_a_server(from))
    }

    /// Takes the place of the connection that has made us wait for the longest time, if that is long
    /// enough. One that waits for us, in a queue, is not to blame.
    pub(super) fn shed(&mut self, core: &mut GatewayCore) -> bool {
        let mut index = 0;
        while index < SHED_LOOKS {
            let Some(&token) = self.strangers.get(index) else { return false };
            if !may_be_shed(core, token) {
                self.strangers.remove(index);
                continue;
            }
            let Some(connection) = core.connection(token) else { return false };
            let (opened, from) = (connection.opened, connection.peer.ip());
            if core.now.saturating_duration_since(opened) < SHED_AFTER {
                return false;
            }
            if core.is_queued(token) || is_server_address(&self.shared.config, from) {
                index += 1;
                continue;
            }
            self.strangers.remove(index);
            self.abort(core, token, CloseReason::TooSlow);
            return true;
        }
        false
    }

    /// A connection that is closed at once: its socket was dropped by the caller.
    fn turn_away(
        &mut self,
        core: &GatewayCore,
        listener: usize,
        peer: SocketAddr,
        reason: CloseReason,
    ) {
        let place = Arc::clone(&self.shared.listeners[listener]);
        let duration = Duration::ZERO;
        let record =
            ConnectionRecord { peer, identity: None, place, service: None, duration, reason };
        self.turned_away.note(record, core.now);
    }
}

fn may_be_shed(core: &mut GatewayCore, token: Token) -> bool {
    core.stage(token).is_some_and(|stage| stage.is_a_stranger())
}

// ---- balancers ----

impl GatewayWorker {
    /// Looks for the header of a balancer. What follows it stays in the socket.
    pub(super) fn read_prologue(&mut self, core: &mut GatewayCore, token: Token) {
        let Some(Stage::Prologue { listener }) = core.stage(token) else { return };
        let listener = *listener;
        let Some(connection) = core.connection(token) else { return };
        let mut first = [0; MAX_PROXY_HEADER_LEN];
        let parsed = match connection.leg.socket().peek(&mut first) {
            Ok(len) => proxy_header::parse(&first[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(NoHeader),
        };
        let readiness = connection.leg.readiness();
        match parsed {
            Ok(Some(header)) => self.take_header(core, token, listener, &header),
            Ok(None) if !readiness.read_closed && !readiness.hung_up => {}
            Ok(None) | Err(NoHeader) => self.fail(core, token, CloseReason::ProxyHeaderInvalid),
        }
    }

    fn take_header(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        listener: usize,
        header: &ProxyHeader,
    ) {
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        let received = connection.leg.receive_raw(scratch, header.len);
        // It was seen there, so it comes as a whole.
        if !received.is_ok_and(|len| len == Some(header.len)) {
            return self.fail(core, token, CloseReason::ProxyHeaderInvalid);
        }
        // A connection of the balancer itself has its address.
        let from = header.source.or(core.connection(token).map(|connection| connection.peer));
        let is_allowed =
            |from: SocketAddr| takes_agents_from(&self.shared.config, listener, from.ip());
        if !from.is_some_and(is_allowed) {
            return self.abort(core, token, CloseReason::AddressNotAllowed);
        }
        if let Some(source) = header.source
            && let Err(reason) = self.take_real_address(core, token, listener, source)
        {
            return self.abort(core, token, reason);
        }
        if speaks_tls(&self.shared.config, listener) {
            core.enter(token, Stage::Hello { listener, reader: Box::default() });
            self.read_hello(core, token);
        } else if self.has_room_for_agent(core) {
            self.end_admission(core, token);
            self.receive_plain_agent(core, token, listener);
        } else {
            self.abort(core, token, CloseReason::ConnectionsFull);
        }
    }

    /// From now on the connection is that of the address behind the balancer, which has its own limits.
    fn take_real_address(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        listener: usize,
        source: SocketAddr,
    ) -> Result<(), CloseReason> {
        let Some(connection) = core.connection(token) else { return Ok(()) };
        let balancer = connection.peer.ip();
        let shared = Arc::clone(&self.shared);
        if let Some(reason) = self.blocks.of_address(source.ip()) {
            return Err(reason);
        }
        let limits = self.limits_of(&shared.config, listener, source.ip());
        self.sources.connect(source.ip(), limits, core.now)?;
        if let Err(reason) = self.sources.begin_admission(source.ip(), limits) {
            self.sources.disconnect(source.ip());
            return Err(reason);
        }
        self.sources.end_admission(balancer);
        self.sources.disconnect(balancer);
        if let Some(connection) = core.connection(token) {
            connection.peer = source;
        }
        Ok(())
    }
}
