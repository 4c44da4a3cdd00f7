//! Agents whose own TLS went through the gateway unread. The TLS of their data connection ends behind Accepted; theirs ends
//! at the backend, or here.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;

use super::stage::{Delivery, Stage};
use super::worker::{ServerCore, ServerWorker, count_handshake, introduce, tell_accepted};
use crate::engine::{HandshakeError, Received, Urgency};
use crate::limits::{AGENT_HANDSHAKE_TIMEOUT, MAX_RECORD_CONTENT_LEN, STEP_DOWN_TIMEOUT};
use crate::relay::{CloseReason, Party};
use crate::telemetry::counters::HandshakeRole;
use crate::tls::{Alert, Identity, TlsConnection, handshake_failure};
use crate::uring::Token;

impl ServerWorker {
    /// The backend is connected: says so, ends our TLS, and waits for the end of the gateway's.
    pub(super) fn begin_step_down(
        &mut self,
        core: &mut ServerCore,
        backend: Token,
        delivery: Box<Delivery>,
    ) {
        if let Err(reason) = say_accepted(core, delivery.data) {
            return self.undelivered(core, backend, &delivery, reason);
        }
        core.enter(backend, Stage::SteppingDown(delivery));
        core.set_deadline(backend, Some(core.now + STEP_DOWN_TIMEOUT));
        self.step_down(core, backend);
    }

    /// Reads up to the end of the gateway's TLS. What stands behind it is the agent's.
    pub(super) fn step_down(&mut self, core: &mut ServerCore, backend: Token) {
        let Some(Stage::SteppingDown(delivery)) = core.stage(backend) else { return };
        let data = delivery.data;
        let Some((connection, scratch)) = core.with_scratch(data) else { return };
        let leg = &mut connection.leg;
        let received = leg.receive(scratch, MAX_RECORD_CONTENT_LEN);
        if received == Received::Nothing {
            if leg.has_input() {
                core.requeue(data);
            }
            return;
        }
        let result = match received {
            Received::End => {
                leg.leave_tls();
                Ok(())
            }
            Received::Failed(failure) => Err(failure.close_reason(Party::Gateway)),
            Received::Payload | Received::Nothing => Err(CloseReason::MessageUnexpected),
        };
        let Some(Stage::SteppingDown(delivery)) = core.take_stage(backend) else { return };
        match (result, &delivery.service.agent_tls) {
            (Ok(()), Some(role)) => {
                let config = Arc::clone(&role.config);
                self.begin_agent_tls(core, backend, delivery, config);
            }
            (Ok(()), None) => self.joined(core, backend, delivery),
            (Err(reason), _) => self.undelivered(core, backend, &delivery, reason),
        }
    }

    /// The agent's own TLS ends here: its handshake begins with what came behind the gateway's TLS.
    fn begin_agent_tls(
        &mut self,
        core: &mut ServerCore,
        backend: Token,
        delivery: Box<Delivery>,
        config: Arc<ServerConfig>,
    ) {
        let tls = TlsConnection::server(config);
        let (Ok(tls), Some(connection)) = (tls, core.connection(delivery.data)) else {
            return self.undelivered(core, backend, &delivery, CloseReason::HandshakeFailed);
        };
        connection.leg.begin_tls(tls);
        core.set_urgency(delivery.data, Urgency::Full);
        core.requeue(delivery.data);
        core.enter(backend, Stage::Welcoming(delivery));
        core.set_deadline(backend, Some(core.now + AGENT_HANDSHAKE_TIMEOUT));
    }

