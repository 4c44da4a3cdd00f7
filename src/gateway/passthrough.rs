//! Agents whose own TLS goes through unread: the gateway knows of them what their ClientHello says. The TLS of
//! their data connection ends before the first of their bytes, so that these are not sealed twice.

use super::stage::{Speech, Stage, Visitor};
use super::worker::{GatewayCore, GatewayWorker};
use crate::control::ServiceId;
use crate::engine::Received;
use crate::limits::MAX_RECORD_CONTENT_LEN;
use crate::relay::{CloseReason, Party};
use crate::telemetry::record::{Stage as Stretch, Stages};
use crate::tls::ClientHello;
use crate::uring::Token;

impl GatewayWorker {
    /// Lets an agent wait for a server. What was `seen` of it goes to the server first.
    pub(super) fn admit_unread(
        &mut self,
        core: &mut GatewayCore,
        token: Token,
        listener: usize,
        service: ServiceId,
        hello: &ClientHello,
        seen: Vec<u8>,
    ) {
        let now = core.now;
        let Some(connection) = core.connection(token) else { return };
        connection.leg.put_back(seen);
        let mut stages = Stages::default();
        stages.set(Stretch::AcceptToHello, now - connection.opened);
        let generation = self.shared.generation;
        let unproven = Visitor::unproven(listener, generation, connection, Speech::Unread);
        let visitor = Visitor { sni: hello.sni.clone(), stages, ..unproven };
        self.admit(core, token, visitor, service, None);
    }

    /// The server has Accepted: waits for the end of its TLS, answers with the end of ours, and joins. The server may send
    /// nothing of the session before it has that answer.
    pub(super) fn step_down(&mut self, core: &mut GatewayCore, token: Token) {
        let Some(Stage::SteppingDown { agent, .. }) = core.stage(token) else { return };
        let agent = *agent;
        let Some((connection, scratch)) = core.with_scratch(token) else { return };
        let leg = &mut connection.leg;
        let reason = match leg.receive(scratch, MAX_RECORD_CONTENT_LEN) {
            Received::Nothing if leg.has_input() => return core.requeue(token),
            Received::Nothing => return,
            Received::End if !leg.has_bytes_behind_tls() => match leg.end_tls() {
                Ok(()) => {
                    leg.leave_tls();
                    return self.join(core, agent, token);
                }
                Err(failure) => failure.close_reason(Party::Server),
            },
            Received::End | Received::Payload => CloseReason::MessageUnexpected,
            Received::Failed(failure) => failure.close_reason(Party::Server),
        };
        self.answer_failed(core, token, reason);
    }
}
