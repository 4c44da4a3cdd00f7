//! Who is revoked while it is there: after each change of what is trusted, a worker looks at its sessions and at
//! those who wait, some in each turn of its loop.

use std::sync::Arc;

use super::Shared;
use super::mail::ControlMail;
use super::stage::{Claim, Stage, Visitor};
use super::walk::{Met, Walk};
use super::worker::{GatewayCore, GatewayWorker};
use crate::limits::JUDGED_PER_TURN;
use crate::relay::CloseReason;
use crate::tls::{CertificateId, Revocation};
use crate::uring::Token;

impl Shared {
    /// Which certificates of servers count no more.
    pub(super) fn server_revocation(&self) -> Option<&Arc<Revocation>> {
        self.roles.iter().flatten().find_map(|roles| roles.server_revocation.as_ref())
    }

    /// Each once.
    pub(super) fn revocations(&self) -> impl Iterator<Item = &Arc<Revocation>> {
        let of_devices =
            self.roles.iter().flatten().filter_map(|roles| roles.device_revocation.as_ref());
        of_devices.chain(self.server_revocation())
    }

    /// Whether device or server of a session are on a list.
    fn is_revoked(&self, visitor: &Visitor, claim: &Claim) -> bool {
        let devices = self.roles[visitor.listener].as_ref();
        let devices = devices.and_then(|roles| roles.device_revocation.as_ref());
        let is_on = |lists: Option<&Arc<Revocation>>, chain: &[CertificateId]| {
            lists.is_some_and(|lists| lists.revokes_any(chain))
        };
        is_on(devices, &visitor.certificates)
            || is_on(self.server_revocation(), &claim.certificates)
    }
}

impl GatewayWorker {
    /// From the next turn on, everyone is looked at.
    pub(super) fn begin_review(&mut self, core: &GatewayCore) {
        if self.shared.revocations().next().is_some() {
            self.review = Some(Walk::over_all(core));
        }
    }

    /// Looks at the next ones.
    pub(super) fn review(&mut self, core: &mut GatewayCore) {
        let Some(mut walk) = self.review.take() else { return };
        for _ in 0..JUDGED_PER_TURN {
            match walk.next(core) {
                Some(Met::Connection(token)) => self.review_connection(core, token),
                Some(Met::Session(token)) => self.review_session(core, token),
                None => return,
            }
        }
        self.review = Some(walk);
    }

    fn review_session(&mut self, core: &mut GatewayCore, token: Token) {
        let Some(session) = core.session(token) else { return };
        if self.shared.is_revoked(&session.record.waiting.visitor, &session.record.claim)
            && let Some(session) = core.part(token, true)
        {
            self.record_session(core, session, CloseReason::CertificateRevoked);
        }
    }

    /// Those that are not here are judged at their next step, and at the join.
    fn review_connection(&mut self, core: &mut GatewayCore, token: Token) {
        match core.stage(token) {
            Some(Stage::Waiting(_)) => {
                self.judge_again(core, token);
            }
            Some(Stage::Spare { invitation, .. }) => {
                let invitation = *invitation;
                if let Err(reason) = self.prove_again(core, token) {
                    self.control.send(ControlMail::SpareEnded { invitation, in_time: false });
                    self.end_spare(core, token, reason);
                }
            }
            _ => {}
        }
    }

    /// Whether an agent and its server may not be joined any more.
    pub(super) fn is_revoked(&self, core: &mut GatewayCore, agent: Token) -> bool {
        let Some(Stage::Claimed { waiting, claim }) = core.stage(agent) else { return false };
        self.shared.is_revoked(&waiting.visitor, claim)
    }
}