    /// Goes on with the agent's handshake.
    pub(super) fn welcome(&mut self, core: &mut ServerCore, backend: Token) {
        let Some(Stage::Welcoming(delivery)) = core.stage(backend) else { return };
        let data = delivery.data;
        let Some((connection, scratch)) = core.with_scratch(data) else { return };
        let seen = connection.leg.take_unread();
        let result = connection.leg.handshake(scratch, &seen);
        if matches!(result, Ok(false)) {
            return;
        }
        let Some(Stage::Welcoming(mut delivery)) = core.take_stage(backend) else { return };
        match result.and_then(|_| identify(core, &delivery)) {
            Ok(device) => {
                delivery.visitor.device = device;
                core.set_urgency(data, Urgency::Cheap);
                match introduce(core, backend, &delivery) {
                    Ok(()) => self.joined(core, backend, delivery),
                    Err(failure) => {
                        let reason = failure.close_reason(Party::Backend);
                        self.undelivered(core, backend, &delivery, reason);
                    }
                }
            }
            Err(HandshakeError { reason, detail }) => {
                tracing::debug!(agent = %delivery.visitor.agent, %reason, detail, "handshake refused");
                if let Some(connection) = core.connection(data) {
                    // Where rustls has refused it, it has its alert. One that is gone needs none.
                    let _ = connection.leg.end_with_alert(Alert::from(reason));
                }
                core.linger(data);
                core.reset(backend);
                self.fail_delivery(core, &delivery, reason);
            }
        }
    }

    /// The end of the gateway's TLS, or the agent's handshake, did not come in time.
    pub(super) fn agent_is_late(&mut self, core: &mut ServerCore, backend: Token) {
        match core.take_stage(backend) {
            Some(Stage::SteppingDown(delivery)) => {
                self.undelivered(core, backend, &delivery, CloseReason::GatewayUnreachable);
            }
            Some(Stage::Welcoming(delivery)) => {
                self.undelivered(core, backend, &delivery, CloseReason::AdmissionTimeout);
            }
            other => {
                if let Some(stage) = other {
                    core.enter(backend, stage);
                }
            }
        }
    }

    /// Ends a delivery that the gateway takes for a session: both connections are reset, since an end would look as if it
    /// came from the backend.
    pub(super) fn undelivered(
        &mut self,
        core: &mut ServerCore,
        backend: Token,
        delivery: &Delivery,
        reason: CloseReason,
    ) {
        core.reset(backend);
        core.reset(delivery.data);
        self.fail_delivery(core, delivery, reason);
    }
}

/// The last of our words, and the end of our TLS. A gateway that has said anything by now has spoken too early.
fn say_accepted(core: &mut ServerCore, data: Token) -> Result<(), CloseReason> {
    let gone = CloseReason::Reset(Party::Gateway);
    let Some((connection, scratch)) = core.with_scratch(data) else { return Err(gone) };
    let leg = &mut connection.leg;
    match leg.receive(scratch, MAX_RECORD_CONTENT_LEN) {
        Received::Nothing => {}
        Received::Failed(failure) => return Err(failure.close_reason(Party::Gateway)),
        Received::End | Received::Payload => return Err(CloseReason::MessageUnexpected),
    }
    tell_accepted(core, data)
        .and_then(|()| core.connection(data).map_or(Ok(()), |connection| connection.leg.end_tls()))
        .map_err(|failure| failure.close_reason(Party::Gateway))
}

/// Who an agent has proved to be; one that resumed is looked at again, since rustls did not.
fn identify(
    core: &mut ServerCore,
    delivery: &Delivery,
) -> Result<Option<Arc<str>>, HandshakeError> {
    let Some(role) = &delivery.service.agent_tls else { return Ok(None) };
    let resumed = count_handshake(core, delivery.data, HandshakeRole::Foreign);
    let checked = resumed.map_or(Ok(()), |chain| role.check_chain(chain, UnixTime::now()));
    checked.map_err(|error| refused(handshake_failure(&error), &error))?;
    let tls = core.connection(delivery.data).and_then(|connection| connection.leg.tls());
    let identity = tls.and_then(TlsConnection::peer_certificate).map(Identity::of).transpose();
    let identity = identity.map_err(|error| refused(CloseReason::CertificateUntrusted, &error))?;
    Ok(identity.map(|identity| identity.name().into()))
}

fn refused(reason: CloseReason, error: &dyn std::error::Error) -> HandshakeError {
    HandshakeError { reason, detail: Some(error.to_string()) }
}
