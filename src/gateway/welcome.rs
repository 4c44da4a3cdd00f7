//! From the end of a handshake to what a peer has proved to be.

use std::sync::Arc;
use std::time::Instant;

use super::admission;
use super::stage::{Kind, Proven, Speech, Stage, Visitor};
use super::worker::{GatewayCore, GatewayWorker};
use crate::engine::Urgency;
use crate::relay::CloseReason;
use crate::telemetry::record::{Stage as Stretch, Stages};
use crate::tls::{Alert, CertificateId, Identity, TlsConnection, TlsVersion};
use crate::uring::Token;
use crate::wire::FrameDecoder;

impl GatewayWorker {
    pub(super) fn established(&mut self, core: &mut GatewayCore, token: Token) {
        // The whole handshake may have passed within one turn.
        core.now = Instant::now();
        core.set_urgency(token, Urgency::Cheap);
        if let Err(reason) = self.check_chain(core, token) {
            return self.refuse_chain(core, token, reason);
        }
        let Some(connection) = core.connection(token) else { return };
        let certificate = connection.leg.tls().and_then(TlsConnection::peer_certificate);
        // A certificate without a usable name proves nothing that a rule could mention.
        let Ok(identity) = certificate.map(Identity::of).transpose() else {
            return self.fail(core, token, CloseReason::CertificateUntrusted);
        };
        match core.stage(token) {
            Some(Stage::Handshake { kind: Kind::Signal | Kind::Data, .. }) => {
                self.welcome_server(core, token, identity.as_ref());
            }
            Some(Stage::Handshake { .. }) => self.welcome_agent(core, token, identity.as_ref()),
            _ => {}
        }
    }

    /// Counts the handshake, and verifies the chain of a peer that resumed, since rustls did not, or whose
    /// handshake began before a reload.
    fn check_chain(&self, core: &mut GatewayCore, token: Token) -> Result<(), CloseReason> {
        let Some(Stage::Handshake { listener, kind, generation, .. }) = core.stage(token) else {
            return Ok(());
        };
        let (listener, kind, generation) = (*listener, kind.clone(), *generation);
        let counters = Arc::clone(&core.counters);
        let Some(tls) = core.connection(token).and_then(|c| c.leg.tls()) else { return Ok(()) };
        let resumed = tls.resumed_chain().is_some();
        counters.handshakes.of(kind.counted_as(), resumed).inc();
        if tls.version() == Some(TlsVersion::Older) {
            counters.older_handshakes.inc();
        }
        if !resumed && generation == self.shared.generation {
            return Ok(());
        }
        self.shared.verify(listener, &kind, tls.peer_chain())
    }

    fn refuse_chain(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) {
        if let Some(connection) = core.connection(token) {
            // A peer that is gone needs no answer; `fail` closes either way.
            let _ = connection.leg.end_with_alert(Alert::from(reason));
        }
        self.fail(core, token, reason);
    }

    fn welcome_server(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        identity: Option<&Identity>,
    ) {
        let allowed =
            identity.and_then(|server| admission::allowed_server(&self.shared.config, server));
        let Some(allowed) = allowed else {
            return self.fail(core, token, CloseReason::CertificateNotAllowed);
        };
        let server: Arc<str> = allowed.name.as_str().into();
        if let Some(connection) = core.connection(token) {
            self.sources.note_server(connection.peer.ip());
        }
        let Some(Stage::Handshake { listener, kind, .. }) = core.take_stage(token) else { return };
        let proven = Proven { listener, server, generation: self.shared.generation };
        if kind == Kind::Signal {
            self.end_admission(core, token);
            core.hand_over(token, Stage::Signalling(proven));
        } else {
            core.enter(token, Stage::Claiming { proven, decoder: FrameDecoder::default() });
            self.read_claim(core, token);
        }
    }

    fn welcome_agent(&mut self, core: &mut GatewayCore, token: Token, identity: Option<&Identity>) {
        let now = core.now;
        let Some(Stage::Handshake { listener, kind, sni, hello_at, .. }) = core.take_stage(token)
        else {
            return;
        };
        let Some(connection) = core.connection(token) else { return };
        let mut stages = Stages::default();
        stages.set(Stretch::AcceptToHello, hello_at - connection.opened);
        stages.set(Stretch::Handshake, now - hello_at);
        let tls = connection.leg.tls();
        let version = tls.and_then(TlsConnection::version).unwrap_or(TlsVersion::Current);
        let alpn = tls.and_then(TlsConnection::alpn).unwrap_or_default();
        let chain = tls.map(TlsConnection::peer_chain).unwrap_or_default();
        let visitor = Visitor {
            listener,
            generation: self.shared.generation,
            address: connection.peer,
            accepted: connection.opened,
            speaks: if kind == Kind::Agent { Speech::Messages } else { Speech::Tls(version) },
            device: identity.map(|identity| identity.name().into()),
            aliases: identity.filter(|identity| identity.has_aliases()).cloned().map(Box::new),
            certificates: CertificateId::of_chain(chain),
            sni,
            alpn: String::from_utf8_lossy(alpn).into_owned(),
            stages,
        };
        if let Kind::Foreign(service) = kind {
            self.admit(core, token, visitor, service, identity);
        } else {
            let visitor = Box::new(visitor);
            core.enter(token, Stage::Request { visitor, decoder: FrameDecoder::default() });
            self.read_request(core, token);
        }
    }
}
