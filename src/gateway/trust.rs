//! Trust after a reload: who was let in by an earlier configuration is judged again by the one in use, at
//! the next step that gives it something. Sessions that were joined stay, unless a
//! certificate of theirs is revoked (`revoked`).

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::admission;
use super::stage::{Kind, Proven, Speech, Stage};
use super::worker::{GatewayCore, GatewayWorker};
use super::{Shared, settings, share};
use crate::config::AllowedServer;
use crate::control::ServiceId;
use crate::relay::CloseReason;
use crate::tls::{Identity, TlsConnection, handshake_failure};
use crate::uring::Token;

impl Shared {
    /// Verifies a peer's chain as the handshake of that role does.
    pub(super) fn verify(
        &self,
        listener: usize,
        kind: &Kind,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), CloseReason> {
        let role = self.roles[listener].as_ref().and_then(|roles| kind.config(roles));
        let role = role.ok_or(CloseReason::CertificateUntrusted)?;
        role.check_chain(chain, UnixTime::now()).map_err(|error| handshake_failure(&error))
    }

    /// Looks whether a server's connection proves now what it proved at first: where its certificate
    /// has come to stand for another entry of the list, its server has to connect anew.
    pub(super) fn prove(
        &self,
        proven: &Proven,
        kind: &Kind,
        chain: &[CertificateDer<'_>],
    ) -> Result<&AllowedServer, CloseReason> {
        self.verify(proven.listener, kind, chain)?;
        let identity = chain.first().map(Identity::of).and_then(Result::ok);
        let allowed = identity.and_then(|server| admission::allowed_server(&self.config, &server));
        let same = allowed.filter(|allowed| *allowed.name == *proven.server);
        same.ok_or(CloseReason::CertificateNotAllowed)
    }
}

impl GatewayWorker {
    /// From the next turn on all goes by this configuration.
    pub(super) fn reload(&mut self, core: &mut GatewayCore, shared: Arc<Shared>) {
        let workers = self.peers.len();
        core.set_settings(settings(&shared));
        self.max_handshakes = share(shared.config.limits.max_handshakes, workers);
        self.shared = shared;
        self.begin_review(core);
    }

    /// Whether a data connection still proves its server.
    pub(super) fn prove_again(
        &self,
        core: &mut GatewayCore,
        token: Token,
    ) -> Result<(), CloseReason> {
        let Some(proven) = proven_of(core, token) else { return Ok(()) };
        if proven.generation == self.shared.generation {
            return Ok(());
        }
        let chain = chain_of(core, token);
        let Some(proven) = proven_of(core, token) else { return Ok(()) };
        self.shared.prove(proven, &Kind::Data, &chain)?;
        proven.generation = self.shared.generation;
        Ok(())
    }

    /// Whether the server of a data connection may have this agent.
    pub(super) fn may_serve(&self, core: &mut GatewayCore, data: Token, agent: Token) -> bool {
        let Some(Stage::Waiting(waiting)) = core.stage(agent) else { return false };
        let service = waiting.service;
        let Some(Stage::Claiming { proven, .. }) = core.stage(data) else { return false };
        admission::may_serve(&self.shared.config, &proven.server, service)
    }

    /// Whether an agent may still wait for a server; otherwise it is turned down, and the dispatcher
    /// hears of it.
    pub(super) fn judge_again(&mut self, core: &mut GatewayCore, token: Token) -> bool {
        let Some(Stage::Waiting(waiting)) = core.stage(token) else { return false };
        if waiting.visitor.generation == self.shared.generation {
            return true;
        }
        let (listener, service) = (waiting.visitor.listener, waiting.service);
        let is_unread = waiting.visitor.speaks == Speech::Unread;
        match self.judge_device(core, token, listener, service, is_unread) {
            Ok(()) => {
                if let Some(Stage::Waiting(waiting)) = core.stage(token) {
                    waiting.visitor.generation = self.shared.generation;
                }
                true
            }
            Err(reason) => {
                self.send_away(core, token, reason);
                false
            }
        }
    }

    /// As a handshake and the admission after it would.
    pub(super) fn judge_device(
        &self,
        core: &mut GatewayCore,
        token: Token,
        listener: usize,
        service: ServiceId,
        is_unread: bool,
    ) -> Result<(), CloseReason> {
        let tls = core.connection(token).and_then(|connection| connection.leg.tls());
        let chain = tls.map(TlsConnection::peer_chain);
        if let Some(chain) = chain {
            self.shared.verify(listener, &Kind::Agent, chain)?;
        }
        let identity = chain.and_then(<[_]>::first).map(Identity::of).and_then(Result::ok);
        admission::admit(&self.shared.config, listener, service, identity.as_ref(), is_unread)
            .map_err(CloseReason::Refused)
    }
}

fn proven_of(core: &mut GatewayCore, token: Token) -> Option<&mut Proven> {
    match core.stage(token)? {
        Stage::Claiming { proven, .. } | Stage::Spare { proven, .. } => Some(proven),
        _ => None,
    }
}

fn chain_of(core: &mut GatewayCore, token: Token) -> Vec<CertificateDer<'static>> {
    let tls = core.connection(token).and_then(|connection| connection.leg.tls());
    tls.map(|tls| tls.peer_chain().to_vec()).unwrap_or_default()
}
